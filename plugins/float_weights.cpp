// Weights as small floating-point numbers with a scale per group; no calibration.
//
//   nf4    16 levels that are equally likely for normal numbers, groups of 64, s = max|w|
//          (QLoRA, arXiv 2305.14314)
//   mxfp4  E2M1, groups of 32, s a power of two, 2^(floor(log2 max|w|) - 2) (OCP Microscaling 1.0)
//   nvfp4  E2M1, groups of 16, s = max|w| / 6 in E4M3 below one float32 scale of the matrix,
//          max|W| / (448 * 6)
//   fp8_w8a8  E4M3 with s = max|w| / 448 of a row, and inputs likewise of a token (arXiv
//          2209.05433)
#include <algorithm>
#include <cmath>
#include <string>

#include "ptq/core/small_float.hpp"
#include "ptq/plugin.hpp"
#include "ptq/plugin_math.hpp"
#include "ptq/plugin_weights.hpp"

namespace {

using ptq::plugin::About;
using ptq::plugin::Call;
using ptq::plugin::Matrix;
using ptq::plugin::Options;
using ptq::plugin::tensor;

// bitsandbytes' table, as the paper prints it.
constexpr float kNf4[16] = {-1.0f,        -0.69619280f, -0.52507305f, -0.39491749f,
                            -0.28444138f, -0.18477343f, -0.09105004f, 0.0f,
                            0.07958030f,  0.16093020f,  0.24611230f,  0.33791524f,
                            0.44070983f,  0.56261700f,  0.72295684f,  1.0f};
// Sign, two bits of exponent, one of mantissa.
constexpr float kE2m1[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                             -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

float largest_of(const float* x, int64_t n) {
  float largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
  return largest;
}

// The code of the nearest level of E2M1: half to even in the mantissa, at most 6.
uint8_t e2m1_code(float x) {
  const float size = std::min(ptq::round_mantissa(std::fabs(x), 1, 0), 6.0f);
  const uint8_t code = uint8_t(std::lower_bound(kE2m1, kE2m1 + 8, size) - kE2m1);
  return uint8_t(code | (x < 0 && code != 0 ? 8 : 0));
}

// Codes and a scale per group. group_scale(max|w| of the group) -> the scale, exact in its type.
template <class Scale, class Code>
void encode_groups(const Call& call, const Matrix& w, const float* levels, ptq_codebook how,
                   const Scale& group_scale, const Code& code_of, ptq_encoding* out) {
  const int64_t group = how.group_size > 0 ? std::min(how.group_size, w.columns) : w.columns;
  const int64_t groups = (w.columns + group - 1) / group;
  std::vector<uint8_t> codes(size_t(w.rows * w.columns));
  std::vector<float> scale(size_t(w.rows * groups));
  const float whole = how.tensor_scale > 0 ? how.tensor_scale : 1.0f;
  for (int64_t r = 0; r < w.rows; ++r)
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t first = g * group, n = std::min(group, w.columns - first);
      const float* x = w.row(r) + first;
      const float s = scale[size_t(r * groups + g)] = group_scale(largest_of(x, n));
      for (int64_t c = 0; c < n; ++c)
        codes[size_t(r * w.columns + first + c)] = code_of(s == 0 ? 0.0f : x[c] / (s * whole));
    }
  call.grouped_codes(tensor(codes.data(), {w.rows, w.columns}),
                     tensor(levels, {int64_t(1) << how.bits}),
                     tensor(scale.data(), {w.rows, groups}), how, out);
}

class Nf4 {
 public:
  static constexpr About about = {"nf4", "1.0.0",
                                  "weights: 4-bit levels of the normal distribution",
                                  "QLoRA (arXiv 2305.14314)"};
  explicit Nf4(Options& o) {
    o.integer("group_size", group_size_, "weights along `in` that share a scale; 0 = a whole row")
        .between(0, 65536);
  }
  void encode(const Call& call, const ptq_linear& linear, ptq_encoding* out) const {
    if (linear.layer < 0) return;
    // A scale of 0 decodes to zeros, but the levels' own zero does so too: code 7, scale 1.
    const auto scale = [](float largest) {
      const float s = std::max(ptq::plugin::round_float16(largest), 0x1p-24f);
      return largest == 0 ? 1.0f : s;
    };
    const auto code = [](float x) {
      int best = 0;
      for (int i = 1; i < 16; ++i)
        if (std::fabs(kNf4[i] - x) < std::fabs(kNf4[best] - x)) best = i;
      return uint8_t(best);
    };
    encode_groups(
        call, ptq::plugin::matrix_of(linear), kNf4,
        {sizeof(ptq_codebook), 4, PTQ_SCALE_PER_GROUP, 0, group_size_, PTQ_SCALE_FLOAT16, 0}, scale,
        code, out);
  }

 private:
  int64_t group_size_ = 64;
};

class Mxfp4 {
 public:
  static constexpr About about = {"mxfp4", "1.0.0", "weights: E2M1 in groups of 32, scales 2^k",
                                  "OCP Microscaling Formats 1.0 (arXiv 2310.10537)"};
  explicit Mxfp4(Options&) {}
  void encode(const Call& call, const ptq_linear& linear, ptq_encoding* out) const {
    if (linear.layer < 0) return;
    const auto scale = [](float largest) {
      return largest == 0 ? 1.0f : std::ldexp(1.0f, std::max(std::ilogb(largest) - 2, -127));
    };
    encode_groups(call, ptq::plugin::matrix_of(linear), kE2m1,
                  {sizeof(ptq_codebook), 4, PTQ_SCALE_PER_GROUP, 0, 32, PTQ_SCALE_E8M0, 0}, scale,
                  e2m1_code, out);
  }
};

class Nvfp4 {
 public:
  static constexpr About about = {"nvfp4", "1.0.0", "weights: E2M1 in groups of 16, scales in E4M3",
                                  ""};
  explicit Nvfp4(Options&) {}
  void encode(const Call& call, const ptq_linear& linear, ptq_encoding* out) const {
    if (linear.layer < 0) return;
    const Matrix w = ptq::plugin::matrix_of(linear);
    const float most = largest_of(w.data, w.rows * w.columns);
    const float whole = most == 0 ? 1.0f : most / (448.0f * 6.0f);
    const auto scale = [&](float largest) { return ptq::round_e4m3(largest / 6.0f / whole); };
    encode_groups(call, w, kE2m1,
                  {sizeof(ptq_codebook), 4, PTQ_SCALE_PER_GROUP, 0, 16, PTQ_SCALE_E4M3, whole},
                  scale, e2m1_code, out);
  }
};

class Fp8 {
 public:
  static constexpr About about = {"fp8_w8a8", "1.0.0", "weights and activations: E4M3",
                                  "FP8 Formats for Deep Learning (arXiv 2209.05433)"};
  explicit Fp8(Options& o) {
    o.flag("activations", activations_, "round what enters the layers too");
    for (int code = 0; code < 256; ++code) levels_[code] = ptq::e4m3_to_float(uint8_t(code));
  }
  bool chooses() const { return activations_; }
  void choose(const Call&, const ptq_linear& linear, ptq_activation& how) const {
    if (linear.layer >= 0) how.kind = PTQ_ACTIVATION_FP8_TOKEN;
  }
  void encode(const Call& call, const ptq_linear& linear, ptq_encoding* out) const {
    if (linear.layer < 0) return;
    const auto scale = [](float largest) { return largest == 0 ? 1.0f : largest / 448.0f; };
    const auto code = [](float x) { return ptq::e4m3_byte(ptq::round_e4m3(x)); };
    encode_groups(call, ptq::plugin::matrix_of(linear), levels_,
                  {sizeof(ptq_codebook), 8, PTQ_SCALE_PER_GROUP, 0, 0, PTQ_SCALE_FLOAT32, 0}, scale,
                  code, out);
  }

 private:
  bool activations_ = true;
  float levels_[256];
};

}  // namespace

PTQ_PLUGIN("float_weights", "Apache-2.0", Nf4, Mxfp4, Nvfp4, Fp8)
