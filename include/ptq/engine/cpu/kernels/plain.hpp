// Kernels without instructions of their own: each row is decoded to a buffer in the caches, and the
// compiler's vectors multiply it.
#pragma once

#include <cstdint>
#include <vector>

#include "ptq/engine/cpu/kernels/int8.hpp"
#include "ptq/engine/cpu/kernels/weight_rows.hpp"
#include "ptq/engine/cpu/simd.hpp"

namespace ptq::cpu::plain {

inline void dots(const WeightRows& w, int64_t begin, int64_t end, const float* x, int64_t n,
                 float* y, int64_t ldy) {
  const int64_t in = w.columns();
  std::vector<float> row(static_cast<size_t>(in));
  for (int64_t r = begin; r < end; ++r) {
    w.decode(r, r + 1, row.data());
    for (int64_t t = 0; t < n; ++t) y[t * ldy + r - begin] = dot(x + t * in, row.data(), in);
  }
}

inline void multiply(const float* x, int64_t n, int64_t ldx, const float* b, int64_t ldb,
                     int64_t depth, int64_t columns, float* y, int64_t ldy, bool add) {
  small_gemm(x, ldx, b, ldb, y, ldy, n, columns, depth, add);
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

}  // namespace ptq::cpu::plain
