// RTN: round to nearest, the baseline that every weight method has to beat. No calibration.
//
// Weights are grouped along `in`. The default grid is asymmetric with the range forced to contain
// zero (the `--nearest` baseline of IST-DASLab/gptq); the others exist to reproduce published rows.
#include "ptq/plugin.hpp"

namespace {

using ptq::plugin::About;
using ptq::plugin::Call;
using ptq::plugin::Options;

class Rtn {
 public:
  static constexpr About about = {"rtn", "1.0.0", "weights: round to nearest, no calibration", ""};

  explicit Rtn(Options& o) {
    o.integer("bits", bits_, "bits per weight").among({2, 3, 4, 8});
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

 private:
  int bits_ = 4, grid_ = PTQ_GRID_ASYM_GPTQ;
  int64_t group_size_ = 128;
  bool include_lm_head_ = false;
};

}  // namespace

PTQ_PLUGIN("rtn", "Apache-2.0", Rtn)
