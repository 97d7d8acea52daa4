// What the integer kernels of all instruction sets agree on.
#pragma once

#include <cstdint>

#include "ptq/encoding/affine.hpp"
#include "ptq/encoding/blocks.hpp"
#include "ptq/engine/cpu/kernels/weight_rows.hpp"

namespace ptq::cpu {

// Rows of codes in a call, at most: the width of y.
inline constexpr int64_t kInt8Rows = 48;
// Rows of x are padded with zeros to a multiple of so many numbers.
inline constexpr int64_t kInt8Step = 64;
// From so many tokens on, weights are unpacked once for all of them.
inline constexpr int64_t kInt8Many = 8;
// Columns whose products are one sum of integers.
inline constexpr int64_t kInt8Unit = 32, kInt8Wide = 128;

// Tokens as integers, x ~ scale q, with a scale for each kInt8Unit columns of each.
struct Int8Inputs {
  const int8_t* q;  // [n, stride]; stride is columns rounded up to kInt8Step, zeros behind columns
  int64_t stride;
  const int32_t* sums;   // [n, units()] of q
  const float* scales;   // [n, units()]; NaN or infinite where x is, with q = 0
  const float* numbers;  // [n, units()]: scale times sum
  bool per_unit;         // else the scales of a token are all equal

  int64_t units() const { return stride / kInt8Unit; }
  // The sum of token t's numbers in columns [c, end), whole units with one scale.
  float number(int64_t t, int64_t c, int64_t end) const {
    int32_t total = 0;
    for (int64_t u = c / kInt8Unit; u < end / kInt8Unit; ++u) total += sums[t * units() + u];
    return scale(t, c) * float(total);
  }
  float scale(int64_t t, int64_t c) const { return scales[t * units() + c / kInt8Unit]; }
};

// Columns of w that share a scale.
inline int64_t int8_group(const WeightRows& w) {
  return w.form() == Form::codes ? w.affine().group() : kInt8Unit;
}
// Columns of a unit of the product.
inline int64_t int8_unit(const WeightRows& w, bool per_unit) {
  const bool wide =
      w.form() == Form::codes && (w.affine().groups() == 1 || w.affine().group() >= kInt8Wide);
  return wide && !per_unit ? kInt8Wide : kInt8Unit;
}

// Blocks of GGUF files as the kernels take them: unsigned codes of which kZero means 0, or with a
// minimum. kNibbles: the low ones of 16 bytes are the first 16 codes, the high ones the others.
struct Int8Q4_0 : blocks_detail::Q4_0 {
  static constexpr int kZero = 8;
  static constexpr bool kNibbles = true, kMinimum = false;
};
struct Int8Q4_1 : blocks_detail::Q4_1 {
  static constexpr int kZero = 0;
  static constexpr bool kNibbles = true, kMinimum = true;
};
struct Int8Q8_0 : blocks_detail::Q8_0 {  // stored with a sign
  static constexpr int kZero = 128;
  static constexpr bool kNibbles = false, kMinimum = false;
};
// fn(Block) of a form of blocks.
template <class Fn>
inline void with_int8_block(Form form, const Fn& fn) {
  if (form == Form::q4_0) return fn(Int8Q4_0{});
  if (form == Form::q4_1) return fn(Int8Q4_1{});
  fn(Int8Q8_0{});
}

// Row r of blocks as codes [columns].
template <class Block>
inline void int8_block_codes(const WeightRows& w, int64_t r, uint8_t* __restrict out) {
  const uint8_t* __restrict b = w.row(r) + Block::kBytes - (Block::kNibbles ? 16 : 32);
  for (int64_t c = 0; c < w.columns(); c += 32, b += Block::kBytes, out += 32) {
    if constexpr (Block::kNibbles) {
      for (int j = 0; j < 16; ++j) out[j] = b[j] & 15;
      for (int j = 0; j < 16; ++j) out[16 + j] = b[j] >> 4;
    } else {
      for (int j = 0; j < 32; ++j) out[j] = b[j] ^ 0x80;
    }
  }
}

// Rows of blocks as codes [count, columns].
inline void int8_block_codes(const WeightRows& w, int64_t begin, int64_t count, uint8_t* out) {
  with_int8_block(w.form(), [&](auto block) {
    for (int64_t r = 0; r < count; ++r)
      int8_block_codes<decltype(block)>(w, begin + r, out + r * w.columns());
  });
}
// The scales of row r and what stands beside them, one for each group: a number is scale times its
// code + offset.
inline void int8_params(const WeightRows& w, int64_t r, float* scale, float* offset) {
  if (w.form() == Form::codes) {
    const int64_t groups = w.affine().groups();
    return w.affine().read_params(r * groups, groups, scale, offset);
  }
  with_int8_block(w.form(), [&](auto block) {
    using Block = decltype(block);
    const uint8_t* b = w.row(r);
    for (int64_t u = 0; u < w.columns() / kInt8Unit; ++u, b += Block::kBytes) {
      scale[u] = blocks_detail::f16_at(b);
      offset[u] = Block::kMinimum ? blocks_detail::f16_at(b + 2) : float(-Block::kZero) * scale[u];
    }
  });
}
// How many groups a row has.
inline int64_t int8_groups_of_row(const WeightRows& w) {
  return (w.columns() + int8_group(w) - 1) / int8_group(w);
}

}  // namespace ptq::cpu
