// FP8: keys and values as E4M3 numbers, the industry's eight-bit cache. No calibration.
//
// E4M3 (arXiv 2209.05433): sign, 4 exponent bits of bias 7, 3 mantissa bits; no infinity, largest
// 448, smallest step 2^-9. A number is divided by its scale, rounded half to even and saturated.
// The row of the query itself is read from its code.
//
// One scale per token and head, s = max|x| / 448, takes 8 + 16/head_dim bits; s = 1, as servers do
// it without calibration, takes 8.
#include <algorithm>
#include <cmath>

#include "ptq/core/small_float.hpp"
#include "ptq/plugin.hpp"
#include "ptq/plugin_math.hpp"

namespace {

using ptq::plugin::About;
using ptq::plugin::Call;
using ptq::plugin::Options;
using ptq::plugin::set_flags;
using ptq::plugin::tensor;

class Fp8 {
 public:
  static constexpr About about = {"fp8", "1.0.0", "KV cache: FP8 (E4M3), 8 bits",
                                  "FP8 Formats for Deep Learning (arXiv 2209.05433)"};

  explicit Fp8(Options& o) {
    o.word("scaling", per_token_, "token: one scale per token and head; one: no scale",
           {{"token", true}, {"one", false}});
    o.flag("rotate", rotate_, "store rows after a Hadamard rotation");

    for (int code = 0; code < 256; ++code) levels_[code] = ptq::e4m3_to_float(uint8_t(code));
  }

  void policy(const ptq_kv_shape&, ptq_kv_policy& keys, ptq_kv_policy& values) const {
    for (ptq_kv_policy* p : {&keys, &values})
      set_flags(*p, PTQ_KV_CURRENT | (rotate_ ? PTQ_KV_HADAMARD : 0));
  }
  void encode(const Call& call, const ptq_kv_block&, const ptq_tensor& x, ptq_encoding* out) {
    const std::vector<float> rows = ptq::plugin::copy_of(x);
    const int64_t heads = x.shape[0], tokens = x.shape[1], columns = x.shape[2];
    std::vector<uint8_t> codes(rows.size());
    std::vector<float> scale(size_t(per_token_ ? heads * tokens : heads * columns), 1.0f);
    for (int64_t r = 0; r < heads * tokens; ++r) {
      const float* row = rows.data() + r * columns;
      float s = 1;
      if (per_token_) {
        float largest = 0;
        for (int64_t c = 0; c < columns; ++c) largest = std::max(largest, std::fabs(row[c]));
        // Not below the smallest float16: then the codes use less than their range.
        if (largest > 0) s = std::max(ptq::plugin::round_float16(largest / 448), 0x1p-24f);
        scale[size_t(r)] = s;
      }
      for (int64_t c = 0; c < columns; ++c)
        codes[size_t(r * columns + c)] = ptq::e4m3_byte(ptq::round_e4m3(row[c] / s));
    }
    call.codebook(tensor(codes.data(), {heads, tokens, columns}), tensor(levels_, {256}),
                  tensor(scale.data(), {int64_t(scale.size())}), nullptr, 8,
                  per_token_ ? PTQ_SCALE_PER_ROW : PTQ_SCALE_PER_COLUMN, out);
  }

 private:
  bool per_token_ = true, rotate_ = false;
  float levels_[256];
};

}  // namespace

PTQ_PLUGIN("fp8", "Apache-2.0", Fp8)
