// ptq/plugin_weights.hpp: what several methods for weights share: a checked view of a layer, the
// search for the range of a group, an answer that is filled group by group. Optional, as plugin.hpp
// is.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "ptq/encoding/affine_math.hpp"
#include "ptq/plugin.hpp"

namespace ptq::plugin {

// The weight of a linear layer, [rows, columns] float32 on the CPU.
struct Matrix {
  const float* data;
  int64_t rows, columns;
  const float* row(int64_t r) const { return data + r * columns; }
};
inline Matrix matrix_of(const ptq_linear& linear) {
  const ptq_tensor& w = *linear.weight;
  if (w.ndim != 2 || w.dtype.code != PTQ_FLOAT || w.dtype.bits != 32 || w.device_type != PTQ_CPU)
    throw Invalid("the weight is not float32 [out, in] on the CPU");
  return {static_cast<const float*>(w.data), w.shape[0], w.shape[1]};
}

// What entered the layer. Throws where the host has no calibration set.
inline const ptq_inputs& inputs_of(const ptq_linear& linear, const char* method) {
  if (!PTQ_HAS(&linear, inputs) || !linear.inputs)
    throw Invalid(std::string(method) + " learns from what enters a layer, and `" + linear.name +
                  "` comes without it; give the experiment a calibration text");
  return *linear.inputs;
}
inline const float* numbers(const ptq_tensor* t, const char* what) {
  if (!t) throw Invalid(std::string("the host has not given ") + what);
  return static_cast<const float*>(t->data);
}

// The number that a code of a group stands for, as the host decodes it.
inline float affine_value(float code, AffineParams p, Grid grid) {
  return code * p.scale + affine_offset(p, grid);
}
inline float affine_rounded(float x, AffineParams p, int bits, Grid grid) {
  return affine_value(affine_code(x, p, bits, grid), p, grid);
}

// Scale and zero point of n numbers, `stride` apart: of their range, or, with steps > 1, of the
// range shrunk by 1 - i / 100, i < steps, that loses least: the sum over the numbers of
// weight |x - x'|^exponent (weight nullptr: 1; the first of equals). GPTQ's quant.py, with `mse`:
// 80 steps, exponent 2.4; with the mean squares of the inputs as weights and exponent 2 it is the
// importance-weighted observer.
inline AffineParams search_params(const float* x, int64_t n, int64_t stride, const float* weight,
                                  int bits, Grid grid, int steps, float exponent) {
  float lo = x[0], hi = x[0];
  for (int64_t i = 0; i < n; ++i) {
    lo = std::min(lo, x[i * stride]);
    hi = std::max(hi, x[i * stride]);
  }
  AffineParams best = affine_params(lo, hi, bits, grid);
  double least = INFINITY;
  for (int step = 0; step < steps && steps > 1; ++step) {
    const float p = 1.0f - float(step) / 100.0f;
    const AffineParams tried = affine_params(lo * p, hi * p, bits, grid);
    double loss = 0;
    for (int64_t i = 0; i < n; ++i) {
      const float d = std::fabs(x[i * stride] - affine_rounded(x[i * stride], tried, bits, grid));
      loss += double(weight ? weight[i] : 1.0f) * (exponent == 2 ? d * d : std::pow(d, exponent));
    }
    if (loss < least) {
      least = loss;
      best = tried;
    }
  }
  return best;
}

// Codes, scales and zero points of a matrix, to be filled from any thread and handed over at once.
class AffineAnswer {
 public:
  AffineAnswer(int64_t rows, int64_t columns, int bits, Grid grid, int64_t group_size)
      : rows_(rows),
        columns_(columns),
        group_(group_size <= 0 || group_size > columns ? columns : group_size),
        groups_((columns + group_ - 1) / group_),
        bits_(bits),
        grid_(grid),
        codes_(size_t(rows * columns)),
        scale_(size_t(rows * groups_)),
        zero_(size_t(rows * groups_)) {}

  int64_t group() const { return group_; }
  int64_t groups() const { return groups_; }
  void params(int64_t row, int64_t group, AffineParams p) {
    scale_[size_t(row * groups_ + group)] = p.scale;
    zero_[size_t(row * groups_ + group)] = p.zero;
  }
  void code(int64_t row, int64_t column, float code) {
    codes_[size_t(row * columns_ + column)] = uint8_t(code);
  }
  // Rounds a row of `columns` numbers to its groups' parameters.
  void round_row(int64_t row, const float* x) {
    for (int64_t c = 0; c < columns_; ++c) {
      const size_t g = size_t(row * groups_ + c / group_);
      code(row, c, affine_code(x[c], {scale_[g], zero_[g]}, bits_, grid_));
    }
  }
  // order: see ptq_affine; nullptr: none.
  void give(const Call& call, const int32_t* order, ptq_encoding* out) const {
    const ptq_affine how{sizeof how, bits_, int(grid_), 1, group_, order};
    const ptq_tensor zeros = tensor(zero_.data(), {rows_, groups_});
    call.affine_codes(tensor(codes_.data(), {rows_, columns_}),
                      tensor(scale_.data(), {rows_, groups_}),
                      grid_has_zero(grid_) ? &zeros : nullptr, how, out);
  }

 private:
  int64_t rows_, columns_, group_, groups_;
  int bits_;
  Grid grid_;
  std::vector<uint8_t> codes_;
  std::vector<float> scale_, zero_;
};

}  // namespace ptq::plugin
