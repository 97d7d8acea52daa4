// Codes of 1 to 8 bits, packed: element i of a row sits at bit bits*i, little end first (for 2 bits
// 0, 1, 2, 3, ... is 0xE4 0xE4).
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace ptq {

inline int64_t packed_bytes(int64_t n, int bits) { return (n * bits + 7) / 8; }

// Codes (one per byte) -> dst[0 .. packed_bytes), which must be zero.
template <int Bits>
inline void pack_row(const uint8_t* codes, int64_t n, uint8_t* dst) {
  if constexpr (8 % Bits != 0) {
    for (int64_t i = 0; i < n; ++i) {
      const int64_t bit = Bits * i;
      const unsigned v = unsigned(codes[i]) << (bit & 7);
      dst[bit >> 3] |= uint8_t(v);
      if (v > 0xFF) dst[(bit >> 3) + 1] |= uint8_t(v >> 8);
    }
  } else {
    constexpr int per = 8 / Bits;
    const int64_t full = n / per;
    for (int64_t i = 0; i < full; ++i) {
      unsigned v = 0;
      for (int j = 0; j < per; ++j) v |= unsigned(codes[i * per + j]) << (Bits * j);
      dst[i] = uint8_t(v);
    }
    for (int64_t i = full * per; i < n; ++i) dst[full] |= uint8_t(codes[i] << (Bits * (i % per)));
  }
}

template <class T, int Lanes>
struct VectorOf {
  typedef T type __attribute__((vector_size(Lanes * sizeof(T))));
};
using Words16 = VectorOf<uint32_t, 16>::type;
using Ints16 = VectorOf<int32_t, 16>::type;
using Floats16 = VectorOf<float, 16>::type;
inline Floats16 spread16(float x) {
  return Floats16{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}
inline Words16 spread16(uint32_t x) {
  return Words16{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}

// The 16 codes, 1 to 4 bits each, that begin at p. With 3 bits the two bytes behind are read, too.
template <int Bits>
inline Words16 sixteen_codes(const uint8_t* p) {
  static_assert(Bits >= 1 && Bits <= 4);
  constexpr int first = Bits <= 2 ? 16 : 32 / Bits;  // codes that one word of 32 bits holds
  uint64_t w = 0;
  std::memcpy(&w, p, Bits == 3 ? 8 : 2 * Bits);
  Words16 shift{};
  for (int j = 0; j < 16; ++j) shift[j] = uint32_t(Bits * (j < first ? j : j - first));
  Words16 words = spread16(uint32_t(w));
  if constexpr (first < 16) {
    Words16 low{};
    for (int j = 0; j < 16; ++j) low[j] = j < first ? ~uint32_t{0} : 0;
    words = (words & low) | (spread16(uint32_t(w >> (Bits * first))) & ~low);
  }
  return (words >> shift) & ((1u << Bits) - 1);
}
// Code i of a row. May read the byte behind it.
template <int Bits>
inline uint32_t code_at(const uint8_t* src, int64_t i) {
  const int64_t bit = Bits * i;
  return (uint32_t(src[bit >> 3] | src[(bit >> 3) + 1] << 8) >> (bit & 7)) & ((1u << Bits) - 1);
}

// out = code * scale + offset for n packed codes; scale and offset are one per column (kPerColumn)
// or one for all. Up to 2 bytes behind the row must be readable.
template <int Bits, bool kPerColumn>
inline void decode_row(const uint8_t* src, int64_t n, const float* scale, const float* offset,
                       float* out) {
  const auto number = [&](int code, int64_t column) {
    const int64_t k = kPerColumn ? column : 0;
    return float(code) * scale[k] + offset[k];
  };
  if constexpr (Bits == 8) {
    for (int64_t i = 0; i < n; ++i) out[i] = number(src[i], i);
  } else if constexpr (Bits > 4) {  // eight codes in `Bits` bytes
    for (int64_t i = 0; i < n; i += 8) {
      const int64_t count = n - i < 8 ? n - i : 8;
      uint64_t w = 0;
      std::memcpy(&w, src + i / 8 * Bits, size_t((count * Bits + 7) / 8));
      for (int64_t j = 0; j < count; ++j)
        out[i + j] = number(int(w >> (Bits * j) & ((1u << Bits) - 1)), i + j);
    }
  } else {
    Floats16 s = spread16(scale[0]), o = spread16(offset[0]);
    const int64_t whole = n / 16 * 16;
    for (int64_t i = 0; i < whole; i += 16) {
      if constexpr (kPerColumn) {
        std::memcpy(&s, scale + i, sizeof s);
        std::memcpy(&o, offset + i, sizeof o);
      }
      const Words16 codes = sixteen_codes<Bits>(src + i / 8 * Bits);
      const Floats16 x = __builtin_convertvector((Ints16)codes, Floats16) * s + o;
      std::memcpy(out + i, &x, sizeof x);
    }
    for (int64_t i = whole; i < n; ++i) out[i] = number(int(code_at<Bits>(src, i)), i);
  }
}

// fn(std::integral_constant<int, bits>): code widths are template arguments in the loops.
template <class Fn>
inline void with_bits(int bits, const Fn& fn) {
  switch (bits) {
    case 1: return fn(std::integral_constant<int, 1>{});
    case 2: return fn(std::integral_constant<int, 2>{});
    case 3: return fn(std::integral_constant<int, 3>{});
    case 4: return fn(std::integral_constant<int, 4>{});
    case 5: return fn(std::integral_constant<int, 5>{});
    case 6: return fn(std::integral_constant<int, 6>{});
    case 7: return fn(std::integral_constant<int, 7>{});
    default: return fn(std::integral_constant<int, 8>{});
  }
}
inline void pack_row(const uint8_t* codes, int64_t n, int bits, uint8_t* dst) {
  with_bits(bits, [&](auto b) { pack_row<b()>(codes, n, dst); });
}

}  // namespace ptq
