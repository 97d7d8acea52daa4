// The Walsh-Hadamard transform, orthonormal: its own inverse. It spreads an outlier of one channel
// over all of them (QuaRot, arXiv 2404.00456).
#pragma once

#include <cmath>
#include <cstdint>

#include "ptq/core/dtype.hpp"

namespace ptq {

// In place, n a power of two: x <- H_n x / sqrt(n) with H_2n = [[H, H], [H, -H]].
PTQ_HD inline void hadamard(float* x, int64_t n) {
  for (int64_t half = 1; half < n; half *= 2)
    for (int64_t i = 0; i < n; i += 2 * half)
      for (int64_t j = i; j < i + half; ++j) {
        const float a = x[j], b = x[j + half];
        x[j] = a + b;
        x[j + half] = a - b;
      }
  const float scale = 1.0f / sqrtf(float(n));
  for (int64_t i = 0; i < n; ++i) x[i] *= scale;
}

}  // namespace ptq
