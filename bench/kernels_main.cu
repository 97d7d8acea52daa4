// Every CUDA kernel alone, without the rest of the program: to try a changed kernel where there is
// a GPU and the CUDA toolkit and nothing else. The same list and lines as `ptq-bench --kernels`.
//
//   nvcc -std=c++20 -O3 -arch=sm_90 -Iinclude bench/kernels_main.cu -lcublasLt -o kernels
//   ./kernels [--device N] [--json FILE] [--seconds N] [NAME[,NAME]]
#include <cstdlib>
#include <fstream>
#include <string_view>

#include "ptq/engine/cuda/bench/kernel_list.hpp"

namespace {

int run(int argc, char** argv) {
  using namespace ptq;
  KernelBenchSettings settings;
  std::string file;
  int device = 0;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : nullptr;
    if (word.starts_with("--")) {
      if ((word != "--device" && word != "--json" && word != "--seconds") || !value)
        throw usage_error("unknown option or no value: " + std::string(word), "",
                          "kernels [--device N] [--json FILE] [--seconds N] [NAME[,NAME]]");
      if (word == "--device") device = std::atoi(value);
      if (word == "--json") file = value;
      if (word == "--seconds") settings.seconds = std::atof(value);
      ++i;
    } else {
      settings.names = kernel_names(argv[i]);
    }
  }

  cudaDeviceProp properties{};
  const cudaError_t status = cudaGetDeviceProperties(&properties, device);
  if (status != cudaSuccess)
    throw environment_error(std::string("no GPU can be used: ") + cudaGetErrorString(status));
  std::printf("%s\n\n", properties.name);
  std::vector<KernelRow> rows;
  size_t missing = 0;
  const auto write = [&] {
    if (file.empty()) return;
    std::ofstream out(file);
    out << kernels_json(properties.name, rows);
    if (!out.flush()) throw environment_error("cannot write", file);
  };
  try {
    cuda::measure_kernels(device, settings, [&](const KernelRow& row) {
      std::printf("%s\n", kernel_text(row).c_str());
      std::fflush(stdout);
      rows.push_back(row);
      missing += !row.error.empty();
    });
  } catch (const Error&) {
    if (!rows.empty()) write();  // what was measured is kept
    throw;
  }
  write();
  if (missing > 0)
    throw Error(
        ExitCode::cells_failed,
        std::to_string(missing) + " of " + std::to_string(rows.size()) + " rows were not measured");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const ptq::Error& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return int(e.code());
  }
}
