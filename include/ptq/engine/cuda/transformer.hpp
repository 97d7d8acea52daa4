// The forward pass on a CUDA device.
#pragma once

#include "ptq/engine/cuda/device.hpp"
#include "ptq/engine/pass/transformer.hpp"

#ifdef PTQ_CUDA_KERNELS_APART  // see attention.cuh
extern template class ptq::Transformer<ptq::cuda::Device<float>>;
extern template class ptq::Transformer<ptq::cuda::Device<ptq::cuda::Bf16>>;
#endif
