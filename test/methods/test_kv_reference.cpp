// The engine with every cache method against independent caches in NumPy, written from the papers
// (test/fixtures/kv_methods/make.py). KIVI has its own: test_kivi_reference.cpp.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "ptq/encoding/dense.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/model/safetensors.hpp"
#include "ptq/run/plugins.hpp"
#include "test/support/plain_scores.hpp"

namespace ptq::test {
namespace {

namespace fs = std::filesystem;

std::vector<float> floats(const SafetensorsFile& file, const std::string& name) {
  INFO(name);
  const TensorInfo* t = file.find(name);
  REQUIRE(t != nullptr);
  int64_t n = 1;
  for (const int64_t s : t->shape) n *= s;
  std::vector<float> out(static_cast<size_t>(n));
  to_float(t->dtype, t->data, n, out.data());
  return out;
}
std::vector<int32_t> integers(const SafetensorsFile& file, const std::string& name) {
  const TensorInfo* t = file.find(name);
  REQUIRE(t != nullptr);
  std::vector<int32_t> out(t->bytes / 4);
  std::memcpy(out.data(), t->data, t->bytes);
  return out;
}

std::vector<float> run(Engine& engine, KvMethod* kv, const std::vector<int32_t>& ids) {
  const size_t vocab = size_t(engine.config().vocab_size);
  std::vector<float> out(ids.size() * vocab);
  auto s = engine.start(kv);
  engine.forward(*s, ids, Regime::streaming, 0, [&](int64_t row, int64_t rows, const float* p) {
    std::copy_n(p, size_t(rows) * vocab, out.begin() + row * int64_t(vocab));
  });
  return out;
}

void calibrate(KvMethod& kv, const ModelConfig& c, const SafetensorsFile& fixture) {
  if (!kv.wants().samples) return;
  for (int l = 0; l < int(c.num_hidden_layers); ++l)
    for (const KvSide side : {KvSide::keys, KvSide::values}) {
      const std::string name = std::to_string(l) + (side == KvSide::keys ? ".keys" : ".values");
      const auto x = floats(fixture, "sample." + name), fisher = floats(fixture, "fisher." + name);
      const int64_t tokens = int64_t(x.size()) / c.num_key_value_heads / c.head_dim;
      kv.calibrate(side, l, tokens, tokens, x.data(), fisher.data());
    }
}

}  // namespace

// Bounds: the two sides differ in the last bits of their sums (float32 here, float64 there), which
// now and then moves a number over the edge between two codes (see test_kivi_reference.cpp). They
// are measured against `effect`, what the method does to the logits.
TEST_CASE("kv reference: every method equals an independent implementation") {
  const fs::path root(PTQ_SOURCE_DIR);
  const SafetensorsFile fixture(root / "test/fixtures/kv_methods/tiny-qwen2.safetensors");
  const PluginSet plugins = PluginSet::scan({fs::path(PTQ_BINARY_DIR) / "plugins"});
  auto engine = make_cpu_engine((root / "models/tiny-qwen2").string(), 2);
  const size_t vocab = size_t(engine->config().vocab_size);
  const auto ids = integers(fixture, "ids"), positions = integers(fixture, "positions");
  REQUIRE(ids.size() == 120);
  const auto exact = run(*engine, nullptr, ids);

  struct Cell {
    std::string name, method;
    nlohmann::ordered_json options;
  };
  const std::vector<Cell> cells = {
      {"q8_0", "q8_0", {}},
      {"q4_0", "q4_0", {}},
      {"fp8", "fp8", {}},
      {"kvquant", "kvquant", {}},
      {"kvquant_lite", "kvquant_lite", {}},
      {"forge", "forge", {}},
      {"forge_study", "forge_study", {}},
      {"streaming_llm", "streaming_llm", {{"recent_size", 24}}},
      {"kivi_rotate", "kivi", {{"rotate", true}, {"residual_length", 32}}},
      {"kivi_study", "kivi_study", {}},
      {"kvquant_study", "kvquant_study", {}}};
  std::string table;
  for (const Cell& cell : cells) {
    const MethodInfo* info = plugins.find(cell.method);
    REQUIRE(info != nullptr);
    const auto instance =
        plugins.create(*info, validate_options(info->options, cell.options, "test"), 0);
    KvMethod* kv = instance->kv(engine->config());
    REQUIRE(kv != nullptr);
    calibrate(*kv, engine->config(), fixture);
    const auto got = run(*engine, kv, ids);
    const auto want = floats(fixture, "logits." + cell.name),
               losses = floats(fixture, "nll." + cell.name);
    REQUIRE(want.size() == positions.size() * vocab);
    double mean = 0, effect = 0;
    for (size_t i = 0; i < positions.size(); ++i)
      for (size_t v = 0; v < vocab; ++v) {
        const size_t at = size_t(positions[i]) * vocab + v;
        const double w = double(want[i * vocab + v]);
        mean += std::abs(double(got[at]) - w) / double(want.size());
        effect += std::abs(double(exact[at]) - w) / double(want.size());
      }
    double loss = 0;
    for (size_t t = 0; t < losses.size(); ++t)
      loss += nll(got.data() + t * vocab, vocab, ids[t + 1]) - double(losses[t]);
    loss /= double(losses.size());
    table += cell.name + ": mean difference / effect " + std::to_string(mean / effect) +
             ", loss per token " + std::to_string(loss) + "\n";
    INFO(table);
    CHECK(effect > 0.01);
    CHECK(mean < 0.05 * effect);
    CHECK(std::abs(loss) < 2e-3);
  }
}

}  // namespace ptq::test
