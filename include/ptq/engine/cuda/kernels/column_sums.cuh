// What a tap wants to know of an activation matrix: sums per column, and its transpose in float32,
// from which the matrix product makes XtX. Reference: cpu::Device::look.
#pragma once

#include "ptq/engine/cuda/kernels/numbers.cuh"
#include "ptq/engine/cuda/queue.hpp"

namespace ptq::cuda {

// ---- kernels ----

// One thread a column: neighbours read neighbours. Sums are float64: a pass has up to 2048 rows.
template <class T>
__global__ void column_sums_kernel(const T* x, int64_t n, int64_t width, double* squares,
                                   double* magnitudes, float* largest) {
  const int64_t c = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= width) return;
  double square = 0, magnitude = 0;
  float most = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float a = fabsf(to_float(x[i * width + c]));
    square += double(a) * double(a);
    magnitude += double(a);
    if (a > most) most = a;
  }
  squares[c] = square;
  magnitudes[c] = magnitude;
  largest[c] = most;
}

// y [width, n] = x [n, width] transposed; tiles of 32 x 32 through shared memory, 32 x 8 threads.
template <class T>
__global__ void transpose_kernel(const T* x, int64_t n, int64_t width, float* y) {
  __shared__ float tile[32][33];  // one more: no bank conflicts
  const int64_t column = int64_t(blockIdx.x) * 32, row = int64_t(blockIdx.y) * 32;
  for (int i = threadIdx.y; i < 32; i += 8)
    if (row + i < n && column + threadIdx.x < width)
      tile[i][threadIdx.x] = to_float(x[(row + i) * width + column + threadIdx.x]);
  __syncthreads();
  for (int i = threadIdx.y; i < 32; i += 8)
    if (column + i < width && row + threadIdx.x < n)
      y[(column + i) * n + row + threadIdx.x] = tile[threadIdx.x][i];
}

// ---- launchers ----

template <class T>
void column_sums(Queue& queue, const T* x, int64_t n, int64_t width, double* squares,
                 double* magnitudes, float* largest) {
  queue.launch("column_sums", column_sums_kernel<T>, dim3(unsigned(ceil_div(width, 128))),
               dim3(128), 0, x, n, width, squares, magnitudes, largest);
}
// n at most 2 million: rows of blocks are the grid's y.
template <class T>
void transpose(Queue& queue, const T* x, int64_t n, int64_t width, float* y) {
  queue.launch("transpose", transpose_kernel<T>,
               dim3(unsigned(ceil_div(width, 32)), unsigned(ceil_div(n, 32))), dim3(32, 8), 0, x, n,
               width, y);
}

}  // namespace ptq::cuda
