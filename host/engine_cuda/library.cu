// The symbol of the engine's library.
#include "ptq/engine/cuda/bench/kernel_list.hpp"
#include "ptq/engine/cuda/limits.hpp"
#include "ptq/engine/cuda/transformer.hpp"
#include "ptq/engine/cuda_library.hpp"

namespace ptq {
namespace {

CudaFacts facts() {
  CudaFacts f;
  cudaRuntimeGetVersion(&f.runtime);
  cudaDriverGetVersion(&f.driver);
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  const auto version = [](int v) {
    return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10);
  };
  if (f.driver == 0) {
    f.why_not = "this machine has no NVIDIA driver";
  } else if (f.driver / 1000 < f.runtime / 1000) {
    f.why_not = "the driver knows CUDA " + version(f.driver) + ", this build needs " +
                version(f.runtime) + "; update the driver or build with an older toolkit";
  } else if (status != cudaSuccess) {
    f.why_not = std::string("the driver reports: ") + cudaGetErrorString(status);
  } else if (count == 0) {
    f.why_not = "the driver sees no device";
  }
  if (!f.why_not.empty()) return f;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp p{};
    if (cudaGetDeviceProperties(&p, i) != cudaSuccess) continue;
    f.devices.push_back({p.name, p.major, p.minor, p.totalGlobalMem});
  }
  if (f.devices.empty())
    f.why_not = "no device answers";
  else if (f.devices[0].major < 8)
    f.why_not = "the engine needs compute capability 8.0 or newer, " + f.devices[0].name + " has " +
                std::to_string(f.devices[0].major) + "." + std::to_string(f.devices[0].minor);
  return f;
}

uint64_t free_memory(int device) {
  size_t free_bytes = 0, total = 0;
  if (cudaSetDevice(device) != cudaSuccess || cudaMemGetInfo(&free_bytes, &total) != cudaSuccess)
    return 0;
  return free_bytes;
}

std::unique_ptr<Engine> make(const std::string& folder, const EngineOptions& options, int device) {
  if (options.compute == Compute::bf16)
    return std::make_unique<Transformer<cuda::Device<cuda::Bf16>>>(
        folder, cuda::Device<cuda::Bf16>(device), options.random);
  return std::make_unique<Transformer<cuda::Device<float>>>(folder, cuda::Device<float>(device),
                                                            options.random);
}

CudaLimits limits(int device) { return cuda::measure_limits(device); }

void kernels(int device, const KernelBenchSettings& settings, const KernelRowFn& row) {
  cuda::measure_kernels(device, settings, row);
}

}  // namespace
}  // namespace ptq

extern "C" __attribute__((visibility("default"))) const ptq::CudaLibrary ptq_cuda_library = {
    PTQ_BUILD, ptq::facts, ptq::free_memory, ptq::make, ptq::limits, ptq::kernels};
