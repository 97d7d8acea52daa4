// What the integer kernels of all instruction sets agree on.
#pragma once

#include <cstdint>

namespace ptq::cpu {

// Rows of codes in a call, at most: the width of y.
inline constexpr int64_t kInt8Rows = 48;
// Rows of x are padded with zeros to a multiple of so many numbers.
inline constexpr int64_t kInt8Step = 64;

}  // namespace ptq::cpu
