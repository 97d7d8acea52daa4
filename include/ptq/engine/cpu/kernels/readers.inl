// Readers of stored rows, which all instruction sets share. Included inside the namespace of one,
// which defines before
//   PTQ_TARGET, PTQ_INLINE  attributes of functions that use the instructions
//   Reg                     16 floats: zero, load, store, add, fma(a, b, c) = a b + c
//   transpose               16 registers turned around
//   Ints                    16 integers
//   dense<dtype>            16 stored numbers
//   codes<Bits>             16 packed codes, each in the low bits of its lane (alone there for 8)
//   Levels<Bits>            what codes mean: set(scale, offset), at(codes) = code * scale + offset
//   nibbles, signed_bytes, with_fifth   parts of GGUF blocks
//   prefetch                asks for the bytes at an address, into the second-level cache (the
//                           first has room for half of what memory's rate keeps on the way)
//
// A reader gives the weights as decode() does, to the last bit: the product of a code of at most 8
// bits and a scale of 11 is exact, so fma rounds once, as a sum does.

// A reader of one row. kNumbers: weights in a lane, whose columns all counts below are of.
// enter(u): the columns of unit u come, which share parameters; run(c, v): kRun registers from
// column c on; line(c, v): kLine registers; tail(c): columns c .. columns - 1, less than 16, then
// anything finite. ahead: bytes in front of their use that line() asks for, as a row is read once,
// from memory.
template <DType kType>
struct DenseRow {
  static constexpr int kNumbers = 1, kRun = 1, kLine = 4;
  static constexpr int64_t kBytes = dtype_bytes(kType);
  const uint8_t* data;
  int64_t ahead;
  PTQ_INLINE void enter(int64_t) {}
  PTQ_INLINE void run(int64_t c, Reg* v) const { v[0] = dense<kType>(data + c * kBytes); }
  PTQ_INLINE void line(int64_t c, Reg* v) const {
    for (int64_t b = 0; b < 64 * kBytes; b += 64) prefetch(data + c * kBytes + b + ahead);
    for (int k = 0; k < 4; ++k) v[k] = dense<kType>(data + (c + 16 * k) * kBytes);
  }
  PTQ_INLINE Reg tail(int64_t c, int64_t columns) const {
    uint8_t bytes[64] = {};
    std::memcpy(bytes, data + c * kBytes, size_t((columns - c) * kBytes));
    return dense<kType>(bytes);
  }
};

// kUnits: groups of 64 columns; 1: groups of any whole number of 64 columns.
template <int Bits, int kUnits>
struct CodeRow {
  static constexpr int kNumbers = 1, kRun = 1, kLine = 4;
  const uint8_t* data;
  int64_t ahead;
  const float *scale, *offset;  // of every group
  Levels<Bits> levels;
  PTQ_INLINE void enter(int64_t u) { levels.set(scale[u], offset[u]); }
  PTQ_INLINE const uint8_t* at(int64_t c) const { return data + uint64_t(c) / 16 * (2 * Bits); }
  PTQ_INLINE void run(int64_t c, Reg* v) const {
    Levels<Bits> own = levels;
    if constexpr (kUnits > 1) {
      const int64_t u = int64_t(uint64_t(c) / (64 / kUnits));
      own.set(scale[u], offset[u]);
    }
    v[0] = own.at(codes<Bits>(at(c)));
  }
  PTQ_INLINE void line(int64_t c, Reg* v) const {
    prefetch(at(c) + ahead);
    Levels<Bits> own = levels;
    for (int k = 0; k < 4; ++k) {
      if constexpr (kUnits > 1)
        if (k % (4 / kUnits) == 0) {
          const int64_t u = int64_t(uint64_t(c) / 64 * kUnits) + k * kUnits / 4;
          own.set(scale[u], offset[u]);
        }
      v[k] = own.at(codes<Bits>(at(c) + k * 2 * Bits));
    }
  }
  PTQ_INLINE Reg tail(int64_t c, int64_t columns) const {
    uint8_t bytes[24] = {};
    std::memcpy(bytes, at(c), size_t(packed_bytes(columns - c, Bits)));
    Levels<Bits> own = levels;
    if constexpr (kUnits > 1) own.set(scale[c * kUnits / 64], offset[c * kUnits / 64]);
    return own.at(codes<Bits>(bytes));
  }
};

// Two float16 as floats.
PTQ_INLINE void two_f16(const uint8_t* p, float& first, float& second) {
  int32_t bits;
  std::memcpy(&bits, p, 4);
  const __m128 two = _mm_cvtph_ps(_mm_cvtsi32_si128(bits));
  first = _mm_cvtss_f32(two);
  second = _mm_cvtss_f32(_mm_movehdup_ps(two));
}
// One; the two bytes behind it are read as well.
PTQ_INLINE float f16(const uint8_t* p) {
  float first, second;
  two_f16(p, first, second);
  return first;
}

// Blocks of 32 numbers, layouts as in encoding/blocks.hpp.
template <class Block>
struct BlockRow {
  static constexpr int kNumbers = 1, kRun = 2, kLine = 4;
  const uint8_t* data;
  int64_t ahead;
  PTQ_INLINE void enter(int64_t) {}
  PTQ_INLINE void run(int64_t c, Reg* v) const {
    Block::read(data + uint64_t(c) / 32 * Block::kBytes, v);
  }
  PTQ_INLINE void line(int64_t c, Reg* v) const {
    const uint8_t* b = data + uint64_t(c) / 32 * Block::kBytes;
    prefetch(b + ahead);
    if constexpr (2 * Block::kBytes > 64) prefetch(b + ahead + 64);
    Block::read(b, v);
    Block::read(b + Block::kBytes, v + 2);
  }
  PTQ_INLINE Reg tail(int64_t, int64_t) const { return zero(); }  // rows are whole blocks
};
struct Q4_0 : blocks_detail::Q4_0 {
  PTQ_INLINE static void read(const uint8_t* b, Reg* v) {
    const float d = f16(b);
    Levels<4> levels;
    levels.set(d, -8 * d);
    Ints q[2];
    nibbles(b + 2, q);
    v[0] = levels.at(q[0]);
    v[1] = levels.at(q[1]);
  }
};
struct Q4_1 : blocks_detail::Q4_1 {
  PTQ_INLINE static void read(const uint8_t* b, Reg* v) {
    float scale, offset;
    two_f16(b, scale, offset);
    Levels<4> levels;
    levels.set(scale, offset);
    Ints q[2];
    nibbles(b + 4, q);
    v[0] = levels.at(q[0]);
    v[1] = levels.at(q[1]);
  }
};
struct Q5_0 : blocks_detail::Q5_0 {
  PTQ_INLINE static void read(const uint8_t* b, Reg* v) {
    const float d = f16(b);
    Levels<5> levels;
    levels.set(d, -16 * d);
    Ints q[2];
    nibbles(b + 6, q);
    v[0] = levels.at(with_fifth(q[0], b + 2));
    v[1] = levels.at(with_fifth(q[1], b + 4));
  }
};
struct Q5_1 : blocks_detail::Q5_1 {
  PTQ_INLINE static void read(const uint8_t* b, Reg* v) {
    float scale, offset;
    two_f16(b, scale, offset);
    Levels<5> levels;
    levels.set(scale, offset);
    Ints q[2];
    nibbles(b + 8, q);
    v[0] = levels.at(with_fifth(q[0], b + 4));
    v[1] = levels.at(with_fifth(q[1], b + 6));
  }
};
struct Q8_0 : blocks_detail::Q8_0 {
  PTQ_INLINE static void read(const uint8_t* b, Reg* v) {
    Levels<8> levels;
    levels.set(f16(b), 0.0f);
    v[0] = levels.at(signed_bytes(b + 2));
    v[1] = levels.at(signed_bytes(b + 18));
  }
};

// Readers of 16 neighbouring rows.
template <class Row>
struct Rows {
  static constexpr bool kCodes = requires(Row r) { r.scale; };
  Row row[16] = {};
  int64_t columns, unit, groups = 0;
  std::vector<float> params;  // [2, 16, groups] scales and offsets of codes

  explicit Rows(const WeightRows& w)
      : columns(w.columns() / Row::kNumbers), unit(w.unit() / Row::kNumbers) {
    if constexpr (kCodes) {
      groups = w.affine().groups();
      params.resize(size_t(32 * groups));
    }
  }
  // Rows r .. r + 15; behind `last` that one is read again. Four rows are read together: what comes
  // next are the four behind them, or, of long rows, more of the same.
  void move(const WeightRows& w, int64_t r, int64_t last) {
    constexpr int64_t kNear = 8192, kFar = 16384;
    const int64_t four = 4 * (w.row(1) - w.row(0)),
                  ahead = four > kFar ? kNear : (kNear + four - 1) / four * four;
    for (int i = 0; i < 16; ++i) {
      row[i].data = w.row(std::min(r + i, last));
      row[i].ahead = ahead;
    }
    if constexpr (kCodes) {
      const int64_t count = std::min<int64_t>(16, last + 1 - r);
      float* offsets = params.data() + 16 * groups;
      w.affine().read_params(r * groups, count * groups, params.data(), offsets);
      for (int i = 0; i < 16; ++i) {
        const int64_t at = std::min<int64_t>(i, count - 1) * groups;
        row[i].scale = params.data() + at;
        row[i].offset = offsets + at;
      }
    }
  }
};

// 16 rows turned around as numbers, 16 columns after the other.
template <class Row>
struct TurnedNumbers {
  Rows<Row> rows;

  explicit TurnedNumbers(const WeightRows& w) : rows(w) {}
  void move(const WeightRows& w, int64_t r, int64_t last) { rows.move(w, r, last); }

  // Columns [c0, c1): c0 + 16 s + l goes to out + s * step + l * lane, 16 numbers; c0 is a multiple
  // of 64. What would lie behind c1 is anything.
  PTQ_INLINE void read(int64_t c0, int64_t c1, float* out, int64_t step, int64_t lane) {
    for (int64_t c = c0; c < c1;) {
      const int64_t u = c / rows.unit, stop = std::min((u + 1) * rows.unit, c1);
      for (Row& row : rows.row) row.enter(u);
      for (; c < stop; c += 16 * Row::kRun) part(c, out + (c - c0) / 16 * step, step, lane);
      c = stop;
    }
  }

 private:
  PTQ_INLINE void part(int64_t c, float* out, int64_t step, int64_t lane) const {
    Reg v[Row::kRun][16];
    for (int i = 0; i < 16; ++i) {
      Reg got[Row::kRun];
      if (c + 16 <= rows.columns)
        rows.row[i].run(c, got);
      else
        got[0] = rows.row[i].tail(c, rows.columns);
      for (int k = 0; k < Row::kRun; ++k) v[k][i] = got[k];
    }
    for (int k = 0; k < Row::kRun; ++k, out += step) {
      transpose(v[k]);
      for (int64_t l = 0; l < 16; ++l) store(out + l * lane, v[k][l]);
    }
  }
};

// What the products use; an instruction set may know a faster way for some rows.
template <class Row>
struct Turned : TurnedNumbers<Row> {
  using TurnedNumbers<Row>::TurnedNumbers;
};
