// Linear layers of which weights and inputs are integers, 8 bits both (W8A8) or 4 and 8 (W4A8):
// sums of codes are integers, exact and the same with every kernel. They are of whole rows as in
// SmoothQuant (arXiv 2211.10438, section 3) and LLM.int8 (arXiv 2208.07339, section 2.1), or of
// pieces of a row that share a scale, and added up in float32. Inputs with a scale for each 32 of
// them are those of ggml's blocks Q8_0 and Q8_1 (ggml-quants.c), but that a scale is a float32 and
// halves are rounded to even.
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

// How tokens become integers: with the scale that is given; with one for each token, max|x| / 127
// and at least 1e-5 / 127; or with one for each kInt8Unit numbers of it, max|x| / 127.
struct InputScale {
  std::optional<float> fixed;
  bool per_unit = false;
};

// Tokens [n, in] as integers, see Int8Inputs: q = clamp(rne(x / scale), -127, 127).
struct Int8Tokens {
  int64_t stride;
  std::unique_ptr<int8_t[]> q;         // [n, stride]
  std::vector<int32_t> sums;           // [n, stride / kInt8Unit]
  std::vector<float> scales, numbers;  // the same shape
  std::vector<int32_t> totals;         // [n]; of tokens with one scale
  bool per_unit;

  Int8Inputs inputs() const {
    return {q.get(), stride, sums.data(), scales.data(), numbers.data(), per_unit};
  }
};

namespace int8_detail {

// The largest magnitude; NaN and infinity are larger than all numbers.
inline float largest_of(const float* x, int64_t n) {
  int32_t top = 0;  // of the magnitudes' bit patterns, which are in that order
  for (int64_t c = 0; c < n; ++c) {
    int32_t bits;
    std::memcpy(&bits, x + c, 4);
    top = std::max(top, bits & 0x7FFFFFFF);
  }
  return bits_float(uint32_t(top));
}

// int8_code() of a unit of finite numbers, of which `n` are there, and zeros behind; returns their
// sum. In loops of which a compiler makes vectors.
inline int32_t unit_codes(const float* __restrict x, int64_t n, float scale, int8_t* __restrict q) {
  float codes[kInt8Unit];
  if (n == kInt8Unit) {
    for (int64_t c = 0; c < kInt8Unit; ++c) codes[c] = int8_code(x[c], scale);
  } else {
    for (int64_t c = 0; c < n; ++c) codes[c] = int8_code(x[c], scale);
    std::fill(codes + std::max<int64_t>(n, 0), codes + kInt8Unit, 0.0f);
  }
  int32_t sum = 0;
  for (int64_t c = 0; c < kInt8Unit; ++c) {
    const int32_t code = int32_t(codes[c]);
    q[c] = int8_t(code);
    sum += code;
  }
  return sum;
}

// Units of x, of which `n` numbers are there, with one scale; of numbers that are not finite the
// codes are 0, and the outputs will be NaN.
inline int32_t units_codes(const float* x, int64_t n, int64_t units, const InputScale& how,
                           int8_t* q, int32_t* sums, float* scales) {
  constexpr float kLeastLargest = 1e-30f;  // of zeros, so that nothing is divided by zero
  const float largest = largest_of(x, n);
  const bool finite = std::isfinite(largest);
  const float scale = !finite        ? largest
                      : how.fixed    ? *how.fixed
                      : how.per_unit ? std::max(largest, kLeastLargest) / 127.0f
                                     : activation_step(ActivationKind::int8_token, largest);
  std::fill(scales, scales + units, scale);
  if (!finite) {
    std::fill(q, q + units * kInt8Unit, int8_t(0));
    std::fill(sums, sums + units, 0);
    return 0;
  }
  int32_t total = 0;
  for (int64_t u = 0; u < units; ++u) {
    const int64_t c = u * kInt8Unit;
    sums[u] = unit_codes(x + std::min(c, n), std::min(kInt8Unit, n - c), scale, q + c);
    total += sums[u];
  }
  return total;
}

}  // namespace int8_detail

inline Int8Tokens quantize_tokens(ThreadPool& pool, const float* x, int64_t n, int64_t in,
                                  const InputScale& how) {
  constexpr int64_t kTokens = 16;  // of a task
  const int64_t stride = (in + kInt8Step - 1) / kInt8Step * kInt8Step, units = stride / kInt8Unit;
  Int8Tokens tokens{stride,
                    std::make_unique_for_overwrite<int8_t[]>(size_t(n * stride)),
                    std::vector<int32_t>(size_t(n * units)),
                    std::vector<float>(size_t(n * units)),
                    std::vector<float>(size_t(n * units)),
                    std::vector<int32_t>(static_cast<size_t>(n)),
                    how.per_unit};
  const auto quantize = [&](int64_t t) {
    const float* const from = x + t * in;
    const int64_t first = t * units;
    int8_t* const q = tokens.q.get() + t * stride;
    int32_t* const sums = tokens.sums.data() + first;
    float* const scales = tokens.scales.data() + first;
    using int8_detail::units_codes;
    if (how.per_unit) {  // whole units, of which a compiler knows the length, and what is behind
      const int64_t whole = in / kInt8Unit;
      for (int64_t u = 0; u < whole; ++u)
        units_codes(from + u * kInt8Unit, kInt8Unit, 1, how, q + u * kInt8Unit, sums + u,
                    scales + u);
      units_codes(from + in, 0, units - whole, how, q + in, sums + whole, scales + whole);
    } else {
      tokens.totals[size_t(t)] = units_codes(from, in, units, how, q, sums, scales);
    }
    for (int64_t at = first; at < first + units; ++at)
      tokens.numbers[size_t(at)] = tokens.scales[size_t(at)] * float(tokens.sums[size_t(at)]);
  };
  pool.for_each((n + kTokens - 1) / kTokens, [&](int64_t task) {
    for (int64_t t = task * kTokens; t < std::min((task + 1) * kTokens, n); ++t) quantize(t);
  });
  return tokens;
}

// 8 bits on a symmetric grid, a scale per row, and rows so short that sums stay in 32 bits: with
// one scale of the inputs a whole row is one sum.
inline bool sums_rows(const WeightRows& w, bool per_unit) {
  if (w.form() != Form::codes || per_unit) return false;
  const AffineFormat& f = w.affine().format();
  return f.bits == 8 && f.axis == 1 && w.affine().groups() == 1 &&
         (f.grid == Grid::sym_narrow || f.grid == Grid::sym_full) &&
         w.columns() <= INT32_MAX / (255 * 127);
}
// 4 or 8 bits, GGUF blocks or groups along the row that are whole units: each unit is one sum.
inline bool sums_groups(const WeightRows& w) {
  if (w.form() == Form::q4_0 || w.form() == Form::q4_1 || w.form() == Form::q8_0) return true;
  if (w.form() != Form::codes) return false;
  const AffineFormat& f = w.affine().format();
  const int64_t group = w.affine().group();
  return (f.bits == 4 || f.bits == 8) && f.axis == 1 && w.columns() % kInt8Unit == 0 &&
         (w.affine().groups() == 1 || group == kInt8Unit || group == 2 * kInt8Unit ||
          group % kInt8Wide == 0);
}
inline bool multiplies_integers(const WeightRows& w, bool per_unit) {
  return sums_rows(w, per_unit) || sums_groups(w);
}

// y [n, out] = of a row, s_x[t] s_w[o] sum(q_x q_w) or the sums of its units with their scales,
// + bias.
struct Int8Product {
  WeightRows w;  // multiplies_integers()
  int64_t out;
  const float* bias;  // [out] or nullptr
  float* y;
};

namespace int8_detail {

// Rows of a task: of few tokens so many that their codes are worth a task.
inline int64_t rows_of_task(const WeightRows& w, int64_t n, bool per_unit) {
  constexpr int64_t kLeast = 32 << 10;  // bytes
  if (sums_rows(w, per_unit) || n >= kInt8Many) return kInt8Rows;
  const int bits = w.form() == Form::codes  ? w.affine().format().bits
                   : w.form() == Form::q8_0 ? 8
                                            : 4;
  const int64_t bytes = kInt8Rows * packed_bytes(w.columns(), bits);
  return kInt8Rows * ((kLeast + bytes - 1) / bytes);
}

// Rows [begin, begin + count) of a product whose sums are of whole rows.
inline void product_of_rows(const Kernels& kernels, const Int8Product& p, const Int8Tokens& tokens,
                            int64_t n, int64_t begin, int64_t count, bool bf16) {
  const Int8Inputs inputs = tokens.inputs();
  thread_local std::vector<int32_t> sums;
  sums.resize(size_t(n * kInt8Rows));
  kernels.int8(p.w.row(begin), p.w.columns(), count, inputs.q, n, inputs.stride, sums.data());
  float scales[kInt8Rows] = {}, bias[kInt8Rows] = {}, row[kInt8Rows];
  p.w.affine().read_params(begin, count, scales, row);
  if (p.bias) std::copy_n(p.bias + begin, count, bias);
  for (int64_t t = 0; t < n; ++t) {  // of rows from `count` on sums are of any size, and unused
    const int32_t* sum = sums.data() + t * kInt8Rows;
    const uint32_t shift = 128 * uint32_t(tokens.totals[size_t(t)]);  // the stored code is q + 128
    const float s = inputs.scale(t, 0);
    for (int64_t r = 0; r < kInt8Rows; ++r)
      row[r] = float(int32_t(uint32_t(sum[r]) - shift)) * (s * scales[r]);
    if (p.bias)
      for (int64_t r = 0; r < kInt8Rows; ++r) row[r] += bias[r];
    if (bf16)
      for (int64_t r = 0; r < kInt8Rows; ++r) row[r] = round_bf16(row[r]);
    std::copy_n(row, count, p.y + t * p.out + begin);
  }
}

// The same where they are of groups.
inline void product_of_groups(const Kernels& kernels, const Int8Product& p,
                              const Int8Tokens& tokens, int64_t n, int64_t begin, int64_t count,
                              bool bf16) {
  float* row = p.y + begin;
  kernels.int8_groups(p.w, begin, begin + count, tokens.inputs(), n, row, p.out);
  for (int64_t t = 0; t < n; ++t, row += p.out) {
    if (p.bias)
      for (int64_t r = 0; r < count; ++r) row[r] += p.bias[begin + r];
    if (bf16)
      for (int64_t r = 0; r < count; ++r) row[r] = round_bf16(row[r]);
  }
}

}  // namespace int8_detail

// Several products of x [n, in], which becomes integers once. bf16: y is rounded to bfloat16.
// Errors: multiplies_integers() says no.
inline void linears_int8(ThreadPool& pool, const Kernels& kernels,
                         std::span<const Int8Product> products, const float* x, int64_t n,
                         const InputScale& how, bool bf16) {
  using namespace int8_detail;
  const int64_t in = products[0].w.columns();
  const auto rows_of = [&](const Int8Product& p) { return rows_of_task(p.w, n, how.per_unit); };
  const auto tasks_of = [&](const Int8Product& p) { return (p.out + rows_of(p) - 1) / rows_of(p); };
  int64_t tasks = 0;
  for (const Int8Product& p : products) {
    if (!multiplies_integers(p.w, how.per_unit))
      throw usage_error(
          "integer products do not fit this format of weights",
          "columns = " + std::to_string(in) +
              (p.w.is_affine()
                   ? ", bits = " + std::to_string(p.w.affine().format().bits) +
                         ", group_size = " + std::to_string(p.w.affine().format().group_size) +
                         ", axis = " + std::to_string(p.w.affine().format().axis)
                   : std::string()),
          "they are for Q4_0, Q4_1 and Q8_0, and for 4 or 8 bits along the row (axis 1) in groups "
          "of 32, 64, a multiple of 128 or 0, columns a multiple of 32; or for 8 bits, group_size "
          "0, grid sym_narrow or sym_full, at most 66311 columns");
    tasks += tasks_of(p);
  }
  const Int8Tokens tokens = quantize_tokens(pool, x, n, in, how);
  pool.for_each(tasks, [&](int64_t task) {
    size_t of = 0;
    for (; task >= tasks_of(products[of]); ++of) task -= tasks_of(products[of]);
    const Int8Product& p = products[of];
    const int64_t rows = rows_of(p), begin = task * rows, count = std::min(rows, p.out - begin);
    const auto product = sums_rows(p.w, how.per_unit) ? product_of_rows : product_of_groups;
    product(kernels, p, tokens, n, begin, count, bf16);
  });
}

}  // namespace ptq::cpu
