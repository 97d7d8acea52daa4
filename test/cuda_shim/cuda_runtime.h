// The part of <cuda_runtime.h> that the kernels and the engine use, on the host: keywords,
// built-ins, warp functions, memory, streams and graphs. Blocks run one after the other, threads as
// fibers (block.hpp). Everything on a "stream" happens at once, but while a graph is being
// captured.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "block.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __shared__ static thread_local

#define threadIdx (::ptq_shim::current->index)
#define blockIdx (::ptq_shim::block_index)
#define blockDim (::ptq_shim::block_size)
#define gridDim (::ptq_shim::grid_size)
#define warpSize 32

// ---- inside a kernel ---------------------------------------------------------------------------

inline void __syncthreads() { ptq_shim::current->block->barrier(false); }
inline int __syncthreads_or(int x) { return ptq_shim::current->block->barrier(x != 0) > 0; }

namespace ptq_shim {
// The value that lane `from` of the mask deposited.
template <class T>
T shuffle(uint32_t mask, T value, int from) {
  static_assert(sizeof(T) <= Exchange::kBytes);
  int buffer = 0;
  Block& block = *current->block;
  const Exchange& e = block.exchange(mask, &value, sizeof value, buffer);
  if (from < 0 || from >= kWarp || !(mask >> from & 1)) block.fail("shuffle from outside the mask");
  T result;
  std::memcpy(&result, e.slot[buffer][from], sizeof result);
  return result;
}
inline int lane() { return current->linear % kWarp; }
}  // namespace ptq_shim

template <class T>
T __shfl_sync(uint32_t mask, T value, int from) {
  return ptq_shim::shuffle(mask, value, from);
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int lanes) {
  return ptq_shim::shuffle(mask, value, ptq_shim::lane() ^ lanes);
}
inline void __syncwarp(uint32_t mask = 0xFFFFFFFFu) {
  ptq_shim::shuffle(mask, 0, ptq_shim::lane());
}
template <class T>
T atomicOr(T* address, T value) {  // threads of a block run one at a time
  const T old = *address;
  *address = old | value;
  return old;
}

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

// ---- run time ----------------------------------------------------------------------------------

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorStreamCaptureUnsupported = 900,
};
inline const char* cudaGetErrorString(cudaError_t e) {
  switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted while capturing";
    default: return "invalid argument";
  }
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

namespace ptq_shim {

struct Graph {
  std::vector<std::function<void()>> nodes;
};
struct Stream {
  std::unique_ptr<Graph> capturing;
  // Runs now, or becomes a node of the graph that is being captured.
  void enqueue(std::function<void()> work) {
    if (capturing)
      capturing->nodes.push_back(std::move(work));
    else
      work();
  }
};

// The pretended device.
struct Device {
  size_t total = size_t{1} << 30, used = 0;
  uint32_t seed = 1;
  std::unordered_map<void*, size_t> allocations;
  static Device& get() {
    static thread_local Device device;
    return device;
  }
};

}  // namespace ptq_shim

using cudaStream_t = ptq_shim::Stream*;
using cudaGraph_t = ptq_shim::Graph*;
using cudaGraphExec_t = ptq_shim::Graph*;
enum cudaMemcpyKind {
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice
};
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
inline constexpr unsigned cudaStreamNonBlocking = 1;

struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount;
  size_t totalGlobalMem;
};

inline cudaError_t cudaGetDeviceCount(int* n) {
  *n = 1;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  std::snprintf(p->name, sizeof p->name, "host shim");
  p->major = 9;
  p->minor = 0;
  p->multiProcessorCount = 2;
  p->totalGlobalMem = ptq_shim::Device::get().total;
  return cudaSuccess;
}
inline cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) {
  const auto& d = ptq_shim::Device::get();
  *free_bytes = d.total - d.used;
  *total = d.total;
  return cudaSuccess;
}
// Device memory is filled with NaN patterns: what was never written does not look like a number.
inline cudaError_t cudaMalloc(void** p, size_t bytes) {
  auto& d = ptq_shim::Device::get();
  if (bytes > d.total - d.used) return cudaErrorMemoryAllocation;
  *p = std::malloc(bytes);
  std::memset(*p, 0xFF, bytes);
  d.used += bytes;
  d.allocations[*p] = bytes;
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* p) {
  if (!p) return cudaSuccess;
  auto& d = ptq_shim::Device::get();
  const auto found = d.allocations.find(p);
  if (found == d.allocations.end()) return cudaErrorInvalidValue;
  d.used -= found->second;
  d.allocations.erase(found);
  std::free(p);
  return cudaSuccess;
}
inline cudaError_t cudaMallocHost(void** p, size_t bytes) {
  *p = std::malloc(bytes);
  std::memset(*p, 0xFF, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaFreeHost(void* p) {
  std::free(p);
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) {
  *s = new ptq_shim::Stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t s) {
  delete s;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  return s->capturing ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t s) {
  s->enqueue([=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t s) {
  s->enqueue([=] { std::memset(p, value, bytes); });
  return cudaSuccess;
}
inline cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
  s->capturing = std::make_unique<ptq_shim::Graph>();
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* graph) {
  *graph = s->capturing.release();
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                        unsigned long long) {
  *exec = new ptq_shim::Graph(*graph);
  return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t) {
  for (const auto& node : exec->nodes) node();
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}

namespace ptq_shim {
// kernel<<<grid, block, shared, stream>>>(arguments...), arguments by value.
template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
            cudaStream_t stream, A... arguments) {
  if (block.x * block.y * block.z == 0 || block.x * block.y * block.z > 1024 ||
      grid.x * grid.y * grid.z == 0 || grid.y > 65535 || grid.z > 65535)
    throw std::runtime_error(std::string(name) + ": launch configuration");
  stream->enqueue([=] {
    grid_size = grid;
    Block runner(block, shared, Device::get().seed, name);
    for (unsigned z = 0; z < grid.z; ++z)
      for (unsigned y = 0; y < grid.y; ++y)
        for (unsigned x = 0; x < grid.x; ++x)
          runner.run(dim3(x, y, z), [&] { kernel(P(arguments)...); });
  });
}
}  // namespace ptq_shim
