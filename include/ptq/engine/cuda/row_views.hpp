// What kernels see of a cache: plain structs of pointers and strides, filled by the host
// (kv_cache.hpp) and read from device memory.
//
// A query with t tokens before it takes row s from encoded storage exactly when
// sink <= s < boundary(t). The layouts are those of encoding/*.hpp.
#pragma once

#include "ptq/encoding/affine.hpp"
#include "ptq/engine/cuda/kernels/numbers.cuh"
#include "ptq/engine/kv_policy.hpp"

namespace ptq::cuda {

// Dense rows: element c of head h of the row at absolute position p is
// data[h * head_stride + (p - first) * row_stride + c].
struct DenseView {
  const void* data = nullptr;
  DType dtype = DType::f16;
  int64_t first = 0, row_stride = 0, head_stride = 0;  // elements
};

// Packed rows: per head a matrix [rows, columns] as AffineRows stores it. params counts groups.
struct AffineView {
  const uint8_t* codes = nullptr;
  const uint16_t* scales = nullptr;  // float16
  const void* zeros = nullptr;       // float16 (Grid::min), packed integers, or nullptr
  int bits = 0, axis = 1;
  Grid grid = Grid::min;
  int64_t first = 0, columns = 0, group = 0, groups = 0;  // groups: per row (axis 1)
  int group_shift = -1;  // log2 of the group where it is a power of two
  int64_t row_bytes = 0;
  int64_t head_codes = 0, head_params = 0, head_zeros = 0;  // strides between heads; zeros in bytes

  void set_group(int64_t size) {
    group = size;
    group_shift = -1;
    for (int shift = 0; shift < 31; ++shift)
      if (size == int64_t{1} << shift) group_shift = shift;
  }
  // Of a row (axis 0) or a column (axis 1); a division costs a hundred instructions.
  PTQ_HD int group_of(int index) const {
    return group_shift >= 0 ? index >> group_shift : group == 0 ? 0 : index / int(group);
  }
};

// Codes into a table, as CodebookRows stores them: codes [row, head, packed columns].
struct CodebookView {
  const uint8_t* codes = nullptr;
  const float* levels = nullptr;
  const uint16_t *scales = nullptr, *offsets = nullptr;  // float16; offsets: nullptr where none
  int64_t first = 0, columns = 0, row_bytes = 0;
  int heads = 0, bits = 0;
  ScaleOf scale = ScaleOf::row;
};

// Factorised chunks, as LowRankRows stores them: ranks and offsets [chunk, head].
struct LowRankView {
  const uint8_t* ranks = nullptr;
  const uint64_t* offsets = nullptr;  // numbers
  const uint16_t* data = nullptr;     // float16
  int64_t first = 0;
  int heads = 0, columns = 0, chunk = 1;
  bool center = false;
};

// Exact values on top of an encoding, as OutlierRows stores them.
struct OutlierView {
  const uint8_t* indices = nullptr;
  const uint16_t* values = nullptr;  // float16
  const uint32_t* begin = nullptr;   // sparse layout: first entry of each row; nullptr: k per row
  int64_t first = 0;
  int heads = 0, columns = 0, k = 0, index_bytes = 1;
  bool present = false;
};

enum class Stored : int { nothing, dense, affine, codebook, lowrank };

// One side of one layer of one sequence.
struct SideView {
  DenseView sinks, tail;  // rows [0, sink), rows from tail.first on
  Stored stored = Stored::nothing;
  DenseView dense;        // the encoded rows, in whichever form
  AffineView affine;      //
  CodebookView codebook;  //
  LowRankView lowrank;    //
  OutlierView outliers;   // on top of any of them
  KvPolicy policy;
  int64_t fixed = -1;  // boundary of every query; -1: it follows the policy
  // Keys before rotation: cos and sin, [positions, dim / 2]. nullptr: rows are stored as they are
  // read. The sinks stand at their position + shift: inside what eviction left.
  const float *cosine = nullptr, *sine = nullptr;
  int64_t shift = 0;

  // Can the kernels that know only dense and affine rows, read as they are stored, read it?
  PTQ_HD bool plain() const {
    return stored <= Stored::affine && !outliers.present && !policy.hadamard && !policy.evicts &&
           cosine == nullptr;
  }
  PTQ_HD int64_t boundary(int64_t t) const {
    return fixed >= 0 ? fixed : policy.sink + policy.encoded(policy.current ? t + 1 : t);
  }
};

// The rows of a pass that belong to one sequence.
struct SegmentView {
  int64_t row = 0, rows = 0;  // of the pass
  int64_t position = 0;       // absolute, of the first row
  SideView keys, values;
};

// ---- reading -----------------------------------------------------------------------------------

// Eight neighbouring columns of a dense row; columns behind `columns` are zero.
__device__ __forceinline__ void read_dense8(const DenseView& v, int64_t head, int64_t position,
                                            int64_t column, int64_t columns, float* out) {
  const int64_t at = head * v.head_stride + (position - v.first) * v.row_stride + column;
  if (column + 8 <= columns && v.dtype != DType::f32 && at % 8 == 0 && v.row_stride % 8 == 0) {
    const uint4 word = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(v.data) + at);
    const uint32_t words[4] = {word.x, word.y, word.z, word.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint16_t bits = uint16_t(words[i / 2] >> (i % 2 * 16));
      out[i] = v.dtype == DType::bf16 ? to_float(Bf16{bits}) : to_float(F16{bits});
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (column + i >= columns)
      out[i] = 0;
    else if (v.dtype == DType::f32)
      out[i] = static_cast<const float*>(v.data)[at + i];
    else if (v.dtype == DType::bf16)
      out[i] = to_float(static_cast<const Bf16*>(v.data)[at + i]);
    else
      out[i] = to_float(static_cast<const F16*>(v.data)[at + i]);
  }
}

// Scale and offset of one group of a head.
__device__ __forceinline__ void read_affine_params(const AffineView& v, int64_t head, int64_t group,
                                                   float& scale, float& offset) {
  scale = to_float(F16{v.scales[head * v.head_params + group]});
  if (v.grid == Grid::min) {
    offset = to_float(F16{static_cast<const uint16_t*>(v.zeros)[head * v.head_params + group]});
    return;
  }
  float zero = float(1 << (v.bits - 1));
  if (v.zeros) {
    const int64_t bit = group * v.bits;
    const uint8_t* p = static_cast<const uint8_t*>(v.zeros) + head * v.head_zeros + bit / 8;
    const unsigned word = p[0] | unsigned(p[1]) << 8;
    zero = float((word >> (bit % 8)) & ((1u << v.bits) - 1));
  }
  offset = affine_offset({scale, zero}, v.grid);
}

// The codes of eight columns from `column` (a multiple of 8) on of a packed row: the first four in
// low where bits is 8, else all eight.
__device__ __forceinline__ void load_codes8(const uint8_t* row, int64_t row_bytes, int bits,
                                            int column, uint32_t& low, uint32_t& high) {
  low = high = 0;
  const int begin = column / 8 * bits;
  const uint8_t* p = row + begin;
  if (bits == 2 && row_bytes % 2 == 0) {
    low = *reinterpret_cast<const uint16_t*>(p);
  } else if (bits == 4 && row_bytes % 4 == 0) {
    low = *reinterpret_cast<const uint32_t*>(p);
  } else if (bits == 8 && row_bytes % 8 == 0) {
    const uint2 both = *reinterpret_cast<const uint2*>(p);
    low = both.x;
    high = both.y;
  } else {
    const int64_t left = row_bytes - begin;
    const int n = int(left < bits ? left : int64_t(bits));
    for (int i = 0; i < n; ++i) (i < 4 ? low : high) |= uint32_t(p[i]) << (i % 4 * 8);
  }
}
__device__ __forceinline__ uint32_t code_at(uint32_t low, uint32_t high, int bits, int i) {
  const uint32_t mask = (1u << bits) - 1;
  return bits == 8 ? ((i < 4 ? low : high) >> (i % 4 * 8)) & mask : (low >> (bits * i)) & mask;
}

// Reads eight neighbouring columns at a time, row after row. Scale and offset stay in registers as
// long as the group stays the same: on axis 0 for all rows of a group.
class AffineReader {
 public:
  __device__ AffineReader(const AffineView& v, int64_t head) : v_(v), head_(head) {}

  // column is a multiple of 8; columns behind the matrix are zero.
  __device__ __forceinline__ void read8(int64_t position, int column, float* out) {
    const int row = int(position - v_.first);
    load_params(row, column);
    uint32_t low, high;
    load_codes8(v_.codes + head_ * v_.head_codes + int64_t(row) * v_.row_bytes, v_.row_bytes,
                v_.bits, column, low, high);
#pragma unroll
    for (int i = 0; i < 8; ++i)
      out[i] = column + i < v_.columns
                   ? float(code_at(low, high, v_.bits, i)) * scale_[i] + offset_[i]
                   : 0.0f;
  }

 private:
  __device__ __forceinline__ void load_params(int row, int column) {
    const int key = v_.axis == 1 ? row : v_.group_of(row);
    if (key == row_key_ && column == column_) return;
    row_key_ = key;
    column_ = column;
    int64_t last = -1;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int c = column + i < int(v_.columns) ? column + i : int(v_.columns) - 1;
      const int64_t group =
          v_.axis == 1 ? int64_t(row) * v_.groups + v_.group_of(c) : int64_t(key) * v_.columns + c;
      if (group == last) {
        scale_[i] = scale_[i - 1];
        offset_[i] = offset_[i - 1];
      } else {
        read_affine_params(v_, head_, group, scale_[i], offset_[i]);
        last = group;
      }
    }
  }

  const AffineView& v_;
  int64_t head_;
  int row_key_ = -1, column_ = -1;
  float scale_[8], offset_[8];
};

}  // namespace ptq::cuda
