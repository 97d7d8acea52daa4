#include "bench/speed.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "bench/limits.hpp"
#include "bench/methods.hpp"
#include "bench/sheet.hpp"
#include "ptq/calibrate/weights.hpp"
#include "ptq/engine/backward.hpp"
#include "ptq/run/plugins.hpp"

namespace ptq::bench {
namespace {

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

void ignore(int64_t, int64_t, const float*) {}

class Speed {
 public:
  Speed(Sheet& sheet, Engine& engine, const Limits& limits, const SpeedSettings& s)
      : sheet_(sheet),
        engine_(engine),
        limits_(limits),
        s_(s),
        plugins_(PluginSet::scan({s.plugins})) {}

  void run() {
    if (!s_.weights.empty()) store_weights();
    if (s_.long_only) {
      long_context();
      return;
    }
    const double pass = prefill("prefill, last token's logits", 1, target(0.55, true));
    const double plain = s_.brief ? 0 : prefill("prefill, all logits (perplexity)", s_.context, {});
    const double dense =
        decode("decode, full-precision cache", nullptr, s_.context, target(0.80, true));
    if (s_.brief) return;
    if (!s_.gradients_of.empty()) backward(plain);
    for (const int bits : {4, 2, 1}) {
      with_kivi(bits, [&](KvMethod* kv) {
        // Without the logits, whose way to the host hides what the cache costs on a GPU.
        streaming(fmt::format("streaming pass, kivi {}-bit, last token's logits", bits), kv, 1,
                  pass, target(1.3, false));
        streaming(fmt::format("streaming perplexity, kivi {}-bit", bits), kv, s_.context, plain,
                  {});
        decode(fmt::format("decode, kivi {}-bit", bits), kv, s_.context, {});
      });
    }
    if (!s_.gradients_of.empty())  // a real model on the CPU
      measure_methods(sheet_, engine_, s_.plugins, s_.context, plain);
    if (s_.long_context > 0) long_context();
    if (s_.weights.empty()) packed_weights(dense);
  }

 private:
  static constexpr int64_t kSteps = 64;  // decoded tokens of one measurement

  std::optional<Target> target(double bound, bool at_least) const {
    if (!s_.targets) return {};
    return Target{bound, at_least};
  }

  std::vector<int32_t> ids(int64_t n) const { return random_ids(n, engine_.config().vocab_size); }

  // One method of a plugin; nullptr, with a line that says so, where it is not installed.
  std::unique_ptr<MethodInstance> method(const std::string& name,
                                         const nlohmann::ordered_json& options) {
    const MethodInfo* info = plugins_.find(name);
    if (!info) {
      sheet_.skipped(name, "no such plugin in " + s_.plugins);
      return nullptr;
    }
    return plugins_.create(*info, validate_options(info->options, options, "ptq-bench"), 0);
  }
  void store_weights() {
    const MethodInfo* info = plugins_.find(s_.weights);
    if (!info || !info->can_weights())
      throw usage_error("no plugin has a method of this name that stores weights",
                        "--weights " + s_.weights, "looked for it in " + s_.plugins);
    const auto m = plugins_.create(*info, validate_options(info->options, {}, "ptq-bench"), 0);
    calibrate::encode_weights(engine_, *m->weights());
    sheet_.fact("weights", s_.weights);
  }
  template <class Fn>
  void with_kivi(int bits, const Fn& fn) {
    const auto kivi = method("kivi", {{"bits", bits}, {"residual_length", 32}});
    if (kivi) fn(kivi->kv(engine_.config()));
  }

  double prefill(const std::string& what, int64_t logits, std::optional<Target> target) {
    const auto text = ids(s_.context);
    const Timing t = measure([&] {
      auto sequence = engine_.start(nullptr);
      engine_.forward(*sequence, text, Regime::streaming, s_.context - logits, ignore);
    });
    const double flops = pass_flops(engine_.config(), double(s_.context), double(logits));
    sheet_.row(what, double(s_.context) / t.median, "tokens/s",
               Ratio{flops / t.median / limits_.flops, limits_.flops_of, true, target}, t);
    return t.median;
  }

  // Gradients of keys and values: a forward pass and twice its work, so 1/3 of its rate at best.
  void backward(double plain) {
    const auto gradients =
        make_cpu_gradients(s_.gradients_of, EngineOptions{s_.threads, Compute::fp32, nullptr});
    const auto text = ids(s_.context);
    GradientVisitor<float> nothing;
    const Timing t = measure([&] { gradients->backward(text, nothing); });
    sheet_.row("calibration, forward and backward", double(s_.context) / t.median, "tokens/s",
               Ratio{plain / t.median, "x the rate of all logits", false, {}}, t);
  }

  void streaming(const std::string& what, KvMethod* kv, int64_t logits, double plain,
                 std::optional<Target> target) {
    const auto text = ids(s_.context);
    const Timing t = measure([&] {
      auto sequence = engine_.start(kv);
      engine_.forward(*sequence, text, Regime::streaming, s_.context - logits, ignore);
    });
    sheet_.row(what, double(s_.context) / t.median, "tokens/s",
               Ratio{t.median / plain, "x the time of FP16", false, target}, t);
  }

  // Seconds of a decoded token behind `before` tokens, its logits included.
  Timing decode_steps(KvMethod* kv, int64_t before, uint64_t* bytes) {
    const auto text = ids(before + kSteps);
    const std::span<const int32_t> all(text);
    auto sequence = engine_.start(kv);
    engine_.forward(*sequence, all.first(size_t(before)), Regime::prefill_exact, before, ignore);
    std::vector<double> times;
    const double start = now(), cpu = own_cpu();
    for (int64_t i = 0; i < kSteps; ++i) {
      const double t = now();
      engine_.forward(*sequence, all.subspan(size_t(before + i), 1), Regime::streaming, 0, ignore);
      times.push_back(now() - t);
    }
    if (bytes) *bytes = engine_.weight_bytes().total() + sequence->bytes().total();
    return timing(times, start, cpu);
  }

  double decode(const std::string& what, KvMethod* kv, int64_t context,
                std::optional<Target> target) {
    uint64_t bytes = 0;
    const Timing t = decode_steps(kv, context - kSteps, &bytes);
    sheet_.row(
        fmt::format("{} at {}", what, context), 1 / t.median, "tokens/s",
        Ratio{double(bytes) / t.median / limits_.bytes, "of the memory's rate", true, target}, t);
    return t.median;
  }

  // A token decoded behind a long cache, and what attention costs of it: its time less that of one
  // behind an empty cache.
  void long_context() {
    struct Times {
      double token, attention;
    };
    const auto times = [&](const std::string& what, KvMethod* kv, const Times* dense) {
      const Timing far = decode_steps(kv, s_.long_context, nullptr),
                   near = decode_steps(kv, 1, nullptr);
      const Times t{far.median, far.median - near.median};
      std::optional<Ratio> token, attention;
      if (dense) {
        token = Ratio{dense->token / t.token, "x as fast as 16 bit", false, {}};
        attention =
            Ratio{dense->attention / t.attention, "x as fast as 16 bit", false, target(1.0, true)};
      } else {
        attention = Ratio{t.attention / t.token, "of a decoded token's time", true, {}};
      }
      sheet_.row(fmt::format("decode at {}, {}", s_.long_context, what), 1 / t.token, "tokens/s",
                 token, far);
      sheet_.row("  of it attention", t.attention * 1e6, "us/token", attention, far);
      return t;
    };
    const Times dense = times("full-precision cache", nullptr, nullptr);
    with_kivi(2, [&](KvMethod* kv) { times("kivi 2-bit", kv, &dense); });
    if (s_.long_only) return;
    for (const char* name : {"kvquant_lite", "q4_0", "fp8", "forge"})
      if (const auto m = method(name, {})) times(name, m->kv(engine_.config()), &dense);
  }

  void packed_weights(double dense) {
    const auto rtn = method("rtn", {{"bits", 4}, {"group_size", 128}});
    if (!rtn) return;
    calibrate::encode_weights(engine_, *rtn->weights());
    const Timing t = decode_steps(nullptr, s_.context - kSteps, nullptr);
    sheet_.row(fmt::format("decode, rtn 4-bit weights at {}", s_.context), 1 / t.median, "tokens/s",
               Ratio{dense / t.median, "x plain weights", false, target(2.5, true)}, t);
    prefill("prefill, rtn 4-bit weights, last token's logits", 1, {});
  }

  Sheet& sheet_;
  Engine& engine_;
  const Limits& limits_;
  const SpeedSettings& s_;
  PluginSet plugins_;
};

}  // namespace

void measure_speed(Sheet& sheet, Engine& engine, const Limits& limits,
                   const SpeedSettings& settings) {
  Speed(sheet, engine, limits, settings).run();
}

}  // namespace ptq::bench
