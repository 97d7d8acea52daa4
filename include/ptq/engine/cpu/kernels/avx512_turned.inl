// Readers of 16 rows of codes, behind readers.inl: the codes are turned around before they become
// numbers, so that four of them, a byte each, move at once.

// 64 codes of a row, a byte each.
template <int Bits>
PTQ_INLINE Ints bytes64(const uint8_t* p) {
  if constexpr (Bits == 8) {
    return _mm512_loadu_si512(p);
  } else {
    struct Places {
      alignas(64) uint8_t byte[64];  // that qwords of 8 codes begin with
      alignas(64) uint8_t bit[64];   // of the codes in their qword
      constexpr Places() : byte(), bit() {
        for (int i = 0; i < 64; ++i) {
          byte[i] = uint8_t(i / 8 * Bits + i % 8);
          bit[i] = uint8_t(i % 8 * Bits);
        }
      }
    };
    static constexpr Places kPlaces;
    const __mmask64 all = (uint64_t{1} << (8 * Bits)) - 1;
    const Ints words =
        _mm512_permutexvar_epi8(_mm512_load_si512(kPlaces.byte), _mm512_maskz_loadu_epi8(all, p));
    return _mm512_and_si512(_mm512_multishift_epi64_epi8(_mm512_load_si512(kPlaces.bit), words),
                            _mm512_set1_epi8((1 << Bits) - 1));
  }
}

// Byte J of every lane.
template <int J>
PTQ_INLINE Ints byte_of(Ints v) {
  if constexpr (J == 3) return _mm512_srli_epi32(v, 24);
  const Ints only = _mm512_set1_epi32(0xFF);
  return _mm512_and_si512(J == 0 ? v : _mm512_srli_epi32(v, 8 * J), only);
}

// code * scale + offset, the parameters of 16 rows.
struct RowLevels {
  Reg scale, offset;
  PTQ_INLINE Reg at(Ints code) const { return fma(_mm512_cvtepi32_ps(code), scale, offset); }
};

template <int Bits, int kUnits>
struct Turned<CodeRow<Bits, kUnits>> : TurnedNumbers<CodeRow<Bits, kUnits>> {
  using Base = TurnedNumbers<CodeRow<Bits, kUnits>>;
  using Base::rows;
  std::vector<float> scales, offsets;  // [groups, 16]

  explicit Turned(const WeightRows& w)
      : Base(w), scales(size_t(16 * rows.groups)), offsets(scales.size()) {}
  PTQ_TARGET void move(const WeightRows& w, int64_t r, int64_t last) {
    rows.move(w, {r}, last);
    for (int64_t g = 0; g < rows.groups; g += 16) {
      const int64_t count = std::min<int64_t>(16, rows.groups - g);
      turn(rows.scales(0), g, count, scales.data());
      turn(rows.offsets(0), g, count, offsets.data());
    }
  }
  PTQ_INLINE void read(int64_t c0, int64_t c1, float* out, int64_t step, int64_t lane) {
    int64_t c = c0;
    for (; c + 64 <= c1; c += 64, out += 4 * step) read64(c, out, step, lane);
    if (c < c1) Base::read(c, c1, out, step, lane);
  }

 private:
  // Groups [g, g + count) of one parameter [16, groups].
  PTQ_INLINE void turn(const float* from, int64_t g, int64_t count, float* to) const {
    Reg v[16];
    for (int i = 0; i < 16; ++i) v[i] = load(from + i * rows.groups + g, lanes(count));
    transpose(v);
    for (int64_t k = 0; k < count; ++k) store(to + (g + k) * 16, v[k]);
  }
  PTQ_INLINE RowLevels levels(int64_t group) const {
    return {load(scales.data() + 16 * group), load(offsets.data() + 16 * group)};
  }
  PTQ_INLINE void read64(int64_t c, float* out, int64_t step, int64_t lane) const {
    Reg v[16];
    PTQ_UNROLL(16)
    for (int i = 0; i < 16; ++i) {
      const uint8_t* p = rows.data[i] + uint64_t(c) / 8 * Bits;
      v[i] = _mm512_castsi512_ps(bytes64<Bits>(p));
    }
    transpose(v);
    RowLevels l = levels(kUnits > 1 ? c * kUnits / 64 : c / rows.unit);
    PTQ_UNROLL(16)
    for (int q = 0; q < 16; ++q) {
      if (kUnits > 1 && q > 0 && q % (16 / kUnits) == 0) l = levels((c + 4 * q) * kUnits / 64);
      const Ints codes = _mm512_castps_si512(v[q]);
      float* to = out + q / 4 * step + q % 4 * 4 * lane;
      store(to, l.at(byte_of<0>(codes)));
      store(to + lane, l.at(byte_of<1>(codes)));
      store(to + 2 * lane, l.at(byte_of<2>(codes)));
      store(to + 3 * lane, l.at(byte_of<3>(codes)));
    }
  }
};

// ---- blocks ------------------------------------------------------------------------------------

// 16 bytes of each of 16 rows: v[q], lane r has the bytes 4 q .. 4 q + 3 of row r.
template <class Row>
PTQ_INLINE void four_dwords(const Rows<Row>& rows, int64_t at, Ints (&v)[4]) {
  Ints a[4];
  PTQ_UNROLL(4)
  for (int j = 0; j < 4; ++j) {
    const auto part = [&](int i) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows.data[i] + at));
    };
    a[j] = _mm512_castsi128_si512(part(j));
    a[j] = _mm512_inserti32x4(a[j], part(4 + j), 1);
    a[j] = _mm512_inserti32x4(a[j], part(8 + j), 2);
    a[j] = _mm512_inserti32x4(a[j], part(12 + j), 3);
  }
  const Ints t0 = _mm512_unpacklo_epi32(a[0], a[1]), t1 = _mm512_unpackhi_epi32(a[0], a[1]),
             t2 = _mm512_unpacklo_epi32(a[2], a[3]), t3 = _mm512_unpackhi_epi32(a[2], a[3]);
  v[0] = _mm512_unpacklo_epi64(t0, t2);
  v[1] = _mm512_unpackhi_epi64(t0, t2);
  v[2] = _mm512_unpacklo_epi64(t1, t3);
  v[3] = _mm512_unpackhi_epi64(t1, t3);
}
// The float16 and the 32 bits at a place of each row.
template <class Row>
PTQ_INLINE Reg halves(const Rows<Row>& rows, int64_t at) {
  alignas(32) uint16_t h[16];
  for (int i = 0; i < 16; ++i) std::memcpy(h + i, rows.data[i] + at, 2);
  return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(h)));
}
template <class Row>
PTQ_INLINE Ints dwords(const Rows<Row>& rows, int64_t at) {
  alignas(64) uint32_t w[16];
  for (int i = 0; i < 16; ++i) std::memcpy(w + i, rows.data[i] + at, 4);
  return _mm512_load_si512(w);
}

template <class Block>
struct Turned<BlockRow<Block>> {
  static constexpr bool kBytes = Block::kBits == 8, kFifth = Block::kBits == 5,
                        kMinimum = Block::kMinimum;
  static constexpr int64_t kHead = kMinimum ? 4 : 2;  // bytes in front of the fifth bits and codes
  Rows<BlockRow<Block>> rows;

  explicit Turned(const WeightRows& w) : rows(w) {}
  void move(const WeightRows& w, int64_t r, int64_t last) { rows.move(w, {r}, last); }
  PTQ_INLINE void read(int64_t c0, int64_t c1, float* out, int64_t step, int64_t lane) {
    for (int64_t c = c0; c < c1; c += 32, out += 2 * step) {
      const int64_t at = c / 32 * Block::kBytes;
      RowLevels l;
      l.scale = halves(rows, at);
      if constexpr (kBytes) {
        l.offset = zero();
        bytes(at + kHead, l, out, lane);
        bytes(at + kHead + 16, l, out + step, lane);
      } else {
        l.offset =
            kMinimum ? halves(rows, at + 2) : _mm512_mul_ps(l.scale, _mm512_set1_ps(Block::kFirst));
        nibbles(at, l, out, step, lane);
      }
    }
  }

 private:
  PTQ_INLINE void bytes(int64_t at, const RowLevels& l, float* out, int64_t lane) const {
    Ints v[4];
    four_dwords(rows, at, v);
    PTQ_UNROLL(4)
    for (int q = 0; q < 4; ++q) {
      PTQ_UNROLL(4)
      for (int j = 0; j < 4; ++j)
        store(out + (4 * q + j) * lane,
              l.at(_mm512_srai_epi32(_mm512_slli_epi32(v[q], 24 - 8 * j), 24)));
    }
  }
  PTQ_INLINE void nibbles(int64_t at, const RowLevels& l, float* out, int64_t step,
                          int64_t lane) const {
    Ints v[4];
    four_dwords(rows, at + kHead + (kFifth ? 4 : 0), v);
    const Ints low = _mm512_set1_epi32(15);
    Ints fifth = kFifth ? dwords(rows, at + kHead) : low;
    PTQ_UNROLL(2)
    for (int half = 0; half < 2; ++half) {
      PTQ_UNROLL(4)
      for (int q = 0; q < 4; ++q) {
        PTQ_UNROLL(4)
        for (int j = 0; j < 4; ++j) {
          const int i = 16 * half + 4 * q + j;  // of the block's numbers
          Ints code = _mm512_and_si512(_mm512_srli_epi32(v[q], 8 * j + 4 * half), low);
          if constexpr (kFifth)
            code = _mm512_mask_or_epi32(
                code, _mm512_test_epi32_mask(fifth, _mm512_set1_epi32(int(1u << i))), code,
                _mm512_set1_epi32(16));
          store(out + half * step + (4 * q + j) * lane, l.at(code));
        }
      }
    }
  }
};
