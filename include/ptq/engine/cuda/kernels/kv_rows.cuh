// Rows of a pass into the caches, and rows of a cache out to an encoder. Reference: KvRows of
// engine/cpu/kv_cache.hpp.
//
// Copies, bound by memory. Where a row goes is read from the segments in device memory, so that a
// captured graph keeps working while the cache grows.
#pragma once

#include "ptq/engine/cuda/queue.hpp"
#include "ptq/engine/cuda/row_views.hpp"

namespace ptq::cuda {

// ---- kernels ----

// Writes one number of a dense row.
__device__ __forceinline__ void store_dense(const DenseView& v, int64_t at, float x) {
  auto* data = const_cast<void*>(v.data);
  if (v.dtype == DType::f16)
    static_cast<F16*>(data)[at] = from_float<F16>(x);
  else if (v.dtype == DType::bf16)
    static_cast<Bf16*>(data)[at] = from_float<Bf16>(x);
  else
    static_cast<float*>(data)[at] = x;
}

// k, v [rows of the pass, width]; grid (rows, ceil(width / 256), 2). unrotated: are these rows for
// caches of keys before rotation? The rows of others are left out.
template <class T>
__global__ void append_rows_kernel(const T* k, const T* v, const SegmentView* segments,
                                   const int32_t* segment_of_row, int64_t width, bool unrotated) {
  const int64_t c = int64_t(blockIdx.y) * blockDim.x + threadIdx.x, row = blockIdx.x;
  if (c >= width) return;
  const SegmentView& s = segments[segment_of_row[row]];
  const SideView& side = blockIdx.z == 0 ? s.keys : s.values;
  if ((side.cosine != nullptr) != unrotated) return;
  const int64_t position = s.position + row - s.row;
  const DenseView& to = position < side.policy.sink ? side.sinks : side.tail;
  store_dense(to, (position - to.first) * to.row_stride + c,
              to_float((blockIdx.z == 0 ? k : v)[row * width + c]));
}

// Dense rows [begin, begin + n), as they are stored, to x [heads, n, dim] float32. A number that is
// not finite sets *flag, where there is one. grid (n, ceil(dim / 32), heads), 32 threads
__global__ inline void read_rows_kernel(SideView side, int64_t begin, int64_t n, int64_t dim,
                                        float* x, int32_t* flag) {
  const int64_t c = int64_t(blockIdx.y) * blockDim.x + threadIdx.x;
  if (c >= dim) return;
  const int64_t position = begin + blockIdx.x, head = blockIdx.z;
  const DenseView& from = position < side.policy.sink ? side.sinks : side.tail;
  const int64_t at = head * from.head_stride + (position - from.first) * from.row_stride + c;
  float value;
  if (from.dtype == DType::f16)
    value = to_float(static_cast<const F16*>(from.data)[at]);
  else if (from.dtype == DType::bf16)
    value = to_float(static_cast<const Bf16*>(from.data)[at]);
  else
    value = static_cast<const float*>(from.data)[at];
  if (flag && !(fabsf(value) <= 3.4028234663852886e38f)) atomicOr(flag, 1);
  x[(head * n + blockIdx.x) * dim + c] = value;
}

// x [heads, n, dim] float32 to dense encoded rows from `row` on. Grid as above.
__global__ inline void store_rows_kernel(const float* x, DenseView to, int64_t row, int64_t n,
                                         int64_t dim) {
  const int64_t c = int64_t(blockIdx.y) * blockDim.x + threadIdx.x;
  if (c >= dim) return;
  const int64_t head = blockIdx.z;
  store_dense(to, head * to.head_stride + (row + blockIdx.x) * to.row_stride + c,
              x[(head * n + blockIdx.x) * dim + c]);
}

// x [rows, dim] <- x H / sqrt(dim) in place, dim a power of two. Reference: ptq::hadamard.
// One warp per block, grid (rows), dim floats of shared memory
__global__ inline void hadamard_rows_kernel(float* x, int dim) {
  float* row = reinterpret_cast<float*>(dynamic_shared());
  x += int64_t(blockIdx.x) * dim;
  const int lane = int(threadIdx.x);
  for (int c = lane; c < dim; c += kWarpLanes) row[c] = x[c];
  for (int half = 1; half < dim; half *= 2) {
    __syncwarp();
    for (int pair = lane; pair < dim / 2; pair += kWarpLanes) {
      const int c = pair / half * 2 * half + pair % half;
      const float a = row[c], b = row[c + half];
      row[c] = a + b;
      row[c + half] = a - b;
    }
  }
  __syncwarp();
  const float scale = 1.0f / sqrtf(float(dim));
  for (int c = lane; c < dim; c += kWarpLanes) x[c] = row[c] * scale;
}

// ---- launchers ----

// Rows lie along x: a request is one pass in most regimes, and only x of a grid goes past 65535.

template <class T>
void append_rows(Queue& queue, const T* k, const T* v, const SegmentView* segments,
                 const int32_t* segment_of_row, int64_t n, int64_t width) {
  queue.launch("append_rows", append_rows_kernel<T>,
               dim3(unsigned(n), unsigned(ceil_div(width, 256)), 2), dim3(256), 0, k, v, segments,
               segment_of_row, width, false);
}
// Keys before rotation.
template <class T>
void append_unrotated(Queue& queue, const T* k, const SegmentView* segments,
                      const int32_t* segment_of_row, int64_t n, int64_t width) {
  queue.launch("append_rows", append_rows_kernel<T>,
               dim3(unsigned(n), unsigned(ceil_div(width, 256)), 1), dim3(256), 0, k, k, segments,
               segment_of_row, width, true);
}
inline void read_rows(Queue& queue, const SideView& side, int64_t begin, int64_t n, int64_t heads,
                      int64_t dim, float* x, int32_t* flag) {
  queue.launch("read_rows", read_rows_kernel,
               dim3(unsigned(n), unsigned(ceil_div(dim, 32)), unsigned(heads)), dim3(32), 0, side,
               begin, n, dim, x, flag);
}
inline void hadamard_rows(Queue& queue, float* x, int64_t rows, int64_t dim) {
  queue.launch("hadamard_rows", hadamard_rows_kernel, dim3(unsigned(rows)), dim3(kWarpLanes),
               size_t(dim) * sizeof(float), x, int(dim));
}
inline void store_rows(Queue& queue, const float* x, const DenseView& to, int64_t row, int64_t n,
                       int64_t heads, int64_t dim) {
  queue.launch("store_rows", store_rows_kernel,
               dim3(unsigned(n), unsigned(ceil_div(dim, 32)), unsigned(heads)), dim3(32), 0, x, to,
               row, n, dim);
}

}  // namespace ptq::cuda
