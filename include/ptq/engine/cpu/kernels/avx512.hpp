// Kernels for AVX-512 (F, BW, DQ, VL, VBMI, VNNI): dot products with stored rows, the matrix
// product of many tokens, and products of integers.
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

#define PTQ_TARGET                                                          \
  __attribute__((                                                           \
      target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi," \
             "avx512vnni")))
#define PTQ_INLINE PTQ_TARGET __attribute__((always_inline)) inline
// Of its own: beside other code its registers would go to memory.
#define PTQ_APART PTQ_TARGET __attribute__((noinline)) inline

#ifndef __clang__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of gcc 12's intrinsics: GCC bug 105593
#endif

namespace ptq::cpu::avx512 {

using Reg = __m512;
using Ints = __m512i;

PTQ_INLINE Reg zero() { return _mm512_setzero_ps(); }
PTQ_INLINE Reg load(const float* p) { return _mm512_loadu_ps(p); }
PTQ_INLINE void store(float* p, Reg v) { _mm512_storeu_ps(p, v); }
PTQ_INLINE Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
PTQ_INLINE Reg spread(float x) { return _mm512_set1_ps(x); }
PTQ_INLINE Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
// The first lanes of a register.
using Lanes = __mmask16;
inline constexpr Lanes kAllLanes = 0xFFFF;
inline Lanes lanes(int64_t count) { return Lanes((1 << count) - 1); }
PTQ_INLINE Reg load(const float* p, Lanes some) { return _mm512_maskz_loadu_ps(some, p); }
PTQ_INLINE void store(float* p, Reg v, Lanes some) { _mm512_mask_storeu_ps(p, some, v); }

PTQ_INLINE void prefetch(const uint8_t* p) { _mm_prefetch(p, _MM_HINT_T1); }
template <DType kType>
PTQ_INLINE Reg dense(const uint8_t* p) {
  if constexpr (kType == DType::f32) {
    return _mm512_loadu_ps(p);
  } else {
    const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    if constexpr (kType == DType::f16) return _mm512_cvtph_ps(h);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
  }
}

PTQ_INLINE Ints bytes16(const uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
// In a lane the bits above the code are those of its neighbours. Words of 8 bytes are read: one for
// all 16 codes, or above 4 bits one for each half.
template <int Bits>
PTQ_INLINE Ints codes(const uint8_t* p) {
  if constexpr (Bits == 8) {
    return bytes16(p);
  } else if constexpr (Bits > 4) {
    constexpr int64_t b = Bits;
    const __m256i half = _mm256_setr_epi64x(0 | b << 32, 2 * b | 3 * b << 32, 4 * b | 5 * b << 32,
                                            6 * b | 7 * b << 32);
    int64_t low, high;
    std::memcpy(&low, p, 8);
    std::memcpy(&high, p + Bits, 8);
    return _mm512_multishift_epi64_epi8(_mm512_broadcast_i64x4(half),
                                        _mm512_mask_set1_epi64(_mm512_set1_epi64(low), 0xF0, high));
  } else {
    constexpr int64_t b = Bits;
    const Ints from = _mm512_setr_epi64(
        0 | b << 32, 2 * b | 3 * b << 32, 4 * b | 5 * b << 32, 6 * b | 7 * b << 32,
        8 * b | 9 * b << 32, 10 * b | 11 * b << 32, 12 * b | 13 * b << 32, 14 * b | 15 * b << 32);
    int64_t w;
    std::memcpy(&w, p, 8);
    return _mm512_multishift_epi64_epi8(from, _mm512_set1_epi64(w));
  }
}
// 16 bytes: the low nibbles are the numbers 0..15, the high ones 16..31.
PTQ_INLINE void nibbles(const uint8_t* p, Ints* q) {
  q[0] = bytes16(p);
  q[1] = _mm512_srli_epi32(q[0], 4);
}
PTQ_INLINE Ints signed_bytes(const uint8_t* p) {
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
// Bit i of two bytes becomes bit 4 of lane i.
PTQ_INLINE Ints with_fifth(Ints q, const uint8_t* p) {
  uint16_t bits;
  std::memcpy(&bits, p, 2);
  const Ints low = _mm512_and_si512(q, _mm512_set1_epi32(15));
  return _mm512_mask_or_epi32(low, __mmask16(bits), low, _mm512_set1_epi32(16));
}

// Up to 4 bits: a table of all levels, which the low four bits of a lane select from.
template <int Bits>
struct Levels {
  Reg table;
  PTQ_INLINE void set(float scale, float offset) {
    constexpr int m = (1 << Bits) - 1;
    const Reg code = _mm512_setr_ps(0 & m, 1 & m, 2 & m, 3 & m, 4 & m, 5 & m, 6 & m, 7 & m, 8 & m,
                                    9 & m, 10 & m, 11 & m, 12 & m, 13 & m, 14 & m, 15 & m);
    table = fma(code, _mm512_set1_ps(scale), _mm512_set1_ps(offset));
  }
  PTQ_INLINE Reg at(Ints code) const { return _mm512_permutexvar_ps(code, table); }
};
template <>
struct Levels<5> {
  Reg low, high;
  PTQ_INLINE void set(float scale, float offset) {
    const Reg code = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const Reg s = _mm512_set1_ps(scale), o = _mm512_set1_ps(offset);
    low = fma(code, s, o);
    high = fma(_mm512_add_ps(code, _mm512_set1_ps(16)), s, o);
  }
  PTQ_INLINE Reg at(Ints code) const { return _mm512_permutex2var_ps(low, code, high); }
};
template <>
struct Levels<8> {
  Reg scale, offset;
  PTQ_INLINE void set(float s, float o) {
    scale = _mm512_set1_ps(s);
    offset = _mm512_set1_ps(o);
  }
  PTQ_INLINE Reg at(Ints code) const { return fma(_mm512_cvtepi32_ps(code), scale, offset); }
};
template <int Bits>
requires(Bits == 6 || Bits == 7) struct Levels<Bits> : Levels<8> {
  PTQ_INLINE Reg at(Ints code) const {
    return Levels<8>::at(_mm512_and_si512(code, _mm512_set1_epi32((1 << Bits) - 1)));
  }
};

// 16 x 16 numbers turned around.
PTQ_INLINE void transpose(Reg (&v)[16]) {
  Reg a[16], b[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
    a[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int h = 0; h < 2; ++h) {
      const __m512d p = _mm512_castps_pd(a[i + h]), q = _mm512_castps_pd(a[i + 2 + h]);
      b[i + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(p, q));
      b[i + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(p, q));
    }
  for (int i = 0; i < 4; ++i) {
    const Reg p = _mm512_shuffle_f32x4(b[i], b[i + 4], 0x88),
              q = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0x88),
              r = _mm512_shuffle_f32x4(b[i], b[i + 4], 0xDD),
              s = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0xDD);
    v[i] = _mm512_shuffle_f32x4(p, q, 0x88);
    v[i + 8] = _mm512_shuffle_f32x4(p, q, 0xDD);
    v[i + 4] = _mm512_shuffle_f32x4(r, s, 0x88);
    v[i + 12] = _mm512_shuffle_f32x4(r, s, 0xDD);
  }
}

#include "ptq/engine/cpu/kernels/readers.inl"
// Behind the readers, in front of what uses them:
#include "ptq/engine/cpu/kernels/avx512_turned.inl"

inline constexpr int64_t kPanel = kInt8Rows;  // rows of w in a panel
// Tokens beside each other in its product: their sums of one lane.
inline constexpr int kPanelTokens = 8;
// Registers of b beside each other, at most, the rows of x that go with so many, and sums of dot
// products.
inline constexpr int kMostRegs = 4, kMostSums = 16;
template <int V>
inline constexpr int kMostRows = V == 4 ? 6 : 8;
#define PTQ_KEEP(r) asm("" : "+v"(r))
struct Numbers {
  PTQ_INLINE static Reg add(Reg a, Reg b, Reg sum) { return fma(a, b, sum); }
};
// Two neighbouring numbers in bfloat16 in each lane. Of AVX512-BF16, which the rest of this file
// does not need, are this instruction and the one of avx512_pairs.inl.
struct Pairs {
  PTQ_INLINE static Reg add(Reg a, Reg b, Reg sum) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  }
};

#include "ptq/engine/cpu/kernels/products.inl"
// Readers for the products:
#include "ptq/engine/cpu/kernels/avx512_pairs.inl"
// Products of another kind:
#include "ptq/engine/cpu/kernels/avx512_int8.inl"

}  // namespace ptq::cpu::avx512

#ifndef __clang__
#pragma GCC diagnostic pop
#endif

#undef PTQ_KEEP
#undef PTQ_APART
#undef PTQ_INLINE
#undef PTQ_TARGET
#endif
