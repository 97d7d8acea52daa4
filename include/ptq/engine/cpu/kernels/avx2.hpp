// Kernels for AVX2 with FMA and F16C: products with stored rows, and products of integers.
#pragma once

#ifdef __x86_64__
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "ptq/engine/cpu/kernels/int8.hpp"
#include "ptq/engine/cpu/kernels/weight_rows.hpp"
#include "ptq/engine/cpu/simd.hpp"

#define PTQ_TARGET __attribute__((target("avx2,fma,f16c")))
#define PTQ_INLINE PTQ_TARGET __attribute__((always_inline)) inline
// Of its own: beside other code its registers would go to memory.
#define PTQ_APART PTQ_TARGET __attribute__((noinline)) inline

namespace ptq::cpu::avx2 {

struct Reg {
  __m256 low, high;
};
struct Ints {
  __m256i low, high;
};

PTQ_INLINE Reg zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
PTQ_INLINE Reg load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
PTQ_INLINE void store(float* p, Reg v) {
  _mm256_storeu_ps(p, v.low);
  _mm256_storeu_ps(p + 8, v.high);
}
PTQ_INLINE Reg add(Reg a, Reg b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
PTQ_INLINE Reg spread(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
PTQ_INLINE Reg fma(Reg a, Reg b, Reg c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
// The first lanes of a register.
using Lanes = int;
inline constexpr Lanes kAllLanes = 16;
inline Lanes lanes(int64_t count) { return Lanes(count); }
PTQ_INLINE Reg load(const float* p, Lanes some) {
  if (some == 16) return load(p);
  float whole[16] = {};
  std::memcpy(whole, p, size_t(some) * sizeof(float));
  return load(whole);
}
PTQ_INLINE void store(float* p, Reg v, Lanes some) {
  if (some == 16) return store(p, v);
  float whole[16];
  store(whole, v);
  std::memcpy(p, whole, size_t(some) * sizeof(float));
}

PTQ_INLINE __m128i sixteen(const uint8_t* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
PTQ_INLINE void prefetch(const uint8_t* p) { _mm_prefetch(p, _MM_HINT_T1); }
template <DType kType>
PTQ_INLINE __m256 eight(const uint8_t* p) {
  if constexpr (kType == DType::f32) return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
  if constexpr (kType == DType::f16) return _mm256_cvtph_ps(sixteen(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(sixteen(p)), 16));
}
template <DType kType>
PTQ_INLINE Reg dense(const uint8_t* p) {
  return {eight<kType>(p), eight<kType>(p + 8 * dtype_bytes(kType))};
}

PTQ_INLINE Ints bytes16(const uint8_t* p) {
  const __m128i b = sixteen(p);
  return {_mm256_cvtepu8_epi32(b), _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(b, b))};
}
PTQ_INLINE __m256i word(const uint8_t* p) {
  int32_t w;
  std::memcpy(&w, p, 4);
  return _mm256_set1_epi32(w);
}
// Where the codes of 8 lanes lie in a word of 8 bytes: the two bytes that hold a code, and its
// shift.
template <int Bits>
struct Windows {
  alignas(32) uint8_t bytes[32] = {};
  alignas(32) int32_t shifts[8] = {};
  constexpr Windows() {
    for (int j = 0; j < 8; ++j) {
      bytes[4 * j] = uint8_t(Bits * j / 8);
      bytes[4 * j + 1] = uint8_t(Bits * j / 8 + 1);
      bytes[4 * j + 2] = bytes[4 * j + 3] = 0x80;  // zero
      shifts[j] = Bits * j % 8;
    }
  }
};
template <int Bits>
PTQ_INLINE __m256i eight_codes(const uint8_t* p) {
  static constexpr Windows<Bits> kWindows;
  int64_t w;
  std::memcpy(&w, p, 8);
  const auto* bytes = reinterpret_cast<const __m256i*>(kWindows.bytes);
  const auto* shifts = reinterpret_cast<const __m256i*>(kWindows.shifts);
  return _mm256_srlv_epi32(_mm256_shuffle_epi8(_mm256_set1_epi64x(w), _mm256_load_si256(bytes)),
                           _mm256_load_si256(shifts));
}
template <int Bits>
PTQ_INLINE Ints codes(const uint8_t* p) {
  if constexpr (Bits == 8) {
    return bytes16(p);
  } else if constexpr (Bits > 4) {
    return {eight_codes<Bits>(p), eight_codes<Bits>(p + Bits)};
  } else {
    constexpr int b = Bits;
    const __m256i shift = _mm256_setr_epi32(0, b, 2 * b, 3 * b, 4 * b, 5 * b, 6 * b, 7 * b);
    return {_mm256_srlv_epi32(word(p), shift), _mm256_srlv_epi32(word(p + Bits), shift)};
  }
}
// 16 bytes: the low nibbles are the numbers 0..15, the high ones 16..31.
PTQ_INLINE void nibbles(const uint8_t* p, Ints* q) {
  q[0] = bytes16(p);
  q[1] = {_mm256_srli_epi32(q[0].low, 4), _mm256_srli_epi32(q[0].high, 4)};
}
PTQ_INLINE Ints signed_bytes(const uint8_t* p) {
  const __m128i b = sixteen(p);
  return {_mm256_cvtepi8_epi32(b), _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(b, b))};
}
// Bit i of two bytes becomes bit 4 of lane i.
PTQ_INLINE __m256i join(__m256i nibble, uint8_t byte) {
  const __m256i left = _mm256_setr_epi32(4, 3, 2, 1, 0, 0, 0, 0),
                right = _mm256_setr_epi32(0, 0, 0, 0, 0, 1, 2, 3);
  const __m256i bit = _mm256_srlv_epi32(_mm256_sllv_epi32(_mm256_set1_epi32(byte), left), right);
  return _mm256_or_si256(_mm256_and_si256(nibble, _mm256_set1_epi32(15)),
                         _mm256_and_si256(bit, _mm256_set1_epi32(16)));
}
PTQ_INLINE Ints with_fifth(Ints q, const uint8_t* p) {
  return {join(q.low, p[0]), join(q.high, p[1])};
}

template <int Bits>
struct Levels {
  __m256 scale, offset;
  PTQ_INLINE void set(float s, float o) {
    scale = _mm256_set1_ps(s);
    offset = _mm256_set1_ps(o);
  }
  PTQ_INLINE __m256 part(__m256i code) const {
    if constexpr (Bits < 8) code = _mm256_and_si256(code, _mm256_set1_epi32((1 << Bits) - 1));
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(code), scale, offset);
  }
  PTQ_INLINE Reg at(Ints code) const { return {part(code.low), part(code.high)}; }
};

// 8 x 8 numbers turned around.
PTQ_INLINE void transpose8(__m256 (&v)[8]) {
  __m256 a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
    a[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xEE);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xEE);
  }
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
    v[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
  }
}
// 16 x 16 numbers turned around.
PTQ_INLINE void transpose(Reg (&v)[16]) {
  __m256 part[4][8];  // rows 0-7 and 8-15 of the low columns, then of the high ones
  for (int i = 0; i < 8; ++i) {
    part[0][i] = v[i].low;
    part[1][i] = v[i + 8].low;
    part[2][i] = v[i].high;
    part[3][i] = v[i + 8].high;
  }
  for (auto& p : part) transpose8(p);
  for (int i = 0; i < 8; ++i) {
    v[i] = {part[0][i], part[1][i]};
    v[i + 8] = {part[2][i], part[3][i]};
  }
}

#include "ptq/engine/cpu/kernels/readers.inl"

inline constexpr int64_t kPanel = 16;   // rows of w in a panel
inline constexpr int kPanelTokens = 6;  // in its product: the sums of one lane
// Registers of b beside each other, at most, the rows of x that go with so many, and sums of dot
// products.
inline constexpr int kMostRegs = 1, kMostSums = 4;
template <int V>
inline constexpr int kMostRows = 6;
#define PTQ_KEEP(r) asm("" : "+x"(r.low), "+x"(r.high))
struct Numbers {
  PTQ_INLINE static Reg add(Reg a, Reg b, Reg sum) { return fma(a, b, sum); }
};

#include "ptq/engine/cpu/kernels/avx2_int8.inl"
#include "ptq/engine/cpu/kernels/products.inl"

}  // namespace ptq::cpu::avx2

#undef PTQ_KEEP
#undef PTQ_APART
#undef PTQ_INLINE
#undef PTQ_TARGET
#endif
