// A cache method of build/plugins, ready to encode.
#pragma once

#include <catch2/catch.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "ptq/run/plugins.hpp"

namespace ptq::test {

using ptq::KvMethod, ptq::KvSide, ptq::MethodInfo, ptq::MethodInstance, ptq::ModelConfig,
    ptq::PluginSet;

inline std::vector<float> noise(int64_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) {
    float u = -1.5f;
    for (int i = 0; i < 3; ++i) u += float(random() >> 8) / float(1 << 24);
    v = 2 * u;
  }
  return x;
}

// A method of build/plugins with options over its defaults.
struct Method {
  std::unique_ptr<MethodInstance> instance;
  KvMethod* kv = nullptr;

  Method(const std::string& name, nlohmann::ordered_json options, const ModelConfig& c) {
    static const PluginSet plugins =
        PluginSet::scan({std::filesystem::path(PTQ_BINARY_DIR) / "plugins"});
    const MethodInfo* info = plugins.find(name);
    REQUIRE(info != nullptr);
    instance = plugins.create(*info, validate_options(info->options, options, "test"), 0);
    kv = instance->kv(c);
    REQUIRE(kv != nullptr);
  }
  // Gives every layer the same made-up sample; for tests of what is stored, not of quality.
  void calibrate(const ModelConfig& c) const {
    if (!kv->wants().samples) return;
    const int64_t tokens = 256, n = tokens * c.num_key_value_heads * c.head_dim;
    const std::vector<float> x = noise(n, 5);
    std::vector<float> fisher = noise(n, 6);
    for (float& v : fisher) v *= v;
    for (int l = 0; l < int(c.num_hidden_layers); ++l)
      for (const KvSide side : {KvSide::keys, KvSide::values})
        kv->calibrate(side, l, tokens, 128, x.data(), kv->wants().fisher ? fisher.data() : nullptr);
  }
};

}  // namespace ptq::test
