// Weights as pairs of bfloat16 for the products, behind products.inl: every reader of numbers gives
// pairs, rounded to nearest, ties to even; what is stored as bfloat16 is moved.

// Numbers of `second` in the upper 16 halves, of `first` in the lower ones.
PTQ_INLINE Reg to_bf16(Reg first, Reg second) {
  Reg both;
  asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(both) : "v"(first), "v"(second));
  return both;
}
// Lane i: number i of `first` in the low half, of `second` in the high one.
PTQ_INLINE Reg side_by_side(Reg first, Reg second) {
  struct Places {
    alignas(64) uint16_t at[32];
    constexpr Places() : at() {
      for (int i = 0; i < 32; ++i) at[i] = uint16_t(i / 2 + i % 2 * 16);
    }
  };
  static constexpr Places kPlaces;
  return _mm512_castsi512_ps(_mm512_permutexvar_epi16(_mm512_load_si512(kPlaces.at),
                                                      _mm512_castps_si512(to_bf16(first, second))));
}

struct StoredPairs : DenseRow<DType::f32> {
  static constexpr int kNumbers = 2;
};

template <class Row>
struct PairRow : Row {
  static constexpr int kNumbers = 2, kRun = 1;
  PTQ_INLINE void skip(int64_t c) { Row::skip(2 * c); }
  PTQ_INLINE void ask(int64_t c) const { Row::ask(2 * c); }
  PTQ_INLINE void run(int64_t c, Reg* v) const {
    Reg got[2];
    Row::run(2 * c, got);
    if constexpr (Row::kRun == 1) Row::run(2 * c + 16, got + 1);
    v[0] = to_bf16(got[0], got[1]);
  }
  PTQ_INLINE void tail(int64_t c, int64_t columns, Reg* v) const {
    const int64_t at = 2 * c, end = 2 * columns;
    Reg got[2] = {zero(), zero()};
    if constexpr (Row::kRun == 2) {
      Row::tail(at, end, got);
    } else if (at + 16 <= end) {
      Row::run(at, got);
      if (at + 16 < end) Row::tail(at + 16, end, got + 1);
    } else {
      Row::tail(at, end, got);
    }
    v[0] = to_bf16(got[0], got[1]);
  }
};

template <class Row>
struct Turned<PairRow<Row>> {
  Turned<Row> numbers;

  explicit Turned(const WeightRows& w) : numbers(w) {}
  PTQ_TARGET void move(const WeightRows& w, int64_t r, int64_t last) { numbers.move(w, r, last); }
  PTQ_INLINE void read(int64_t c0, int64_t c1, float* out, int64_t step, int64_t lane) {
    constexpr int64_t kPairs = 32;  // at once
    alignas(64) float turned[2 * kPairs * 16];
    for (int64_t c = c0; c < c1; c += kPairs, out += kPairs / 16 * step) {
      const int64_t count = std::min(kPairs, c1 - c);
      numbers.read(2 * c, 2 * (c + count), turned, 256, 16);
      for (int64_t p = 0; p < count; ++p)
        store(out + p / 16 * step + p % 16 * lane,
              side_by_side(load(turned + 32 * p), load(turned + 32 * p + 16)));
    }
  }
};

// call.run() with readers of pairs.
template <class Call>
struct ByPairs {
  const Call& call;
  template <class Row>
  PTQ_TARGET void run() const {
    if constexpr (std::is_same_v<Row, DenseRow<DType::bf16>>)
      call.template run<StoredPairs>();
    else
      call.template run<PairRow<Row>>();
  }
};

PTQ_TARGET inline void pack(const float* from, int64_t n, float* to) {
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) store(to + i / 2, to_bf16(load(from + i), load(from + i + 16)));
  if (i == n) return;
  const int64_t left = n - i, first = std::min<int64_t>(left, 16);
  store(to + i / 2,
        to_bf16(load(from + i, lanes(first)),
                left > 16 ? load(from + i + 16, lanes(left - 16)) : zero()),
        lanes(left / 2));
}
PTQ_TARGET inline void pack_rows(const float* b, int64_t ld, int64_t rows, int64_t columns,
                                 float* out) {
  for (int64_t r = 0; r < rows; r += 2, b += 2 * ld, out += columns)
    for (int64_t c = 0; c < columns; c += 16)
      store(out + c, side_by_side(load(b + c), load(b + ld + c)));
}

inline void pair_dots(const WeightRows& w, int64_t begin, int64_t end, const float* x, int64_t n,
                      float* y, int64_t ldy) {
  const Dots<Pairs> call{w, begin, end, x, n, y, ldy};
  with_reader(w, ByPairs<Dots<Pairs>>{call});
}
inline void pair_panel(const WeightRows& w, int64_t r0, int64_t end, int64_t c0, int64_t depth,
                       float* out) {
  const Panel call{w, r0, end, c0, depth, out};
  with_reader(w, ByPairs<Panel>{call});
}
inline void pair_multiply(const float* x, int64_t n, int64_t ldx, const float* b, int64_t ldb,
                          int64_t depth, int64_t columns, float* y, int64_t ldy, bool add) {
  product<Pairs>(x, n, ldx, b, ldb, depth, columns, y, ldy, add);
}
