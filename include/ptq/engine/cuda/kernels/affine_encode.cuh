// Round to nearest on an affine grid, and packing. Reference: AffineRows of encoding/affine.hpp,
// bit for bit: the arithmetic is the same inline functions, and ties between -0 and +0 are decided
// by the order in which the CPU sees them.
#pragma once

#include "ptq/engine/cuda/queue.hpp"
#include "ptq/engine/cuda/row_views.hpp"

namespace ptq::cuda {

// Packed rows as the encoder writes them.
struct AffineTarget {
  AffineView view;  // its pointers are written through
  int64_t row;      // first row to write
};

// ---- kernels ----

namespace affine_detail {

__device__ __forceinline__ void store_params(const AffineView& v, int64_t head, int64_t group,
                                             AffineParams p) {
  const_cast<uint16_t*>(v.scales)[head * v.head_params + group] = from_float<F16>(p.scale).bits;
  if (v.grid == Grid::min) {
    auto* zeros = static_cast<uint16_t*>(const_cast<void*>(v.zeros));
    zeros[head * v.head_params + group] = from_float<F16>(p.zero).bits;
  } else if (v.zeros) {
    // Neighbouring groups share a byte: whole words, by atomics. The memory was cleared before.
    auto* words = reinterpret_cast<uint32_t*>(static_cast<uint8_t*>(const_cast<void*>(v.zeros)) +
                                              head * v.head_zeros);
    const int64_t bit = group * v.bits;
    const uint64_t value = uint64_t(p.zero) << (bit % 32);
    if (uint32_t(value)) atomicOr(words + bit / 32, uint32_t(value));
    if (uint32_t(value >> 32)) atomicOr(words + bit / 32 + 1, uint32_t(value >> 32));
  }
}

// Byte j of a row whose codes lie one per byte.
__device__ __forceinline__ uint8_t packed_byte(const uint8_t* codes, int64_t columns, int bits,
                                               int64_t j) {
  unsigned byte = 0;
  for (int64_t e = 8 * j / bits; e < columns && e * bits < 8 * (j + 1); ++e) {
    const int64_t shift = e * bits - 8 * j;
    byte |= shift >= 0 ? unsigned(codes[e]) << shift : unsigned(codes[e]) >> -shift;
  }
  return uint8_t(byte);
}

}  // namespace affine_detail

// Axis 1: a group lies along the columns of one row, one warp a group.
// x [heads, n, columns]; grid (n, heads); shared: one byte a column
__global__ inline void encode_rows_kernel(const float* x, AffineTarget to, int64_t n) {
  using namespace affine_detail;
  const AffineView& v = to.view;
  uint8_t* codes = dynamic_shared();
  const int64_t head = blockIdx.y, row = to.row + blockIdx.x;
  const float* in = x + (head * n + blockIdx.x) * v.columns;
  const int warp = int(threadIdx.x) / kWarpLanes, lane = int(threadIdx.x) % kWarpLanes;
  for (int64_t g = warp; g < v.groups; g += int(blockDim.x) / kWarpLanes) {
    const int64_t begin = g * v.group,
                  end = begin + v.group < v.columns ? begin + v.group : v.columns;
    float lo = in[begin], hi = lo;
    int lo_at = int(begin), hi_at = int(begin);
    for (int64_t c = begin + lane; c < end; c += kWarpLanes) {
      if (in[c] < lo) {
        lo = in[c];
        lo_at = int(c);
      }
      if (in[c] > hi) {
        hi = in[c];
        hi_at = int(c);
      }
    }
    for (int step = kWarpLanes / 2; step > 0; step /= 2) {
      const float l = __shfl_xor_sync(kFullMask, lo, step),
                  h = __shfl_xor_sync(kFullMask, hi, step);
      const int la = __shfl_xor_sync(kFullMask, lo_at, step),
                ha = __shfl_xor_sync(kFullMask, hi_at, step);
      if (l < lo || (l == lo && la < lo_at)) {
        lo = l;
        lo_at = la;
      }
      if (h > hi || (h == hi && ha < hi_at)) {
        hi = h;
        hi_at = ha;
      }
    }
    const AffineParams p = affine_params(lo, hi, v.bits, v.grid);
    for (int64_t c = begin + lane; c < end; c += kWarpLanes)
      codes[c] = uint8_t(int(affine_code(in[c], p, v.bits, v.grid)));
    if (lane == 0) store_params(v, head, row * v.groups + g, p);
  }
  __syncthreads();
  auto* out = const_cast<uint8_t*>(v.codes) + head * v.head_codes + row * v.row_bytes;
  for (int64_t j = threadIdx.x; j < v.row_bytes; j += blockDim.x)
    out[j] = packed_byte(codes, v.columns, v.bits, j);
}

inline constexpr int kEncodeRows = 32;  // rows whose codes are packed together on axis 0

// Axis 0: a group lies along the rows of one column, one thread a column.
// x [heads, n, columns]; grid (groups of rows, heads); shared: 32 bytes a column
__global__ inline void encode_columns_kernel(const float* x, AffineTarget to, int64_t n) {
  using namespace affine_detail;
  const AffineView& v = to.view;
  uint8_t* codes = dynamic_shared();
  const int64_t head = blockIdx.y, c = threadIdx.x, first = blockIdx.x * v.group;
  const int64_t rows = first + v.group < n ? v.group : n - first;
  const float* in = x + (head * n + first) * v.columns;
  AffineParams p{0, 0};
  if (c < v.columns) {
    float lo = in[c], hi = lo;
    for (int64_t r = 1; r < rows; ++r) {
      const float value = in[r * v.columns + c];
      lo = value < lo ? value : lo;
      hi = value > hi ? value : hi;
    }
    p = affine_params(lo, hi, v.bits, v.grid);
    store_params(v, head, (to.row + first) / v.group * v.columns + c, p);
  }
  for (int64_t at = 0; at < rows; at += kEncodeRows) {
    const int64_t count = rows - at < kEncodeRows ? rows - at : kEncodeRows;
    if (c < v.columns)
      for (int64_t r = 0; r < count; ++r)
        codes[r * v.columns + c] =
            uint8_t(int(affine_code(in[(at + r) * v.columns + c], p, v.bits, v.grid)));
    __syncthreads();
    auto* out =
        const_cast<uint8_t*>(v.codes) + head * v.head_codes + (to.row + first + at) * v.row_bytes;
    for (int64_t j = threadIdx.x; j < count * v.row_bytes; j += blockDim.x)
      out[j] = packed_byte(codes + j / v.row_bytes * v.columns, v.columns, v.bits, j % v.row_bytes);
    __syncthreads();
  }
}

// Codes [heads, n, columns] that a method chose. grid (n, ceil(row_bytes / 128), heads)
__global__ inline void pack_codes_kernel(const uint8_t* codes, AffineTarget to, int64_t n) {
  const AffineView& v = to.view;
  const int64_t j = int64_t(blockIdx.y) * blockDim.x + threadIdx.x;
  if (j >= v.row_bytes) return;
  const int64_t head = blockIdx.z;
  const_cast<uint8_t*>(v.codes)[head * v.head_codes + (to.row + blockIdx.x) * v.row_bytes + j] =
      affine_detail::packed_byte(codes + (head * n + blockIdx.x) * v.columns, v.columns, v.bits, j);
}

// Scales and zero points [heads, groups] that a method chose, from group `first` on.
// grid (ceil(groups / 128), heads)
__global__ inline void store_params_kernel(const float* scale, const float* zero, AffineView v,
                                           int64_t first, int64_t groups) {
  const int64_t g = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, head = blockIdx.y;
  if (g >= groups) return;
  affine_detail::store_params(
      v, head, first + g,
      {scale[head * groups + g], zero ? zero[head * groups + g] : float(1 << (v.bits - 1))});
}

// ---- launchers ----

// Appends n rows of every head behind to.row, which is a multiple of the group on axis 0.
inline void encode_affine(Queue& queue, const float* x, const AffineTarget& to, int64_t n,
                          int64_t heads) {
  const AffineView& v = to.view;
  if (v.axis == 1) {
    queue.launch("encode_rows", encode_rows_kernel, dim3(unsigned(n), unsigned(heads)), dim3(128),
                 size_t(v.columns), x, to, n);
  } else {
    const unsigned threads = unsigned(ceil_div(v.columns, kWarpLanes) * kWarpLanes);
    queue.launch("encode_columns", encode_columns_kernel,
                 dim3(unsigned(ceil_div(n, v.group)), unsigned(heads)), dim3(threads),
                 size_t(kEncodeRows * v.columns), x, to, n);
  }
}

// The same from a method's own codes [heads, n, columns], scales and zeros [heads, groups].
inline void pack_affine(Queue& queue, const uint8_t* codes, const float* scale, const float* zero,
                        const AffineTarget& to, int64_t n, int64_t heads) {
  const AffineView& v = to.view;
  const int64_t first = v.axis == 1 ? to.row * v.groups : to.row / v.group * v.columns;
  const int64_t groups = v.axis == 1 ? n * v.groups : ceil_div(n, v.group) * v.columns;
  queue.launch("pack_codes", pack_codes_kernel,
               dim3(unsigned(n), unsigned(ceil_div(v.row_bytes, 128)), unsigned(heads)), dim3(128),
               0, codes, to, n);
  queue.launch("store_params", store_params_kernel,
               dim3(unsigned(ceil_div(groups, 128)), unsigned(heads)), dim3(128), 0, scale, zero, v,
               first, groups);
}

}  // namespace ptq::cuda
