// Linear layers of which weights and inputs are 8-bit integers (W8A8): the sums are integers, exact
// and the same with every kernel, as in SmoothQuant (arXiv 2211.10438, section 3) and LLM.int8
// (arXiv 2208.07339, section 2.1).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/threads.hpp"
#include "ptq/encoding/affine.hpp"
#include "ptq/engine/cpu/kernels/int8.hpp"
#include "ptq/engine/cpu/kernels/table.hpp"

namespace ptq::cpu {

// Tokens x [n, in] as q [n, stride] with x ~ scale[t] q: q = clamp(rne(x / scale), -127, 127).
struct Int8Tokens {
  int64_t stride;             // in, rounded up to kInt8Step; zeros behind in
  std::vector<int8_t> q;      // [n, stride]
  std::vector<float> scale;   // [n]; NaN or infinite where x is somewhere
  std::vector<int32_t> sums;  // [n] of q
};

// Without a scale every token has its own, max|x| / 127 and at least 1e-5 / 127.
inline Int8Tokens quantize_tokens(ThreadPool& pool, const float* x, int64_t n, int64_t in,
                                  std::optional<float> scale) {
  constexpr int64_t kTokens = 16;  // of a task
  const int64_t stride = (in + kInt8Step - 1) / kInt8Step * kInt8Step;
  Int8Tokens tokens{stride, std::vector<int8_t>(size_t(n * stride)),
                    std::vector<float>(static_cast<size_t>(n)),
                    std::vector<int32_t>(static_cast<size_t>(n))};
  const auto quantize = [&](int64_t t) {
    const float* from = x + t * in;
    int32_t top = 0;  // of the magnitudes' bit patterns, among which NaN and infinity are largest
    for (int64_t c = 0; c < in; ++c) {
      int32_t bits;
      std::memcpy(&bits, from + c, 4);
      top = std::max(top, bits & 0x7FFFFFFF);
    }
    const float largest = bits_float(uint32_t(top));
    const float s = !std::isfinite(largest) ? largest
                    : scale                 ? *scale
                                            : std::max(largest, 1e-5f) / 127.0f;
    tokens.scale[size_t(t)] = s;
    if (!std::isfinite(largest)) return;  // zeros times that: the outputs are NaN
    int8_t* to = tokens.q.data() + t * stride;
    int32_t sum = 0;
    for (int64_t c = 0; c < in; ++c) {
      const float q = std::rint(from[c] / s);
      const int32_t whole = int32_t(q < -127 ? -127.0f : q > 127 ? 127.0f : q);
      to[c] = int8_t(whole);
      sum += whole;
    }
    tokens.sums[size_t(t)] = sum;
  };
  pool.for_each((n + kTokens - 1) / kTokens, [&](int64_t task) {
    for (int64_t t = task * kTokens; t < std::min((task + 1) * kTokens, n); ++t) quantize(t);
  });
  return tokens;
}

// 8 bits on a symmetric grid, a scale per row, and rows so short that sums stay in 32 bits?
inline bool multiplies_integers(const AffineRows& w) {
  const AffineFormat& f = w.format();
  return f.bits == 8 && f.axis == 1 && w.groups() == 1 &&
         (f.grid == Grid::sym_narrow || f.grid == Grid::sym_full) &&
         w.columns() <= INT32_MAX / (255 * 127);
}

// y [n, out] = s_x[t] s_w[o] sum(q_x q_w) + bias of x [n, in], whose scale is the given one or each
// token's own; bias [out] may be nullptr. w: 8 bits, grid sym_narrow or sym_full, one scale per
// row. Errors: multiplies_integers() says no.
inline void linear_int8(ThreadPool& pool, const Kernels& kernels, const AffineRows& w,
                        const float* bias, const float* x, int64_t n, std::optional<float> scale,
                        float* y) {
  const int64_t in = w.columns(), out = w.rows();
  if (!multiplies_integers(w))
    throw usage_error(
        "integer products want weights of 8 bits on a symmetric grid, a scale per row",
        "bits = " + std::to_string(w.format().bits) + ", group_size = " +
            std::to_string(w.format().group_size) + ", columns = " + std::to_string(in),
        "bits 8, group_size 0, grid sym_narrow or sym_full, at most 66311 columns");
  const Int8Tokens tokens = quantize_tokens(pool, x, n, in, scale);
  pool.for_each((out + kInt8Rows - 1) / kInt8Rows, [&](int64_t task) {
    const int64_t begin = task * kInt8Rows, count = std::min(kInt8Rows, out - begin);
    thread_local std::vector<int32_t> sums;
    sums.resize(size_t(n * kInt8Rows));
    kernels.int8(w.row_codes(begin), in, count, tokens.q.data(), n, tokens.stride, sums.data());
    float scales[kInt8Rows], offsets[kInt8Rows];
    w.read_params(begin, count, scales, offsets);
    for (int64_t t = 0; t < n; ++t)
      for (int64_t r = 0; r < count; ++r) {
        // The stored code is q + 128.
        const int32_t sum = sums[size_t(t * kInt8Rows + r)] - 128 * tokens.sums[size_t(t)];
        const float value = float(sum) * (tokens.scale[size_t(t)] * scales[r]);
        y[t * out + begin + r] = bias ? value + bias[begin + r] : value;
      }
  });
}

}  // namespace ptq::cpu
