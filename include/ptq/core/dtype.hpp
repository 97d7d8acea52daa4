// Number formats of stored tensors and the exact conversions between them.
//
// Source of the conversion rules and of the bit patterns in the tests: IEEE 754-2008 (binary16,
// round to nearest even) and the bfloat16 definition "upper half of a binary32".
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

#ifdef __CUDACC__
#define PTQ_HD __host__ __device__
#else
#define PTQ_HD
#endif

namespace ptq {

enum class DType : uint8_t { f32, f16, bf16, i32, i64, i8, u8, f8_e4m3 };

constexpr int dtype_bytes(DType t) {
  switch (t) {
    case DType::f32:
    case DType::i32: return 4;
    case DType::i64: return 8;
    case DType::f16:
    case DType::bf16: return 2;
    case DType::i8:
    case DType::u8:
    case DType::f8_e4m3: return 1;
  }
  return 0;
}

constexpr std::string_view dtype_name(DType t) {
  switch (t) {
    case DType::f32: return "f32";
    case DType::f16: return "f16";
    case DType::bf16: return "bf16";
    case DType::i32: return "i32";
    case DType::i64: return "i64";
    case DType::i8: return "i8";
    case DType::u8: return "u8";
    case DType::f8_e4m3: return "f8_e4m3";
  }
  return "?";
}

PTQ_HD inline uint32_t float_bits(float x) {
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  return u;
}
PTQ_HD inline float bits_float(uint32_t u) {
  float x;
  memcpy(&x, &u, sizeof x);
  return x;
}

// bfloat16 -> float, exact.
PTQ_HD inline float bf16_to_float(uint16_t h) { return bits_float(uint32_t(h) << 16); }

// float -> bfloat16, round to nearest even; a NaN stays a NaN.
PTQ_HD inline uint16_t float_to_bf16(float x) {
  uint32_t u = float_bits(x);
  if ((u & 0x7FFFFFFFu) > 0x7F800000u) return uint16_t((u >> 16) | 0x40u);
  return uint16_t((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16);
}

// binary16 -> float, exact, subnormals included.
PTQ_HD inline float f16_to_float(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 0x1Fu, mantissa = h & 0x3FFu;
  if (exponent == 31) return bits_float(sign | 0x7F800000u | (mantissa << 13));
  if (exponent == 0) {
    const float magnitude = float(mantissa) * 5.9604644775390625e-8f;  // 2^-24 steps
    return bits_float(sign | float_bits(magnitude));
  }
  return bits_float(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

// float -> binary16, round to nearest even; above 65519.99 it becomes infinity.
PTQ_HD inline uint16_t float_to_f16(float x) {
  const uint32_t u = float_bits(x), sign = (u >> 16) & 0x8000u, a = u & 0x7FFFFFFFu;
  if (a > 0x7F800000u) return uint16_t(sign | 0x7E00u);
  if (a >= 0x477FF000u) return uint16_t(sign | 0x7C00u);  // rounds to 65536 or more
  if (a < 0x38800000u) {                                  // below 2^-14: subnormal
    // Adding 0.5 puts the 2^-24 steps into the last mantissa bits and rounds to even.
    return uint16_t(sign | (float_bits(bits_float(a) + 0.5f) - 0x3F000000u));
  }
  return uint16_t(sign | ((a + 0xFFFu + ((a >> 13) & 1u) - 0x38000000u) >> 13));
}

// The value that remains when x is stored as binary16.
PTQ_HD inline float round_f16(float x) { return f16_to_float(float_to_f16(x)); }

}  // namespace ptq
