// Eight bits for what enters the layers, and eight or four for weights: W8A8 and W4A8 as they are,
// SmoothQuant, LLM.int8.
//
//   w8a8         weights s = max|w| / 127 of a row, inputs s = max|x| / 127 of a token; products of
//                integers
//   smoothquant  first moves the size of outlier channels from the inputs into the weights:
//                s_j = max|x_j|^alpha / max|w_j|^(1-alpha), from both norms into q, k, v and gate,
//                up (arXiv 2211.10438; mit-han-lab/smoothquant, smooth.py). Channels that are never
//                used keep s = 1, where the original divides by 1e-5.
//   w4a8         inputs as w8a8, weights of 4 bits rounded to nearest in groups; products are of
//                integers where groups are 32, 64 or a multiple of 128
//   llm_int8     as w8a8, but inputs of at least `threshold` enter exactly (arXiv 2208.07339). The
//                original takes whole columns of a batch out; here each token has its own, so that
//                results do not depend on what is computed together.
#include <algorithm>
#include <cmath>
#include <string>

#include "ptq/plugin.hpp"
#include "ptq/plugin_weights.hpp"

namespace {

using ptq::plugin::About;
using ptq::plugin::Call;
using ptq::plugin::Matrix;
using ptq::plugin::Options;
using ptq::plugin::tensor;

// What they have in common: int8 inputs.
class Int8Inputs {
 public:
  explicit Int8Inputs(Options& o) {
    o.flag("static", static_, "one scale for the inputs of a layer, from calibration");
  }

  ptq_inputs_wanted choose_wants() const {
    return {static_ ? PTQ_INPUTS_COLUMNS : 0u, PTQ_ORDER_FULL, 0};
  }
  void choose(const Call&, const ptq_linear& linear, ptq_activation& how) const {
    if (linear.layer < 0) return;
    how.kind = static_ ? PTQ_ACTIVATION_INT8_STATIC : PTQ_ACTIVATION_INT8_TOKEN;
    if (!static_) return;
    const ptq_inputs& inputs = ptq::plugin::inputs_of(linear, "a static scale");
    const float* x = ptq::plugin::numbers(inputs.largest, "max |x|");
    const float largest = *std::max_element(x, x + inputs.largest->shape[0]);
    how.scale = std::max(largest, 1e-5f) / 127;
  }

 private:
  bool static_ = false;
};

class W8a8 : public Int8Inputs {
 public:
  static constexpr About about = {"w8a8", "1.0.0", "weights and activations: int8, as they are",
                                  ""};

  explicit W8a8(Options& o) : Int8Inputs(o) {
    o.flag("per_tensor", per_tensor_, "one scale for a whole matrix instead of one per row");
  }

  void encode(const Call& call, const ptq_linear& linear, ptq_encoding* out) {
    if (linear.layer < 0) return;
    if (!per_tensor_) return call.affine(*linear.weight, 8, PTQ_GRID_SYM_NARROW, 1, 0, out);
    const Matrix w = ptq::plugin::matrix_of(linear);
    float largest = 0;
    for (int64_t i = 0; i < w.rows * w.columns; ++i)
      largest = std::max(largest, std::fabs(w.data[i]));
    ptq::plugin::AffineAnswer answer(w.rows, w.columns, 8, ptq::Grid::sym_narrow, 0);
    const auto p = ptq::affine_params(-largest, largest, 8, ptq::Grid::sym_narrow);
    for (int64_t r = 0; r < w.rows; ++r) {
      answer.params(r, 0, p);
      answer.round_row(r, w.row(r));
    }
    answer.give(call, nullptr, out);
  }

 private:
  bool per_tensor_ = false;
};

class SmoothQuant : public W8a8 {
 public:
  static constexpr About about = {"smoothquant", "1.0.0",
                                  "weights and activations: int8 after outliers are smoothed",
                                  "SmoothQuant (arXiv 2211.10438)"};

  explicit SmoothQuant(Options& o) : W8a8(o) {
    o.number("alpha", alpha_, "how much of the inputs' size moves into the weights").between(0, 1);
    o.flag("quantize", quantize_,
           "int8 afterwards; false: smoothing alone, to be combined with another method");
  }

  bool encodes_weights() const { return quantize_; }
  bool chooses() const { return quantize_; }
  ptq_inputs_wanted scale_wants() const { return {PTQ_INPUTS_COLUMNS, PTQ_ORDER_FULL, 0}; }
  void scale(const Call&, const ptq_site& site, float* factor) const {
    if (site.place != PTQ_SITE_ATTENTION_IN && site.place != PTQ_SITE_MLP_IN) return;
    const ptq_inputs& inputs = ptq::plugin::inputs_of(*site.linears[0], about.name);
    const float* x = ptq::plugin::numbers(inputs.largest, "max |x|");
    const int64_t n = inputs.largest->shape[0];
    std::vector<float> largest(size_t(n), 1e-5f);
    for (uint32_t i = 0; i < site.n_linears; ++i) {
      const Matrix w = ptq::plugin::matrix_of(*site.linears[i]);
      for (int64_t r = 0; r < w.rows; ++r)
        for (int64_t c = 0; c < n; ++c)
          largest[size_t(c)] = std::max(largest[size_t(c)], std::fabs(w.row(r)[c]));
    }
    for (int64_t c = 0; c < n; ++c) {
      if (x[c] == 0) continue;
      const double s =
          std::pow(double(x[c]), alpha_) / std::pow(double(largest[size_t(c)]), 1 - alpha_);
      factor[c] = std::max(float(s), 1e-5f);
    }
  }

 private:
  double alpha_ = 0.5;
  bool quantize_ = true;
};

class W4a8 : public Int8Inputs {
 public:
  static constexpr About about = {"w4a8", "1.0.0",
                                  "weights: 4 bits, round to nearest; activations: int8", ""};

  explicit W4a8(Options& o) : Int8Inputs(o) {
    o.integer("group_size", group_size_, "weights along `in` that share a scale; 0 = a whole row")
        .between(0, 65536);
  }
  void encode(const Call& call, const ptq_linear& linear, ptq_encoding* out) const {
    if (linear.layer >= 0) call.affine(*linear.weight, 4, PTQ_GRID_ASYM_GPTQ, 1, group_size_, out);
  }

 private:
  int64_t group_size_ = 128;
};

class LlmInt8 : public W8a8 {
 public:
  static constexpr About about = {"llm_int8", "1.0.0",
                                  "weights and activations: int8, large inputs exact",
                                  "LLM.int8 (arXiv 2208.07339)"};

  explicit LlmInt8(Options& o) : W8a8(o) {
    o.number("threshold", threshold_, "inputs of at least this size enter exactly")
        .between(1e-3, 1e6);
  }
  void choose(const Call& call, const ptq_linear& linear, ptq_activation& how) const {
    W8a8::choose(call, linear, how);
    how.outlier_threshold = linear.layer < 0 ? 0.0f : float(threshold_);
    // A static scale is of the inputs that are rounded. Of those below the threshold only the bound
    // is known.
    how.scale = std::min(how.scale, how.outlier_threshold / 127);
  }

 private:
  double threshold_ = 6;
};

}  // namespace

PTQ_PLUGIN("w8a8", "Apache-2.0", W8a8, W4a8, SmoothQuant, LlmInt8)
