// Products of matrices, which all instruction sets share. Included behind readers.inl; besides what
// that wants, the namespace defines before
//   spread                  one number in all lanes
//   Lanes                   the first lanes of a register: lanes(count), kAllLanes, load(p, lanes),
//                           store(p, v, lanes)
//   PTQ_KEEP                a register that must not be loaded again
//   Numbers                 add(a, b, sum) = fma(a, b, sum)
//   kPanel, kPanelTokens, kMostRegs, kMostRows   sizes that suit the number of registers
//
// `Terms` is what a lane holds and how two of them are multiplied and added: Numbers, or Pairs of
// bfloat16, which an instruction set may have; then all counts of columns, and depths, are counts
// of pairs.
//
// A number depends neither on how many rows or tokens are worked on together nor on the instruction
// set: each sum is a chain of fma in one fixed order.

// ---- plain matrices ----------------------------------------------------------------------------

// y [R, 16 V] (+)= x [R, depth] b [depth, 16 V]; of the last register the lanes `last`.
template <class Terms, int R, int V>
PTQ_TARGET inline void block(const float* x, int64_t ldx, const float* b, int64_t ldb,
                             int64_t depth, Lanes last, float* y, int64_t ldy, bool add) {
  Reg acc[R][V];
  PTQ_UNROLL(8)
  for (int r = 0; r < R; ++r) {
    PTQ_UNROLL(4)
    for (int v = 0; v < V; ++v)
      acc[r][v] = add ? load(y + r * ldy + 16 * v, v == V - 1 ? last : kAllLanes) : zero();
  }
  for (int64_t p = 0; p < depth; ++p) {
    Reg row[V];
    PTQ_UNROLL(4)
    for (int v = 0; v < V; ++v) {
      Reg loaded = load(b + p * ldb + 16 * v);
      PTQ_KEEP(loaded);  // one load for R uses: gcc would fold it into each of them
      row[v] = loaded;
    }
    PTQ_UNROLL(8)
    for (int r = 0; r < R; ++r) {
      const Reg a = spread(x[r * ldx + p]);
      PTQ_UNROLL(4)
      for (int v = 0; v < V; ++v) acc[r][v] = Terms::add(a, row[v], acc[r][v]);
    }
  }
  PTQ_UNROLL(8)
  for (int r = 0; r < R; ++r) {
    PTQ_UNROLL(4)
    for (int v = 0; v < V; ++v)
      store(y + r * ldy + 16 * v, acc[r][v], v == V - 1 ? last : kAllLanes);
  }
}

// All rows of x, as many at once as leave registers for b.
template <class Terms, int V>
inline void blocks(const float* x, int64_t n, int64_t ldx, const float* b, int64_t ldb,
                   int64_t depth, Lanes last, float* y, int64_t ldy, bool add) {
  int64_t i = 0;
  const auto rows = [&](auto count) {
    constexpr int R = decltype(count)::value;
    for (; i + R <= n; i += R)
      block<Terms, R, V>(x + i * ldx, ldx, b, ldb, depth, last, y + i * ldy, ldy, add);
  };
  rows(std::integral_constant<int, kMostRows<V>>{});
  if constexpr (kMostRows < V >> 4) rows(std::integral_constant<int, 4>{});
  rows(std::integral_constant<int, 2>{});
  rows(std::integral_constant<int, 1>{});
}

// y [n, columns] (+)= x [n, depth] b [depth, columns]; with columns % 16 != 0 b has readable
// numbers up to the next multiple.
template <class Terms>
inline void product(const float* x, int64_t n, int64_t ldx, const float* b, int64_t ldb,
                    int64_t depth, int64_t columns, float* y, int64_t ldy, bool add) {
  constexpr int64_t kWide = 16 * kMostRegs;
  int64_t c = 0;
  for (; columns - c > kWide - 16; c += kWide)
    blocks<Terms, kMostRegs>(x, n, ldx, b + c, ldb, depth,
                             lanes(std::min<int64_t>(16, columns - c - kWide + 16)), y + c, ldy,
                             add);
  const auto rest = [&](auto count) {
    constexpr int V = decltype(count)::value;
    if (V < kMostRegs && columns - c > 16 * (V - 1) && columns - c <= 16 * V)
      blocks<Terms, V>(x, n, ldx, b + c, ldb, depth, lanes(columns - c - 16 * (V - 1)), y + c, ldy,
                       add);
  };
  if constexpr (kMostRegs > 3) rest(std::integral_constant<int, 3>{});
  if constexpr (kMostRegs > 2) rest(std::integral_constant<int, 2>{});
  if constexpr (kMostRegs > 1) rest(std::integral_constant<int, 1>{});
}
inline void multiply(const float* x, int64_t n, int64_t ldx, const float* b, int64_t ldb,
                     int64_t depth, int64_t columns, float* y, int64_t ldy, bool add) {
  product<Numbers>(x, n, ldx, b, ldb, depth, columns, y, ldy, add);
}

// b [rows, columns], rows a distance ld apart, to out [columns, rows]; both are multiples of 16.
PTQ_TARGET inline void turn(const float* b, int64_t ld, int64_t rows, int64_t columns, float* out) {
  for (int64_t r = 0; r < rows; r += 16)
    for (int64_t c = 0; c < columns; c += 16) {
      Reg v[16];
      for (int i = 0; i < 16; ++i) v[i] = load(b + (r + i) * ld + c);
      transpose(v);
      for (int i = 0; i < 16; ++i) store(out + (c + i) * rows + r, v[i]);
    }
}

// ---- linear layers -----------------------------------------------------------------------------
//
// The sum over the columns of a row, in blocks of kDepth: a block has 16 sums, one for the columns
// l, l + 16, l + 32, ..., each a chain of fma from zero on; they are added one after the other, and
// so are the blocks. With few tokens the 16 sums are the lanes of a register, with many a panel has
// their columns one behind the other.

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

// Columns [c0, c0 + depth) of the rows r0 .. min(r0 + kPanel, end) - 1 to out: that of column
// c0 + 16 s + l begins at l * panel_lane(kPanel, depth) + s * kPanel.
struct Panel {
  const WeightRows& w;
  int64_t r0, end, c0, depth;
  float* out;
  template <class Row>
  PTQ_TARGET void run() const {
    Turned<Row> rows(w);
    for (int64_t part = 0; part < kPanel && r0 + part < end; part += 16) {
      rows.move(w, r0 + part, end - 1);
      rows.read(c0, c0 + depth, out + part, kPanel, panel_lane(kPanel, depth));
    }
  }
};
inline void panel(const WeightRows& w, int64_t r0, int64_t end, int64_t c0, int64_t depth,
                  float* out) {
  with_reader(w, Panel{w, r0, end, c0, depth, out});
}

// y [R, count] (+)= x [R, depth] times a panel, count <= kPanel.
template <class Terms, int R>
PTQ_TARGET inline void panel_block(const float* x, int64_t ldx, const float* panel, int64_t depth,
                                   int64_t count, float* y, int64_t ldy, bool add_to) {
  constexpr int V = kPanel / 16;
  const int64_t lane = panel_lane(kPanel, depth), sums = std::min<int64_t>(16, depth);
  alignas(64) float total[R][kPanel];
  for (int64_t l = 0; l < sums; ++l, panel += lane) {
    Reg acc[R][V];
    PTQ_UNROLL(8)
    for (int r = 0; r < R; ++r) {
      PTQ_UNROLL(4)
      for (int v = 0; v < V; ++v) acc[r][v] = zero();
    }
    const int64_t own = (depth - l + 15) / 16;
    for (int64_t s = 0; s < own; ++s) {
      Reg row[V];
      PTQ_UNROLL(4)
      for (int v = 0; v < V; ++v) {
        Reg loaded = load(panel + s * kPanel + 16 * v);
        PTQ_KEEP(loaded);
        row[v] = loaded;
      }
      PTQ_UNROLL(8)
      for (int r = 0; r < R; ++r) {
        const Reg a = spread(x[r * ldx + 16 * s + l]);
        PTQ_UNROLL(4)
        for (int v = 0; v < V; ++v) acc[r][v] = Terms::add(a, row[v], acc[r][v]);
      }
    }
    PTQ_UNROLL(8)
    for (int r = 0; r < R; ++r) {
      PTQ_UNROLL(4)
      for (int v = 0; v < V; ++v) {
        float* const to = total[r] + 16 * v;
        store(to, l == 0 ? acc[r][v] : add(load(to), acc[r][v]));
      }
    }
  }
  for (int r = 0; r < R; ++r, y += ldy) {
    if (count == kPanel) {
      PTQ_UNROLL(4)
      for (int v = 0; v < V; ++v) {
        float* to = y + 16 * v;
        const Reg t = load(total[r] + 16 * v);
        store(to, add_to ? add(load(to), t) : t);
      }
      continue;
    }
    if (add_to)
      for (int64_t i = 0; i < count; ++i) y[i] += total[r][i];
    else
      std::copy_n(total[r], count, y);
  }
}
template <class Terms>
inline void by_panel(const float* x, int64_t n, int64_t ldx, const float* panel, int64_t depth,
                     int64_t count, float* y, int64_t ldy, bool add_to) {
  int64_t t = 0;
  for (; t + kPanelTokens <= n; t += kPanelTokens)
    panel_block<Terms, kPanelTokens>(x + t * ldx, ldx, panel, depth, count, y + t * ldy, ldy,
                                     add_to);
  for (; t + 2 <= n; t += 2)
    panel_block<Terms, 2>(x + t * ldx, ldx, panel, depth, count, y + t * ldy, ldy, add_to);
  for (; t < n; ++t)
    panel_block<Terms, 1>(x + t * ldx, ldx, panel, depth, count, y + t * ldy, ldy, add_to);
}

// The loops over registers, rows and tokens are unrolled, so that the sums stay in registers.
#define PTQ_TOKENS(t) PTQ_UNROLL(4) for (int t = 0; t < T; ++t)
#define PTQ_ROWS(k) PTQ_UNROLL(4) for (int k = 0; k < R; ++k)
#define PTQ_RUN(l) PTQ_UNROLL(2) for (int l = 0; l < Row::kRun; ++l)

// acc [R, T] += columns c .. of the rows times those of T tokens x, a distance ldx apart.
template <class Terms, class Row, int R, int T>
PTQ_INLINE void add_run(const Row (&row)[R], int64_t c, const float* x, int64_t ldx,
                        Reg (&acc)[R][T]) {
  Reg numbers[T][Row::kRun];
  PTQ_TOKENS(t) PTQ_RUN(l) {
    numbers[t][l] = load(x + t * ldx + c + 16 * l);
    if constexpr (T == 1 && R > 1) PTQ_KEEP(numbers[t][l]);  // one load for all rows
  }
  PTQ_ROWS(k) {
    Reg v[Row::kRun];
    row[k].run(c, v);
    PTQ_RUN(l) PTQ_TOKENS(t) acc[k][t] = Terms::add(v[l], numbers[t][l], acc[k][t]);
  }
}

// Columns [begin, end) of R rows, i, i + apart, ..., and T tokens x [T, columns]: the 16 sums of
// row i and token t to sums [T, 16, 16] at [t, i].
template <class Terms, class Row, int R, int T>
PTQ_INLINE void sixteen_sums(Rows<Row>& rows, int64_t i, int64_t apart, int64_t begin, int64_t end,
                             const float* x, float* sums) {
  constexpr int64_t kRun = 16 * Row::kRun, kLine = 64 / Row::kNumbers;
  Row row[R];
  rows.block(i, apart, begin, end, row);
  const int64_t columns = end - begin, whole = columns / kLine * kLine, ldx = rows.columns,
                unit = rows.unit;
  x += begin;
  Reg acc[R][T];
  PTQ_ROWS(k) PTQ_TOKENS(t) acc[k][t] = zero();
  int64_t c = 0, u = 0, next = unit - begin % unit;  // where the next unit begins
  for (; c < whole; next += unit, ++u) {
    PTQ_ROWS(k) row[k].enter(u);
    for (const int64_t stop = std::min(next, whole); c < stop; c += kLine) {
      PTQ_ROWS(k) row[k].ask(c);
      PTQ_UNROLL(4)
      for (int64_t l = 0; l < kLine; l += kRun) add_run<Terms>(row, c + l, x, ldx, acc);
    }
  }
  if (c < columns) {
    u = (c + begin % unit) / unit;
    PTQ_ROWS(k) row[k].enter(u);
    for (; c + kRun <= columns; c += kRun) add_run<Terms>(row, c, x, ldx, acc);
    if (c < columns) PTQ_ROWS(k) {
        Reg v[Row::kRun];
        row[k].tail(c, columns, v);
        PTQ_RUN(l) PTQ_TOKENS(t) {
          const int64_t left = std::min<int64_t>(columns - c - 16 * l, 16);
          if (left <= 0) continue;
          float rest[16] = {};
          std::memcpy(rest, x + t * ldx + c + 16 * l, size_t(left) * sizeof(float));
          acc[k][t] = Terms::add(v[l], load(rest), acc[k][t]);
        }
      }
  }
  PTQ_ROWS(k) PTQ_TOKENS(t) store(sums + (16 * t + i + k * apart) * 16, acc[k][t]);
}
#undef PTQ_ROWS
#undef PTQ_TOKENS
#undef PTQ_RUN

// y[t * ldy + r - begin] = row r of w, begin <= r < end, times token t of x [n, columns]. Memory is
// read from kTogether places on, each row from its beginning to its end: rows next to each other
// would be one stream that goes back and forth, which the processor does not follow.
template <class Terms>
struct Dots {
  const WeightRows& w;
  int64_t begin, end;
  const float* x;
  int64_t n;
  float* y;
  int64_t ldy;

  template <class Row>
  PTQ_TARGET void run() const {
    constexpr int kStreams = Row::kTogether, kEach = 16 / kStreams;  // rows of each
    const int64_t stream = (end - begin + 15) / 16 * kEach,
                  blocks = (w.columns() / Row::kNumbers + kDepth - 1) / kDepth;
    Rows<Row> rows(w);
    thread_local std::vector<float> room;
    room.resize(size_t(blocks * std::min<int64_t>(n, 4) * 256) + kLine);
    float* const sums = next_line(room.data());
    int64_t first[kStreams];
    for (int64_t r = begin; r < begin + stream; r += kEach) {
      for (int s = 0; s < kStreams; ++s) first[s] = r + s * stream;
      rows.move(w, first, end - 1);
      int64_t t = 0;
      for (; t + 4 <= n; t += 4) tokens<4>(rows, t, sums, first);
      for (; t + 2 <= n; t += 2) tokens<2>(rows, t, sums, first);
      for (; t < n; ++t) tokens<1>(rows, t, sums, first);
    }
  }

 private:
  // T tokens from t0 on and 16 rows, those from `first` on. sums [blocks, T, 16, 16].
  template <int T, class Row>
  PTQ_TARGET void tokens(Rows<Row>& rows, int64_t t0, float* sums, const int64_t* first) const {
    constexpr int kStreams = Row::kTogether, kEach = 16 / kStreams,
                  R = std::min(kMostSums / T, kStreams);
    const int64_t in = rows.columns;
    for (int64_t i = 0; i < kEach; ++i)
      for (int64_t s = 0; s < kStreams; s += R)
        for (int64_t c = 0; c < in; c += kDepth)
          sixteen_sums<Terms, Row, R, T>(rows, i + s * kEach, kEach, c, std::min(c + kDepth, in),
                                         x + t0 * in, sums + c / kDepth * (256 * T));
    for (int64_t t = 0; t < T; ++t, sums += 256) {
      Reg all = zero();
      for (int64_t c = 0; c < in; c += kDepth) {
        Reg v[16];
        for (int i = 0; i < 16; ++i) v[i] = load(sums + c / kDepth * (256 * T) + 16 * i);
        transpose(v);
        for (int i = 1; i < 16 && i < in - c; ++i) v[0] = add(v[0], v[i]);
        all = c > 0 ? add(all, v[0]) : v[0];
      }
      alignas(64) float products[16];
      store(products, all);
      float* const to = y + (t0 + t) * ldy - begin;
      for (int s = 0; s < kStreams; ++s)
        for (int64_t i = 0; i < std::min<int64_t>(kEach, end - first[s]); ++i)
          to[first[s] + i] = products[s * kEach + i];
    }
  }
};
inline void dots(const WeightRows& w, int64_t begin, int64_t end, const float* x, int64_t n,
                 float* y, int64_t ldy) {
  with_reader(w, Dots<Numbers>{w, begin, end, x, n, y, ldy});
}
