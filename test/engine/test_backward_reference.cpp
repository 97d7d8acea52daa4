// Gradients of the embedded models against another library's automatic differentiation (see
// test/fixtures/backward/make.py), against the change of the loss along a direction, and the loss
// against the engine's logits.
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "ptq/encoding/dense.hpp"
#include "ptq/engine/backward.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/eval/log_softmax.hpp"
#include "ptq/model/safetensors.hpp"
#include "ptq/model/safetensors_write.hpp"

using namespace ptq;
namespace fs = std::filesystem;

namespace {

const std::vector<std::string> kModels = {"tiny-qwen2", "tiny-mistral", "tiny-llama"};

fs::path folder_of(const std::string& name) { return fs::path(PTQ_SOURCE_DIR) / "models" / name; }

std::unique_ptr<Gradients<float>> gradients_of(const fs::path& folder) {
  return make_cpu_gradients(folder.string(), EngineOptions{2, Compute::fp32, nullptr});
}

std::vector<float> floats(const TensorInfo& t) {
  int64_t n = 1;
  for (const int64_t s : t.shape) n *= s;
  std::vector<float> x(static_cast<size_t>(n));
  to_float(t.dtype, t.data, n, x.data());
  return x;
}

struct Expected {
  SafetensorsFile file;
  explicit Expected(const std::string& name)
      : file(fs::path(PTQ_SOURCE_DIR) / "test/fixtures/backward" / (name + ".safetensors")) {}

  std::vector<int32_t> ids() const {
    const TensorInfo* t = file.find("ids");
    REQUIRE(t != nullptr);
    std::vector<int32_t> out(size_t(t->bytes / 4));
    std::memcpy(out.data(), t->data, t->bytes);
    return out;
  }
  std::vector<float> get(const std::string& name) const {
    const TensorInfo* t = file.find(name);
    REQUIRE(t != nullptr);
    return floats(*t);
  }
};

// Largest difference relative to the largest number: entries of a gradient may be close to zero.
double relative_error(const float* got, const std::vector<float>& want) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double d = std::abs(double(got[i]) - double(want[i]));
    if (!(d <= difference)) difference = d;  // a NaN becomes the result
    size = std::max(size, std::abs(double(want[i])));
  }
  return difference / size;
}

// Compares with the fixture as the gradients come.
struct Compare : GradientVisitor<float> {
  const Expected& expected;
  size_t width;
  int64_t every;
  int compared = 0;
  double largest = 0;
  // Of the weights, every so many rows are there.
  Compare(const Expected& e, const ModelConfig& c, int64_t rows = 32)
      : expected(e), width(size_t(c.num_key_value_heads * c.head_dim)), every(rows) {}

  void check(const std::string& name, const float* got, const std::vector<float>& want) {
    INFO(name);
    const double error = relative_error(got, want);
    // float32 sums of up to 512 terms through four layers; measured: 6e-6 at most.
    CHECK(!(error > 2e-5));
    largest = std::max(largest, error);
    ++compared;
  }
  void keys_values(int layer, const KvGradients<float>& kv) override {
    const std::string base = std::to_string(layer) + ".";
    if (!expected.file.find(base + "keys")) return;
    check(base + "keys", kv.d_keys, expected.get(base + "keys"));
    check(base + "rotated_keys", kv.d_rotated_keys, expected.get(base + "rotated_keys"));
    check(base + "values", kv.d_values, expected.get(base + "values"));
  }
  bool wants(const std::string& tensor) override { return expected.file.find(tensor) != nullptr; }
  void gradient(const std::string& tensor, const float* d, int64_t rows, int64_t columns) override {
    std::vector<float> kept;
    for (int64_t r = 0; r < rows; r += every)
      kept.insert(kept.end(), d + r * columns, d + (r + 1) * columns);
    const std::vector<float> want = expected.get(tensor);
    REQUIRE(kept.size() == want.size());
    check(tensor, kept.data(), want);
  }
};

struct AllGradients : GradientVisitor<float> {
  std::map<std::string, std::vector<float>> tensors;
  bool wants(const std::string&) override { return true; }
  void gradient(const std::string& tensor, const float* d, int64_t rows, int64_t columns) override {
    tensors[tensor].assign(d, d + rows * columns);
  }
};

// The model's folder with `step` times `direction` added to its weights, in float32.
fs::path moved_model(const std::string& name,
                     const std::map<std::string, std::vector<float>>& direction, float step) {
  const fs::path copy = fs::temp_directory_path() / ("ptq-moved-" + std::to_string(::getpid()));
  fs::create_directories(copy);
  fs::copy_file(folder_of(name) / "config.json", copy / "config.json",
                fs::copy_options::overwrite_existing);
  const SafetensorsFile original(folder_of(name) / "model.safetensors");
  std::vector<std::vector<float>> data;
  std::vector<TensorToWrite> tensors;
  for (const TensorInfo& t : original.tensors()) {
    data.push_back(floats(t));
    if (const auto d = direction.find(t.name); d != direction.end())
      for (size_t i = 0; i < data.back().size(); ++i) data.back()[i] += step * d->second[i];
    tensors.push_back({t.name, DType::f32, t.shape, nullptr});
  }
  for (size_t i = 0; i < data.size(); ++i) tensors[i].data = data[i].data();
  write_safetensors(copy / "model.safetensors", tensors);
  return copy;
}

}  // namespace

TEST_CASE("gradients: automatic differentiation of the embedded models", "[backward]") {
  for (const std::string& name : kModels) {
    INFO(name);
    const Expected expected(name);
    const auto gradients = gradients_of(folder_of(name));
    Compare compare(expected, gradients->config());
    const double loss = gradients->backward(expected.ids(), compare);
    CHECK(loss == Approx(double(expected.get("loss")[0])).epsilon(1e-6));
    CHECK(compare.compared == int(expected.file.tensors().size()) - 2);  // all but ids and loss
    if (std::getenv("PTQ_SHOW_DIFFERENCES"))
      std::printf("%-14s gradients: largest relative error %.1e\n", name.c_str(), compare.largest);
  }
}

TEST_CASE("gradients: automatic differentiation of norms of heads and of fused matrices",
          "[backward]") {
  for (const char* name : {"qwen3-head-dim", "qwen3-bias-window-tied", "phi3-fused"}) {
    INFO(name);
    const Expected expected(name);
    const auto gradients = gradients_of(fs::path(PTQ_SOURCE_DIR) / "test/fixtures/families" / name);
    Compare compare(expected, gradients->config(), 8);
    const double loss = gradients->backward(expected.ids(), compare);
    CHECK(loss == Approx(double(expected.get("loss")[0])).epsilon(1e-6));
    CHECK(compare.compared == int(expected.file.tensors().size()) - 2);
    if (std::getenv("PTQ_SHOW_DIFFERENCES"))
      std::printf("%-24s gradients: largest relative error %.1e\n", name, compare.largest);
  }
}

TEST_CASE("gradients: the loss is the engine's", "[backward]") {
  for (const std::string& name : kModels) {
    INFO(name);
    const auto gradients = gradients_of(folder_of(name));
    const auto engine = make_cpu_engine(folder_of(name).string(), 2);
    std::mt19937 random(7);
    std::vector<int32_t> ids;
    for (int i = 0; i < 300; ++i) ids.push_back(int32_t(random() % 3000));
    double sum = 0;
    const auto s = engine->start(nullptr);
    const size_t vocab = size_t(engine->config().vocab_size);
    engine->forward(
        *s, ids, Regime::independent, 0, [&](int64_t row, int64_t rows, const float* z) {
          for (int64_t i = row; i < row + rows && i + 1 < int64_t(ids.size()); ++i)
            sum += eval::read_logits(z + size_t(i - row) * vocab, int64_t(vocab), i, "engine")
                       .nll(ids[size_t(i + 1)]);
        });
    GradientVisitor<float> nothing;
    CHECK(gradients->backward(ids, nothing) == Approx(sum / 299).epsilon(1e-6));
  }
}

TEST_CASE("gradients: the change of the loss along a direction", "[backward]") {
  const std::string name = "tiny-llama";
  const std::vector<int32_t> ids = Expected(name).ids();
  AllGradients all;
  gradients_of(folder_of(name))->backward(ids, all);
  CHECK(all.tensors.size() == 38);  // every tensor but the embedding

  // Uphill on average, so that the change is large beside the rounding of a float32 loss.
  std::mt19937 random(8);
  std::map<std::string, std::vector<float>> direction;
  double along = 0;
  for (const auto& [tensor, d] : all.tensors)
    for (const float g : d) {
      direction[tensor].push_back(g * (0.5f + float(random() >> 8) / float(1 << 24)));
      along += double(g) * double(direction[tensor].back());
    }
  const double step = 0.005 / along;
  double losses[2];
  for (const int sign : {0, 1}) {
    const fs::path moved = moved_model(name, direction, float(sign ? step : -step));
    GradientVisitor<float> nothing;
    losses[sign] = gradients_of(moved)->backward(ids, nothing);
    fs::remove_all(moved);
  }
  CHECK((losses[1] - losses[0]) / (2 * step) == Approx(along).epsilon(1e-3));
}

TEST_CASE("gradients: what cannot be done is said", "[backward]") {
  const auto gradients = gradients_of(folder_of("tiny-llama"));
  GradientVisitor<float> nothing;
  using Catch::Contains;
  CHECK_THROWS_WITH(gradients->backward(std::vector<int32_t>{1}, nothing), Contains("at least 2"));
  CHECK_THROWS_WITH(gradients->backward(std::vector<int32_t>{1, 3072}, nothing),
                    Contains("token id 3072 at position 1"));
  CHECK_THROWS_WITH(gradients->forward(std::vector<int32_t>(4097, 1), nothing),
                    Contains("this model allows 4096"));
}
