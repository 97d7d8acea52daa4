// RTN: round to nearest, the baseline that every weight method has to beat. No calibration.
//
// Weights are grouped along `in`. The default grid is asymmetric with the range forced to contain
// zero (the `--nearest` baseline of IST-DASLab/gptq); the others exist to reproduce published rows.
#include "ptq/plugin.hpp"

namespace {

using ptq::plugin::About;
using ptq::plugin::Call;
using ptq::plugin::Options;

const char* const kBits[] = {"2", "3", "4", "8", nullptr};
const char* const kGrids[] = {"\"asym_gptq\"", "\"asym_awq\"",   "\"sym_gptq\"",
                              "\"sym_full\"",  "\"sym_narrow\"", nullptr};
const ptq_option kOptions[] = {
    {sizeof(ptq_option), PTQ_OPTION_INT, "bits", "4", "bits per weight", 0, 0, kBits},
    {sizeof(ptq_option), PTQ_OPTION_INT, "group_size", "128",
     "weights along `in` that share a scale; 0 = a whole row", 0, 65536, nullptr},
    {sizeof(ptq_option), PTQ_OPTION_STRING, "grid", "\"asym_gptq\"",
     "asym_gptq, asym_awq, sym_gptq, sym_full or sym_narrow", 0, 0, kGrids},
    {sizeof(ptq_option), PTQ_OPTION_BOOL, "include_lm_head", "false",
     "quantize the output head too, when it is not tied to the embedding", 0, 0, nullptr},
};
const ptq_option* const kOptionList[] = {&kOptions[0], &kOptions[1], &kOptions[2], &kOptions[3]};

class Rtn {
 public:
  static constexpr About about = {"rtn", "1.0.0", "weights: round to nearest, no calibration", ""};
  static std::span<const ptq_option* const> options() { return kOptionList; }

  explicit Rtn(const Options& o)
      : bits_(int(o.integer("bits"))),
        group_size_(o.integer("group_size")),
        include_lm_head_(o.boolean("include_lm_head")) {
    const std::string grid = o.text("grid");
    grid_ = grid == "asym_awq"     ? PTQ_GRID_ASYM_AWQ
            : grid == "sym_gptq"   ? PTQ_GRID_SYM_GPTQ
            : grid == "sym_full"   ? PTQ_GRID_SYM_FULL
            : grid == "sym_narrow" ? PTQ_GRID_SYM_NARROW
                                   : PTQ_GRID_ASYM_GPTQ;
  }

  void encode(const Call& call, const ptq_linear& linear, ptq_encoding* out) {
    if (linear.layer < 0 && !include_lm_head_) return;
    call.affine(*linear.weight, bits_, grid_, 1, group_size_, out);
  }

 private:
  int bits_, grid_;
  int64_t group_size_;
  bool include_lm_head_;
};

}  // namespace

PTQ_PLUGIN("rtn", "Apache-2.0", Rtn)
