// Rotary embedding in place (arXiv 2104.09864), half-split pairs i and i + dim/2 as in Hugging Face
// checkpoints. Reference: cpu::Device::rope; in bfloat16 both products and their sum are rounded.
//
// cos and sin come from a table that the host made with the same float32 angles as the CPU's
// engine: the device's own functions would differ in the last bit.
#pragma once

#include "ptq/encoding/rotation.hpp"
#include "ptq/engine/cuda/kernels/numbers.cuh"
#include "ptq/engine/cuda/queue.hpp"

namespace ptq::cuda {

// ---- kernel ----

template <class T>
struct RoundTo {
  PTQ_HD float operator()(float x) const { return rounded<T>(x); }
};

// x [rows, heads * dim]; cosine, sine [positions, dim / 2]; grid (ceil(heads * dim / 2 / 256),
// rows)
template <class T>
__global__ void rope_kernel(T* x, const int32_t* positions, int64_t heads, int64_t dim,
                            const float* cosine, const float* sine) {
  const int64_t half = dim / 2, pair = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (pair >= heads * half) return;
  const int64_t head = pair / half, d = pair % half, row = blockIdx.y;
  const int64_t angle = int64_t(positions[row]) * half + d;
  const float c = cosine[angle], s = sine[angle];
  T* p = x + (row * heads + head) * dim + d;
  float a = to_float(p[0]), b = to_float(p[half]);
  rotate_pair(a, b, c, s, RoundTo<T>{});
  p[0] = from_float<T>(a);
  p[half] = from_float<T>(b);
}

// ---- launcher ----

template <class T>
void rope(Queue& queue, T* x, const int32_t* positions, int64_t n, int64_t heads, int64_t dim,
          const float* cosine, const float* sine) {
  for (int64_t at = 0; at < n; at += 65535) {
    const int64_t rows = n - at < 65535 ? n - at : 65535;
    queue.launch("rope", rope_kernel<T>,
                 dim3(unsigned(ceil_div(heads * dim / 2, 256)), unsigned(rows)), dim3(256), 0,
                 x + at * heads * dim, positions + at, heads, dim, cosine, sine);
  }
}

}  // namespace ptq::cuda
