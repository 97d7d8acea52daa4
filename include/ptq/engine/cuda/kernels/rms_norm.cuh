// RMSNorm (arXiv 1910.07467): y = w * x / sqrt(mean(x^2) + eps), per row. Reference:
// cpu::Device::rms_norm, with the same two roundings in bfloat16.
//
// One block a row. The row is read twice, the second time from the first-level cache.
#pragma once

#include "ptq/engine/cuda/kernels/numbers.cuh"
#include "ptq/engine/cuda/queue.hpp"

namespace ptq::cuda {

// ---- kernel ----

// grid (rows), any number of whole warps
template <class T>
__global__ void rms_norm_kernel(const T* x, const T* w, float eps, int64_t width, T* y) {
  const T* in = x + int64_t(blockIdx.x) * width;
  T* out = y + int64_t(blockIdx.x) * width;
  float squares = 0;
  for (int64_t c = threadIdx.x; c < width; c += blockDim.x) {
    const float v = to_float(in[c]);
    squares += v * v;
  }
  const float r = 1.0f / sqrtf(block_sum(squares) / float(width) + eps);
  for (int64_t c = threadIdx.x; c < width; c += blockDim.x)
    out[c] = from_float<T>(rounded<T>(to_float(in[c]) * r) * to_float(w[c]));
}

// ---- launcher ----

template <class T>
void rms_norm(Queue& queue, const T* x, const T* w, float eps, int64_t n, int64_t width, T* y) {
  const unsigned threads = width >= 1024 ? 512 : 128;
  queue.launch("rms_norm", rms_norm_kernel<T>, dim3(unsigned(n)), dim3(threads), 0, x, w, eps,
               width, y);
}

}  // namespace ptq::cuda
