// q8_0 and q4_0: the block formats in which llama.cpp keeps a quantized KV cache (-ctk, -ctv).
//
// 32 neighbouring channels of a token share one float16 scale d; no calibration, every token alone.
// The arithmetic is that of ggml-quants.c (ggml-org/llama.cpp, quantize_row_q8_0_ref and
// quantize_row_q4_0_ref): codes are chosen with the float32 scale, decoded with its float16.
//   q8_0  d = max|x| / 127, q = round half away(x / d)                      8.5 bits per number
//   q4_0  m = the x of largest |x|, d = m / -8, code = min(15, trunc(x/d + 8.5)), x = (code - 8) d
//         the extreme is exact, the other side reaches 7/8 of it             4.5 bits per number
// The row of the query itself is read from its code, as there.
//
// q4_0 hurts keys with a large bias (Qwen2): `key_type` gives them 8 bits. `rotate`: an orthonormal
// Hadamard rotation spreads outlier channels (QuaRot, arXiv 2404.00456).
#include <algorithm>
#include <cmath>

#include "ptq/plugin.hpp"
#include "ptq/plugin_math.hpp"

namespace {

using ptq::plugin::About;
using ptq::plugin::Call;
using ptq::plugin::Options;
using ptq::plugin::set_flags;

constexpr int64_t kBlock = 32;

// Scale and codes of n <= 32 numbers, as ggml stores them; codes are offset to begin at 0.
float encode_q8_0(const float* x, int64_t n, uint8_t* codes) {
  float largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float d = largest / 127, inverse = d != 0 ? 1 / d : 0.0f;
  for (int64_t i = 0; i < n; ++i) codes[i] = uint8_t(128 + int(std::round(x[i] * inverse)));
  return d;
}
float encode_q4_0(const float* x, int64_t n, uint8_t* codes) {
  float extreme = 0;
  for (int64_t i = 0; i < n; ++i)
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  const float d = extreme / -8, inverse = d != 0 ? 1 / d : 0.0f;
  for (int64_t i = 0; i < n; ++i) codes[i] = uint8_t(std::min(15, int(x[i] * inverse + 8.5f)));
  return d;
}

class Blocks {
 public:
  Blocks(Options& o, bool eight_bits) : eight_{eight_bits, eight_bits} {
    o.word("key_type", eight_[PTQ_KEYS], "format of keys", {{"q8_0", true}, {"q4_0", false}});
    o.flag("rotate", rotate_, "store rows after a Hadamard rotation");
  }

  void policy(const ptq_kv_shape&, ptq_kv_policy& keys, ptq_kv_policy& values) const {
    for (ptq_kv_policy* p : {&keys, &values})
      set_flags(*p, PTQ_KV_CURRENT | (rotate_ ? PTQ_KV_HADAMARD : 0));
  }
  void encode(const Call& call, const ptq_kv_block& block, const ptq_tensor& x, ptq_encoding* out) {
    const std::vector<float> rows = ptq::plugin::copy_of(x);
    const int64_t count = x.shape[0] * x.shape[1], columns = x.shape[2],
                  groups = (columns + kBlock - 1) / kBlock;
    const bool eight = eight_[block.side];
    std::vector<uint8_t> codes(rows.size());
    std::vector<float> scale(size_t(count * groups));
    for (int64_t r = 0; r < count; ++r)
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t begin = r * columns + g * kBlock, n = std::min(kBlock, columns - g * kBlock);
        scale[size_t(r * groups + g)] =
            (eight ? encode_q8_0 : encode_q4_0)(rows.data() + begin, n, codes.data() + begin);
      }
    const ptq_affine how{sizeof how, eight ? 8 : 4, PTQ_GRID_SYM_FULL, 1, kBlock, nullptr};
    call.affine_codes(ptq::plugin::tensor(codes.data(), {x.shape[0], x.shape[1], columns}),
                      ptq::plugin::tensor(scale.data(), {x.shape[0], x.shape[1], groups}), nullptr,
                      how, out);
  }

 private:
  bool eight_[2];  // keys, values
  bool rotate_ = false;
};

class Q8 : public Blocks {
 public:
  static constexpr About about = {"q8_0", "1.0.0", "KV cache: llama.cpp's q8_0, 8.5 bits",
                                  "llama.cpp, ggml-quants.c"};
  explicit Q8(Options& o) : Blocks(o, true) {}
};
class Q4 : public Blocks {
 public:
  static constexpr About about = {"q4_0", "1.0.0", "KV cache: llama.cpp's q4_0, 4.5 bits",
                                  "llama.cpp, ggml-quants.c"};
  explicit Q4(Options& o) : Blocks(o, false) {}
};

}  // namespace

PTQ_PLUGIN("ggml_blocks", "Apache-2.0", Q8, Q4)
