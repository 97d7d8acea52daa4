// Products of codes in groups with many tokens, which the instruction sets share. Included inside
// the namespace of one, which defines before
//   kGroupRows, kGroupTokens   of a block
//   GroupInput, group_inputs   the inputs [n] as the block wants them
//   GroupPanel, group_panel    rows of codes to a panel, numbers of several columns each
//   int8_block<R>              sums [R, kInt8Rows] of some columns of a panel and R tokens
//   int8_unpack                4-bit codes to bytes
//   mul, float_of              of two Reg; 16 integers as a Reg

// What a unit has of each token: [n, stride] for n tokens.
struct UnitInputs {
  const float *scale, *number;  // of the integers, and the sum of the numbers
  int64_t stride;
};

// y [R, count] of R tokens, a panel, and scales and offsets [units, kGroupRows].
template <int R>
PTQ_TARGET inline void int8_group_block(const GroupInput* x, int64_t stride, UnitInputs of,
                                        const GroupPanel* panel, const float* scale,
                                        const float* offset, int64_t unit, int64_t columns,
                                        int64_t count, float* y, int64_t ldy) {
  // Columns of a number of the panel.
  constexpr int64_t kColumns = int64_t(sizeof(GroupPanel) / sizeof(GroupInput));
  alignas(64) float chains[4][R][kGroupRows];
  alignas(64) int32_t dots[R][kInt8Rows];
  const int64_t most = unit == kInt8Wide ? 1 : 4;
  for (int64_t k = 0; k < most; ++k)
    for (int64_t i = 0; i < R * kGroupRows; i += 16) store(chains[k][0] + i, zero());
  for (int64_t c = 0, u = 0; c < columns; c += unit, ++u) {
    int8_block<R>(x + c, stride, std::min(unit, columns - c), panel + c / kColumns * kGroupRows,
                  dots[0]);
    float* const chain = chains[u % most][0];
    PTQ_UNROLL(3)
    for (int64_t i = 0; i < kGroupRows; i += 16) {
      const Reg s = load(scale + i), o = load(offset + i);
      PTQ_UNROLL(8)
      for (int r = 0; r < R; ++r) {
        float* const to = chain + r * kGroupRows + i;
        const Reg sum = mul(float_of(dots[r] + i), spread(of.scale[r * of.stride + u])),
                  shifted = fma(o, spread(of.number[r * of.stride + u]), load(to));
        store(to, fma(sum, s, shifted));
      }
    }
    scale += kGroupRows;
    offset += kGroupRows;
  }
  for (int r = 0; r < R; ++r)
    for (int64_t i = 0; i < count; i += 16) {
      const auto chain = [&](int k) { return k < most ? load(chains[k][r] + i) : zero(); };
      store(y + r * ldy + i, add(add(chain(0), chain(1)), add(chain(2), chain(3))),
            lanes(std::min<int64_t>(16, count - i)));
    }
}

// The units of x; wide ones are gathered in a room of the thread.
inline UnitInputs unit_inputs(const Int8Inputs& x, int64_t n, int64_t columns, int64_t unit) {
  if (unit == kInt8Unit) return {x.scales, x.numbers, x.units()};
  thread_local std::vector<float> room;
  const int64_t units = (columns + unit - 1) / unit;
  room.resize(size_t(2 * n * units));
  float *scale = room.data(), *number = scale + n * units;
  for (int64_t t = 0; t < n; ++t)
    for (int64_t c = 0; c < columns; c += unit) {
      *scale++ = x.scale(t, c);
      *number++ = x.number(t, c, std::min(columns, c + unit));
    }
  return {room.data(), room.data() + n * units, units};
}

PTQ_TARGET inline void int8_many(const WeightRows& w, int64_t begin, int64_t end,
                                 const Int8Inputs& x, int64_t n, float* y, int64_t ldy) {
  const int64_t columns = w.columns(), group = int8_group(w), groups = int8_groups_of_row(w),
                unit = int8_unit(w, x.per_unit), units = (columns + unit - 1) / unit;
  thread_local std::vector<uint8_t> codes;
  thread_local std::vector<GroupPanel> panel;
  thread_local std::vector<float> scale, offset;    // of a row's groups
  thread_local std::vector<float> scales, offsets;  // [units, kGroupRows]
  panel.resize(size_t(kGroupRows * x.stride));
  scale.resize(size_t(groups));
  offset.resize(scale.size());
  scales.resize(size_t(units * kGroupRows));
  offsets.resize(scales.size());
  const UnitInputs of = unit_inputs(x, n, columns, unit);
  const GroupInput* const inputs = group_inputs(x.q, n * x.stride);
  for (int64_t r0 = begin; r0 < end; r0 += kGroupRows) {
    const int64_t count = std::min(kGroupRows, end - r0);
    const uint8_t* from = w.row(r0);
    if (w.form() != Form::codes || w.affine().format().bits == 4) {
      codes.resize(size_t(kGroupRows * columns));
      if (w.form() == Form::codes)
        int8_unpack(w.affine(), r0, count, codes.data());
      else
        int8_block_codes(w, r0, count, codes.data());
      from = codes.data();
    }
    group_panel(from, columns, count, x.stride, panel.data());
    for (int64_t r = 0; r < count; ++r) {
      int8_params(w, r0 + r, scale.data(), offset.data());
      for (int64_t u = 0; u < units; ++u) {
        const auto g = size_t(u * unit / group);
        scales[size_t(u * kGroupRows + r)] = scale[g];
        offsets[size_t(u * kGroupRows + r)] = offset[g];
      }
    }
    int64_t t = 0;
    const auto block = [&](const auto& multiply) {
      const UnitInputs own{of.scale + t * of.stride, of.number + t * of.stride, of.stride};
      multiply(inputs + t * x.stride, x.stride, own, panel.data(), scales.data(), offsets.data(),
               unit, columns, count, y + t * ldy + r0 - begin, ldy);
    };
    for (; t + kGroupTokens <= n; t += kGroupTokens) block(int8_group_block<kGroupTokens>);
    for (; t < n; ++t) block(int8_group_block<1>);
  }
}
