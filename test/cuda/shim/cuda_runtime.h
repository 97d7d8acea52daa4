// The part of <cuda_runtime.h> that the kernels and the engine use, on the host: keywords,
// built-ins, warp functions, memory, streams and graphs. Blocks run one after the other, threads as
// fibers (block.hpp).
//
// A stream does nothing until somebody waits for it: the latest time that CUDA allows. So a source
// that is freed or overwritten too early is seen, by its content or by a sanitizer. What a capture
// forbids is refused and spoils the capture, as the driver does it.
#pragma once

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
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
  cudaErrorStreamCaptureInvalidated = 901,
};
inline const char* cudaGetErrorString(cudaError_t e) {
  switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted while capturing";
    case cudaErrorStreamCaptureInvalidated:
      return "operation failed due to an earlier error of the capture";
    default: return "invalid argument";
  }
}

namespace ptq_shim {

struct Graph {
  std::vector<std::function<void()>> nodes;
};
struct Stream {
  std::vector<std::function<void()>> waiting;
  std::unique_ptr<Graph> capturing;
  bool spoiled = false;  // the capture: something forbidden was done meanwhile
  // Waits to be run, or becomes a node of the graph that is being captured.
  void enqueue(std::function<void()> work) {
    (capturing ? capturing->nodes : waiting).push_back(std::move(work));
  }
  void run() {
    const auto work = std::exchange(waiting, {});
    for (const auto& piece : work) piece();
  }
};

// The pretended device.
struct Device {
  size_t total = size_t{1} << 30, used = 0;
  size_t shared_limit = 227 << 10;  // bytes of a block, with opt-in
  uint32_t seed = 1;
  bool run_kernels = true;  // false: launches are checked only
  cudaError_t last_error = cudaSuccess;
  std::unordered_map<void*, size_t> allocations;
  std::unordered_map<const void*, size_t> opted_in;  // by kernel: dynamic shared bytes asked for
  std::map<const char*, size_t> pinned;              // by first byte
  std::set<Stream*> streams;
  static Device& get() {
    static thread_local Device& device = *new Device;  // outlives the statics of tests
    return device;
  }
  bool is_pinned(const void* p) const {
    const char* at = static_cast<const char*>(p);
    const auto next = pinned.upper_bound(at);
    return next != pinned.begin() && at < std::prev(next)->first + std::prev(next)->second;
  }
};

// An error stays until cudaGetLastError() is asked.
inline cudaError_t failed(cudaError_t e) { return Device::get().last_error = e; }
// Is a stream being captured? Then what is asked for is refused and the capture is spoiled.
inline bool forbidden_by_capture() {
  bool any = false;
  for (Stream* s : Device::get().streams)
    if (s->capturing) any = s->spoiled = true;
  return any;
}
inline void run_all_streams() {
  for (Stream* s : Device::get().streams)
    if (!s->capturing) s->run();
}

}  // namespace ptq_shim

inline cudaError_t cudaGetLastError() {
  return std::exchange(ptq_shim::Device::get().last_error, cudaSuccess);
}

using cudaStream_t = ptq_shim::Stream*;
using cudaGraph_t = ptq_shim::Graph*;
using cudaGraphExec_t = ptq_shim::Graph*;
enum cudaMemcpyKind {
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice
};
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrL2CacheSize = 38,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
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
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr what, int) {
  *value = what == cudaDevAttrMultiProcessorCount ? 2
           : what == cudaDevAttrL2CacheSize       ? 4096
                                                  : int(ptq_shim::Device::get().shared_limit);
  return cudaSuccess;
}
inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int bytes) {
  auto& d = ptq_shim::Device::get();
  if (size_t(bytes) > d.shared_limit) return ptq_shim::failed(cudaErrorInvalidValue);
  d.opted_in[kernel] = size_t(bytes);
  return cudaSuccess;
}
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
  if (ptq_shim::forbidden_by_capture()) return ptq_shim::failed(cudaErrorStreamCaptureUnsupported);
  if (bytes > d.total - d.used) return ptq_shim::failed(cudaErrorMemoryAllocation);
  *p = std::malloc(bytes);
  std::memset(*p, 0xFF, bytes);
  d.used += bytes;
  d.allocations[*p] = bytes;
  return cudaSuccess;
}
// Waits for the device, as the driver does.
inline cudaError_t cudaFree(void* p) {
  if (!p) return cudaSuccess;
  auto& d = ptq_shim::Device::get();
  if (ptq_shim::forbidden_by_capture()) return ptq_shim::failed(cudaErrorStreamCaptureUnsupported);
  const auto found = d.allocations.find(p);
  if (found == d.allocations.end()) return ptq_shim::failed(cudaErrorInvalidValue);
  ptq_shim::run_all_streams();
  d.used -= found->second;
  d.allocations.erase(found);
  std::free(p);
  return cudaSuccess;
}
inline cudaError_t cudaMallocHost(void** p, size_t bytes) {
  if (ptq_shim::forbidden_by_capture()) return ptq_shim::failed(cudaErrorStreamCaptureUnsupported);
  *p = std::malloc(bytes);
  std::memset(*p, 0xFF, bytes);
  ptq_shim::Device::get().pinned[static_cast<const char*>(*p)] = bytes;
  return cudaSuccess;
}
inline cudaError_t cudaFreeHost(void* p) {
  if (!p) return cudaSuccess;
  if (ptq_shim::forbidden_by_capture()) return ptq_shim::failed(cudaErrorStreamCaptureUnsupported);
  ptq_shim::run_all_streams();
  ptq_shim::Device::get().pinned.erase(static_cast<const char*>(p));
  std::free(p);
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) {
  *s = new ptq_shim::Stream;
  ptq_shim::Device::get().streams.insert(*s);
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t s) {
  s->run();
  ptq_shim::Device::get().streams.erase(s);
  delete s;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  if (s->capturing) {
    s->spoiled = true;
    return ptq_shim::failed(cudaErrorStreamCaptureUnsupported);
  }
  s->run();
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                                   cudaStream_t s) {
  const void* host = kind == cudaMemcpyHostToDevice ? from : to;
  if (s->capturing && kind != cudaMemcpyDeviceToDevice &&
      !ptq_shim::Device::get().is_pinned(host)) {
    s->spoiled = true;
    return ptq_shim::failed(cudaErrorStreamCaptureUnsupported);
  }
  s->enqueue([=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t s) {
  s->enqueue([=] { std::memset(p, value, bytes); });
  return cudaSuccess;
}
inline cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
  s->capturing = std::make_unique<ptq_shim::Graph>();
  s->spoiled = false;
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* graph) {
  *graph = nullptr;
  const std::unique_ptr<ptq_shim::Graph> captured = std::move(s->capturing);
  if (s->spoiled) return ptq_shim::failed(cudaErrorStreamCaptureInvalidated);
  *graph = new ptq_shim::Graph(*captured);
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                        unsigned long long) {
  *exec = new ptq_shim::Graph(*graph);
  return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s) {
  for (const auto& node : exec->nodes) s->enqueue(node);
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
// kernel<<<grid, block, shared, stream>>>(arguments...), arguments by value. Dynamic shared memory
// has to be asked for, however little it is: what a kernel declares itself is not known here.
template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
            cudaStream_t stream, A... arguments) {
  Device& device = Device::get();
  const auto asked = device.opted_in.find(reinterpret_cast<const void*>(kernel));
  if (block.x * block.y * block.z == 0 || block.x * block.y * block.z > 1024 ||
      grid.x * grid.y * grid.z == 0 || grid.x > 0x7FFFFFFFu || grid.y > 65535 || grid.z > 65535 ||
      (shared > 0 && (asked == device.opted_in.end() || asked->second < shared)))
    throw std::runtime_error(std::string(name) + ": launch configuration");
  if (!device.run_kernels) return;
  stream->enqueue([=, seed = device.seed] {
    grid_size = grid;
    Block runner(block, shared, seed, name);
    for (unsigned z = 0; z < grid.z; ++z)
      for (unsigned y = 0; y < grid.y; ++y)
        for (unsigned x = 0; x < grid.x; ++x)
          runner.run(dim3(x, y, z), [&] { kernel(P(arguments)...); });
  });
}
}  // namespace ptq_shim

// ---- events: the time at which a stream came past them; and what a bench asks of a device
// --------

namespace ptq_shim {
struct Event {
  std::chrono::steady_clock::time_point time;
};
}  // namespace ptq_shim

using cudaEvent_t = ptq_shim::Event*;

inline cudaError_t cudaEventCreate(cudaEvent_t* e) {
  *e = new ptq_shim::Event;
  return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t e) {
  delete e;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
  s->enqueue([=] { e->time = std::chrono::steady_clock::now(); });
  return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t) {
  ptq_shim::run_all_streams();
  return cudaSuccess;
}
inline cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  *milliseconds = std::chrono::duration<float, std::milli>(to->time - from->time).count();
  return cudaSuccess;
}
