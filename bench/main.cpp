// ptq-bench: speed of the engine beside the limits that the same run measures on the same device.
//
// Every line is the median of several repetitions after a warm-up; ratios are what to compare,
// since absolute figures move with the machine's other load.
#include <fmt/format.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "bench/limits.hpp"
#include "bench/linear.hpp"
#include "bench/parts.hpp"
#include "bench/sheet.hpp"
#include "bench/speed.hpp"
#include "host/machine.hpp"
#include "ptq/core/error.hpp"
#include "ptq/core/output_file.hpp"
#include "ptq/run/engine_loader.hpp"
#include "ptq/run/model_source.hpp"

namespace po = boost::program_options;

namespace ptq::bench {
namespace {

constexpr int64_t kLongContext = 32768, kLongSteps = 64;

struct Settings {
  std::string model, device, compute, text, json, csv, kernels;
  int threads = 0;
  bool linear = false;
  int64_t long_context = -1;
  SpeedSettings speed;
};

// Those of this machine that a kernel of the CPU asks for.
std::vector<std::string> cpu_instructions() {
  std::vector<std::string> names;
#ifdef __x86_64__
  const auto add = [&](const char* name, bool has) {
    if (has) names.push_back(name);
  };
  add("avx2", __builtin_cpu_supports("avx2"));
  add("fma", __builtin_cpu_supports("fma"));
  add("avx512f", __builtin_cpu_supports("avx512f"));
  add("avx512vbmi", __builtin_cpu_supports("avx512vbmi"));
  add("avx512vnni", __builtin_cpu_supports("avx512vnni"));
  add("avx512bf16", __builtin_cpu_supports("avx512bf16"));
#endif
  return names;
}

// Every CUDA kernel alone; what was measured is written also where a kernel takes the device down.
int run_kernels(const Settings& s) {
  const std::string device = resolve_device(s.device, code_build());
  if (device == "cpu")
    throw usage_error("--kernels measures CUDA kernels", "--device " + s.device,
                      "leave --device out, or name a GPU: cuda:0");
  const CudaEngine& cuda = CudaEngine::get(code_build());
  const int index = std::atoi(device.c_str() + std::string("cuda:").size());
  const std::string name = cuda.facts().devices[size_t(index)].name;
  KernelBenchSettings settings;
  settings.names = kernel_names(s.kernels);
  fmt::print("{} ({})\n\n", device, name);
  std::vector<KernelRow> rows;
  size_t missing = 0;
  const auto write = [&] {
    if (!s.json.empty()) write_output_file(s.json, kernels_json(name, rows));
  };
  try {
    cuda.kernels(index, settings, [&](const KernelRow& row) {
      fmt::print("{}\n", kernel_text(row));
      std::fflush(stdout);
      rows.push_back(row);
      missing += !row.error.empty();
    });
  } catch (const Error&) {
    if (!rows.empty()) write();
    throw;
  }
  write();
  if (missing > 0)
    throw Error(ExitCode::cells_failed,
                fmt::format("{} of {} rows were not measured", missing, rows.size()), "--kernels",
                "each says why; --kernels NAME measures those of a name alone");
  return 0;
}

int run(Settings s) {
  const std::string device = resolve_device(s.device, code_build());
  const bool cuda = device != "cpu";
  if (s.speed.long_only && (s.long_context == 0 || (s.long_context < 0 && !cuda)))
    throw usage_error("--long-only wants the number of tokens: --long-context");
  const Compute compute = compute_from_word(s.compute, "--compute");
  check_compute(device, compute, "--compute");
  Sheet sheet(s.json, s.csv);
  sheet.fact("machine", nlohmann::ordered_json::parse(json_text(machine_facts())));
  sheet.fact("instructions", cpu_instructions());
  if (s.linear) {
    if (cuda) throw usage_error("--linear measures the kernels of the CPU", "--device " + device);
    measure_linear(sheet, measure_limits(sheet, device, Compute::fp32, s.threads), s.threads);
    return 0;
  }
  const ModelSource source{s.model, compute, random_weights_seed(s.model, false, 0)};
  const EngineOptions options = engine_options(source, s.threads);
  const std::string name = std::filesystem::path(s.model).filename().string();
  fmt::print("{} on {}, {}, {} tokens\n\n", name, device, s.compute, s.speed.context);
  const Limits limits = measure_limits(sheet, device, compute, s.threads);
  const auto engine = make_engine(device, code_build(), s.model, options);
  sheet.fact("model", name);
  sheet.fact("device", engine->device());
  sheet.fact("compute", s.compute);
  sheet.fact("random_weights", options.random != nullptr);
  sheet.fact("context", s.speed.context);

  const int64_t longest = engine->config().max_position_embeddings;
  s.speed.long_context = s.long_context;
  if (s.long_context < 0)  // a GPU reads it within seconds
    s.speed.long_context = cuda ? std::min(kLongContext, longest - kLongSteps) : 0;
  s.speed.targets = cuda && compute == Compute::bf16 && engine->config().hidden_size >= 3584;
  if (!cuda && !options.random) s.speed.gradients_of = s.model;
  s.speed.threads = s.threads;
  if (!s.speed.brief && !s.speed.long_only)
    measure_parts(sheet, limits, {source, device, s.text, s.threads});
  measure_speed(sheet, *engine, limits, s.speed);
  return 0;
}

// `--kernels NAME` as `--kernels=NAME`: the name may be left out, and Boost then wants the sign.
std::vector<std::string> words_of(int argc, char** argv) {
  std::vector<std::string> words;
  for (int i = 1; i < argc; ++i) {
    words.push_back(argv[i]);
    if (words.back() == "--kernels" && i + 1 < argc && argv[i + 1][0] != '-')
      words.back() += std::string("=") + argv[++i];
  }
  return words;
}

}  // namespace
}  // namespace ptq::bench

int main(int argc, char** argv) {
  using namespace ptq;
  bench::Settings s;
  po::options_description options("options");
  options.add_options()("help,h", "this text")(
      "model", po::value(&s.model)->default_value("models/tiny-llama"),
      "Hugging Face folder; with config.json only: random weights")(
      "device", po::value(&s.device)->default_value("cpu"), "cpu, cuda, cuda:N or auto")(
      "compute", po::value(&s.compute)->default_value("fp32"), "fp32, bf16 or int8")(
      "plugins", po::value(&s.speed.plugins)->default_value("build/plugins"),
      "folder with kivi.so and rtn.so")(
      "weights", po::value(&s.speed.weights),
      "method of that folder, without calibration, that stores the weights first")(
      "threads", po::value(&s.threads)->default_value(0), "0 = all cores")(
      "context", po::value(&s.speed.context)->default_value(2048), "tokens of a pass")(
      "long-context", po::value(&s.long_context)->default_value(-1),
      "tokens of the long cache; 0 = leave out, -1 = 32768 on a GPU")(
      "brief", po::bool_switch(&s.speed.brief),
      "measure only prefill and decode with a full-precision cache")(
      "long-only", po::bool_switch(&s.speed.long_only),
      "measure only the long cache, with 16 bit and with kivi 2-bit")(
      "linear", po::bool_switch(&s.linear),
      "instead of all that: a linear layer on the CPU, from every form of stored weights")(
      "text", po::value(&s.text)->default_value("datasets/embedded/calib.txt"),
      "file whose tokenising is measured")(
      "json", po::value(&s.json), "write the lines to this file, too")("csv", po::value(&s.csv),
                                                                       "the same as a table")(
      "kernels", po::value(&s.kernels)->implicit_value(""),
      "[NAME,...] instead of all that: every CUDA kernel alone at the shapes of the three 7B "
      "models, "
      "or those whose line has a NAME in it; at most 40 s, 4 GB of device memory");
  try {
    po::variables_map map;
    po::store(po::command_line_parser(bench::words_of(argc, argv)).options(options).run(), map);
    po::notify(map);
    if (map.count("help")) {
      std::cout << "ptq-bench: prefill, decode and cache speed beside the measured limits\n\n"
                << options;
      return 0;
    }
    if (map.count("kernels")) {
      if (map["device"].defaulted()) s.device = "cuda";
      return bench::run_kernels(s);
    }
    if (s.speed.context < 128) throw usage_error("--context is below 128");
    if (s.linear && !s.speed.weights.empty())
      throw usage_error("--linear has weights of its own", "--weights " + s.speed.weights);
    return bench::run(s);
  } catch (const po::error& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return int(ExitCode::usage);
  } catch (const Error& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return int(e.code());
  }
}
