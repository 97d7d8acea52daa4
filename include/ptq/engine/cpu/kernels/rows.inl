// Readers of stored rows, and dot products with them: the part of the kernels that all instruction
// sets share. Included inside the namespace of one, which defines before
//   PTQ_TARGET, PTQ_INLINE  attributes of functions that use the instructions
//   Reg                     16 floats: zero, load, add, fma(a, b, c) = a b + c, sum
//   Ints                    16 integers
//   dense<dtype>            16 stored numbers
//   codes<Bits>             16 packed codes, each in the low bits of its lane (alone there for 8)
//   Levels<Bits>            what codes mean: set(scale, offset), at(codes) = code * scale + offset
//   f16                     one float16 as float
//   nibbles, signed_bytes, with_fifth   parts of GGUF blocks
//   prefetch                asks for the bytes at an address
//
// A reader gives the weights as decode() does, to the last bit: the product of a code of at most 8
// bits and a scale of 11 is exact, so fma rounds once, as a sum does. A dot product has 64 partial
// sums along the row; it depends neither on how many rows or tokens are worked on together nor on
// the instruction set.

// ---- readers -----------------------------------------------------------------------------------

// Bytes ahead of the use that are asked for: a row is read once, from memory.
inline constexpr int64_t kAhead = 2048;

// A reader of one row. enter(u): the columns of unit u come, which share parameters; run(c, v):
// kRun registers from column c on; four(c, v): 4 registers; tail(c): columns c .. columns - 1, less
// than 16, then anything finite.
template <DType kType>
struct DenseRow {
  static constexpr int kRun = 1;
  static constexpr int64_t kBytes = dtype_bytes(kType);
  const uint8_t* data;
  PTQ_INLINE void enter(int64_t) {}
  PTQ_INLINE void run(int64_t c, Reg* v) const { v[0] = dense<kType>(data + c * kBytes); }
  PTQ_INLINE void four(int64_t c, Reg* v) const {
    for (int64_t b = 0; b < 64 * kBytes; b += 64) prefetch(data + c * kBytes + b + kAhead);
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
  static constexpr int kRun = 1;
  const uint8_t* data;
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
  PTQ_INLINE void four(int64_t c, Reg* v) const {
    prefetch(at(c) + kAhead);
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

// Blocks of 32 numbers, layouts as in encoding/blocks.hpp.
template <class Block>
struct BlockRow {
  static constexpr int kRun = 2;
  const uint8_t* data;
  PTQ_INLINE void enter(int64_t) {}
  PTQ_INLINE void run(int64_t c, Reg* v) const {
    Block::read(data + uint64_t(c) / 32 * Block::kBytes, v);
  }
  PTQ_INLINE void four(int64_t c, Reg* v) const {
    const uint8_t* b = data + uint64_t(c) / 32 * Block::kBytes;
    prefetch(b + kAhead);
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
    Levels<4> levels;
    levels.set(f16(b), f16(b + 2));
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
    Levels<5> levels;
    levels.set(f16(b), f16(b + 2));
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

// Readers of N neighbouring rows.
template <class Row, int N>
struct Rows {
  static constexpr bool kCodes = requires(Row r) { r.scale; };
  Row row[N];
  int64_t columns, unit;
  std::vector<float> params;  // scales and offsets of the groups of N rows

  explicit Rows(const WeightRows& w) : columns(w.columns()), unit(w.unit()) {
    if constexpr (kCodes) params.resize(size_t(2 * N * w.affine().groups()));
  }
  // Rows r .. r + N - 1; behind `last` that one is read again.
  void move(const WeightRows& w, int64_t r, int64_t last) {
    for (int i = 0; i < N; ++i) row[i].data = w.row(std::min(r + i, last));
    if constexpr (kCodes) {
      const int64_t groups = w.affine().groups(), rows = std::min<int64_t>(N, last + 1 - r);
      float* offsets = params.data() + N * groups;
      w.affine().read_params(r * groups, rows * groups, params.data(), offsets);
      for (int i = 0; i < N; ++i) {
        const int64_t at = std::min<int64_t>(i, rows - 1) * groups;
        row[i].scale = params.data() + at;
        row[i].offset = offsets + at;
      }
    }
  }
};

// ---- dot products ------------------------------------------------------------------------------

// The loops over registers and tokens are unrolled, so that the sums stay in registers.
#define PTQ_FOUR(k) PTQ_UNROLL(4) for (int k = 0; k < 4; ++k)
#define PTQ_TOKENS(t) PTQ_UNROLL(4) for (int t = 0; t < T; ++t)

// y[t * ldy] of T tokens x [T, columns].
template <class Row, int T>
PTQ_TARGET inline void dot(Row& row, int64_t columns, int64_t unit, const float* x, float* y,
                           int64_t ldy) {
  const int64_t whole = columns / 64 * 64;
  Reg acc[T][4];
  PTQ_TOKENS(t) PTQ_FOUR(k) acc[t][k] = zero();
  int64_t c = 0, u = 0;
  for (; c < whole; ++u) {
    const int64_t end = std::min(c + unit, whole);
    row.enter(u);
    for (; c < end; c += 64) {
      Reg v[4];
      row.four(c, v);
      PTQ_TOKENS(t)
      PTQ_FOUR(k) acc[t][k] = fma(v[k], load(x + t * columns + c + 16 * k), acc[t][k]);
    }
  }
  if (c < columns) {
    row.enter(c / unit);
    for (; c + 16 <= columns; c += 16 * Row::kRun) {
      Reg v[Row::kRun];
      row.run(c, v);
      for (int k = 0; k < Row::kRun; ++k)
        PTQ_TOKENS(t) acc[t][k] = fma(v[k], load(x + t * columns + c + 16 * k), acc[t][k]);
    }
    if (c < columns) {
      const Reg v = row.tail(c, columns);
      PTQ_TOKENS(t) {
        float rest[16] = {};
        std::memcpy(rest, x + t * columns + c, size_t(columns - c) * sizeof(float));
        acc[t][1] = fma(v, load(rest), acc[t][1]);
      }
    }
  }
  PTQ_TOKENS(t)
  y[t * ldy] = sum(add(add(acc[t][0], acc[t][1]), add(acc[t][2], acc[t][3])));
}
#undef PTQ_TOKENS
#undef PTQ_FOUR

// y[t * ldy + r - begin] = row r of w, begin <= r < end, times token t of x [n, columns].
struct Dots {
  const WeightRows& w;
  int64_t begin, end;
  const float* x;
  int64_t n;
  float* y;
  int64_t ldy;

  template <class Row>
  PTQ_TARGET void run() const {
    constexpr int kRows = 8;  // whose parameters are read together
    Rows<Row, kRows> rows(w);
    const int64_t in = rows.columns;
    for (int64_t r = begin; r < end; r += kRows) {
      rows.move(w, r, end - 1);
      for (int64_t i = 0; i < kRows && r + i < end; ++i) {
        Row& row = rows.row[i];
        float* to = y + (r + i - begin);
        int64_t t = 0;
        for (; t + 4 <= n; t += 4) dot<Row, 4>(row, in, rows.unit, x + t * in, to + t * ldy, ldy);
        for (; t + 2 <= n; t += 2) dot<Row, 2>(row, in, rows.unit, x + t * in, to + t * ldy, ldy);
        for (; t < n; ++t) dot<Row, 1>(row, in, rows.unit, x + t * in, to + t * ldy, ldy);
      }
    }
  }
};

// call.run<Row>() with the reader of w; nothing for Form::other.
template <int Bits, class Call>
inline void with_codes(const WeightRows& w, const Call& call) {
  if (w.unit() < w.columns() || w.affine().groups() == 1)
    return call.template run<CodeRow<Bits, 1>>();
  if (w.affine().group() == 32) return call.template run<CodeRow<Bits, 2>>();
  call.template run<CodeRow<Bits, 4>>();
}
template <class Call>
inline void with_reader(const WeightRows& w, const Call& call) {
  switch (w.form()) {
    case Form::f32: return call.template run<DenseRow<DType::f32>>();
    case Form::f16: return call.template run<DenseRow<DType::f16>>();
    case Form::bf16: return call.template run<DenseRow<DType::bf16>>();
    case Form::q4_0: return call.template run<BlockRow<Q4_0>>();
    case Form::q4_1: return call.template run<BlockRow<Q4_1>>();
    case Form::q5_0: return call.template run<BlockRow<Q5_0>>();
    case Form::q5_1: return call.template run<BlockRow<Q5_1>>();
    case Form::q8_0: return call.template run<BlockRow<Q8_0>>();
    case Form::codes:
      switch (w.affine().format().bits) {
        case 2: return with_codes<2>(w, call);
        case 3: return with_codes<3>(w, call);
        case 4: return with_codes<4>(w, call);
        case 5: return with_codes<5>(w, call);
        case 6: return with_codes<6>(w, call);
        case 7: return with_codes<7>(w, call);
        default: return with_codes<8>(w, call);
      }
    case Form::other: return;
  }
}

inline void dots(const WeightRows& w, int64_t begin, int64_t end, const float* x, int64_t n,
                 float* y, int64_t ldy) {
  with_reader(w, Dots{w, begin, end, x, n, y, ldy});
}
