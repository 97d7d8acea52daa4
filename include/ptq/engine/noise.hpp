// Noise on the hidden state, to see how far a model's predictions move when nothing but rounding
// happens: the output x of every layer becomes x (1 + relative * z), z of mean 0 and variance 1. A
// method whose divergence is not above that of such noise changes no more than the number format.
// The same measure as in turboderp-org/exllamav3 (eval/qbench.py), with relative = 2^-9, half a
// step of bfloat16.
#pragma once

#include <cstdint>

#include "ptq/core/dtype.hpp"

namespace ptq {

struct LayerNoise {
  float relative = 0;  // 0: none
  uint64_t seed = 0;
};

// 2^-9, the largest relative error of rounding to bfloat16.
inline constexpr float kRoundingNoise = 0x1p-9f;

// z of one number: a function of its place alone, the same on every device and for every cut of a
// text. Sum of four uniform numbers, scaled: the tails of the normal distribution end at 3.46.
PTQ_HD inline float unit_noise(uint64_t seed, int layer, int64_t position, int64_t column) {
  uint64_t x = seed;
  for (const uint64_t part : {uint64_t(layer), uint64_t(position), uint64_t(column)}) {
    x += 0x9E3779B97F4A7C15u * (part + 1);  // splitmix64 (Steele, Lea and Flood 2014)
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    x ^= x >> 31;
  }
  const int32_t sum =
      int32_t(x & 65535) + int32_t(x >> 16 & 65535) + int32_t(x >> 32 & 65535) + int32_t(x >> 48);
  // Mean 4 * 32767.5, variance 4 * (65536^2 - 1) / 12.
  return float(sum - 131070) * (1.0f / 37837.227f);
}

}  // namespace ptq
