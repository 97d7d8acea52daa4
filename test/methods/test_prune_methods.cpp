// Importances and scores of the pruning methods against numbers worked out by hand, and pruning as
// a whole on the embedded models.
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "ptq/engine/engine.hpp"
#include "ptq/prune/prune.hpp"
#include "ptq/run/plugins.hpp"

using namespace ptq;

namespace ptq::test {
namespace {

struct Pruner {
  std::unique_ptr<MethodInstance> instance;
  prune::Method* method = nullptr;

  explicit Pruner(const std::string& name,
                  nlohmann::ordered_json options = nlohmann::ordered_json::object()) {
    static const PluginSet plugins =
        PluginSet::scan({std::filesystem::path(PTQ_BINARY_DIR) / "plugins"});
    const MethodInfo* info = plugins.find(name);
    REQUIRE(info != nullptr);
    instance = plugins.create(*info, validate_options(info->options, options, "test"), 0);
    method = instance->pruner();
    REQUIRE(method != nullptr);
  }
};

// A 2 x 2 matrix whose rows or columns are groups of one.
std::vector<double> importance(Pruner& pruner, int axis, std::vector<float> w,
                               std::vector<float> gradient = {}, std::vector<float> square = {},
                               std::vector<float> mean = {}, std::vector<float> mean_square = {}) {
  const LinearPlan plan{axis == 0 ? Role::up : Role::down,
                        "model.layers.0.mlp.x_proj",
                        2,
                        2,
                        false,
                        Point::mlp_in,
                        Point::up};
  std::vector<double> sums(2);
  pruner.method->measure({0, plan, {axis, 1}, w.data(), gradient, square, mean, mean_square}, sums);
  return sums;
}

void check(const std::vector<double>& got, const std::vector<double>& want) {
  REQUIRE(got.size() == want.size());
  for (size_t i = 0; i < got.size(); ++i) CHECK(got[i] == Approx(want[i]).epsilon(1e-6));
}

const std::vector<float> kWeight = {1, -2, 3, .5f}, kGradient = {.1f, .2f, -.1f, .4f};

}  // namespace

TEST_CASE("taylor: the worked example, by rows and by columns", "[prune]") {
  Pruner first("taylor");
  check(importance(first, 0, kWeight, kGradient), {.5, .5});
  check(importance(first, 1, kWeight, kGradient), {.4, .6});
  // Signed products .1 -.4 -.3 .2.
  Pruner lines("taylor", {{"importance", "vectorize"}});
  check(importance(lines, 0, kWeight, kGradient), {.3, .1});
  check(importance(lines, 1, kWeight, kGradient), {.2, .2});
  // w^2 h: .01 .16 .09 .04 for squares .01 .04 .01 .16.
  const std::vector<float> h = {.01f, .04f, .01f, .16f};
  Pruner second("taylor", {{"importance", "param_second"}}),
      mix("taylor", {{"importance", "param_mix"}}),
      both("taylor", {{"importance", "first_and_second"}});
  check(importance(second, 0, kWeight, kGradient, h), {.17, .13});
  check(importance(mix, 0, kWeight, kGradient, h), {.095 + .48, .345 + .18});
  check(importance(both, 0, kWeight, kGradient, h), {.5 + .085, .5 + .065});
}

TEST_CASE("taylor, blockwise, layerwise: one score with other factors", "[prune]") {
  const std::vector<prune::Group> groups = {{0, prune::Block::attention, 0, 10},
                                            {0, prune::Block::mlp, 0, 2},
                                            {1, prune::Block::attention, 0, 10},
                                            {1, prune::Block::mlp, 0, 2}};
  const std::vector<double> worth = {20, 6, 30, 8}, layer = {1, -.5}, attention = {.5, .25},
                            mlp = {3, 2}, none;
  const auto scores = [&](const std::string& name, nlohmann::ordered_json options) {
    Pruner pruner(name, options);
    std::vector<double> score(4);
    pruner.method->score({groups, 2, 1000, worth, layer, attention, mlp, none}, score);
    return score;
  };
  const auto object = nlohmann::ordered_json::object();
  check(scores("taylor", object), {2, 3, 3, 4});
  // ln(1 + growth of the block).
  check(scores("blockwise", object),
        {2 * std::log(1.5), 3 * std::log(4), 3 * std::log(1.25), 4 * std::log(3)});
  // ln(1 + growth of the layer), at least 0.
  check(scores("layerwise", object), {2 * std::log(2), 3 * std::log(2), 0, 0});
  // The layer below tau, else the block.
  check(scores("layerwise", {{"tau", 1.0}, {"temperature", 2.0}}),
        {2 * std::pow(std::log(1.5), 2), 3 * std::pow(std::log(4), 2), 0, 0});
  // Percentile 50 of 1 and -.5 is .25.
  check(scores("blockwise", {{"tau_percentile", 50.0}}),
        {2 * std::log(1.5), 3 * std::log(4), 0, 0});
}

TEST_CASE("magnitude, wanda, flap and shortgpt: worked examples", "[prune]") {
  Pruner magnitude("magnitude"), wanda("wanda"), flap("flap"), shortgpt("shortgpt");
  check(importance(magnitude, 0, kWeight), {3, 3.5});
  check(importance(magnitude, 1, kWeight), {4, 2.5});
  // Norms of the inputs 2 and 3.
  const std::vector<float> mean = {1, 3}, square = {4, 9};
  check(importance(wanda, 0, kWeight, {}, {}, mean, square), {2 + 6, 6 + 1.5});
  check(importance(wanda, 1, kWeight, {}, {}, mean, square), {8, 7.5});
  // Variances 3 and 0; squared columns 10 and 4.25.
  check(importance(flap, 1, kWeight, {}, {}, mean, square), {30, 0});
  check(importance(flap, 0, kWeight, {}, {}, mean, square), {0, 0});

  const std::vector<prune::Group> groups = {{0, prune::Block::mlp, 0, 2},
                                            {0, prune::Block::mlp, 1, 2},
                                            {0, prune::Block::mlp, 2, 2},
                                            {1, prune::Block::mlp, 0, 2}};
  const std::vector<double> worth = {1, 2, 3, 5}, influence = {.25, .125}, none;
  std::vector<double> score(4);
  flap.method->score({groups, 2, 1000, worth, none, none, none, none}, score);
  check(score, {-1, 0, 1, 0});
  shortgpt.method->score({groups, 2, 1000, worth, none, none, none, influence}, score);
  check(score, {.25, .25, .25, .125});
  CHECK(shortgpt.method->settings().amount.unit == prune::Unit::layers);
}

TEST_CASE("pruning: every method takes its share of a model, and the same one again", "[prune]") {
  const std::string model = std::string(PTQ_SOURCE_DIR) + "/models/tiny-llama";
  const auto engine = make_cpu_engine(model, 2);
  std::vector<std::vector<int32_t>> sequences;
  for (int32_t s = 0; s < 6; ++s) {
    sequences.emplace_back();
    for (int32_t i = 0; i < 24; ++i)
      sequences.back().push_back((s * 131 + i * 37) % int32_t(engine->config().vocab_size));
  }
  const prune::Kept nothing("");
  const auto pruned = [&](const std::string& name, uint64_t bytes) {
    Pruner pruner(name, {{"ratio", 0.3}});
    return prune::prune(*pruner.method, {*engine,
                                         [&] { return make_cpu_gradients(model, {}); },
                                         sequences,
                                         nothing,
                                         {},
                                         bytes,
                                         2,
                                         [](double, const char*) {}});
  };
  for (const char* name :
       {"taylor", "blockwise", "layerwise", "magnitude", "wanda", "flap", "shortgpt"}) {
    INFO(name);
    const prune::Pruned one = pruned(name, uint64_t{1} << 30);
    const double removed = 1 - double(one.parameters_after) / double(one.parameters_before);
    CHECK(removed > 0.15);
    CHECK(removed < 0.301);  // norms and biases go beside what is counted
    // Gradients of some tensors at a time give the same model.
    const prune::Pruned other = pruned(name, 100'000);
    CHECK(one.plan == other.plan);
    CHECK(one.gradients.has_value() == other.gradients.has_value());
    if (one.gradients) {
      for (size_t l = 0; l < one.gradients->layers.size(); ++l)
        CHECK(one.gradients->layers[l].norm ==
              Approx(other.gradients->layers[l].norm).epsilon(1e-12));  // another order of sums
      CHECK(one.gradients->batches == 2);
      CHECK(one.gradients->nonfinite == 0);
    }
  }
}

TEST_CASE("gradients: batches are added up, and their figures follow every batch", "[prune]") {
  const std::string model = std::string(PTQ_SOURCE_DIR) + "/models/tiny-qwen2";
  const auto gradients = make_cpu_gradients(model, {2, Compute::fp32, nullptr});
  const std::vector<std::vector<int32_t>> sequences = {
      {1, 2, 3, 4, 5}, {9, 8, 7, 6, 5}, {20, 30, 40, 50, 60}};
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  struct One : GradientVisitor<float> {
    std::vector<float> g;
    bool wants(const std::string& tensor) override {
      return tensor == "model.layers.1.mlp.up_proj.weight";
    }
    void gradient(const std::string&, const float* d, int64_t rows, int64_t columns) override {
      g.assign(d, d + rows * columns);
    }
  };
  std::vector<std::vector<float>> of;
  for (const auto& s : sequences) {
    One one;
    gradients->backward(s, one);
    of.push_back(one.g);
  }
  std::vector<float> mean, square;
  const prune::GradientStatistics statistics = prune::weight_gradients(
      *gradients, sequences, {2, true, uint64_t{1} << 30, 2},
      [&](const prune::TensorGradient& t) {
        if (t.name != name) return;
        mean.assign(t.mean.begin(), t.mean.end());
        square.assign(t.mean_square.begin(), t.mean_square.end());
      },
      [](double) {});
  CHECK(statistics.batches == 2);  // of two and of one
  REQUIRE(mean.size() == of[0].size());
  for (size_t i = 0; i < mean.size(); i += 97) {
    const double first = (double(of[0][i]) + double(of[1][i])) / 2, second = double(of[2][i]);
    CHECK(double(mean[i]) == Approx((first + second) / 2).epsilon(1e-4).margin(1e-9));
    CHECK(double(square[i]) ==
          Approx((first * first + second * second) / 2).epsilon(1e-4).margin(1e-12));
  }
}

}  // namespace ptq::test
