// SwiGLU, the residual sum and noise: one thread a number, bound by memory. Reference:
// cpu::Device::swiglu, ::add and ::disturb.
#pragma once

#include "ptq/engine/cuda/kernels/numbers.cuh"
#include "ptq/engine/cuda/queue.hpp"
#include "ptq/engine/noise.hpp"

namespace ptq::cuda {

// ---- kernels ----

// gate = silu(gate) * up (arXiv 2002.05202); bfloat16 rounds silu and the product.
template <class T>
__global__ void swiglu_kernel(T* gate, const T* up, int64_t n) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const float g = to_float(gate[i]);
  // 1 / (1 + exp(-g)) from exp(-|g|), which cannot overflow.
  const float e = expf(-fabsf(g));
  const float sigmoid = (g < 0 ? e : 1.0f) / (1.0f + e);
  gate[i] = from_float<T>(rounded<T>(g * sigmoid) * to_float(up[i]));
}

// x += y
template <class T>
__global__ void add_kernel(T* x, const T* y, int64_t n) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) x[i] = from_float<T>(to_float(x[i]) + to_float(y[i]));
}

// x [n, width] *= 1 + noise
template <class T>
__global__ void disturb_kernel(T* x, int64_t n, int64_t width, LayerNoise noise, int layer,
                               int64_t position) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n * width) return;
  const float z = unit_noise(noise.seed, layer, position + i / width, i % width);
  x[i] = from_float<T>(to_float(x[i]) * (1.0f + noise.relative * z));
}

// y [n, width] += bias [width], rows of y `stride` apart, for products that could not add it
// themselves.
template <class T>
__global__ void add_bias_kernel(T* y, const T* bias, int64_t n, int64_t width, int64_t stride) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n * width) return;
  T& to = y[i / width * stride + i % width];
  to = from_float<T>(to_float(to) + to_float(bias[i % width]));
}

template <class In, class Out>
__global__ void convert_kernel(const In* x, int64_t n, Out* y) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) y[i] = from_float<Out>(to_float(x[i]));
}

// ---- launchers ----

inline dim3 blocks_of_256(int64_t n) { return dim3(unsigned(ceil_div(n, 256))); }

template <class T>
void swiglu(Queue& queue, T* gate, const T* up, int64_t n) {
  queue.launch("swiglu", swiglu_kernel<T>, blocks_of_256(n), dim3(256), 0, gate, up, n);
}
template <class T>
void add(Queue& queue, T* x, const T* y, int64_t n) {
  queue.launch("add", add_kernel<T>, blocks_of_256(n), dim3(256), 0, x, y, n);
}
template <class T>
void disturb(Queue& queue, T* x, int64_t n, int64_t width, const LayerNoise& noise, int layer,
             int64_t position) {
  queue.launch("disturb", disturb_kernel<T>, blocks_of_256(n * width), dim3(256), 0, x, n, width,
               noise, layer, position);
}
template <class T>
void add_bias(Queue& queue, T* y, const T* bias, int64_t n, int64_t width, int64_t stride) {
  queue.launch("add_bias", add_bias_kernel<T>, blocks_of_256(n * width), dim3(256), 0, y, bias, n,
               width, stride);
}
template <class In, class Out>
void convert(Queue& queue, const In* x, int64_t n, Out* y) {
  if (n > 0)
    queue.launch("convert", convert_kernel<In, Out>, blocks_of_256(n), dim3(256), 0, x, n, y);
}

}  // namespace ptq::cuda
