// Rounding of what enters a linear layer: int8 or E4M3, a step per token or one for all. Reference:
// cpu::round_activations; both call encoding/activation.hpp.
//
// One block a token.
#pragma once

#include "ptq/encoding/activation.hpp"
#include "ptq/engine/cuda/kernels/numbers.cuh"
#include "ptq/engine/cuda/queue.hpp"

namespace ptq::cuda {

// ---- kernel ----

// grid (rows), any number of whole warps
template <class T>
__global__ void round_activations_kernel(const T* x, int64_t width, Activation how, T* y) {
  const T* in = x + int64_t(blockIdx.x) * width;
  T* out = y + int64_t(blockIdx.x) * width;
  float step = how.scale;
  if (step_per_token(how.kind)) {
    float largest = 0;
    for (int64_t c = threadIdx.x; c < width; c += blockDim.x) {
      const float size = fabsf(to_float(in[c]));
      const bool outlier = how.outlier_threshold > 0 && size >= how.outlier_threshold;
      largest = !outlier && size > largest ? size : largest;
    }
    step = activation_step(how.kind, block_max(largest));
  }
  for (int64_t c = threadIdx.x; c < width; c += blockDim.x)
    out[c] =
        from_float<T>(rounded_activation(to_float(in[c]), how.kind, step, how.outlier_threshold));
}

// ---- launcher ----

template <class T>
void round_activations(Queue& queue, const Activation& how, const T* x, int64_t n, int64_t width,
                       T* y) {
  const unsigned threads = width >= 1024 ? 512 : 128;
  queue.launch("round_activations", round_activations_kernel<T>, dim3(unsigned(n)), dim3(threads),
               0, x, width, how, y);
}

}  // namespace ptq::cuda
