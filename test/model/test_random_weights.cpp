// Random weights, and the sizes of the three models that are known from their configuration alone.
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "ptq/encoding/dense.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/model/anatomy.hpp"
#include "ptq/model/load_config.hpp"
#include "ptq/run/random_model.hpp"

using namespace ptq;
namespace fs = std::filesystem;

namespace {

fs::path config_folder(const std::string& name) {
  return fs::path(PTQ_SOURCE_DIR) / "models/configs" / name;
}

std::vector<float> values(const TensorInfo& tensor) {
  std::vector<float> out(tensor.bytes / 2);
  to_float(tensor.dtype, tensor.data, int64_t(out.size()), out.data());
  return out;
}

struct Moments {
  double mean = 0, deviation = 0, kurtosis = 0, largest = 0;
};
Moments moments(const std::vector<float>& x) {
  Moments m;
  for (const float v : x) m.mean += double(v) / double(x.size());
  double second = 0, fourth = 0;
  for (const float v : x) {
    const double d = double(v) - m.mean;
    second += d * d / double(x.size());
    fourth += d * d * d * d / double(x.size());
    m.largest = std::max(m.largest, std::abs(double(v)));
  }
  m.deviation = std::sqrt(second);
  m.kurtosis = fourth / (second * second);
  return m;
}

std::vector<float> logits_of(const std::string& folder, uint64_t seed, int threads) {
  const auto random = std::make_shared<RandomWeights>(seed, threads);
  const auto engine = make_cpu_engine(folder, EngineOptions{threads, Compute::fp32, random});
  const std::vector<int32_t> ids = {5, 250, 7, 0, 33, 12, 128, 9};
  std::vector<float> out(ids.size() * size_t(engine->config().vocab_size));
  const auto s = engine->start(nullptr);
  engine->forward(*s, ids, Regime::independent, 0, [&](int64_t row, int64_t rows, const float* p) {
    std::copy_n(p, rows * engine->config().vocab_size,
                out.begin() + row * engine->config().vocab_size);
  });
  return out;
}

}  // namespace

TEST_CASE("sizes: the three models from their configurations") {
  struct Sizes {
    const char* name;
    int64_t parameters, linear;
    uint64_t bytes;
    size_t tensors;
    uint64_t cache;   // bytes per token
    double four_bit;  // GiB
  };
  for (const Sizes& want :
       {Sizes{"Qwen2.5-7B", 7'615'616'512, 6'525'288'448, 15'231'233'024, 339, 57'344, 5.164},
        Sizes{"Mistral-7B-v0.3", 7'248'023'552, 6'979'321'856, 14'496'047'104, 291, 131'072, 3.852},
        Sizes{"Llama-3.1-8B", 8'030'261'248, 6'979'321'856, 16'060'522'496, 291, 131'072, 5.309}}) {
    INFO(want.name);
    const ModelConfig c = load_config(config_folder(want.name));
    CHECK(only_configuration(config_folder(want.name)));
    CHECK(parameter_count(c) == want.parameters);
    CHECK(linear_parameter_count(c) == want.linear);
    CHECK(kv_bytes_per_token_fp16(c) == want.cache);
    CHECK(double(quantized_weight_bytes(c, 4, 128)) / double(1 << 30) ==
          Approx(want.four_bit).margin(6e-4));
    const auto tensors = anatomy_of(c).tensors();
    CHECK(tensors.size() == want.tensors);
    uint64_t bytes = 0;
    for (const ExpectedTensor& tensor : tensors) {
      uint64_t size = 2;
      for (const int64_t n : tensor.shape) size *= uint64_t(n);
      bytes += size;
    }
    CHECK(bytes == want.bytes);
  }
}

TEST_CASE("random weights: numbers of the normal distribution") {
  RandomWeights weights(1, 2);
  const Moments m = moments(values(weights.get("model.layers.0.mlp.up_proj.weight", {500, 1024})));
  CHECK(std::abs(m.mean) < 5 / 32.0 / std::sqrt(512'000.0));
  CHECK(m.deviation == Approx(1 / 32.0).epsilon(0.005));
  CHECK(m.kurtosis == Approx(3.0).margin(0.05));
  CHECK(m.largest > 4.0 / 32);
  CHECK(m.largest < 4.5 / 32);

  // Norms around 1 with one channel in 256 far out; the same channels in every norm.
  const auto norm = values(weights.get("model.layers.0.input_layernorm.weight", {1024}));
  const auto other = values(weights.get("model.layers.7.post_attention_layernorm.weight", {1024}));
  CHECK(std::count_if(norm.begin(), norm.end(), [](float v) { return v > 3; }) == 4);
  for (size_t i = 0; i < norm.size(); ++i) CHECK((norm[i] > 3) == (other[i] > 3));
  // Keys with large rows, bias included.
  const auto keys = values(weights.get("model.layers.0.self_attn.k_proj.weight", {64, 1024}));
  int large = 0;
  for (size_t row = 0; row < 64; ++row) {
    large += moments({keys.begin() + long(row * 1024), keys.begin() + long(row * 1024 + 1024)})
                 .deviation > 3 / 32.0;
  }
  CHECK(large == 2);
  // Neighbouring numbers and tensors have nothing to do with each other.
  const auto a = values(weights.get("model.layers.1.mlp.up_proj.weight", {500, 1024}));
  const auto b = values(weights.get("model.layers.0.mlp.up_proj.weight", {500, 1024}));
  double across = 0, along = 0;
  for (size_t i = 0; i + 1 < a.size(); ++i) {
    across += double(a[i]) * double(b[i]);
    along += double(a[i]) * double(a[i + 1]);
  }
  const double scale = 1024 / std::sqrt(512'000.0);  // one standard error of a correlation
  CHECK(std::abs(across * scale) < 5 * 1.0);
  CHECK(std::abs(along * scale) < 5 * 1.0);
}

TEST_CASE("random weights: a function of seed, name and position alone") {
  RandomWeights one(7, 1), three(7, 3), other(8, 1);
  const std::vector<int64_t> shape = {301, 701};  // no multiple of a chunk or of 4
  three.get("first.weight", shape);               // the order of the requests does not matter
  const auto a = values(one.get("x.weight", shape)), b = values(three.get("x.weight", shape));
  CHECK(a == b);
  CHECK(values(other.get("x.weight", shape)) != a);
  CHECK(values(one.get("y.weight", shape)) != a);
  CHECK(&one.get("x.weight", shape) == &one.get("x.weight", shape));
  CHECK_THROWS_AS(one.get("x.weight", {2, 2}), Error);
}

TEST_CASE("random weights: a model from config.json alone") {
  const fs::path folder = fs::temp_directory_path() / ("ptq-random-" + std::to_string(::getpid()));
  fs::create_directories(folder);
  std::ofstream(folder / "config.json") << R"({"model_type": "qwen2", "hidden_size": 96,
    "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 300,
    "intermediate_size": 256, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "hidden_act": "silu",
    "max_position_embeddings": 512})";
  CHECK(random_weights_seed(folder, false, 4) == 4);
  const auto first = logits_of(folder.string(), 1, 1);
  CHECK(logits_of(folder.string(), 1, 1) == first);
  const auto threads = logits_of(folder.string(), 1, 3);
  double apart = 0;
  for (size_t i = 0; i < first.size(); ++i) {
    apart = std::max(apart, std::abs(double(first[i]) - double(threads[i])));
  }
  CHECK(!(apart > 1e-4));
  CHECK(logits_of(folder.string(), 2, 1) != first);
  const Moments m = moments(first);
  CHECK(m.deviation > 0.3);  // neither flat nor exploding
  CHECK(m.deviation < 10);

  // Text without a tokenizer.json becomes bytes and comes back.
  const std::string text = "The passkey is 71432. \xC3\xA9\xE6\xBC\xA2 \"quoted\\\"\n";
  const Tokenizer tokenizer = load_tokenizer(folder, true);
  CHECK(tokenizer.encode(text).size() == text.size());
  CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
  CHECK_THROWS_AS(load_tokenizer(folder, false), Error);

  // Anything that looks like weights, or like a download that did not end, is not taken for this.
  for (const char* name : {"model.safetensors", "pytorch_model.bin", "model.safetensors.index.json",
                           "x.incomplete", "tokenizer.json", "tokenizer_config.json"}) {
    std::ofstream(folder / name) << "x";
    CHECK_FALSE(random_weights_seed(folder, false, 4));
    CHECK(random_weights_seed(folder, true, 4) == 4);
    fs::remove(folder / name);
  }
  fs::remove_all(folder);
}
