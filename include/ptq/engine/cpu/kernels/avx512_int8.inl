// Products of integers; included by avx512.hpp, inside its namespace.

// ---- sums of whole rows ------------------------------------------------------------------------

// y[t * ldy + r] of one row of codes: 64 products at a time.
PTQ_TARGET inline void int8_row(const uint8_t* codes, int64_t columns, const int8_t* x, int64_t n,
                                int64_t stride, int32_t* y, int64_t ldy) {
  const int64_t whole = columns / 64 * 64;
  const __mmask64 rest = (uint64_t{1} << (columns - whole)) - 1;
  for (int64_t t = 0; t < n; ++t, x += stride) {
    Ints acc[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    for (int64_t c = 0; c < whole; c += 64) {
      prefetch(codes + c + 8192);
      acc[c / 64 % 2] = _mm512_dpbusd_epi32(acc[c / 64 % 2], _mm512_loadu_si512(codes + c),
                                            _mm512_loadu_si512(x + c));
    }
    acc[0] = _mm512_dpbusd_epi32(acc[0], _mm512_maskz_loadu_epi8(rest, codes + whole),
                                 _mm512_maskz_loadu_epi8(rest, x + whole));
    y[t * ldy] = _mm512_reduce_add_epi32(_mm512_add_epi32(acc[0], acc[1]));
  }
}

// Rows of codes to a panel [stride / 4, kPanel] of four codes each, zeros behind `columns` and
// behind `count` rows.
PTQ_TARGET inline void int8_panel(const uint8_t* codes, int64_t columns, int64_t count,
                                  int64_t stride, int32_t* out) {
  for (int64_t part = 0; part < kPanel; part += 16)
    for (int64_t c = 0; c < stride; c += 64) {
      const int64_t left = std::min<int64_t>(64, columns - c);
      const __mmask64 mask = left == 64 ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
      Reg v[16];
      for (int i = 0; i < 16; ++i)
        v[i] = part + i < count ? _mm512_castsi512_ps(_mm512_maskz_loadu_epi8(
                                      mask, codes + (part + i) * columns + c))
                                : zero();
      transpose(v);
      for (int k = 0; k < 16; ++k) _mm512_storeu_ps(out + (c / 4 + k) * kPanel + part, v[k]);
    }
}

// y [R, kPanel] of `depth` columns, a multiple of 4, of R tokens and a panel.
template <int R>
PTQ_TARGET inline void int8_block(const int8_t* x, int64_t stride, int64_t depth,
                                  const int32_t* panel, int32_t* y) {
  Ints acc[R][3];
  PTQ_UNROLL(8)
  for (int r = 0; r < R; ++r) {
    PTQ_UNROLL(3)
    for (int v = 0; v < 3; ++v) acc[r][v] = _mm512_setzero_si512();
  }
  for (int64_t p = 0; p < depth; p += 4) {
    Ints b[3];
    PTQ_UNROLL(3)
    for (int v = 0; v < 3; ++v) b[v] = _mm512_loadu_si512(panel + p / 4 * kPanel + 16 * v);
    PTQ_UNROLL(8)
    for (int r = 0; r < R; ++r) {
      int32_t four;
      std::memcpy(&four, x + r * stride + p, 4);
      const Ints a = _mm512_set1_epi32(four);
      PTQ_UNROLL(3)
      for (int v = 0; v < 3; ++v) acc[r][v] = _mm512_dpbusd_epi32(acc[r][v], b[v], a);
    }
  }
  PTQ_UNROLL(8)
  for (int r = 0; r < R; ++r) {
    PTQ_UNROLL(3)
    for (int v = 0; v < 3; ++v) _mm512_storeu_si512(y + r * kPanel + 16 * v, acc[r][v]);
  }
}

inline void int8(const uint8_t* codes, int64_t columns, int64_t count, const int8_t* x, int64_t n,
                 int64_t stride, int32_t* y) {
  if (n < kInt8Many) {
    for (int64_t r = 0; r < count; ++r)
      int8_row(codes + r * columns, columns, x, n, stride, y + r, kPanel);
    return;
  }
  thread_local std::vector<int32_t> panel;
  panel.resize(size_t(kPanel * stride / 4));
  int8_panel(codes, columns, count, stride, panel.data());
  int64_t i = 0;
  const auto block = [&](const auto& multiply) {
    multiply(x + i * stride, stride, stride, panel.data(), y + i * kPanel);
  };
  for (; i + 8 <= n; i += 8) block(int8_block<8>);
  for (; i < n; ++i) block(int8_block<1>);
}

// ---- groups, few tokens ------------------------------------------------------------------------

// A block is four units of kInt8Unit columns, one for each 128-bit lane of a register. A lane has
// half of its unit, that of a second register the other half: of codes of 4 bits the even and the
// odd columns, of 8 bits the first and the last sixteen.
inline constexpr int64_t kInt8Block = 4 * kInt8Unit;
static_assert(kInt8Block == kInt8Wide);
struct Halves {
  Ints a, b;
};
// A block of a token, and the sums of its units, each four times.
struct alignas(64) InputBlock {
  int8_t a[64], b[64];
  float sums[16];
};
// A block of four rows: [unit, row].
struct alignas(64) ScaleBlock {
  float scale[16], offset[16];
};

PTQ_INLINE Halves halves_of_bytes(Ints v, Ints w) {
  return {_mm512_shuffle_i64x2(v, w, 0x88), _mm512_shuffle_i64x2(v, w, 0xDD)};
}
// The first bytes of a register.
inline __mmask64 bytes(int64_t count) {
  return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << std::max<int64_t>(count, 0)) - 1;
}
// Packed codes of a block of which `left` columns are there.
template <int Bits>
PTQ_INLINE Halves halves_of_codes(const uint8_t* p, int64_t left) {
  if constexpr (Bits == 4) {
    const Ints low = _mm512_set1_epi8(15), v = _mm512_maskz_loadu_epi8(bytes(left / 2), p);
    return {_mm512_and_si512(v, low), _mm512_and_si512(_mm512_srli_epi16(v, 4), low)};
  } else {
    return halves_of_bytes(_mm512_maskz_loadu_epi8(bytes(left), p),
                           _mm512_maskz_loadu_epi8(bytes(left - 64), p + 64));
  }
}

struct EvenBytes {
  alignas(64) uint8_t at[64];
  constexpr EvenBytes() : at() {
    for (int i = 0; i < 64; ++i) at[i] = uint8_t(2 * i);
  }
};
inline constexpr EvenBytes kEvenBytes;

// The sum of all four lanes in each.
PTQ_INLINE Ints over_lanes(Ints v) {
  v = _mm512_add_epi32(v, _mm512_shuffle_i64x2(v, v, 0x4E));
  return _mm512_add_epi32(v, _mm512_shuffle_i64x2(v, v, 0xB1));
}

// A token x [columns], zeros behind, and its sums to blocks; those of wide units are of the whole
// block.
template <int Bits, bool kWide>
PTQ_TARGET inline void int8_inputs(const int8_t* x, const int32_t* sums, int64_t columns,
                                   InputBlock* out) {
  const Ints even = _mm512_load_si512(kEvenBytes.at),
             odd = _mm512_or_si512(even, _mm512_set1_epi8(1)),
             units = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  for (int64_t c = 0; c < columns; c += kInt8Block, sums += 4, ++out) {
    const int64_t left = columns - c;
    const Ints v = _mm512_loadu_si512(x + c),
               w = left > 64 ? _mm512_loadu_si512(x + c + 64) : _mm512_setzero_si512();
    const Halves h = Bits == 4 ? Halves{_mm512_permutex2var_epi8(v, even, w),
                                        _mm512_permutex2var_epi8(v, odd, w)}
                               : halves_of_bytes(v, w);
    _mm512_store_si512(out->a, h.a);
    _mm512_store_si512(out->b, h.b);
    const __mmask16 some = lanes(std::min<int64_t>(4, left / kInt8Unit));
    Ints sum = _mm512_permutexvar_epi32(units, _mm512_maskz_loadu_epi32(some, sums));
    if constexpr (kWide) sum = over_lanes(sum);
    _mm512_store_ps(out->sums, _mm512_cvtepi32_ps(sum));
  }
}

// Of four rows at p, [unit, row]: kUnits scales or offsets that belong to the units of a block: 4,
// 2, each for two, or 1 for all. Up to three numbers behind a row's are read:
// finite ones, which multiply zeros.
template <int kUnits>
PTQ_INLINE Reg int8_params(const float* const* p, int64_t at) {
  if constexpr (kUnits == 1) {
    return _mm512_broadcast_f32x4(_mm_setr_ps(p[0][at], p[1][at], p[2][at], p[3][at]));
  } else {
    const Reg all = _mm512_insertf32x8(
        _mm512_castps256_ps512(_mm256_set_m128(_mm_loadu_ps(p[1] + at), _mm_loadu_ps(p[0] + at))),
        _mm256_set_m128(_mm_loadu_ps(p[3] + at), _mm_loadu_ps(p[2] + at)), 1);
    const Ints turned =
        kUnits == 4 ? _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)
                    : _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 1, 5, 9, 13, 1, 5, 9, 13);
    return _mm512_permutexvar_ps(turned, all);
  }
}

// Scales and offsets of rows [quads, 4] as blocks [quads, blocks]. Behind `count` rows the last one
// is repeated.
template <int kUnits>
PTQ_TARGET inline void int8_scales(const float* scale, const float* offset, int64_t count,
                                   int64_t groups, int64_t group, int64_t blocks, ScaleBlock* out) {
  const int64_t quads = (count + 3) / 4;
  for (int64_t q = 0; q < quads; ++q) {
    const float *s[4], *o[4];
    for (int64_t j = 0; j < 4; ++j) {
      const int64_t row = std::min(4 * q + j, count - 1);
      s[j] = scale + row * groups;
      o[j] = offset + row * groups;
    }
    // Blocks of a group: groups of less than a block have kUnits numbers in each.
    const int64_t of_group = kUnits > 1 ? 1 : (group + kInt8Block - 1) / kInt8Block;
    for (int64_t b = 0, at = 0; b < blocks; at += kUnits)
      for (const int64_t end = std::min(blocks, b + of_group); b < end; ++b, ++out) {
        _mm512_store_ps(out->scale, int8_params<kUnits>(s, at));
        _mm512_store_ps(out->offset, int8_params<kUnits>(o, at));
      }
  }
}

// Packed rows that lie one behind the other, their codes as blocks.
template <int Bits>
struct PackedRows {
  static constexpr int64_t kAhead = 8192;  // bytes
  const uint8_t* row[4];
  int64_t columns;
  PTQ_INLINE Halves operator()(int64_t j, int64_t b) const {
    constexpr int64_t kBytes = kInt8Block * Bits / 8;
    const uint8_t* const ahead = row[0] + kAhead + (4 * b + j) * kBytes;
    for (int64_t i = 0; i < kBytes; i += 64) prefetch(ahead + i);
    return halves_of_codes<Bits>(row[j] + b * kBytes, columns - b * kInt8Block);
  }
};

// Four rows times a token.
template <bool kWide, class Codes>
PTQ_INLINE __m128 int8_quad(const Codes& codes, const ScaleBlock* scales, const InputBlock* x,
                            int64_t blocks) {
  Reg sums = zero();
  for (int64_t b = 0; b < blocks; ++b) {
    const Ints first = _mm512_load_si512(x[b].a), second = _mm512_load_si512(x[b].b);
    Ints d[4];
    PTQ_UNROLL(4)
    for (int j = 0; j < 4; ++j) {
      const Halves c = codes(j, b);
      d[j] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), c.a, first);
      d[j] = _mm512_dpbusd_epi32(d[j], c.b, second);
    }
    // Lane u: the sums of unit u of the four rows.
    const Ints low = _mm512_add_epi32(_mm512_unpacklo_epi32(d[0], d[1]),
                                      _mm512_unpackhi_epi32(d[0], d[1])),
               high = _mm512_add_epi32(_mm512_unpacklo_epi32(d[2], d[3]),
                                       _mm512_unpackhi_epi32(d[2], d[3]));
    Ints sum = _mm512_add_epi32(_mm512_unpacklo_epi64(low, high), _mm512_unpackhi_epi64(low, high));
    if constexpr (kWide) sum = over_lanes(sum);
    sums = fma(_mm512_load_ps(x[b].sums), _mm512_load_ps(scales[b].offset), sums);
    sums = fma(_mm512_cvtepi32_ps(sum), _mm512_load_ps(scales[b].scale), sums);
  }
  const __m128 chain = _mm512_castps512_ps128(sums);
  if constexpr (kWide) return _mm_add_ps(chain, _mm_setzero_ps());  // as the others end
  return _mm_add_ps(_mm_add_ps(chain, _mm512_extractf32x4_ps(sums, 1)),
                    _mm_add_ps(_mm512_extractf32x4_ps(sums, 2), _mm512_extractf32x4_ps(sums, 3)));
}

template <int Bits, int kUnits>
PTQ_TARGET inline void int8_few(const AffineRows& w, int64_t begin, int64_t end, const int8_t* x,
                                const int32_t* sums, int64_t n, int64_t stride, float* y,
                                int64_t ldy) {
  constexpr bool kWide = kUnits == 1;
  const int64_t columns = w.columns(), groups = w.groups(),
                blocks = (columns + kInt8Block - 1) / kInt8Block;
  thread_local std::vector<float> scale, offset;
  thread_local std::vector<ScaleBlock> scales;  // [quads, blocks]
  thread_local std::vector<InputBlock> inputs;  // [n, blocks]
  scale.resize(size_t(kInt8Rows * groups + 4));
  offset.resize(scale.size());
  scales.resize(size_t(kInt8Rows / 4 * blocks));
  inputs.resize(size_t(n * blocks));
  for (int64_t t = 0; t < n; ++t)
    int8_inputs<Bits, kWide>(x + t * stride, sums + t * (stride / kInt8Unit), columns,
                             inputs.data() + t * blocks);
  for (int64_t r0 = begin; r0 < end; r0 += kInt8Rows) {
    const int64_t count = std::min(kInt8Rows, end - r0);
    w.read_params(r0 * groups, count * groups, scale.data(), offset.data());
    int8_scales<kUnits>(scale.data(), offset.data(), count, groups, w.group(), blocks,
                        scales.data());
    for (int64_t r = 0; r < count; r += 4) {
      PackedRows<Bits> rows{{}, columns};
      for (int64_t j = 0; j < 4; ++j) rows.row[j] = w.row_codes(r0 + std::min(r + j, count - 1));
      const auto some = __mmask8((1 << std::min<int64_t>(4, count - r)) - 1);
      for (int64_t t = 0; t < n; ++t)
        _mm_mask_storeu_ps(y + t * ldy + r0 + r - begin, some,
                           int8_quad<kWide>(rows, scales.data() + r / 4 * blocks,
                                            inputs.data() + t * blocks, blocks));
    }
  }
}

// ---- groups, many tokens -----------------------------------------------------------------------

// Rows of 4-bit codes to bytes [count, columns].
PTQ_TARGET inline void int8_unpack(const AffineRows& w, int64_t begin, int64_t count,
                                   uint8_t* out) {
  const int64_t columns = w.columns();
  const Ints low = _mm512_set1_epi8(15);
  for (int64_t r = 0; r < count; ++r, out += columns) {
    const uint8_t* from = w.row_codes(begin + r);
    for (int64_t c = 0; c < columns; c += 64) {
      const Ints two = _mm512_cvtepu8_epi16(
          _mm256_maskz_loadu_epi8(__mmask32(bytes((columns - c) / 2)), from + c / 2));
      _mm512_mask_storeu_epi8(
          out + c, bytes(columns - c),
          _mm512_and_si512(_mm512_or_si512(two, _mm512_slli_epi16(two, 4)), low));
    }
  }
}

inline constexpr int64_t kGroupRows = kPanel;
inline constexpr int kGroupTokens = 8;
using GroupInput = int8_t;
using GroupPanel = int32_t;  // of four columns of a row
PTQ_INLINE Reg float_of(const int32_t* p) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }
inline const int8_t* group_inputs(const int8_t* x, int64_t) { return x; }
inline void group_panel(const uint8_t* codes, int64_t columns, int64_t count, int64_t stride,
                        GroupPanel* out) {
  int8_panel(codes, columns, count, stride, out);
}

#include "ptq/engine/cpu/kernels/int8_groups.inl"

template <int Bits>
inline void int8_few_of(const AffineRows& w, int64_t begin, int64_t end, const int8_t* x,
                        const int32_t* sums, int64_t n, int64_t stride, float* y, int64_t ldy) {
  const auto few = int8_unit(w) == kInt8Wide ? int8_few<Bits, 1>
                   : w.group() == kInt8Unit  ? int8_few<Bits, 4>
                                             : int8_few<Bits, 2>;
  few(w, begin, end, x, sums, n, stride, y, ldy);
}
inline void int8_groups(const AffineRows& w, int64_t begin, int64_t end, const int8_t* x,
                        const int32_t* sums, int64_t n, int64_t stride, float* y, int64_t ldy) {
  const auto product = n >= kInt8Many         ? int8_many
                       : w.format().bits == 4 ? int8_few_of<4>
                                              : int8_few_of<8>;
  product(w, begin, end, x, sums, n, stride, y, ldy);
}
