// What kernels and their launchers need of CUDA, in one place.
//
// The same sources compile with nvcc and, in the tests, as host C++ against test/cuda/shim, which
// has its own <cuda_runtime.h>. So: no <<< >>>, no raw PTX outside mma.cuh, no static __shared__
// arrays with initialisers, warps of 32 lanes, every exchange with an explicit mask.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>

#include "ptq/core/error.hpp"

namespace ptq::cuda {

// Throws when a call of the run time failed.
inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw Error(ExitCode::environment, std::string(what) + ": " + cudaGetErrorString(status),
              "the CUDA engine",
              "the device may have been taken away or reset; `ptq-host doctor` shows its state");
}

inline constexpr unsigned kFullMask = 0xFFFFFFFFu;
inline constexpr int kWarpLanes = 32;

inline int64_t ceil_div(int64_t n, int64_t d) { return (n + d - 1) / d; }

#ifdef __CUDACC__

template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
            cudaStream_t stream, A... arguments) {
  kernel<<<grid, block, shared, stream>>>(P(arguments)...);
  check(cudaGetLastError(), name);
}

// The block's dynamic shared memory, 16-byte aligned.
__device__ __forceinline__ unsigned char* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char ptq_dynamic_shared[];
  return ptq_dynamic_shared;
}

#else

using ptq_shim::launch;
inline unsigned char* dynamic_shared() {
  return static_cast<unsigned char*>(ptq_shim::current->block->dynamic_shared());
}

#endif

// Sum over the lanes of a warp, in every lane; the order of the sum is fixed.
__device__ __forceinline__ float warp_sum(float x) {
  for (int step = kWarpLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(kFullMask, x, step);
  return x;
}

// Sum over all threads of the block (a multiple of 32, at most 1024), in every thread.
__device__ __forceinline__ float block_sum(float x) {
  __shared__ float partial[kWarpLanes];
  const int warp = int(threadIdx.x) / kWarpLanes, lane = int(threadIdx.x) % kWarpLanes;
  const int warps = int(blockDim.x) / kWarpLanes;
  x = warp_sum(x);
  if (lane == 0) partial[warp] = x;
  __syncthreads();
  x = warp_sum(lane < warps ? partial[lane] : 0.0f);
  __syncthreads();  // the array may be used again
  return x;
}

// Largest of all threads of the block, in every thread; numbers are not negative.
__device__ __forceinline__ float block_max(float x) {
  __shared__ float partial[kWarpLanes];
  const int warp = int(threadIdx.x) / kWarpLanes, lane = int(threadIdx.x) % kWarpLanes;
  const int warps = int(blockDim.x) / kWarpLanes;
  for (int round = 0; round < 2; ++round) {  // of a warp, then of the warps
    for (int step = kWarpLanes / 2; step > 0; step /= 2)
      x = fmaxf(x, __shfl_xor_sync(kFullMask, x, step));
    if (round == 1) break;
    if (lane == 0) partial[warp] = x;
    __syncthreads();
    x = lane < warps ? partial[lane] : 0.0f;
  }
  __syncthreads();  // the array may be used again
  return x;
}

}  // namespace ptq::cuda
