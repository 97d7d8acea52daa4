// Eight neighbouring columns of an encoded row, in the encodings that only caches have; and the two
// rotations of what was read. References: EncodedRows::decode and Rotary::rotate.
//
// One thread has eight columns; the threads of a row are neighbours in a warp and exchange by
// shuffles. Everything is float32 until the caller rounds. Columns behind the row are zero.
#pragma once

#include "ptq/encoding/codebook.hpp"
#include "ptq/encoding/rotation.hpp"
#include "ptq/engine/cuda/row_views.hpp"

namespace ptq::cuda {

// n <= 8 float16 numbers.
__device__ __forceinline__ void read_f16x8(const uint16_t* p, int n, float* out) {
  if (n == 8 && reinterpret_cast<uintptr_t>(p) % 16 == 0) {
    const uint4 word = *reinterpret_cast<const uint4*>(p);
    const uint32_t words[4] = {word.x, word.y, word.z, word.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = to_float(F16{uint16_t(words[i / 2] >> (i % 2 * 16))});
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) out[i] = i < n ? to_float(F16{p[i]}) : 0.0f;
}

__device__ __forceinline__ void read_codebook8(const CodebookView& v, int head, int64_t position,
                                               int column, float* out) {
  const int64_t row = position - v.first, of_head = row * v.heads + head;
  uint32_t low, high;
  load_codes8(v.codes + of_head * v.row_bytes, v.row_bytes, v.bits, column, low, high);
  const int n = int(v.columns) - column < 8 ? int(v.columns) - column : 8;
  float scale[8], offset[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  if (v.scale == ScaleOf::column) {
    const int64_t at = head * v.columns + column;
    read_f16x8(v.scales + at, n, scale);
    if (v.offsets) read_f16x8(v.offsets + at, n, offset);
  } else {
    const int64_t at = v.scale == ScaleOf::row ? of_head : row;
    scale[0] = to_float(F16{v.scales[at]});
    offset[0] = v.offsets ? to_float(F16{v.offsets[at]}) : 0.0f;
#pragma unroll
    for (int i = 1; i < 8; ++i) {
      scale[i] = scale[0];
      offset[i] = offset[0];
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i)
    out[i] =
        i < n ? codebook_value(v.levels[code_at(low, high, v.bits, i)], scale[i], offset[i]) : 0.0f;
}

__device__ __forceinline__ void read_lowrank8(const LowRankView& v, int head, int64_t position,
                                              int column, float* out) {
  const int row = int(position - v.first), in_chunk = row % v.chunk;
  const int64_t chunk = int64_t(row / v.chunk) * v.heads + head;
  const uint16_t* data = v.data + v.offsets[chunk];
  const int rank = v.ranks[chunk], n = v.columns - column < 8 ? v.columns - column : 8;
  if (rank == LowRankFormat::kRaw) return read_f16x8(data + in_chunk * v.columns + column, n, out);
  if (v.center) {
    read_f16x8(data + column, n, out);
    data += v.columns;
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = 0;
  }
  const uint16_t *p = data + in_chunk * rank, *q = data + v.chunk * rank + column;
  for (int k = 0; k < rank; ++k, q += v.columns) {
    const float weight = to_float(F16{p[k]});
    float x[8];
    read_f16x8(q, n, x);
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] += weight * x[i];
  }
}

// Puts the exact values of a row into the eight columns.
__device__ __forceinline__ void put_outliers8(const OutlierView& v, int head, int64_t position,
                                              int column, float* x) {
  const int64_t row = position - v.first;
  int64_t at = v.begin ? v.begin[row] : (row * v.heads + head) * v.k;
  const int64_t end = v.begin ? v.begin[row + 1] : at + v.k;
  const int first = (v.begin ? head * v.columns : 0) + column;  // of the eight, as indices count
  for (; at < end; ++at) {
    const uint8_t* p = v.indices + at * v.index_bytes;
    uint32_t index = 0;
    for (int b = 0; b < v.index_bytes; ++b) index |= uint32_t(p[b]) << (8 * b);
    const int i = int(index) - first;
    if (i < 0 || i >= 8 || column + i >= v.columns) continue;
    const float value = to_float(F16{v.values[at]});
#pragma unroll
    for (int j = 0; j < 8; ++j)
      if (j == i) x[j] = value;
  }
}

// The row x <- x H / sqrt(dim), dim a power of two; the butterflies of ptq::hadamard in its order.
// All lanes of the warp call it.
__device__ __forceinline__ void hadamard8(float* x, int column, int dim) {
#pragma unroll
  for (int half = 1; half < 8; half *= 2) {
    if (half >= dim) continue;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i & half) continue;
      const float a = x[i], b = x[i + half];
      x[i] = a + b;
      x[i + half] = a - b;
    }
  }
  for (int half = 8; half < dim; half *= 2) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float other = __shfl_xor_sync(kFullMask, x[i], half / 8);
      x[i] = column & half ? other - x[i] : x[i] + other;
    }
  }
  const float scale = 1.0f / sqrtf(float(dim));
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] *= scale;
}

// The row rotated by its position, half-split pairs; dim is a multiple of 16. cosine, sine: of the
// position, [dim / 2]. All lanes of the warp call it.
__device__ __forceinline__ void rotate8(float* x, int column, int dim, const float* cosine,
                                        const float* sine) {
  const int half = dim / 2, lane = int(threadIdx.x) % kWarpLanes;
  const bool inside = column < dim, low = column < half;
  const int pair = low ? column : column - half;  // the first of the eight
  const int partner = inside ? lane + (low ? half : -half) / 8 : lane;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float other = __shfl_sync(kFullMask, x[i], partner);
    if (!inside) continue;
    float a = low ? x[i] : other, b = low ? other : x[i];
    rotate_pair(a, b, cosine[pair + i], sine[pair + i]);
    x[i] = low ? a : b;
  }
}

}  // namespace ptq::cuda
