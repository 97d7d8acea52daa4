// y = x W^T + b for packed weights and more rows than linear_small.cuh takes: W4A16 and its kin.
// Reference: cpu::Device::linear.
//
// A block makes a tile of 64 rows and 64 outputs: 64 inputs at a time, the packed weights are
// decoded into shared memory and multiplied by the tensor cores (in float32: by multiply-adds).
// Beyond a few hundred rows, decoding a whole slice once and calling cuBLAS is the better way
// (device.hpp).
#pragma once

#include "ptq/engine/cuda/kernels/mma.cuh"
#include "ptq/engine/cuda/queue.hpp"
#include "ptq/engine/cuda/row_views.hpp"

namespace ptq::cuda {

inline constexpr int kTile = 64;

// ---- kernel ----

// x [n, in], y [n, out]. grid (ceil(out / 64), ceil(n / 64)), 4 warps of 16 rows each
template <class T>
__global__ void __launch_bounds__(128)
    linear_tiles_kernel(AffineView w, const T* bias, const T* x, int64_t n, int64_t out, T* y) {
  constexpr int kStride = kTile + kTilePad<T>;
  T* x_tile = reinterpret_cast<T*>(dynamic_shared());  // [64 rows, kStride]
  T* w_tile = x_tile + kTile * kStride;                // [64 outputs, kStride]
  const int64_t in = w.columns, row0 = int64_t(blockIdx.y) * kTile,
                out0 = int64_t(blockIdx.x) * kTile;
  const int warp = int(threadIdx.x) / kWarpLanes;
  const int unit = int(threadIdx.x) % 8, line = int(threadIdx.x) / 8;  // 8 columns; 16 lines
  float acc[kTile / 8][4];
#pragma unroll
  for (int j = 0; j < kTile / 8; ++j)
    for (int i = 0; i < 4; ++i) acc[j][i] = 0;
  AffineReader reader(w, 0);
  for (int64_t k = 0; k < in; k += kTile) {
    const int64_t column = k + unit * 8;
    __syncthreads();
    for (int r = line; r < kTile; r += 16) {
      float v[8] = {0, 0, 0, 0, 0, 0, 0, 0};
      if (out0 + r < out && column < in) reader.read8(out0 + r, column, v);
      for (int i = 0; i < 8; ++i) w_tile[r * kStride + unit * 8 + i] = from_float<T>(v[i]);
      for (int i = 0; i < 8; ++i)
        x_tile[r * kStride + unit * 8 + i] =
            row0 + r < n && column + i < in ? x[(row0 + r) * in + column + i] : from_float<T>(0.0f);
    }
    __syncthreads();
    multiply_nt<kTile, kTile>(x_tile + warp * 16 * kStride, kStride, w_tile, kStride, acc);
  }
#pragma unroll
  for (int j = 0; j < kTile / 8; ++j)
    for (int i = 0; i < 4; ++i) {
      const int64_t row = row0 + warp * 16 + fragment_row() + i / 2 * 8;
      const int64_t column = out0 + j * 8 + fragment_column() + i % 2;
      if (row < n && column < out)
        y[row * out + column] = from_float<T>(acc[j][i] + (bias ? to_float(bias[column]) : 0.0f));
    }
}

// ---- launcher ----

template <class T>
void linear_tiles(Queue& queue, const AffineView& w, const T* bias, const T* x, int64_t n,
                  int64_t out, T* y) {
  queue.launch("linear_tiles", linear_tiles_kernel<T>,
               dim3(unsigned(ceil_div(out, kTile)), unsigned(ceil_div(n, kTile))), dim3(128),
               2 * kTile * (kTile + kTilePad<T>)*sizeof(T), w, bias, x, n, out, y);
}

}  // namespace ptq::cuda
