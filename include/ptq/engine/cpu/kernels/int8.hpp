// What the integer kernels of all instruction sets agree on.
#pragma once

#include <cstdint>

#include "ptq/encoding/affine.hpp"

namespace ptq::cpu {

// Rows of codes in a call, at most: the width of y.
inline constexpr int64_t kInt8Rows = 48;
// Rows of x are padded with zeros to a multiple of so many numbers.
inline constexpr int64_t kInt8Step = 64;
// From so many tokens on, weights are unpacked once for all of them.
inline constexpr int64_t kInt8Many = 8;
// Codes in groups: columns whose products are one sum of integers.
inline constexpr int64_t kInt8Unit = 32, kInt8Wide = 128;
inline int64_t int8_unit(const AffineRows& w) {
  return w.groups() == 1 || w.group() >= kInt8Wide ? kInt8Wide : kInt8Unit;
}

// What x has in columns [c, end), whole units, of which sums are those of each.
inline int32_t int8_sum(const int32_t* sums, int64_t c, int64_t end) {
  int32_t sum = 0;
  for (int64_t u = c / kInt8Unit; u < end / kInt8Unit; ++u) sum += sums[u];
  return sum;
}

}  // namespace ptq::cpu
