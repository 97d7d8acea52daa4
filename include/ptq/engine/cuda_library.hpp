// The border between the program and its CUDA engine, which is a shared object of its own
// (libptq-engine-cuda.so): one binary runs on machines with and without a GPU. Both sides come from
// one build; this is no stable interface.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ptq/engine/kernel_row.hpp"

namespace ptq {

class Engine;
struct EngineOptions;

struct CudaDevice {
  std::string name;  // "NVIDIA H200"
  int major, minor;  // compute capability
  uint64_t memory;   // bytes
};

// What the driver and the library say.
struct CudaFacts {
  std::string why_not;  // one sentence when no device can be used, else empty
  int driver = 0;       // the CUDA version that the driver knows, as 1000 * major + 10 * minor
  int runtime = 0;      // the one that the library was built with
  std::vector<CudaDevice> devices;
};

// What a device can do at most, measured (engine/cuda/limits.hpp).
struct CudaLimits {
  double bf16_flops = 0, fp32_flops = 0;  // matrix products, floating-point operations per second
  double copy_bytes = 0;                  // bytes read and written per second
};

// The one symbol of the library.
struct CudaLibrary {
  const char* build;     // version and commit: must be the program's own
  CudaFacts (*facts)();  // touches no device: a process uses one, and a context takes memory
  uint64_t (*free_memory)(int device);  // bytes; makes the device's context. 0: it does not answer
  // Errors: as of the CPU's engine, and no such device, too little memory.
  std::unique_ptr<Engine> (*make)(const std::string& folder, const EngineOptions& options,
                                  int device);
  CudaLimits (*limits)(int device);  // takes some seconds and 2 GiB of the device
  // Every kernel alone (engine/cuda/bench/kernel_bench.hpp); each row is handed out when it is
  // measured.
  void (*kernels)(int device, const KernelBenchSettings& settings, const KernelRowFn& row);
};
inline constexpr const char* kCudaLibrarySymbol = "ptq_cuda_library";
inline constexpr const char* kCudaLibraryFile = "libptq-engine-cuda.so";

}  // namespace ptq
