#include "bench/methods.hpp"

#include <fmt/format.h>

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/sheet.hpp"
#include "bench/timing.hpp"
#include "ptq/engine/cpu/encoded_rows.hpp"
#include "ptq/run/plugins.hpp"

namespace ptq::bench {
namespace {

struct Cell {
  std::string name, method;
  nlohmann::ordered_json options;
};

std::vector<Cell> cells() {
  const nlohmann::ordered_json kivi = {{"bits", 2}, {"residual_length", 32}};
  nlohmann::ordered_json rotated = kivi;
  rotated["rotate"] = true;
  return {{"kivi 2-bit", "kivi", kivi},
          {"kivi 2-bit, rotated", "kivi", rotated},
          {"q8_0", "q8_0", {}},
          {"q4_0", "q4_0", {}},
          {"fp8", "fp8", {}},
          {"kvquant 2-bit", "kvquant", {}},
          {"kvquant 2-bit, no outliers", "kvquant", {{"outlier_share", 0}}},
          {"kvquant_lite 2-bit", "kvquant_lite", {}},
          {"forge", "forge", {{"energy", 0.5}}},
          {"forge_study", "forge_study", {}}};
}

// Rows about a common vector: what keys are like, and what has a low rank.
std::vector<float> made_up_rows(int64_t heads, int64_t tokens, int64_t dim) {
  std::mt19937 random(7);
  const auto noise = [&] {
    float u = -1.5f;
    for (int i = 0; i < 3; ++i) u += float(random() >> 8) / float(1 << 24);
    return 2 * u;
  };
  std::vector<float> x(size_t(heads * tokens * dim)), common(size_t(heads * dim));
  for (float& v : common) v = 2 * noise();
  for (size_t i = 0; i < x.size(); ++i)
    x[i] = common[i / size_t(tokens * dim) * size_t(dim) + i % size_t(dim)] + noise();
  return x;
}

// Calibrates a method that wants it with made-up numbers: speed does not depend on them.
void give_sample(KvMethod& kv, const ModelConfig& c) {
  if (!kv.wants().samples) return;
  const int64_t tokens = 512;
  const std::vector<float> x = made_up_rows(tokens, c.num_key_value_heads, c.head_dim);
  const std::vector<float> ones(x.size(), 1.0f);
  for (int l = 0; l < int(c.num_hidden_layers); ++l)
    for (const KvSide side : {KvSide::keys, KvSide::values})
      kv.calibrate(side, l, tokens, tokens, x.data(), kv.wants().fisher ? ones.data() : nullptr);
}

// One layer's keys and values of a prompt, encoded and read by one thread; in CPU time, which other
// load on the machine does not change.
void encode_and_read(Sheet& sheet, KvMethod& kv, const ModelConfig& c, const std::string& name) {
  const int64_t heads = c.num_key_value_heads, dim = c.head_dim, tokens = 1024;
  const std::vector<float> x = made_up_rows(heads, tokens, dim);
  const double bytes = double(2 * 2 * heads * tokens * dim);  // both sides, float16
  std::unique_ptr<EncodedRows> rows[2];
  const Timing encode = measure(
      [&] {
        for (const int side : {0, 1}) {
          const KvPolicy p = kv.policy(KvSide(side));
          rows[side] =
              std::make_unique<EncodedRows>(heads, dim, p.block, 0, "bench", nullptr, p.hadamard);
          rows[side]->expect(tokens);
          kv.encode(KvSide(side), 0, 0, tokens, x.data(), *rows[side]);
        }
      },
      own_cpu);
  std::vector<float> tile(size_t(64 * dim));
  const Timing read = measure(
      [&] {
        for (const auto& side : rows)
          for (int64_t h = 0; h < heads; ++h)
            for (int64_t r = 0; r < tokens; r += 64) side->read(h, r, r + 64, tile.data(), dim);
      },
      own_cpu);
  const double bits = 8 * double(rows[0]->bytes() + rows[1]->bytes()) / (bytes / 2);
  sheet.row(fmt::format("  encode, {}", name), 1e9 * encode.median / double(tokens), "ns/token",
            Ratio{bytes / encode.median / 1e9, "GB/s of float16 rows", false, {}}, encode);
  sheet.row(fmt::format("  read, {} ({:.2f} bits)", name, bits), 1e9 * read.median / double(tokens),
            "ns/token", Ratio{bytes / read.median / 1e9, "GB/s of float16 rows", false, {}}, read);
}

}  // namespace

void measure_methods(Sheet& sheet, Engine& engine, const std::string& plugins, int64_t context,
                     double plain) {
  const ModelConfig& c = engine.config();
  const PluginSet set = PluginSet::scan({plugins});
  std::vector<int32_t> text(static_cast<size_t>(context));
  std::mt19937 random(2);
  for (auto& id : text) id = int32_t(random() % uint32_t(c.vocab_size));
  for (const Cell& cell : cells()) {
    const MethodInfo* info = set.find(cell.method);
    if (!info) {
      sheet.skipped(cell.name, "no such plugin in " + plugins);
      continue;
    }
    const auto method =
        set.create(*info, validate_options(info->options, cell.options, "ptq-bench"), 0);
    KvMethod* kv = method->kv(c);
    give_sample(*kv, c);
    const Timing t = measure([&] {
      auto sequence = engine.start(kv);
      engine.forward(*sequence, text, Regime::streaming, 0, [](int64_t, int64_t, const float*) {});
    });
    sheet.row("streaming perplexity, " + cell.name, double(context) / t.median, "tokens/s",
              Ratio{t.median / plain, "x the time of FP16", false, {}}, t);
    encode_and_read(sheet, *kv, c, cell.name);
  }
}

}  // namespace ptq::bench
