// Products of codes in groups with many tokens, which the instruction sets share. Included inside
// the namespace of one, which defines before
//   kGroupRows, kGroupTokens   of a block
//   GroupInput, group_inputs   the inputs [n] as the block wants them
//   GroupPanel, group_panel    rows of codes to a panel, numbers of several columns each
//   int8_block<R>              sums [R, kInt8Rows] of some columns of a panel and R tokens
//   int8_unpack                4-bit codes to bytes
//   float_of                   16 integers as a Reg

// y [R, count] of R tokens with their sums, a panel, and scales and offsets [units, kGroupRows].
template <int R>
PTQ_TARGET inline void int8_group_block(const GroupInput* x, const int32_t* sums, int64_t stride,
                                        const GroupPanel* panel, const float* scale,
                                        const float* offset, int64_t unit, int64_t columns,
                                        int64_t count, float* y, int64_t ldy) {
  // Columns of a number of the panel.
  constexpr int64_t kColumns = int64_t(sizeof(GroupPanel) / sizeof(GroupInput));
  alignas(64) float chains[4][R][kGroupRows] = {};
  alignas(64) int32_t dots[R][kInt8Rows];
  for (int64_t c = 0, u = 0; c < columns; c += unit, ++u) {
    const int64_t end = std::min(columns, c + unit);
    int8_block<R>(x + c, stride, end - c, panel + c / kColumns * kGroupRows, dots[0]);
    auto& chain = chains[unit == kInt8Wide ? 0 : u % 4];
    for (int r = 0; r < R; ++r) {
      const Reg inputs = spread(float(int8_sum(sums + r * (stride / kInt8Unit), c, end)));
      for (int64_t i = 0; i < kGroupRows; i += 16) {
        const Reg shifted = fma(inputs, load(offset + i), load(chain[r] + i));
        store(chain[r] + i, fma(float_of(dots[r] + i), load(scale + i), shifted));
      }
    }
    scale += kGroupRows;
    offset += kGroupRows;
  }
  for (int r = 0; r < R; ++r)
    for (int64_t i = 0; i < count; ++i)
      y[r * ldy + i] = (chains[0][r][i] + chains[1][r][i]) + (chains[2][r][i] + chains[3][r][i]);
}

PTQ_TARGET inline void int8_many(const AffineRows& w, int64_t begin, int64_t end, const int8_t* x,
                                 const int32_t* sums, int64_t n, int64_t stride, float* y,
                                 int64_t ldy) {
  const int64_t columns = w.columns(), groups = w.groups(), unit = int8_unit(w),
                units = (columns + unit - 1) / unit;
  thread_local std::vector<uint8_t> codes;
  thread_local std::vector<GroupPanel> panel;
  thread_local std::vector<float> scale, offset;    // of a row's groups
  thread_local std::vector<float> scales, offsets;  // [units, kGroupRows]
  panel.resize(size_t(kGroupRows * stride));
  scale.resize(size_t(groups));
  offset.resize(scale.size());
  scales.resize(size_t(units * kGroupRows));
  offsets.resize(scales.size());
  const GroupInput* const inputs = group_inputs(x, n * stride);
  for (int64_t r0 = begin; r0 < end; r0 += kGroupRows) {
    const int64_t count = std::min(kGroupRows, end - r0);
    const uint8_t* from = w.row_codes(r0);
    if (w.format().bits == 4) {
      codes.resize(size_t(kGroupRows * columns));
      int8_unpack(w, r0, count, codes.data());
      from = codes.data();
    }
    group_panel(from, columns, count, stride, panel.data());
    for (int64_t r = 0; r < count; ++r) {
      w.read_params((r0 + r) * groups, groups, scale.data(), offset.data());
      for (int64_t u = 0; u < units; ++u) {
        const auto g = size_t(u * unit / w.group());
        scales[size_t(u * kGroupRows + r)] = scale[g];
        offsets[size_t(u * kGroupRows + r)] = offset[g];
      }
    }
    int64_t t = 0;
    const auto block = [&](const auto& multiply) {
      multiply(inputs + t * stride, sums + t * (stride / kInt8Unit), stride, panel.data(),
               scales.data(), offsets.data(), unit, columns, count, y + t * ldy + r0 - begin, ldy);
    };
    for (; t + kGroupTokens <= n; t += kGroupTokens) block(int8_group_block<kGroupTokens>);
    for (; t < n; ++t) block(int8_group_block<1>);
  }
}
