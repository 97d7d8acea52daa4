// Kernels without instructions of their own: each row is decoded to a buffer in the caches, and the
// compiler's vectors multiply it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "ptq/encoding/affine.hpp"
#include "ptq/engine/cpu/kernels/int8.hpp"
#include "ptq/engine/cpu/kernels/weight_rows.hpp"
#include "ptq/engine/cpu/simd.hpp"

namespace ptq::cpu::plain {

inline void multiply(const float* x, int64_t n, int64_t ldx, const float* b, int64_t ldb,
                     int64_t depth, int64_t columns, float* y, int64_t ldy, bool add) {
  const int64_t whole = columns / kLanes * kLanes, rest = columns - whole;
  small_gemm(x, ldx, b, ldb, y, ldy, n, whole, depth, add);
  for (int64_t i = 0; i < n && rest > 0; ++i) {
    float last[kLanes] = {};
    if (add) std::copy_n(y + i * ldy + whole, rest, last);
    small_gemm(x + i * ldx, ldx, b + whole, ldb, last, kLanes, 1, kLanes, depth, add);
    std::copy_n(last, rest, y + i * ldy + whole);
  }
}

inline void turn(const float* b, int64_t ld, int64_t rows, int64_t columns, float* out) {
  for (int64_t c = 0; c < columns; ++c)
    for (int64_t r = 0; r < rows; ++r) out[c * rows + r] = b[r * ld + c];
}

// T tokens x [T, columns] times a decoded row: 16 sums for the columns l, l + 16, ... of a block of
// kDepth, added one after the other, as kernels/products.inl has it.
template <int T>
inline void dot_row(const float* row, int64_t columns, const float* x, float* y, int64_t ldy) {
  for (int64_t c0 = 0; c0 < columns; c0 += kDepth) {
    const int64_t end = std::min(c0 + kDepth, columns), whole = c0 + (end - c0) / 16 * 16;
    float sums[T][16] = {};
    for (int64_t c = c0; c < whole; c += 16)
      for (int t = 0; t < T; ++t)
        for (int l = 0; l < 16; ++l) sums[t][l] += x[t * columns + c + l] * row[c + l];
    for (int t = 0; t < T; ++t) {
      for (int64_t l = 0; l < end - whole; ++l)
        sums[t][l] += x[t * columns + whole + l] * row[whole + l];
      float total = sums[t][0];
      for (int64_t l = 1; l < std::min<int64_t>(16, end - c0); ++l) total += sums[t][l];
      y[t * ldy] = c0 > 0 ? y[t * ldy] + total : total;
    }
  }
}

inline void dots(const WeightRows& w, int64_t begin, int64_t end, const float* x, int64_t n,
                 float* y, int64_t ldy) {
  const int64_t in = w.columns();
  std::vector<float> row(static_cast<size_t>(in));
  for (int64_t r = begin; r < end; ++r) {
    w.decode(r, r + 1, row.data());
    float* to = y + (r - begin);
    int64_t t = 0;
    for (; t + 4 <= n; t += 4) dot_row<4>(row.data(), in, x + t * in, to + t * ldy, ldy);
    for (; t < n; ++t) dot_row<1>(row.data(), in, x + t * in, to + t * ldy, ldy);
  }
}

inline void int8(const uint8_t* codes, int64_t columns, int64_t count, const int8_t* x, int64_t n,
                 int64_t stride, int32_t* y) {
  for (int64_t r = 0; r < count; ++r)
    for (int64_t t = 0; t < n; ++t) {
      int32_t sum = 0;
      for (int64_t c = 0; c < columns; ++c)
        sum += int32_t(codes[r * columns + c]) * int32_t(x[t * stride + c]);
      y[t * kInt8Rows + r] = sum;
    }
}

inline void int8_groups(const WeightRows& w, int64_t begin, int64_t end, const Int8Inputs& x,
                        int64_t n, float* y, int64_t ldy) {
  const int64_t in = w.columns(), group = int8_group(w), unit = int8_unit(w, x.per_unit);
  std::vector<float> scale(static_cast<size_t>(int8_groups_of_row(w))), offset(scale.size());
  std::vector<uint8_t> codes(static_cast<size_t>(in));
  for (int64_t r = begin; r < end; ++r) {
    int8_params(w, r, scale.data(), offset.data());
    const uint8_t* row = w.row(r);
    if (w.form() != Form::codes)
      int8_block_codes(w, r, 1, codes.data());
    else
      for (int64_t c = 0; c < in; ++c)
        codes[size_t(c)] = w.affine().format().bits == 8 ? row[c] : (row[c / 2] >> c % 2 * 4) & 15;
    for (int64_t t = 0; t < n; ++t) {
      float chains[4] = {};
      for (int64_t u = 0; u * unit < in; ++u) {
        const int64_t c0 = u * unit, stop = std::min(in, c0 + unit);
        int32_t sum = 0;
        for (int64_t c = c0; c < stop; ++c)
          sum += int32_t(codes[size_t(c)]) * int32_t(x.q[t * x.stride + c]);
        const float s = x.scale(t, c0), inputs = x.number(t, c0, stop);
        const size_t g = size_t(c0 / group);
        float& to = chains[unit == kInt8Wide ? 0 : u % 4];
        to += offset[g] * inputs;
        to += scale[g] * (s * float(sum));
      }
      y[t * ldy + r - begin] = (chains[0] + chains[1]) + (chains[2] + chains[3]);
    }
  }
}

}  // namespace ptq::cpu::plain
