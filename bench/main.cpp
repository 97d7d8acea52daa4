// ptq-bench: speed of the engine beside the limits that the same run measures on the same machine.
//
// Every row is the median of several repetitions after a warm-up; ratios are what to compare, since
// absolute figures move with the machine's other load.
#include <cblas.h>
#include <fmt/format.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <functional>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/threads.hpp"
#include "ptq/engine/backward.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/run/plugins.hpp"

namespace po = boost::program_options;
using namespace ptq;

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
double own_cpu() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

struct Timing {
  double median, spread;  // seconds; (max - min) / median
  double cores;           // own CPU seconds per second of wall time
};

// Runs fn once to warm up, then until there are 5 repetitions and half a second of work.
Timing measure(const std::function<void()>& fn) {
  fn();
  std::vector<double> times;
  const double start = now(), cpu = own_cpu();
  while (times.size() < 5 || (now() - start < 0.5 && times.size() < 1000)) {
    const double t = now();
    fn();
    times.push_back(now() - t);
  }
  const double wall = now() - start, used = own_cpu() - cpu;
  std::sort(times.begin(), times.end());
  const double median = times[times.size() / 2];
  return {median, (times.back() - times.front()) / median, used / wall};
}

void row(const std::string& what, double value, const std::string& unit, const std::string& ratio,
         const Timing& t) {
  fmt::print("{:<44} {:>10.1f} {:<10} {:<34} ±{:.0f} %  {:.2f} cores\n", what, value, unit, ratio,
             50 * t.spread, t.cores);
  std::fflush(stdout);
}

// GFLOP/s of sgemm, each thread its own slice of the columns: the way the engine calls it.
double blas_rate(ThreadPool& pool) {
  openblas_set_num_threads(1);
  const int m = 1024, k = 1024, slice = 512, n = slice * pool.size();
  std::vector<float> a(size_t(m) * k), b(size_t(n) * k), c(size_t(m) * n);
  std::mt19937 random(1);
  for (float& x : a) x = float(random() >> 8) / float(1 << 23) - 1;
  for (float& x : b) x = float(random() >> 8) / float(1 << 23) - 1;
  const Timing t = measure([&] {
    pool.for_each(pool.size(), [&](int64_t i) {
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, slice, k, 1, a.data(), k,
                  b.data() + i * slice * k, k, 0, c.data() + i * slice, n);
    });
  });
  const double rate = 2.0 * m * k * n / t.median / 1e9;
  row(fmt::format("BLAS sgemm {} x {} x {}", m, n, k), rate, "GFLOP/s", "limit", t);
  return rate;
}

// GB/s of reading memory far larger than the caches.
double read_bandwidth(ThreadPool& pool) {
  const size_t words = size_t(64) << 20;  // 512 MiB
  std::vector<uint64_t> data(words, 1);
  std::vector<uint64_t> sums(size_t(pool.size()));
  const Timing t = measure([&] {
    pool.for_each(pool.size(), [&](int64_t i) {
      const size_t begin = words * size_t(i) / size_t(pool.size()),
                   end = words * size_t(i + 1) / size_t(pool.size());
      uint64_t sum = 0;
      for (size_t w = begin; w < end; ++w) sum += data[w];
      sums[size_t(i)] = sum;
    });
  });
  const double rate = 8.0 * double(words) / t.median / 1e9;
  row("memory read", rate, "GB/s", "limit", t);
  return rate;
}

// Floating-point operations of a pass over n tokens: every linear layer, the head for `logits`
// rows, and causal attention (scores and output) over everything before each token.
double pass_flops(const ModelConfig& c, double n, double logits) {
  const double q = double(c.num_attention_heads * c.head_dim), h = double(c.hidden_size),
               kv = double(c.num_key_value_heads * c.head_dim), f = double(c.intermediate_size);
  const double linear = 2 * (2 * h * q + 2 * h * kv + 3 * h * f);
  return double(c.num_hidden_layers) * (n * linear + 4 * q * n * (n + 1) / 2) +
         logits * 2 * h * double(c.vocab_size);
}

std::vector<int32_t> random_ids(int64_t n, int64_t vocab) {
  std::mt19937 random(2);
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (auto& id : ids) id = int32_t(random() % uint32_t(vocab));
  return ids;
}

int bench(const std::string& model, const std::string& plugins, int threads, int64_t context) {
  auto engine = make_cpu_engine(model, threads);
  const ModelConfig& c = engine->config();
  ThreadPool pool(threads);
  fmt::print("{} on {}, {} tokens\n\n", std::filesystem::path(model).filename().string(),
             engine->device(), context);
  const double blas = blas_rate(pool), bandwidth = read_bandwidth(pool);

  const auto ids = random_ids(context, c.vocab_size);
  const auto ignore = [](int64_t, int64_t, const float*) {};
  const auto pass = [&](KvMethod* kv, Regime regime, int64_t logits) {
    auto s = engine->start(kv);
    engine->forward(*s, ids, regime, context - logits, ignore);
  };

  const auto prefill = [&](const std::string& what, int64_t logits) {
    const Timing t = measure([&] { pass(nullptr, Regime::streaming, logits); });
    const double rate = pass_flops(c, double(context), double(logits)) / t.median / 1e9;
    row(what, double(context) / t.median, "tokens/s",
        fmt::format("{:.0f} GFLOP/s, {:.0f} % of the BLAS", rate, 100 * rate / blas), t);
    return t.median;
  };
  prefill("prefill, last token's logits", 1);
  const double fp16 = prefill("prefill, all logits (perplexity)", context);

  const auto decode = [&](const std::string& what, KvMethod* kv) {
    auto s = engine->start(kv);
    engine->forward(*s, {ids.data(), ids.size() - 64}, Regime::prefill_exact, context, ignore);
    size_t at = ids.size() - 64;
    std::vector<double> times;
    const double start = now(), cpu = own_cpu();
    for (; at < ids.size(); ++at) {
      const double t = now();
      engine->forward(*s, {ids.data() + at, 1}, Regime::streaming, 0, ignore);
      times.push_back(now() - t);
    }
    const double wall = now() - start, used = own_cpu() - cpu;
    std::sort(times.begin(), times.end());
    const Timing t{times[32], (times[60] - times[3]) / times[32], used / wall};
    const double bytes = double(engine->weight_bytes().total() + s->bytes().total());
    row(what, 1 / t.median, "tokens/s",
        fmt::format("{:.1f} GB/s, {:.0f} % of memory read", bytes / t.median / 1e9,
                    100 * bytes / t.median / 1e9 / bandwidth),
        t);
  };
  decode(fmt::format("decode at {}, full-precision cache", context), nullptr);

  {  // Gradients of keys and values: a forward pass and twice its work, so 1/3 of its rate at best.
    const auto gradients =
        make_cpu_gradients(model, EngineOptions{threads, Compute::fp32, nullptr});
    GradientVisitor<float> nothing;
    const Timing t = measure([&] { gradients->backward(ids, nothing); });
    row("calibration, forward and backward", double(context) / t.median, "tokens/s",
        fmt::format("{:.2f} x the rate of all logits", fp16 / t.median), t);
  }

  const PluginSet set = PluginSet::scan({plugins});
  const MethodInfo* kivi = set.find("kivi");
  if (!kivi) {
    fmt::print("kivi: skipped, no plugin in {}\n", plugins);
    return 0;
  }
  for (const int bits : {4, 2, 1}) {
    const auto method = set.create(
        *kivi, validate_options(kivi->options, {{"bits", bits}, {"residual_length", 32}}, "bench"),
        0);
    KvMethod* kv = method->kv(c);
    const Timing t = measure([&] { pass(kv, Regime::streaming, context); });
    row(fmt::format("streaming perplexity, kivi {}-bit", bits), double(context) / t.median,
        "tokens/s", fmt::format("{:.2f} x the time of FP16", t.median / fp16), t);
    decode(fmt::format("decode at {}, kivi {}-bit", context, bits), kv);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  po::options_description options("options");
  std::string model, plugins;
  int threads = 0;
  int64_t context = 0;
  options.add_options()("help,h", "this text")(
      "model", po::value(&model)->default_value("models/tiny-llama"), "Hugging Face folder")(
      "plugins", po::value(&plugins)->default_value("build/plugins"), "folder with kivi.so")(
      "threads", po::value(&threads)->default_value(0), "0 = all cores")(
      "context", po::value(&context)->default_value(2048), "tokens of a pass");
  try {
    po::variables_map map;
    po::store(po::parse_command_line(argc, argv, options), map);
    po::notify(map);
    if (map.count("help")) {
      std::cout << "ptq-bench: prefill, decode and cache speed beside the measured limits\n\n"
                << options;
      return 0;
    }
    if (context < 128) throw usage_error("--context is below 128");
    return bench(model, plugins, threads, context);
  } catch (const po::error& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return int(ExitCode::usage);
  } catch (const Error& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return int(e.code());
  }
}
