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
PTQ_APART void int8_block(const int8_t* x, int64_t stride, int64_t depth, const int32_t* panel,
                          int32_t* y) {
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
// half of its unit, that of a second register the other half: of packed codes of 4 bits the even
// and the odd columns, else the first and the last sixteen.
inline constexpr int64_t kInt8Block = 4 * kInt8Unit;
static_assert(kInt8Block == kInt8Wide);
struct Halves {
  Ints a, b;
};
// A block of a token, and the scales of its units and the sums of their numbers, each four times.
struct alignas(64) InputBlock {
  int8_t a[64], b[64];
  float scales[16], numbers[16];
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

// Token t to blocks; the sums of wide units are of the whole block.
template <bool kEvenOdd, bool kWide>
PTQ_TARGET inline void int8_inputs(const Int8Inputs& inputs, int64_t t, int64_t columns,
                                   InputBlock* out) {
  const int8_t* const x = inputs.q + t * inputs.stride;
  const int32_t* sums = inputs.sums + t * inputs.units();
  const float* scales = inputs.scales + t * inputs.units();
  const Ints even = _mm512_load_si512(kEvenBytes.at),
             odd = _mm512_or_si512(even, _mm512_set1_epi8(1)),
             units = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  for (int64_t c = 0; c < columns; c += kInt8Block, sums += 4, scales += 4, ++out) {
    const int64_t left = columns - c;
    const Ints v = _mm512_loadu_si512(x + c),
               w = left > 64 ? _mm512_loadu_si512(x + c + 64) : _mm512_setzero_si512();
    const Halves h =
        kEvenOdd ? Halves{_mm512_permutex2var_epi8(v, even, w), _mm512_permutex2var_epi8(v, odd, w)}
                 : halves_of_bytes(v, w);
    _mm512_store_si512(out->a, h.a);
    _mm512_store_si512(out->b, h.b);
    const __mmask16 some = lanes(std::min<int64_t>(4, left / kInt8Unit));
    Ints sum = _mm512_permutexvar_epi32(units, _mm512_maskz_loadu_epi32(some, sums));
    if constexpr (kWide) sum = over_lanes(sum);
    const Reg scale = _mm512_permutexvar_ps(units, load(scales, some));
    _mm512_store_ps(out->scales, scale);
    _mm512_store_ps(out->numbers, _mm512_mul_ps(scale, _mm512_cvtepi32_ps(sum)));
  }
}

// Of four rows at p, [unit, row]: kUnits scales or offsets that belong to the units of a block: 4,
// 2, each for two, or 1 for all. Up to three numbers behind a row's are read: finite ones, which
// multiply zeros.
template <int kUnits>
PTQ_INLINE Reg quad_params(const float* const* p, int64_t at) {
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
        _mm512_store_ps(out->scale, quad_params<kUnits>(s, at));
        _mm512_store_ps(out->offset, quad_params<kUnits>(o, at));
      }
  }
}

PTQ_INLINE __m128i sixteen(const uint8_t* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
PTQ_INLINE __m256i thirty_two(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
// Asks for what lies behind four neighbouring rows' blocks of so many bytes, of which that of row j
// is read now. (Where a file pairs rows they are none, and it is another row that comes early.)
inline constexpr int64_t kInt8Ahead = 8192;  // bytes
template <int64_t kBytes>
PTQ_INLINE void ask_ahead(const uint8_t* row, int64_t j, int64_t b) {
  const uint8_t* const ahead = row + kInt8Ahead + (4 * b + j) * kBytes;
  for (int64_t i = 0; i < kBytes; i += 64) prefetch(ahead + i);
}
// Scales and offsets of a block of four rows: [unit, row].
struct Params {
  Reg scale, offset;
};

// Packed rows that lie one behind the other, and their scales; a block has kUnits of these.
template <int Bits, int kUnits>
struct PackedRows {
  static constexpr bool kEvenOdd = Bits == 4;
  static constexpr int64_t kBytes = kInt8Block * Bits / 8;
  const uint8_t* row[4];
  int64_t columns, blocks;
  const ScaleBlock *all, *scales;  // [quads, blocks], and those of a quad

  // Up to kInt8Rows rows from r on are read next, and of these the quad q.
  void take(const WeightRows& w, int64_t r, int64_t count) {
    const int64_t groups = w.affine().groups();
    thread_local std::vector<float> scale, offset;
    thread_local std::vector<ScaleBlock> room;
    columns = w.columns();
    blocks = (columns + kInt8Block - 1) / kInt8Block;
    scale.resize(size_t(kInt8Rows * groups + 4));
    offset.resize(scale.size());
    room.resize(size_t(kInt8Rows / 4 * blocks));
    w.affine().read_params(r * groups, count * groups, scale.data(), offset.data());
    int8_scales<kUnits>(scale.data(), offset.data(), count, groups, w.affine().group(), blocks,
                        room.data());
    all = room.data();
  }
  void move(int64_t q) { scales = all + q * blocks; }

  template <bool kWhole>
  PTQ_INLINE Halves codes(int64_t j, int64_t b) const {
    ask_ahead<kBytes>(row[0], j, b);
    return halves_of_codes<Bits>(row[j] + b * kBytes,
                                 kWhole ? kInt8Block : columns - b * kInt8Block);
  }
  template <bool kWhole>
  PTQ_INLINE Params params(int64_t b) const {
    return {_mm512_load_ps(scales[b].scale), _mm512_load_ps(scales[b].offset)};
  }
};

// Rows of GGUF blocks, four of which are one here.
template <class Block>
struct BlockRows {
  static constexpr bool kEvenOdd = false;
  static constexpr int64_t kBytes = 4 * Block::kBytes;
  const uint8_t* row[4];
  int64_t columns;

  void take(const WeightRows& w, int64_t, int64_t) { columns = w.columns(); }
  void move(int64_t) {}

  template <bool kWhole>
  PTQ_INLINE Halves codes(int64_t j, int64_t b) const {
    ask_ahead<kBytes>(row[0], j, b);
    const uint8_t* const p = row[j] + b * kBytes;
    const int64_t units = kWhole ? 4 : (columns - b * kInt8Block) / kInt8Unit;
    if constexpr (Block::kNibbles) {
      const auto lane = [&](int64_t u) { return p + u * Block::kBytes + Block::kBytes - 16; };
      Ints v = _mm512_zextsi128_si512(sixteen(lane(0)));
      if (units > 1) v = _mm512_inserti32x4(v, sixteen(lane(1)), 1);
      if (units > 2) v = _mm512_inserti32x4(v, sixteen(lane(2)), 2);
      if (units > 3) v = _mm512_inserti32x4(v, sixteen(lane(3)), 3);
      const Ints low = _mm512_set1_epi8(15);
      return {_mm512_and_si512(v, low), _mm512_and_si512(_mm512_srli_epi16(v, 4), low)};
    } else {
      const auto unit = [&](int64_t u) { return p + u * Block::kBytes + 2; };
      Ints v = _mm512_zextsi256_si512(thirty_two(unit(0))), w = _mm512_setzero_si512();
      if (units > 1) v = _mm512_inserti64x4(v, thirty_two(unit(1)), 1);
      if (units > 2) w = _mm512_zextsi256_si512(thirty_two(unit(2)));
      if (units > 3) w = _mm512_inserti64x4(w, thirty_two(unit(3)), 1);
      const Ints sign = _mm512_set1_epi8(int8_t(0x80));
      return halves_of_bytes(_mm512_xor_si512(v, sign), _mm512_xor_si512(w, sign));
    }
  }

  template <bool kWhole>
  PTQ_INLINE Params params(int64_t b) const {
    // The first words of blocks, all four in one register or two and two.
    constexpr int kEach = 3 * Block::kBytes + 4 <= 64 ? 4 : 2;
    const int64_t bytes_left =
        kWhole ? kBytes : (columns - b * kInt8Block) / kInt8Unit * Block::kBytes;
    Ints words = _mm512_setzero_si512();
    PTQ_UNROLL(4)
    for (int j = 0; j < 4; ++j) {
      PTQ_UNROLL(2)
      for (int u = 0; u < 4; u += kEach) {
        const uint8_t* const p = row[j] + b * kBytes + u * Block::kBytes;
        const Ints v = kWhole ? _mm512_loadu_si512(p)
                              : _mm512_maskz_loadu_epi8(bytes(bytes_left - u * Block::kBytes), p);
        const auto from = [&](int at) {  // both words of what dword `at` of the result has
          const int word = (at / 4 - u) * Block::kBytes / 2;
          return at / 4 < u || at / 4 >= u + kEach ? 0 : word | (word + 1) << 16;
        };
        const Ints index = _mm512_setr_epi32(from(0), from(1), from(2), from(3), from(4), from(5),
                                             from(6), from(7), from(8), from(9), from(10), from(11),
                                             from(12), from(13), from(14), from(15));
        const auto some = __mmask32(0x03030303u << 2 * j & (kEach == 4 ? ~0u
                                                            : u == 0   ? 0xFFFFu
                                                                       : 0xFFFF0000u));
        words = _mm512_mask_permutexvar_epi16(words, some, index, v);
      }
    }
    const Reg scale = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words));
    if constexpr (Block::kMinimum)
      return {scale, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(words, 16)))};
    else
      return {scale, _mm512_mul_ps(scale, spread(-Block::kZero))};
  }
};

// Four rows times a token: block b.
template <bool kWide, bool kWhole, class Rows>
PTQ_INLINE Reg int8_quad_block(const Rows& rows, int64_t b, const InputBlock& x, Reg sums) {
  const Ints first = _mm512_load_si512(x.a), second = _mm512_load_si512(x.b);
  Ints d[4];
  PTQ_UNROLL(4)
  for (int j = 0; j < 4; ++j) {
    const Halves c = rows.template codes<kWhole>(j, b);
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
  const Params p = rows.template params<kWhole>(b);
  sums = fma(_mm512_load_ps(x.numbers), p.offset, sums);
  return fma(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_load_ps(x.scales)), p.scale, sums);
}
// All blocks of `columns`.
template <bool kWide, class Rows>
PTQ_INLINE __m128 int8_quad(const Rows& rows, const InputBlock* x, int64_t columns) {
  Reg sums = zero();
  const int64_t whole = columns / kInt8Block;
  for (int64_t b = 0; b < whole; ++b) sums = int8_quad_block<kWide, true>(rows, b, x[b], sums);
  if (whole * kInt8Block < columns)
    sums = int8_quad_block<kWide, false>(rows, whole, x[whole], sums);
  const __m128 chain = _mm512_castps512_ps128(sums);
  if constexpr (kWide) return _mm_add_ps(chain, _mm_setzero_ps());  // as the others end
  return _mm_add_ps(_mm_add_ps(chain, _mm512_extractf32x4_ps(sums, 1)),
                    _mm_add_ps(_mm512_extractf32x4_ps(sums, 2), _mm512_extractf32x4_ps(sums, 3)));
}

template <class Rows, bool kWide>
PTQ_TARGET inline void int8_few(const WeightRows& w, int64_t begin, int64_t end,
                                const Int8Inputs& x, int64_t n, float* y, int64_t ldy) {
  const int64_t columns = w.columns(), blocks = (columns + kInt8Block - 1) / kInt8Block;
  thread_local std::vector<InputBlock> inputs;  // [n, blocks]
  inputs.resize(size_t(n * blocks));
  for (int64_t t = 0; t < n; ++t)
    int8_inputs<Rows::kEvenOdd, kWide>(x, t, columns, inputs.data() + t * blocks);
  Rows rows;
  for (int64_t r0 = begin; r0 < end; r0 += kInt8Rows) {
    const int64_t count = std::min(kInt8Rows, end - r0);
    rows.take(w, r0, count);
    for (int64_t r = 0; r < count; r += 4) {
      rows.move(r / 4);
      for (int64_t j = 0; j < 4; ++j) rows.row[j] = w.row(r0 + std::min(r + j, count - 1));
      const auto some = __mmask8((1 << std::min<int64_t>(4, count - r)) - 1);
      for (int64_t t = 0; t < n; ++t)
        _mm_mask_storeu_ps(y + t * ldy + r0 + r - begin, some,
                           int8_quad<kWide>(rows, inputs.data() + t * blocks, columns));
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
PTQ_INLINE Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
inline const int8_t* group_inputs(const int8_t* x, int64_t) { return x; }
inline void group_panel(const uint8_t* codes, int64_t columns, int64_t count, int64_t stride,
                        GroupPanel* out) {
  int8_panel(codes, columns, count, stride, out);
}

#include "ptq/engine/cpu/kernels/int8_groups.inl"

template <int Bits>
inline void int8_few_codes(const WeightRows& w, int64_t begin, int64_t end, const Int8Inputs& x,
                           int64_t n, float* y, int64_t ldy) {
  const int64_t group = w.affine().groups() == 1 ? kInt8Wide : w.affine().group();
  const auto few = int8_unit(w, x.per_unit) == kInt8Wide ? int8_few<PackedRows<Bits, 1>, true>
                   : group >= kInt8Wide                  ? int8_few<PackedRows<Bits, 1>, false>
                   : group == kInt8Unit                  ? int8_few<PackedRows<Bits, 4>, false>
                                                         : int8_few<PackedRows<Bits, 2>, false>;
  few(w, begin, end, x, n, y, ldy);
}
inline void int8_groups(const WeightRows& w, int64_t begin, int64_t end, const Int8Inputs& x,
                        int64_t n, float* y, int64_t ldy) {
  if (n >= kInt8Many)
    int8_many(w, begin, end, x, n, y, ldy);
  else if (w.form() != Form::codes)
    with_int8_block(w.form(), [&](auto block) {
      int8_few<BlockRows<decltype(block)>, false>(w, begin, end, x, n, y, ldy);
    });
  else if (w.affine().format().bits == 4)
    int8_few_codes<4>(w, begin, end, x, n, y, ldy);
  else
    int8_few_codes<8>(w, begin, end, x, n, y, ldy);
}
