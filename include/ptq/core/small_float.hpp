// Numbers narrower than float16: the 8-bit floats of the OCP (E4M3, E8M0) and the 4-bit one (E2M1).
// Source: OCP Microscaling Formats specification 1.0, and 8-bit Floating Point specification 1.0.
#pragma once

#include <cmath>
#include <cstdint>

#include "ptq/core/dtype.hpp"

namespace ptq {

// The nearest number with `mantissa` bits behind the leading one and exponents from `lowest` on
// (below 2^lowest the steps stay those of 2^lowest), half to even; no upper limit. x is finite.
PTQ_HD inline float round_mantissa(float x, int mantissa, int lowest) {
  const float size = x < 0 ? -x : x;
  int exponent = int(float_bits(size) >> 23) - 127;
  if (exponent < lowest) exponent = lowest;
  // Adding and subtracting a number whose last bit is worth one step rounds to steps.
  const float magic = bits_float(uint32_t(exponent + 23 - mantissa + 127) << 23);
  const float sum = size + magic, rounded = sum - magic;
  return x < 0 ? -rounded : rounded;
}

constexpr float kLargestE4m3 = 448.0f;

// To the nearest E4M3 (4 exponent bits, 3 mantissa bits), half to even, at most +-448.
PTQ_HD inline float round_e4m3(float x) {
  const float limited = x > kLargestE4m3 ? kLargestE4m3 : x < -kLargestE4m3 ? -kLargestE4m3 : x;
  return round_mantissa(limited, 3, -6);
}

// The number that a byte means. 0x7F and 0xFF are NaN in the format; no byte of ours, they read as
// +-448.
PTQ_HD inline float e4m3_to_float(uint8_t byte) {
  if ((byte & 0x7F) == 0x7F) return byte & 0x80 ? -kLargestE4m3 : kLargestE4m3;
  const int exponent = byte >> 3 & 15, mantissa = byte & 7;
  const float size =
      exponent == 0 ? ldexpf(float(mantissa), -9) : ldexpf(float(8 + mantissa), exponent - 10);
  return byte & 0x80 ? -size : size;
}

// The byte of a number that is exact in E4M3.
PTQ_HD inline uint8_t e4m3_byte(float x) {
  const float size = x < 0 ? -x : x;
  uint8_t byte;
  if (size < 0.015625f) {  // below 2^-6: a multiple of 2^-9
    byte = uint8_t(int(size * 512.0f));
  } else {
    const uint32_t bits = float_bits(size);
    byte = uint8_t(((int(bits >> 23) - 127 + 7) << 3) | int(bits >> 20 & 7));
  }
  return uint8_t(byte | (x < 0 ? 0x80 : 0));
}

// E8M0: the byte of a power of two, 2^(byte - 127).
PTQ_HD inline float e8m0_to_float(uint8_t byte) { return ldexpf(1.0f, int(byte) - 127); }
// Of the nearest power of two (in the exponent, half up); x > 0.
PTQ_HD inline uint8_t e8m0_byte(float x) {
  int exponent;
  const float part = frexpf(x, &exponent);  // x = part 2^exponent, 0.5 <= part < 1
  const int e = exponent - 1 + (part >= 0.70710678f ? 1 : 0) + 127;
  return uint8_t(e < 0 ? 0 : e > 254 ? 254 : e);
}

}  // namespace ptq
