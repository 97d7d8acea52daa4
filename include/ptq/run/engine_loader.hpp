// Engines by the name of their device: "cpu", "cuda:0", ...; "auto" is the first GPU that can be
// used, else the CPU.
#pragma once

#include <algorithm>
#include <boost/dll/runtime_symbol_info.hpp>
#include <boost/dll/shared_library.hpp>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "ptq/core/error.hpp"
#include "ptq/core/suggest.hpp"
#include "ptq/engine/cuda_library.hpp"
#include "ptq/engine/engine.hpp"

namespace ptq {

// The CUDA engine of this installation: loaded once, when it is first asked for.
class CudaEngine {
 public:
  // build: version and commit of the program.
  static const CudaEngine& get(const std::string& build) {
    static const CudaEngine engine(build);
    return engine;
  }

  bool usable() const { return library_ != nullptr && facts_.why_not.empty(); }
  // Why it is not used, one sentence; empty when it can be.
  const std::string& why_not() const { return facts_.why_not; }
  const CudaFacts& facts() const { return facts_; }
  const std::string& file() const { return file_; }

  std::unique_ptr<Engine> make(const std::string& folder, const EngineOptions& options,
                               int device) const {
    return library_->make(folder, options, device);
  }
  uint64_t free_memory(int device) const { return library_->free_memory(device); }
  CudaLimits limits(int device) const { return library_->limits(device); }
  void kernels(int device, const KernelBenchSettings& settings, const KernelRowFn& row) const {
    library_->kernels(device, settings, row);
  }

 private:
  explicit CudaEngine(const std::string& build) {
    namespace fs = std::filesystem;
    const fs::path beside = fs::path(boost::dll::program_location().parent_path().string());
    std::error_code none;
    for (const fs::path& folder : {beside / "../lib", beside / "../lib/ptq"}) {
      if (fs::is_regular_file(folder / kCudaLibraryFile, none)) {
        file_ = fs::weakly_canonical(folder / kCudaLibraryFile, none).string();
        break;
      }
    }
    if (file_.empty()) {
      facts_.why_not = std::string("this build has no CUDA engine (") + kCudaLibraryFile +
                       " is not in ../lib of the program: it is made where CMake finds nvcc)";
      return;
    }
    // Asked first: the engine brings cuBLAS with it, half a second and 200 MB for nothing here.
    if (std::error_code no_driver;
        boost::dll::shared_library("libcuda.so.1", no_driver,
                                   boost::dll::load_mode::search_system_folders),
        no_driver) {
      facts_.why_not = "this machine has no NVIDIA driver";
      return;
    }
    try {
      // Never unloaded: threads of the driver outlive every engine.
      auto& library = *new boost::dll::shared_library(
          file_, boost::dll::load_mode::rtld_now | boost::dll::load_mode::rtld_local);
      const auto& symbol = library.get<const CudaLibrary>(kCudaLibrarySymbol);
      if (symbol.build != build) {
        facts_.why_not = "the CUDA engine is of another build (" + std::string(symbol.build) +
                         ", the program is " + build + "); build both again";
        return;
      }
      library_ = &symbol;
      facts_ = symbol.facts();
    } catch (const std::exception& e) {
      facts_.why_not = "the CUDA engine cannot be loaded: " + std::string(e.what());
    }
  }

  std::string file_;
  const CudaLibrary* library_ = nullptr;
  CudaFacts facts_;
};

// Errors: an unknown word.
inline void check_device_name(const std::string& device) {
  const bool numbered = device.starts_with("cuda:") && device.size() > 5 && device.size() < 9 &&
                        device.find_first_not_of("0123456789", 5) == std::string::npos;
  if (device == "cpu" || device == "auto" || device == "cuda" || numbered) return;
  throw usage_error("unknown device `" + device + "`", "--device",
                    did_you_mean(device, {"auto", "cpu", "cuda", "cuda:0"}));
}

// "cpu" or "cuda:N" of what a user wrote. Errors: an unknown word, a GPU that cannot be used.
inline std::string resolve_device(const std::string& device, const std::string& build) {
  check_device_name(device);
  if (device == "cpu") return device;
  if (device == "auto") return CudaEngine::get(build).usable() ? "cuda:0" : "cpu";
  const CudaEngine& engine = CudaEngine::get(build);
  const std::string hint = "--device cpu runs the same experiment on the processor";
  if (!engine.usable())
    throw environment_error("no GPU can be used: " + engine.why_not(), "--device " + device, hint);
  const int index = device == "cuda" ? 0 : std::atoi(device.c_str() + 5);
  const int count = int(engine.facts().devices.size());
  if (index >= count)
    throw environment_error("there is no CUDA device " + std::to_string(index),
                            "--device " + device,
                            "this machine has " + std::to_string(count) + ", counted from 0");
  return "cuda:" + std::to_string(index);
}

// device: from resolve_device; where: of the compute mode. Errors: a mode that it does not have.
inline void check_compute(const std::string& device, Compute compute, const std::string& where) {
  if (compute == Compute::int8 && device != "cpu")
    throw usage_error("compute int8 is for processors, and the device is " + device, where,
                      "--device cpu; a GPU computes in " + compute_word(Compute::fp32) + " or " +
                          compute_word(Compute::bf16));
}

// device: from resolve_device.
inline std::unique_ptr<Engine> make_engine(const std::string& device, const std::string& build,
                                           const std::string& folder,
                                           const EngineOptions& options) {
  check_compute(device, options.compute, folder);
  if (device == "cpu") return make_cpu_engine(folder, options);
  return CudaEngine::get(build).make(folder, options, std::atoi(device.c_str() + 5));
}

}  // namespace ptq
