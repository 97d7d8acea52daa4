// The block formats of GGUF files: a row is cut into blocks of 32 or 256 numbers, each of which
// carries its own scales in float16.
//
// Layouts and formulas: ggml-common.h and ggml-quants.c (dequantize_row_*) of ggml. Products of a
// float16 scale, a small integer scale and a code are exact in float32, so at most one operation
// rounds: the numbers are those of the reference to the last bit, however they are vectorised.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__F16C__)
#include <immintrin.h>
#endif

#include "ptq/core/dtype.hpp"
#include "ptq/encoding/dense.hpp"

namespace ptq {

struct BlockFormat {
  const char* name;        // as GGUF files call it
  int64_t numbers, bytes;  // of one block
  void (*decode)(const uint8_t* blocks, int64_t count, float* out);
};

namespace blocks_detail {

inline float f16_at(const uint8_t* p) {
  uint16_t h;
  std::memcpy(&h, p, 2);
#ifdef __F16C__
  return _cvtsh_ss(h);
#else
  return f16_to_float(h);
#endif
}

// ---- blocks of 32 ------------------------------------------------------------------------------

// 16 bytes hold 32 nibbles: the low ones are the numbers 0..15, the high ones 16..31. Each becomes
// (nibble - middle) * d + low; to add -0 changes nothing.
inline void decode_nibbles(const uint8_t* nibbles, int middle, float d, float low, float* out) {
#ifdef __AVX2__
  const __m256 scale = _mm256_set1_ps(d), offset = _mm256_set1_ps(low);
  const __m256i zero = _mm256_set1_epi32(middle), mask = _mm256_set1_epi32(15);
  const auto store = [&](__m256i codes, float* to) {
    const __m256 x = _mm256_cvtepi32_ps(_mm256_sub_epi32(codes, zero));
    _mm256_storeu_ps(to, _mm256_add_ps(_mm256_mul_ps(x, scale), offset));
  };
  for (int part = 0; part < 16; part += 8) {
    const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(nibbles + part)));
    store(_mm256_and_si256(bytes, mask), out + part);
    store(_mm256_srli_epi32(bytes, 4), out + 16 + part);
  }
#else
  for (const int shift : {0, 4}) {
    int8_t codes[16];
    for (int j = 0; j < 16; ++j) codes[j] = int8_t((nibbles[j] >> shift & 15) - middle);
    for (int j = 0; j < 16; ++j) out[j] = float(codes[j]) * d + low;
    out += 16;
  }
#endif
}

struct Q4_0 {
  static constexpr const char* kName = "Q4_0";
  static constexpr int kNumbers = 32, kBytes = 18;  // d f16, nibbles
  static void decode(const uint8_t* b, float* out) {
    decode_nibbles(b + 2, 8, f16_at(b), -0.0f, out);
  }
};

struct Q4_1 {
  static constexpr const char* kName = "Q4_1";
  static constexpr int kNumbers = 32, kBytes = 20;  // d f16, minimum f16, nibbles
  static void decode(const uint8_t* b, float* out) {
    decode_nibbles(b + 4, 0, f16_at(b), f16_at(b + 2), out);
  }
};

// The fifth bits: bit j of a u32 belongs to number j.
inline uint32_t u32_at(const uint8_t* p) {
  uint32_t x;
  std::memcpy(&x, p, 4);
  return x;
}
inline int five_bits(int nibble, uint32_t high, int j) { return nibble | int(high >> j & 1) << 4; }

struct Q5_0 {
  static constexpr const char* kName = "Q5_0";
  static constexpr int kNumbers = 32, kBytes = 22;  // d f16, fifth bits u32, nibbles
  static void decode(const uint8_t* b, float* out) {
    const float d = f16_at(b);
    const uint32_t high = u32_at(b + 2);
    for (int j = 0; j < 16; ++j) {
      out[j] = float(five_bits(b[6 + j] & 15, high, j) - 16) * d;
      out[16 + j] = float(five_bits(b[6 + j] >> 4, high, 16 + j) - 16) * d;
    }
  }
};

struct Q5_1 {
  static constexpr const char* kName = "Q5_1";
  static constexpr int kNumbers = 32, kBytes = 24;  // d f16, minimum f16, fifth bits u32, nibbles
  static void decode(const uint8_t* b, float* out) {
    const float d = f16_at(b), low = f16_at(b + 2);
    const uint32_t high = u32_at(b + 4);
    for (int j = 0; j < 16; ++j) {
      out[j] = float(five_bits(b[8 + j] & 15, high, j)) * d + low;
      out[16 + j] = float(five_bits(b[8 + j] >> 4, high, 16 + j)) * d + low;
    }
  }
};

struct Q8_0 {
  static constexpr const char* kName = "Q8_0";
  static constexpr int kNumbers = 32, kBytes = 34;  // d f16, 32 signed bytes
  static void decode(const uint8_t* b, float* out) {
    const float d = f16_at(b);
    for (int j = 0; j < 32; ++j) out[j] = float(int8_t(b[2 + j])) * d;
  }
};

// The 16 values of the non-linear 4-bit formats.
inline constexpr int8_t kNonLinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};

inline void decode_non_linear(const uint8_t* nibbles, float d, float* out) {
  for (int j = 0; j < 16; ++j) {
    out[j] = d * float(kNonLinear[nibbles[j] & 15]);
    out[16 + j] = d * float(kNonLinear[nibbles[j] >> 4]);
  }
}

struct Iq4Nl {
  static constexpr const char* kName = "IQ4_NL";
  static constexpr int kNumbers = 32, kBytes = 18;  // d f16, nibbles
  static void decode(const uint8_t* b, float* out) { decode_non_linear(b + 2, f16_at(b), out); }
};

// ---- blocks of 256 -----------------------------------------------------------------------------

// Groups of 16 or 32 numbers have small integer scales, which d and dmin multiply.

struct Q2K {
  static constexpr const char* kName = "Q2_K";
  // 16 bytes scale | minimum << 4 of a group of 16, 64 bytes of codes, d f16, dmin f16
  static constexpr int kNumbers = 256, kBytes = 84;
  static void decode(const uint8_t* b, float* out) {
    const uint8_t *scales = b, *codes = b + 16;
    const float d = f16_at(b + 80), dmin = f16_at(b + 82);
    for (int g = 0; g < 16; ++g, out += 16) {
      const float scale = d * float(scales[g] & 15), low = dmin * float(scales[g] >> 4);
      // 32 bytes hold 128 numbers: four rounds of 32, two bits each.
      const uint8_t* q = codes + g / 8 * 32 + g % 2 * 16;
      const int shift = g / 2 % 4 * 2;
      for (int j = 0; j < 16; ++j) out[j] = scale * float(q[j] >> shift & 3) - low;
    }
  }
};

struct Q3K {
  static constexpr const char* kName = "Q3_K";
  // 32 bytes of third bits, 64 of codes as in Q2_K, 16 scales of 6 bits, d f16
  static constexpr int kNumbers = 256, kBytes = 110;
  static void decode(const uint8_t* b, float* out) {
    const uint8_t *thirds = b, *codes = b + 32, *scales = b + 96;
    const float d = f16_at(b + 108);
    for (int g = 0; g < 16; ++g, out += 16) {
      const int low = g < 8 ? scales[g] & 15 : scales[g - 8] >> 4;
      const int high = scales[8 + g % 4] >> (g / 4 * 2) & 3;
      const float scale = d * float((low | high << 4) - 32);
      const uint8_t *q = codes + g / 8 * 32 + g % 2 * 16, *third = thirds + g % 2 * 16;
      const int shift = g / 2 % 4 * 2, bit = g / 2;
      for (int j = 0; j < 16; ++j)
        out[j] = scale * float((q[j] >> shift & 3) - ((third[j] >> bit & 1) ? 0 : 4));
    }
  }
};

// Scale and minimum, 6 bits each, of group g (of 32 numbers) of Q4_K and Q5_K: 12 bytes for 8.
inline int scale_of(const uint8_t* s, int g) {
  return g < 4 ? s[g] & 63 : (s[g + 4] & 15) | (s[g - 4] >> 6) << 4;
}
inline int minimum_of(const uint8_t* s, int g) {
  return g < 4 ? s[g + 4] & 63 : s[g + 4] >> 4 | (s[g] >> 6) << 4;
}

struct Q4K {
  static constexpr const char* kName = "Q4_K";
  // d f16, dmin f16, 12 bytes of scales and minima, 128 bytes of nibbles: 32 low, 32 high, ...
  static constexpr int kNumbers = 256, kBytes = 144;
  static void decode(const uint8_t* b, float* out) {
    const float d = f16_at(b), dmin = f16_at(b + 2);
    for (int g = 0; g < 8; ++g, out += 32) {
      const float scale = d * float(scale_of(b + 4, g)), low = dmin * float(minimum_of(b + 4, g));
      const uint8_t* q = b + 16 + g / 2 * 32;
      const int shift = g % 2 * 4;
      for (int j = 0; j < 32; ++j) out[j] = scale * float(q[j] >> shift & 15) - low;
    }
  }
};

struct Q5K {
  static constexpr const char* kName = "Q5_K";
  // As Q4_K, with 32 bytes of fifth bits in front of the nibbles: bit g for the numbers of group g.
  static constexpr int kNumbers = 256, kBytes = 176;
  static void decode(const uint8_t* b, float* out) {
    const float d = f16_at(b), dmin = f16_at(b + 2);
    const uint8_t* fifths = b + 16;
    for (int g = 0; g < 8; ++g, out += 32) {
      const float scale = d * float(scale_of(b + 4, g)), low = dmin * float(minimum_of(b + 4, g));
      const uint8_t* q = b + 48 + g / 2 * 32;
      const int shift = g % 2 * 4;
      for (int j = 0; j < 32; ++j)
        out[j] = scale * float((q[j] >> shift & 15) | (fifths[j] >> g & 1) << 4) - low;
    }
  }
};

struct Q6K {
  static constexpr const char* kName = "Q6_K";
  // 128 bytes of low nibbles, 64 of upper two bits, 16 signed scales of groups of 16, d f16
  static constexpr int kNumbers = 256, kBytes = 210;
  static void decode(const uint8_t* b, float* out) {
    const float d = f16_at(b + 208);
    for (int g = 0; g < 16; ++g, out += 16) {
      const float scale = d * float(int8_t(b[192 + g]));
      // A half of 128 numbers is four quarters of 32: low nibbles of 64 bytes, then their high
      // ones.
      const int half = g / 8, quarter = g / 2 % 4, begin = g % 2 * 16;
      const uint8_t *low = b + half * 64 + quarter % 2 * 32 + begin,
                    *high = b + 128 + half * 32 + begin;
      for (int j = 0; j < 16; ++j) {
        const int code = (low[j] >> (quarter / 2 * 4) & 15) | (high[j] >> (2 * quarter) & 3) << 4;
        out[j] = scale * float(code - 32);
      }
    }
  }
};

struct Iq4Xs {
  static constexpr const char* kName = "IQ4_XS";
  // d f16, upper two bits of 8 scales u16, their lower four, 128 bytes of nibbles
  static constexpr int kNumbers = 256, kBytes = 136;
  static void decode(const uint8_t* b, float* out) {
    const float d = f16_at(b);
    const int upper = b[2] | b[3] << 8;
    for (int g = 0; g < 8; ++g, out += 32) {
      const int scale = (b[4 + g / 2] >> (g % 2 * 4) & 15) | (upper >> (2 * g) & 3) << 4;
      decode_non_linear(b + 8 + g * 16, d * float(scale - 32), out);
    }
  }
};

template <class Block>
void decode_blocks(const uint8_t* blocks, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i, blocks += Block::kBytes, out += Block::kNumbers)
    Block::decode(blocks, out);
}

template <class Block>
inline constexpr BlockFormat kFormat = {Block::kName, Block::kNumbers, Block::kBytes,
                                        decode_blocks<Block>};

}  // namespace blocks_detail

// Rows of a matrix as a file holds them, wherever it lies.
struct StoredRows {
  const uint8_t* data = nullptr;  // any alignment
  int64_t columns = 0;
  DType dtype = DType::f32;             // of the numbers; f32 where there are blocks
  const BlockFormat* blocks = nullptr;  // whose numbers divide columns
  // The file keeps the rows of each head of so many in another order: row i of the first half
  // stands in front of row i of the second (the rotary pairs of llama.cpp). 0: as they are.
  int64_t paired = 0;

  // Plain numbers of `dtype`, row behind row?
  bool plain() const { return blocks == nullptr && paired == 0; }
  int64_t row_bytes() const {
    return blocks ? columns / blocks->numbers * blocks->bytes : columns * dtype_bytes(dtype);
  }
  // Rows [begin, end) as float32 to out [end - begin, columns].
  void decode(int64_t begin, int64_t end, float* out) const {
    if (paired == 0) return decode_run(begin, end - begin, out);
    for (int64_t r = begin; r < end; ++r, out += columns) decode_run(place(r), 1, out);
  }
  // Where a row lies.
  const uint8_t* row(int64_t r) const { return data + place(r) * row_bytes(); }
  // One number for each of `rows` rows as they lie, to the rows' own order.
  void in_own_order(const float* __restrict as_they_lie, int64_t rows,
                    float* __restrict out) const {
    const int64_t half = paired / 2;
    for (int64_t r = 0; r < rows; r += paired)
      for (int64_t i = 0; i < half; ++i) {
        out[r + i] = as_they_lie[r + 2 * i];
        out[r + half + i] = as_they_lie[r + 2 * i + 1];
      }
  }

 private:
  int64_t place(int64_t row) const {
    if (paired == 0) return row;
    const int64_t half = paired / 2, i = row % paired;
    return row - i + 2 * (i % half) + i / half;
  }
  void decode_run(int64_t first, int64_t rows, float* out) const {
    const uint8_t* from = data + first * row_bytes();
    if (blocks)
      blocks->decode(from, rows * columns / blocks->numbers, out);
    else
      to_float(dtype, from, rows * columns, out);
  }
};

}  // namespace ptq
