// Calibration: which sequences are taken, what a cache method is shown of them, and what is
// refused.
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "ptq/calibrate/kv_samples.hpp"
#include "ptq/calibrate/sequences.hpp"
#include "ptq/model/tokenizer.hpp"
#include "ptq/run/plugins.hpp"
#include "test/support/fake_engine.hpp"

using namespace ptq;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

// Two layers, two heads of two numbers. Every number says where it comes from.
class FakeGradients : public Gradients<float> {
 public:
  static constexpr int64_t kWidth = 4;
  FakeGradients() {
    config_.num_hidden_layers = 2;
    config_.num_attention_heads = 2;
    config_.num_key_value_heads = 2;
    config_.head_dim = 2;
    config_.max_position_embeddings = 100;
  }
  const ModelConfig& config() const override { return config_; }
  void forward(std::span<const int32_t> tokens, GradientVisitor<float>& visitor) override {
    for (int layer = 0; layer < 2; ++layer) show(layer, tokens, false, visitor);
  }
  double backward(std::span<const int32_t> tokens, GradientVisitor<float>& visitor) override {
    for (int layer = 1; layer >= 0; --layer) show(layer, tokens, true, visitor);
    return double(tokens[0]);
  }
  RemovalLosses removal_losses(std::span<const int32_t>) override { return {}; }

  // token + 1000 layer + 100 place (keys, rotated keys, values), and 0.5 more per number of a row;
  // the gradient is the same with a minus.
  static float number(int layer, int place, int32_t token, int64_t column) {
    return float(token) + 1000.0f * float(layer) + 100.0f * float(place) + 0.5f * float(column);
  }
  int broken_layer = -1;  // a value there is not finite
  bool broken_gradient = false;

 private:
  void show(int layer, std::span<const int32_t> tokens, bool gradients,
            GradientVisitor<float>& visitor) const {
    std::vector<float> x[3], d[3];
    for (int place = 0; place < 3; ++place)
      for (const int32_t token : tokens)
        for (int64_t c = 0; c < kWidth; ++c) {
          x[place].push_back(number(layer, place, token, c));
          d[place].push_back(-x[place].back());
        }
    if (layer == broken_layer)
      (broken_gradient ? d : x)[2][kWidth] = std::numeric_limits<float>::quiet_NaN();
    KvGradients<float> kv{
        int64_t(tokens.size()), x[0].data(), x[1].data(), x[2].data(), nullptr, nullptr, nullptr};
    if (gradients)
      kv.d_keys = d[0].data(), kv.d_rotated_keys = d[1].data(), kv.d_values = d[2].data();
    visitor.keys_values(layer, kv);
  }
  ModelConfig config_;
};

struct Recorder : test::FakeKv {
  struct Shown {
    KvSide side;
    int layer;
    int64_t tokens, length;
    std::vector<float> x, fisher;
  };
  Wants wanted;
  std::vector<Shown> shown;

  explicit Recorder(Wants w, bool pre_rope = false) : FakeKv(KvPolicy{}), wanted(w) {
    policies[0].pre_rope = pre_rope;
  }
  Wants wants() const override { return wanted; }
  void calibrate(KvSide side, int layer, int64_t tokens, int64_t length, const float* x,
                 const float* fisher) override {
    const int64_t n = tokens * FakeGradients::kWidth;
    shown.push_back({side, layer, tokens, length, {x, x + n}, {}});
    if (fisher) shown.back().fisher.assign(fisher, fisher + n);
  }
};

const std::vector<std::vector<int32_t>> kSequences = {{1, 2, 3}, {40, 50, 60}};
constexpr uint64_t kNoBound = uint64_t{1} << 40;
const auto ignore = [](double) {};

fs::path folder_of(const char* model) { return fs::path(PTQ_SOURCE_DIR) / "models" / model; }

}  // namespace

TEST_CASE("calibration: sequences are Python's random pieces", "[calibrate]") {
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 100; ++i) tokens.push_back(i);
  // random.seed(7); [random.randint(0, 100 - 10 - 1) for _ in range(6)]
  const std::vector<int32_t> first = {41, 19, 50, 83, 6, 9};
  const auto got = calibrate::random_sequences(tokens, 6, 10, 7);
  REQUIRE(got.size() == 6);
  for (size_t i = 0; i < 6; ++i) {
    REQUIRE(got[i].size() == 10);
    CHECK(got[i].front() == first[i]);
    CHECK(got[i].back() == first[i] + 9);
  }
  CHECK(calibrate::random_sequences(tokens, 1, 99, 0)[0].front() == 0);  // the longest possible
}

TEST_CASE("calibration: texts of the embedded models", "[calibrate]") {
  const Tokenizer tokenizer = Tokenizer::load(folder_of("tiny-llama"));
  const std::string file = std::string(PTQ_SOURCE_DIR) + "/datasets/embedded/calib.txt";
  calibrate::CalibrationSettings settings;
  const auto whole = calibrate::read_sequences(tokenizer, file, settings, 4096, 0);
  CHECK(whole.size() == 16);
  CHECK(whole[0].size() == 2048);
  CHECK(whole[0] != whole[1]);
  // No longer than the model allows.
  CHECK(calibrate::read_sequences(tokenizer, file, settings, 512, 0)[15].size() == 512);
  settings.length = 1 << 20;
  CHECK_THROWS_WITH(calibrate::read_sequences(tokenizer, file, settings, 1 << 22, 0),
                    Contains("too short") && Contains("calib.txt") && Contains("1048576"));
  CHECK_THROWS_WITH(calibrate::read_sequences(tokenizer, "/nowhere.txt", settings, 64, 0),
                    Contains("/nowhere.txt"));
}

TEST_CASE("calibration: a method sees every layer and side once", "[calibrate]") {
  FakeGradients gradients;
  for (const bool fisher : {false, true})
    for (const bool rotated : {false, true}) {
      INFO("gradients " << fisher << ", rotated keys " << rotated);
      Recorder method({true, fisher}, !rotated);
      std::vector<double> shares;
      const auto used = calibrate::calibrate_kv(gradients, method, kSequences, kNoBound,
                                                [&](double share) { shares.push_back(share); });
      CHECK(used.sequences == 2);
      CHECK(used.length == 3);
      CHECK(used.sample_bytes == 2u * 3 * 4 * 2 * 2 * (fisher ? 8 : 4));
      if (fisher)
        CHECK(used.loss == 20.5);
      else
        CHECK(std::isnan(used.loss));
      CHECK(shares == std::vector<double>{0.25, 0.5, 0.75, 1});
      REQUIRE(method.shown.size() == 4);
      for (int i = 0; i < 4; ++i) {
        const Recorder::Shown& shown = method.shown[size_t(i)];
        CHECK(shown.layer == i / 2);
        CHECK(int(shown.side) == i % 2);
        CHECK(shown.tokens == 6);
        CHECK(shown.length == 3);
        std::vector<float> x, squared;
        for (const auto& sequence : kSequences)
          for (const int32_t token : sequence)
            for (int64_t c = 0; c < FakeGradients::kWidth; ++c) {
              const int place = i % 2 ? 2 : rotated ? 1 : 0;
              x.push_back(FakeGradients::number(shown.layer, place, token, c));
              squared.push_back(x.back() * x.back());
            }
        CHECK(shown.x == x);
        CHECK(shown.fisher == (fisher ? squared : std::vector<float>{}));
      }
    }
}

TEST_CASE("calibration: fewer sequences where memory ends", "[calibrate]") {
  FakeGradients gradients;
  const uint64_t one = 3 * 4 * 2 * 2 * 8;  // bytes of a sequence
  for (const auto& [bound, expected] :
       {std::pair<uint64_t, int64_t>{0, 1}, {one, 1}, {2 * one - 1, 1}, {2 * one, 2}}) {
    Recorder method({true, true});
    const auto used = calibrate::calibrate_kv(gradients, method, kSequences, bound, ignore);
    CHECK(used.sequences == expected);
    CHECK(used.sample_bytes == uint64_t(expected) * one);
    CHECK(method.shown.at(0).tokens == 3 * expected);
  }
}

TEST_CASE("calibration: numbers that are not finite are named", "[calibrate]") {
  FakeGradients gradients;
  gradients.broken_layer = 1;
  Recorder method({true, true});
  CHECK_THROWS_WITH(calibrate::calibrate_kv(gradients, method, kSequences, kNoBound, ignore),
                    Contains("a number of the cache is not finite") &&
                        Contains("layer 1 values, calibration sequence 0, position 1"));
  gradients.broken_gradient = true;
  CHECK_THROWS_WITH(
      calibrate::calibrate_kv(gradients, method, kSequences, kNoBound, ignore),
      Contains("the squared gradient of the loss is not finite") && Contains("layer 1 values"));
  CHECK(method.shown.empty());
}

TEST_CASE("calibration: a plugin on an embedded model", "[calibrate]") {
  const std::string folder = folder_of("tiny-qwen2").string();
  const auto gradients = make_cpu_gradients(folder, EngineOptions{2, Compute::fp32, nullptr});
  const Tokenizer tokenizer = Tokenizer::load(folder);
  calibrate::CalibrationSettings settings;
  settings.sequences = 2, settings.length = 128;
  const auto sequences = calibrate::read_sequences(
      tokenizer, std::string(PTQ_SOURCE_DIR) + "/datasets/embedded/calib.txt", settings, 4096, 1);
  const auto infos = PluginSet::load(std::string(PTQ_BINARY_DIR) + "/test-plugins/calibrated.so");
  REQUIRE(infos.size() == 1);
  for (const int wants : {0, 1, 2, 3}) {
    INFO("wants " << wants);
    MethodInstance instance(infos[0], {{"wants", wants}}, 0);
    KvMethod* kv = instance.kv(gradients->config());
    REQUIRE(kv != nullptr);
    CHECK(kv->wants().samples == ((wants & 1) != 0));
    CHECK(kv->wants().fisher == ((wants & 2) != 0));
    const auto engine = make_cpu_engine(folder, 2);
    const auto run = [&] {
      const auto s = engine->start(kv);
      engine->forward(*s, sequences[0], Regime::streaming, 127,
                      [](int64_t, int64_t, const float*) {});
    };
    if (wants == 0) {
      CHECK_NOTHROW(run());
      continue;
    }
    CHECK_THROWS_WITH(run(), Contains("no calibration sample was given"));
    // The plugin itself checks what it is shown, and that nothing comes twice.
    const auto used = calibrate::calibrate_kv(*gradients, *kv, sequences, kNoBound, ignore);
    if (wants & 2) {
      CHECK(used.loss > 1);
      CHECK(used.loss < 6);
    }
    CHECK_NOTHROW(run());
    CHECK_THROWS_WITH(
        calibrate::calibrate_kv(*gradients, *kv, sequences, kNoBound, ignore),
        Contains("method calibrated, calibrate: a layer and side is calibrated twice") &&
            Contains("layer 0 keys"));
  }
}
