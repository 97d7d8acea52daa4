// Linear layers of which weights and inputs are integers, 8 bits both (W8A8) or 4 and 8 (W4A8):
// sums of codes are integers, exact and the same with every kernel. They are of whole rows as in
// SmoothQuant (arXiv 2211.10438, section 3) and LLM.int8 (arXiv 2208.07339, section 2.1), or of
// pieces of a row that share a scale, and added up in float32.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/threads.hpp"
#include "ptq/encoding/activation.hpp"
#include "ptq/encoding/affine.hpp"
#include "ptq/engine/cpu/kernels/int8.hpp"
#include "ptq/engine/cpu/kernels/table.hpp"
#include "ptq/engine/cpu/linear.hpp"

namespace ptq::cpu {

// Tokens x [n, in] as q [n, stride] with x ~ scale[t] q: q = clamp(rne(x / scale), -127, 127).
struct Int8Tokens {
  int64_t stride;               // in, rounded up to kInt8Step; zeros behind in
  std::unique_ptr<int8_t[]> q;  // [n, stride]
  std::vector<float> scale;     // [n]; NaN or infinite where x is somewhere
  std::vector<int32_t> sums;    // [n, stride / kInt8Unit], of kInt8Unit numbers of q each
  std::vector<int32_t> totals;  // [n]
};

// int8_code() of finite x [n] to q, zeros behind, and their sums; in loops of which a compiler
// makes vectors. Returns the total.
inline int32_t int8_codes(const float* __restrict x, int64_t n, float scale, int64_t stride,
                          int8_t* __restrict q, int32_t* __restrict sums) {
  thread_local std::vector<float> room;
  room.resize(size_t(stride));
  float* __restrict codes = room.data();
  for (int64_t c = 0; c < n; ++c) codes[c] = int8_code(x[c], scale);
  std::fill(codes + n, codes + stride, 0.0f);
  int32_t total = 0;
  for (int64_t u = 0; u < stride / kInt8Unit; ++u) {
    int32_t sum = 0;
    for (int64_t c = u * kInt8Unit; c < (u + 1) * kInt8Unit; ++c) {
      const int32_t code = int32_t(codes[c]);
      q[c] = int8_t(code);
      sum += code;
    }
    sums[u] = sum;
    total += sum;
  }
  return total;
}

// Without a scale every token has its own, max|x| / 127 and at least 1e-5 / 127.
inline Int8Tokens quantize_tokens(ThreadPool& pool, const float* x, int64_t n, int64_t in,
                                  std::optional<float> scale) {
  constexpr int64_t kTokens = 16;  // of a task
  const int64_t stride = (in + kInt8Step - 1) / kInt8Step * kInt8Step;
  Int8Tokens tokens{stride, std::make_unique_for_overwrite<int8_t[]>(size_t(n * stride)),
                    std::vector<float>(static_cast<size_t>(n)),
                    std::vector<int32_t>(size_t(n * (stride / kInt8Unit))),
                    std::vector<int32_t>(static_cast<size_t>(n))};
  const auto quantize = [&](int64_t t) {
    const float* from = x + t * in;
    int8_t* to = tokens.q.get() + t * stride;
    int32_t top = 0;  // of the magnitudes' bit patterns, among which NaN and infinity are largest
    for (int64_t c = 0; c < in; ++c) {
      int32_t bits;
      std::memcpy(&bits, from + c, 4);
      top = std::max(top, bits & 0x7FFFFFFF);
    }
    const float largest = bits_float(uint32_t(top));
    const bool finite = std::isfinite(largest);
    const float s = !finite ? largest
                    : scale ? *scale
                            : activation_step(ActivationKind::int8_token, largest);
    tokens.scale[size_t(t)] = s;
    if (finite)
      tokens.totals[size_t(t)] =
          int8_codes(from, in, s, stride, to, tokens.sums.data() + t * (stride / kInt8Unit));
    else  // zeros times that: the outputs are NaN
      std::fill(to, to + stride, int8_t(0));
  };
  pool.for_each((n + kTokens - 1) / kTokens, [&](int64_t task) {
    for (int64_t t = task * kTokens; t < std::min((task + 1) * kTokens, n); ++t) quantize(t);
  });
  return tokens;
}

// 8 bits on a symmetric grid, a scale per row, and rows so short that sums stay in 32 bits: a whole
// row is one sum.
inline bool sums_rows(const AffineRows& w) {
  const AffineFormat& f = w.format();
  return f.bits == 8 && f.axis == 1 && w.groups() == 1 &&
         (f.grid == Grid::sym_narrow || f.grid == Grid::sym_full) &&
         w.columns() <= INT32_MAX / (255 * 127);
}
// 4 or 8 bits in groups along the row that are whole units: each unit is one sum.
inline bool sums_groups(const AffineRows& w) {
  const AffineFormat& f = w.format();
  const int64_t group = w.group();
  return (f.bits == 4 || f.bits == 8) && f.axis == 1 && w.columns() % kInt8Unit == 0 &&
         (w.groups() == 1 || group == kInt8Unit || group == 2 * kInt8Unit ||
          group % kInt8Wide == 0);
}
inline bool multiplies_integers(const AffineRows& w) { return sums_rows(w) || sums_groups(w); }

// y [n, out] = s_x[t] times, of a row, s_w[o] sum(q_x q_w) or the sums of its groups, + bias.
struct Int8Product {
  const AffineRows* w;  // multiplies_integers()
  const float* bias;    // [out] or nullptr
  float* y;
};

namespace int8_detail {

// Rows of a task: of few tokens so many that their codes are worth a task.
inline int64_t rows_of_task(const AffineRows& w, int64_t n) {
  constexpr int64_t kLeast = 32 << 10;  // bytes
  if (sums_rows(w) || n >= kInt8Many) return kInt8Rows;
  const int64_t bytes = kInt8Rows * packed_bytes(w.columns(), w.format().bits);
  return kInt8Rows * ((kLeast + bytes - 1) / bytes);
}

// Rows [begin, begin + count) of a product whose sums are of whole rows.
inline void product_of_rows(const Kernels& kernels, const Int8Product& p, const Int8Tokens& tokens,
                            int64_t n, int64_t begin, int64_t count, bool bf16) {
  const int64_t out = p.w->rows();
  thread_local std::vector<int32_t> sums;
  sums.resize(size_t(n * kInt8Rows));
  kernels.int8(p.w->row_codes(begin), p.w->columns(), count, tokens.q.get(), n, tokens.stride,
               sums.data());
  float scales[kInt8Rows] = {}, bias[kInt8Rows] = {}, row[kInt8Rows];
  p.w->read_params(begin, count, scales, row);
  if (p.bias) std::copy_n(p.bias + begin, count, bias);
  for (int64_t t = 0; t < n; ++t) {  // of rows from `count` on sums are of any size, and unused
    const int32_t* sum = sums.data() + t * kInt8Rows;
    const uint32_t shift = 128 * uint32_t(tokens.totals[size_t(t)]);  // the stored code is q + 128
    const float s = tokens.scale[size_t(t)];
    for (int64_t r = 0; r < kInt8Rows; ++r)
      row[r] = float(int32_t(uint32_t(sum[r]) - shift)) * (s * scales[r]);
    if (p.bias)
      for (int64_t r = 0; r < kInt8Rows; ++r) row[r] += bias[r];
    if (bf16)
      for (int64_t r = 0; r < kInt8Rows; ++r) row[r] = round_bf16(row[r]);
    std::copy_n(row, count, p.y + t * out + begin);
  }
}

// The same where they are of groups.
inline void product_of_groups(const Kernels& kernels, const Int8Product& p,
                              const Int8Tokens& tokens, int64_t n, int64_t begin, int64_t count,
                              bool bf16) {
  const int64_t out = p.w->rows();
  kernels.int8_groups(*p.w, begin, begin + count, tokens.q.get(), tokens.sums.data(), n,
                      tokens.stride, p.y + begin, out);
  for (int64_t t = 0; t < n; ++t) {
    float* row = p.y + t * out + begin;
    const float s = tokens.scale[size_t(t)];
    for (int64_t r = 0; r < count; ++r) row[r] *= s;
    if (p.bias)
      for (int64_t r = 0; r < count; ++r) row[r] += p.bias[begin + r];
    if (bf16)
      for (int64_t r = 0; r < count; ++r) row[r] = round_bf16(row[r]);
  }
}

}  // namespace int8_detail

// Several products of x [n, in], which becomes integers once; its scale is the given one or each
// token's own. bf16: y is rounded to bfloat16. Errors: multiplies_integers() says no.
inline void linears_int8(ThreadPool& pool, const Kernels& kernels,
                         std::span<const Int8Product> products, const float* x, int64_t n,
                         std::optional<float> scale, bool bf16) {
  using namespace int8_detail;
  const int64_t in = products[0].w->columns();
  const auto tasks_of = [n](const Int8Product& p) {
    const int64_t rows = rows_of_task(*p.w, n);
    return (p.w->rows() + rows - 1) / rows;
  };
  int64_t tasks = 0;
  for (const Int8Product& p : products) {
    if (!multiplies_integers(*p.w))
      throw usage_error(
          "integer products do not fit this format of weights",
          "bits = " + std::to_string(p.w->format().bits) +
              ", group_size = " + std::to_string(p.w->format().group_size) + ", axis = " +
              std::to_string(p.w->format().axis) + ", columns = " + std::to_string(in),
          "they are for 4 or 8 bits along the row (axis 1) in groups of 32, 64, a multiple of 128 "
          "or 0, columns a multiple of 32; or for 8 bits, group_size 0, grid sym_narrow or "
          "sym_full, at most 66311 columns");
    tasks += tasks_of(p);
  }
  const Int8Tokens tokens = quantize_tokens(pool, x, n, in, scale);
  pool.for_each(tasks, [&](int64_t task) {
    size_t of = 0;
    for (; task >= tasks_of(products[of]); ++of) task -= tasks_of(products[of]);
    const Int8Product& p = products[of];
    const int64_t rows = rows_of_task(*p.w, n), begin = task * rows,
                  count = std::min(rows, p.w->rows() - begin);
    const auto product = sums_rows(*p.w) ? product_of_rows : product_of_groups;
    product(kernels, p, tokens, n, begin, count, bf16);
  });
}

}  // namespace ptq::cpu
