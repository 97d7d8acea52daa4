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

// A reader of one row, or of its columns from some block on. kNumbers: weights in a lane, whose
// columns all counts below are of. groups_in(n): of parameters in n columns, at most. skip(c): the
// first c columns are left out. enter(u): the columns of unit u come, which share parameters;
// run(c, v): kRun registers from column c on, a multiple of what they hold; tail(c, columns, v):
// columns c .. columns - 1, fewer than that, then anything finite. kTogether: rows that the
// products read in turn, which lie apart in memory. ask(c): the 64 numbers from column c on are
// read; what lies kAhead bytes behind them will be wanted.
template <DType kType>
struct DenseRow {
  static constexpr int kNumbers = 1, kRun = 1, kTogether = 1, kAhead = 8192;
  static constexpr int64_t kBytes = dtype_bytes(kType);
  static constexpr int64_t groups_in(int64_t) { return 0; }
  const uint8_t* data;
  PTQ_INLINE void skip(int64_t c) { data += c * kBytes; }
  PTQ_INLINE void enter(int64_t) {}
  PTQ_INLINE void ask(int64_t c) const {
    for (int64_t b = 0; b < 64 * kBytes; b += 64) prefetch(data + c * kBytes + b + kAhead);
  }
  PTQ_INLINE void run(int64_t c, Reg* v) const { v[0] = dense<kType>(data + c * kBytes); }
  PTQ_INLINE void tail(int64_t c, int64_t columns, Reg* v) const {
    uint8_t bytes[64] = {};
    std::memcpy(bytes, data + c * kBytes, size_t((columns - c) * kBytes));
    v[0] = dense<kType>(bytes);
  }
};

// kUnits: groups of 64 columns; 1: groups of any whole number of 64 columns.
template <int Bits, int kUnits>
struct CodeRow {
  static constexpr int kNumbers = 1, kRun = kUnits == 2 ? 2 : 1, kTogether = 4, kAhead = 2048;
  static constexpr int64_t groups_in(int64_t n) { return n / 64 * kUnits; }
  const uint8_t* data;
  const float *scale, *offset;  // of every group
  Levels<Bits> levels;
  PTQ_INLINE void skip(int64_t c) { data = at(c); }
  PTQ_INLINE void enter(int64_t u) {
    if constexpr (kUnits == 1) levels.set(scale[u], offset[u]);
  }
  PTQ_INLINE const uint8_t* at(int64_t c) const { return data + uint64_t(c) / 16 * (2 * Bits); }
  PTQ_INLINE void ask(int64_t c) const { prefetch(at(c) + kAhead); }
  PTQ_INLINE void run(int64_t c, Reg* v) const { read(c, at(c), v); }
  PTQ_INLINE void tail(int64_t c, int64_t columns, Reg* v) const {
    uint8_t bytes[2 * Bits * kRun + 8] = {};
    std::memcpy(bytes, at(c), size_t(packed_bytes(columns - c, Bits)));
    read(c, bytes, v);
  }

 private:
  PTQ_INLINE void read(int64_t c, const uint8_t* p, Reg* v) const {
    Levels<Bits> own = levels;
    if constexpr (kUnits > 1) {
      const uint64_t u = uint64_t(c) / (64 / kUnits);
      own.set(scale[u], offset[u]);
    }
    PTQ_UNROLL(2)
    for (int k = 0; k < kRun; ++k) v[k] = own.at(codes<Bits>(p + 2 * Bits * k));
  }
};

// Blocks of 32 numbers, layouts as in encoding/blocks.hpp.
template <class Block>
struct BlockRow {
  static constexpr int kNumbers = 1, kRun = 2, kTogether = 4, kAhead = 2048;
  static constexpr int64_t groups_in(int64_t) { return 0; }
  const uint8_t* data;
  PTQ_INLINE void skip(int64_t c) { data = at(c); }
  PTQ_INLINE void enter(int64_t) {}
  PTQ_INLINE const uint8_t* at(int64_t c) const { return data + uint64_t(c) / 32 * Block::kBytes; }
  PTQ_INLINE void ask(int64_t c) const {
    const uint8_t* b = at(c) + kAhead;
    prefetch(b);
    if constexpr (2 * Block::kBytes > 64) prefetch(b + 64);
  }
  // The first 4 bytes of a block begin with one or two float16.
  PTQ_INLINE void run(int64_t c, Reg* v) const {
    const uint8_t* b = at(c);
    int32_t bytes;
    std::memcpy(&bytes, b, 4);
    const __m128 two = _mm_cvtph_ps(_mm_cvtsi32_si128(bytes));
    const float scale = _mm_cvtss_f32(two);
    Levels<Block::kBits> levels;
    levels.set(scale,
               Block::kMinimum ? _mm_cvtss_f32(_mm_movehdup_ps(two)) : Block::kFirst * scale);
    Ints q[2];
    Block::codes(b, q);
    v[0] = levels.at(q[0]);
    v[1] = levels.at(q[1]);
  }
  PTQ_INLINE void tail(int64_t, int64_t, Reg* v) const {  // rows are whole blocks
    v[0] = v[1] = zero();
  }
};
// A fifth bit of each number, 4 bytes, in front of the nibbles.
PTQ_INLINE void nibbles_and_fifth(const uint8_t* fifth, Ints* q) {
  nibbles(fifth + 4, q);
  q[0] = with_fifth(q[0], fifth);
  q[1] = with_fifth(q[1], fifth + 2);
}
// kMinimum: code * scale + minimum; otherwise (code + kFirst) * scale.
struct Q4_0 : blocks_detail::Q4_0 {
  static constexpr int kBits = 4, kFirst = -8;
  static constexpr bool kMinimum = false;
  PTQ_INLINE static void codes(const uint8_t* b, Ints* q) { nibbles(b + 2, q); }
};
struct Q4_1 : blocks_detail::Q4_1 {
  static constexpr int kBits = 4, kFirst = 0;
  static constexpr bool kMinimum = true;
  PTQ_INLINE static void codes(const uint8_t* b, Ints* q) { nibbles(b + 4, q); }
};
struct Q5_0 : blocks_detail::Q5_0 {
  static constexpr int kBits = 5, kFirst = -16;
  static constexpr bool kMinimum = false;
  PTQ_INLINE static void codes(const uint8_t* b, Ints* q) { nibbles_and_fifth(b + 2, q); }
};
struct Q5_1 : blocks_detail::Q5_1 {
  static constexpr int kBits = 5, kFirst = 0;
  static constexpr bool kMinimum = true;
  PTQ_INLINE static void codes(const uint8_t* b, Ints* q) { nibbles_and_fifth(b + 4, q); }
};
struct Q8_0 : blocks_detail::Q8_0 {
  static constexpr int kBits = 8, kFirst = 0;
  static constexpr bool kMinimum = false;
  PTQ_INLINE static void codes(const uint8_t* b, Ints* q) {
    q[0] = signed_bytes(b + 2);
    q[1] = signed_bytes(b + 18);
  }
};

// 16 neighbouring rows.
template <class Row>
struct Rows {
  static constexpr int64_t kGroups = (Row::groups_in(kDepth * Row::kNumbers) + 15) / 16 * 16;
  static constexpr bool kCodes = requires(Row row) { row.levels; };
  const uint8_t* data[16] = {};
  int64_t columns, unit, group = 0, groups = 0;
  std::vector<float> params;  // [2, 16, groups] scales and offsets of codes, and 16 numbers behind

  explicit Rows(const WeightRows& w)
      : columns(w.columns() / Row::kNumbers), unit(w.unit() / Row::kNumbers) {
    if constexpr (kCodes) {
      groups = w.affine().groups();
      group = groups == 1 ? columns : w.affine().group() / Row::kNumbers;
      params.resize(size_t(32 * groups + 16));
    }
  }
  // 16 / S rows from each of the S rows `first` on; behind `last` that one again.
  template <int S>
  void move(const WeightRows& w, const int64_t (&first)[S], int64_t last) {
    for (int64_t i = 0; i < 16; i += 16 / S) {
      const int64_t r = std::min(first[i * S / 16], last),
                    count = std::min<int64_t>(16 / S, last + 1 - r);
      for (int64_t k = 0; k < 16 / S; ++k) data[i + k] = w.row(std::min(r + k, last));
      if constexpr (kCodes) {
        w.affine().read_params(r * groups, count * groups, scales(i), offsets(i));
        for (int64_t k = count; k < 16 / S; ++k) {
          std::copy_n(scales(i + count - 1), groups, scales(i + k));
          std::copy_n(offsets(i + count - 1), groups, offsets(i + k));
        }
      }
    }
  }
  float* scales(int64_t i) { return params.data() + i * groups; }
  float* offsets(int64_t i) { return params.data() + (16 + i) * groups; }

  // Readers of R rows from i on, `apart` rows apart, for columns [begin, end), counted from `begin`
  // on, which are at most kDepth and begin with a multiple of 64. Valid until the next call: their
  // parameters lie fixed distances apart, so that one address leads to all.
  template <int R>
  PTQ_INLINE void block(int64_t i, int64_t apart, int64_t begin, int64_t end, Row (&row)[R]) {
    PTQ_UNROLL(16)
    for (int k = 0; k < R; ++k) {
      row[k].data = data[i + k * apart];
      row[k].skip(begin);
      if constexpr (kGroups > 0) {
        float *scale = near_ + k * kGroups, *offset = scale + 16 * kGroups;
        row[k].scale = scale;
        row[k].offset = offset;
        const int64_t first = begin / group, count = (end - 1) / group + 1 - first;
        for (int64_t g = 0; g < count; g += 16) {
          store(scale + g, load(scales(i + k * apart) + first + g));
          store(offset + g, load(offsets(i + k * apart) + first + g));
        }
      }
    }
  }

 private:
  alignas(64) float near_[std::max<int64_t>(32 * kGroups, 1)];  // [2, 16, kGroups]
};

// 16 rows turned around as numbers, 16 columns after the other.
template <class Row>
struct TurnedNumbers {
  Rows<Row> rows;

  explicit TurnedNumbers(const WeightRows& w) : rows(w) {}
  void move(const WeightRows& w, int64_t r, int64_t last) { rows.move(w, {r}, last); }

  // Columns [c0, c1): c0 + 16 s + l goes to out + s * step + l * lane, 16 numbers; c0 is a multiple
  // of 64, and they are at most kDepth. What would lie behind c1 is anything.
  PTQ_INLINE void read(int64_t c0, int64_t c1, float* out, int64_t step, int64_t lane) {
    Row row[16];
    rows.block(0, 1, c0, c1, row);
    const int64_t count = c1 - c0;
    int64_t c = 0, stop = rows.unit - c0 % rows.unit;
    for (int64_t u = 0; c < count; ++u, stop += rows.unit) {
      for (Row& r : row) r.enter(u);
      for (const int64_t end = std::min(stop, count); c < end; c += 16 * Row::kRun)
        part(row, c, count, out + c / 16 * step, step, lane);
    }
  }

 private:
  PTQ_INLINE static void part(const Row (&row)[16], int64_t c, int64_t columns, float* out,
                              int64_t step, int64_t lane) {
    Reg v[Row::kRun][16];
    for (int i = 0; i < 16; ++i) {
      Reg got[Row::kRun];
      if (c + 16 * Row::kRun <= columns)
        row[i].run(c, got);
      else
        row[i].tail(c, columns, got);
      for (int k = 0; k < Row::kRun; ++k) v[k][i] = got[k];
    }
    for (int k = 0; k < Row::kRun && c + 16 * k < columns; ++k, out += step) {
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
