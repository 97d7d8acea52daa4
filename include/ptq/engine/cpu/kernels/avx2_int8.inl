// Products of integers; included by avx2.hpp, inside its namespace.

// ---- sums of whole rows ------------------------------------------------------------------------

// Bytes are widened to 16 bits, whose products are added in pairs to 32 bits: nothing saturates.

inline constexpr int64_t kWide = 16;  // rows of a panel

// Rows [part, part + kWide) of codes to a panel [stride / 2, kWide] of two 16-bit numbers each,
// zeros behind.
inline void int8_panel(const uint8_t* codes, int64_t columns, int64_t count, int64_t stride,
                       int64_t part, int32_t* out) {
  std::fill(out, out + stride / 2 * kWide, 0);
  for (int64_t i = 0; i < std::min(kWide, count - part); ++i) {
    const uint8_t* row = codes + (part + i) * columns;
    for (int64_t c = 0; c + 1 < columns; c += 2)
      out[c / 2 * kWide + i] = int32_t(row[c]) | int32_t(row[c + 1]) << 16;
    if (columns % 2 != 0) out[columns / 2 * kWide + i] = row[columns - 1];
  }
}

// n bytes, a multiple of 16, as 16-bit numbers.
PTQ_TARGET inline void widen(const int8_t* x, int64_t n, int16_t* out) {
  for (int64_t i = 0; i < n; i += 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                        _mm256_cvtepi8_epi16(sixteen(reinterpret_cast<const uint8_t*>(x + i))));
}

// The same in a room of the thread, until the next call.
inline const int16_t* group_inputs(const int8_t* x, int64_t n) {
  thread_local std::vector<int16_t> wide;
  wide.resize(size_t(n));
  widen(x, n, wide.data());
  return wide.data();
}

// y[r * kInt8Rows ...] of `depth` columns, an even number, of R tokens and kWide rows.
template <int R>
PTQ_APART void int8_block(const int16_t* x, int64_t stride, int64_t depth, const int32_t* panel,
                          int32_t* y) {
  __m256i acc[R][2];
  PTQ_UNROLL(4)
  for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = _mm256_setzero_si256();
  for (int64_t p = 0; p < depth; p += 2) {
    const auto* b = reinterpret_cast<const __m256i*>(panel + p / 2 * kWide);
    const __m256i low = _mm256_loadu_si256(b), high = _mm256_loadu_si256(b + 1);
    PTQ_UNROLL(4)
    for (int r = 0; r < R; ++r) {
      int32_t two;
      std::memcpy(&two, x + r * stride + p, 4);
      const __m256i a = _mm256_set1_epi32(two);
      acc[r][0] = _mm256_add_epi32(acc[r][0], _mm256_madd_epi16(low, a));
      acc[r][1] = _mm256_add_epi32(acc[r][1], _mm256_madd_epi16(high, a));
    }
  }
  PTQ_UNROLL(4)
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < 2; ++v)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(y + r * kInt8Rows + 8 * v), acc[r][v]);
}

// y[t * kInt8Rows] of one row.
PTQ_TARGET inline void int8_row(const uint8_t* codes, int64_t columns, const int16_t* x, int64_t n,
                                int64_t stride, int32_t* y) {
  const int64_t whole = columns / 16 * 16;
  for (int64_t t = 0; t < n; ++t, x += stride) {
    __m256i acc = _mm256_setzero_si256();
    for (int64_t c = 0; c < whole; c += 16)
      acc = _mm256_add_epi32(
          acc, _mm256_madd_epi16(_mm256_cvtepu8_epi16(sixteen(codes + c)),
                                 _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + c))));
    int32_t lanes[8];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), acc);
    int32_t total = 0;
    for (const int32_t lane : lanes) total += lane;
    for (int64_t c = whole; c < columns; ++c) total += int32_t(codes[c]) * x[c];
    y[t * kInt8Rows] = total;
  }
}

inline void int8(const uint8_t* codes, int64_t columns, int64_t count, const int8_t* x, int64_t n,
                 int64_t stride, int32_t* y) {
  thread_local std::vector<int32_t> panel;
  const int16_t* const wide = group_inputs(x, n * stride);
  if (n < kInt8Many) {
    for (int64_t r = 0; r < count; ++r)
      int8_row(codes + r * columns, columns, wide, n, stride, y + r);
    return;
  }
  panel.resize(size_t(kWide * stride / 2));
  for (int64_t part = 0; part < count; part += kWide) {
    int8_panel(codes, columns, count, stride, part, panel.data());
    int64_t i = 0;
    const auto block = [&](const auto& multiply) {
      multiply(wide + i * stride, stride, stride, panel.data(), y + i * kInt8Rows + part);
    };
    for (; i + 4 <= n; i += 4) block(int8_block<4>);
    for (; i < n; ++i) block(int8_block<1>);
  }
}

// ---- groups, few tokens ------------------------------------------------------------------------

// Rows of 4-bit codes to bytes [count, columns].
PTQ_TARGET inline void int8_unpack(const AffineRows& w, int64_t begin, int64_t count,
                                   uint8_t* out) {
  const __m256i low = _mm256_set1_epi8(15);
  for (int64_t r = 0; r < count; ++r) {
    const uint8_t* from = w.row_codes(begin + r);
    for (int64_t c = 0; c < w.columns(); c += 32, from += 16, out += 32) {
      const __m256i two = _mm256_cvtepu8_epi16(sixteen(from));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                          _mm256_and_si256(_mm256_or_si256(two, _mm256_slli_epi16(two, 4)), low));
    }
  }
}

// A sum over columns, a multiple of 32.
PTQ_INLINE int32_t int8_dot(const uint8_t* codes, const int16_t* x, int64_t columns) {
  __m256i acc = _mm256_setzero_si256();
  for (int64_t c = 0; c < columns; c += 16)
    acc = _mm256_add_epi32(
        acc, _mm256_madd_epi16(_mm256_cvtepu8_epi16(sixteen(codes + c)),
                               _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + c))));
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(acc), _mm256_extracti128_si256(acc, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xB1)));
}

PTQ_TARGET inline void int8_few(const WeightRows& w, int64_t begin, int64_t end,
                                const Int8Inputs& x, int64_t n, float* y, int64_t ldy) {
  const int64_t columns = w.columns(), group = int8_group(w), unit = int8_unit(w, x.per_unit);
  thread_local std::vector<uint8_t> codes;
  thread_local std::vector<float> scale, offset;
  const int16_t* const wide = group_inputs(x.q, n * x.stride);
  codes.resize(size_t(columns));
  scale.resize(size_t(int8_groups_of_row(w)));
  offset.resize(scale.size());
  for (int64_t r = begin; r < end; ++r) {
    int8_params(w, r, scale.data(), offset.data());
    const uint8_t* row = w.row(r);
    if (w.form() != Form::codes) {
      int8_block_codes(w, r, 1, codes.data());
      row = codes.data();
    } else if (w.affine().format().bits == 4) {
      int8_unpack(w.affine(), r, 1, codes.data());
      row = codes.data();
    }
    for (int64_t t = 0; t < n; ++t) {
      float chains[4] = {};
      for (int64_t c = 0, u = 0; c < columns; c += unit, ++u) {
        const int64_t stop = std::min(columns, c + unit);
        const int32_t dot = int8_dot(row + c, wide + t * x.stride + c, stop - c);
        const float s = x.scale(t, c);
        const auto g = size_t(c / group);
        float& to = chains[unit == kInt8Wide ? 0 : u % 4];
        to = __builtin_fmaf(x.number(t, c, stop), offset[g], to);
        to = __builtin_fmaf(s * float(dot), scale[g], to);
      }
      y[t * ldy + r - begin] = (chains[0] + chains[1]) + (chains[2] + chains[3]);
    }
  }
}

// ---- groups, many tokens -----------------------------------------------------------------------

inline constexpr int64_t kGroupRows = kWide;
inline constexpr int kGroupTokens = 4;
using GroupInput = int16_t;
using GroupPanel = int32_t;  // of two columns of a row
PTQ_INLINE Reg float_of(const int32_t* p) {
  const auto half = [&](int i) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p) + i);
  };
  return {_mm256_cvtepi32_ps(half(0)), _mm256_cvtepi32_ps(half(1))};
}
PTQ_INLINE Reg mul(Reg a, Reg b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline void group_panel(const uint8_t* codes, int64_t columns, int64_t count, int64_t stride,
                        GroupPanel* out) {
  int8_panel(codes, columns, count, stride, 0, out);
}

#include "ptq/engine/cpu/kernels/int8_groups.inl"

inline void int8_groups(const WeightRows& w, int64_t begin, int64_t end, const Int8Inputs& x,
                        int64_t n, float* y, int64_t ldy) {
  (n >= kInt8Many ? int8_many : int8_few)(w, begin, end, x, n, y, ldy);
}
