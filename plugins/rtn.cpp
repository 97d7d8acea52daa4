// RTN: round to nearest, the baseline that every weight method has to beat; and the same with
// ranges that lose least where inputs are largest.
//
// Weights are grouped along `in`. The default grid is asymmetric with the range forced to contain
// zero (the `--nearest` baseline of IST-DASLab/gptq); the others exist to reproduce published rows.
// imatrix_mse shrinks the range of every group, by 1 to 79 %, to where the sum of
// mean(x_j^2) (w_j - w'_j)^2 is least: the importance matrix of llama.cpp, the observer of that
// name of llm-compressor.
#include <algorithm>
#include <initializer_list>
#include <utility>

#include "ptq/plugin.hpp"
#include "ptq/plugin_weights.hpp"

namespace {

using ptq::plugin::About;
using ptq::plugin::Call;
using ptq::plugin::Options;

class Rtn {
 public:
  static constexpr About about = {"rtn", "1.0.0", "weights: round to nearest, no calibration", ""};

  explicit Rtn(Options& o) {
    o.integer("bits", bits_, "bits per weight").between(2, 8);
    o.integer("group_size", group_size_, "weights along `in` that share a scale; 0 = a whole row")
        .between(0, 65536);
    o.word("grid", grid_, "asym_gptq, asym_awq, sym_gptq, sym_full or sym_narrow",
           {{"asym_gptq", PTQ_GRID_ASYM_GPTQ},
            {"asym_awq", PTQ_GRID_ASYM_AWQ},
            {"sym_gptq", PTQ_GRID_SYM_GPTQ},
            {"sym_full", PTQ_GRID_SYM_FULL},
            {"sym_narrow", PTQ_GRID_SYM_NARROW}});
    o.flag("include_lm_head", include_lm_head_,
           "quantize the output head too, when it is not tied to the embedding");
  }

  void encode(const Call& call, const ptq_linear& linear, ptq_encoding* out) {
    if (linear.layer < 0 && !include_lm_head_) return;
    call.affine(*linear.weight, bits_, grid_, 1, group_size_, out);
  }

 protected:
  int bits_ = 4, grid_ = PTQ_GRID_ASYM_GPTQ;
  int64_t group_size_ = 128;
  bool include_lm_head_ = false;
};

class ImatrixMse : public Rtn {
 public:
  static constexpr About about = {"imatrix_mse", "1.0.0",
                                  "weights: round to nearest, ranges weighted by the inputs", ""};

  explicit ImatrixMse(Options& o) : Rtn(o) {}

  ptq_inputs_wanted encode_wants() const { return {PTQ_INPUTS_COLUMNS, PTQ_ORDER_FULL, 0}; }

  void encode(const Call& call, const ptq_linear& linear, ptq_encoding* out) const {
    if (linear.layer < 0) return;
    const ptq::plugin::Matrix w = ptq::plugin::matrix_of(linear);
    const float* weight = ptq::plugin::numbers(
        ptq::plugin::inputs_of(linear, about.name).mean_square, "the mean of x^2");
    const auto grid = ptq::Grid(grid_);
    ptq::plugin::AffineAnswer answer(w.rows, w.columns, bits_, grid, group_size_);
    const int64_t group = answer.group();
    constexpr int64_t kRows = 64;
    call.parallel((w.rows + kRows - 1) / kRows, [&](int64_t t) {
      for (int64_t r = t * kRows; r < std::min(w.rows, (t + 1) * kRows); ++r) {
        for (int64_t g = 0; g < answer.groups(); ++g)
          answer.params(r, g,
                        ptq::plugin::search_params(w.row(r) + g * group,
                                                   std::min(group, w.columns - g * group), 1,
                                                   weight + g * group, bits_, grid, 80, 2));
        answer.round_row(r, w.row(r));
      }
    });
    answer.give(call, nullptr, out);
  }
};

}  // namespace

PTQ_PLUGIN("rtn", "Apache-2.0", Rtn, ImatrixMse)
