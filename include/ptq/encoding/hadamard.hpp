// The Walsh-Hadamard transform, orthonormal: its own inverse. It spreads an outlier of one channel
// over all of them (QuaRot, arXiv 2404.00456).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "ptq/core/dtype.hpp"

namespace ptq {

namespace hadamard_detail {

// Butterflies of distance `half` and larger.
PTQ_HD inline void butterflies(float* x, int64_t n, int64_t half) {
  for (; half < n; half *= 2)
    for (int64_t i = 0; i < n; i += 2 * half)
      for (int64_t j = i; j < i + half; ++j) {
        const float a = x[j], b = x[j + half];
        x[j] = a + b;
        x[j + half] = a - b;
      }
}

}  // namespace hadamard_detail

// In place, n a power of two: x <- H_n x / sqrt(n) with H_2n = [[H, H], [H, -H]].
PTQ_HD inline void hadamard(float* x, int64_t n) {
  int64_t half = 1;
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
  // Distances 1, 2 and 4 inside a vector: each lane adds its partner to itself, or takes itself
  // from its partner.
  typedef float Floats __attribute__((vector_size(32)));
  typedef int32_t Index __attribute__((vector_size(32)));
  if (n >= 8) {
    for (int64_t i = 0; i < n; i += 8) {
      Floats v;
      std::memcpy(&v, x + i, sizeof v);
      v = __builtin_shuffle(v, Index{1, 0, 3, 2, 5, 4, 7, 6}) +
          v * Floats{1, -1, 1, -1, 1, -1, 1, -1};
      v = __builtin_shuffle(v, Index{2, 3, 0, 1, 6, 7, 4, 5}) +
          v * Floats{1, 1, -1, -1, 1, 1, -1, -1};
      v = __builtin_shuffle(v, Index{4, 5, 6, 7, 0, 1, 2, 3}) +
          v * Floats{1, 1, 1, 1, -1, -1, -1, -1};
      std::memcpy(x + i, &v, sizeof v);
    }
    half = 8;
  }
#endif
  hadamard_detail::butterflies(x, n, half);
  const float scale = 1.0f / sqrtf(float(n));
  for (int64_t i = 0; i < n; ++i) x[i] *= scale;
}

}  // namespace ptq
