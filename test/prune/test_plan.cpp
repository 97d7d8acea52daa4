// The groups, the order in which they leave and what is left, against numbers worked out by hand.
#include <catch2/catch.hpp>
#include <cmath>
#include <string>
#include <vector>

#include "ptq/model/load_config.hpp"
#include "ptq/prune/gradients.hpp"
#include "ptq/prune/plan.hpp"

using namespace ptq;
using namespace ptq::prune;

namespace ptq::test {
namespace {

// Two layers of two key/value heads (cost 2 * 8 * 2 * 2 + 2 * 8 * 2 = 96) and three channels (24).
ModelConfig small_config() {
  ModelConfig c;
  c.hidden_size = 8, c.num_hidden_layers = 2, c.num_attention_heads = 4, c.num_key_value_heads = 2;
  c.head_dim = 2, c.intermediate_size = 3, c.vocab_size = 10, c.tie_word_embeddings = true;
  return c;
}

using Kept = std::vector<int64_t>;

// In the order of groups_of(): heads and channels of layer 0, then of layer 1.
constexpr double kHigh = 9;
const std::vector<double> kScores = {5, 4, 1, 2, 3, kHigh, kHigh, kHigh, kHigh, kHigh};

}  // namespace

TEST_CASE("pruning: groups cost what their matrices hold", "[prune]") {
  const std::string configs = std::string(PTQ_SOURCE_DIR) + "/models/configs/";
  const auto cost = [&](const char* model, Block block) {
    return cost_of(anatomy_of(load_config(configs + model)).layers[0], block);
  };
  CHECK(cost("Llama-3.1-8B", Block::attention) == 5'242'880);
  CHECK(cost("Qwen2.5-7B", Block::attention) == 7'340'032);
  CHECK(cost("Mistral-7B-v0.3", Block::attention) == 5'242'880);
  CHECK(cost("Llama-3.1-8B", Block::mlp) == 12'288);
  CHECK(cost("Qwen2.5-7B", Block::mlp) == 10'752);

  const std::vector<Group> groups = groups_of(anatomy_of(small_config()));
  REQUIRE(groups.size() == 10);
  CHECK(groups[0].cost == 96);
  CHECK(groups[1].block == Block::attention);
  CHECK(groups[2].block == Block::mlp);
  CHECK(groups[2].cost == 24);
  CHECK(groups[5].layer == 1);
}

TEST_CASE("pruning: the longest affordable prefix of the order leaves", "[prune]") {
  const Anatomy anatomy = anatomy_of(small_config());
  const auto plan = [&](double budget, const std::vector<double>& score, Amount amount = {}) {
    amount.ratio = budget / 1000;
    return choose(anatomy, score, 1000, amount);
  };
  SECTION("one channel where the second would cost too much") {
    CHECK(plan(47, kScores)[0] == KeptLayer{{0, 1}, {1, 2}});
  }
  SECTION("exactly the budget is affordable; of one channel nothing is left") {
    CHECK(plan(48, kScores)[0] == KeptLayer{{0, 1}, {}});
  }
  SECTION("at least one group leaves") { CHECK(plan(1, kScores)[0] == KeptLayer{{0, 1}, {1, 2}}); }
  SECTION("the prefix ends at the first group that is too dear, though a later one is not") {
    std::vector<double> score = kScores;
    score[1] = 0;  // 96
    CHECK(plan(95, score)[0] == KeptLayer{{0}, {0, 1, 2}});
    CHECK(plan(119, score)[0] == KeptLayer{{0}, {0, 1, 2}});
    CHECK(plan(120, score)[0] == KeptLayer{{0}, {1, 2}});
  }
  SECTION("equal scores leave by layer, block and index") {
    const std::vector<double> equal(10, 1.0);
    CHECK(plan(96, equal)[0].heads == Kept{1});
    CHECK(plan(96, equal)[1] == keep_all(anatomy)[1]);
  }
  SECTION("both heads and all channels gone: nothing of the layer is left") {
    CHECK(plan(264, kScores)[0] == KeptLayer{});
  }
  SECTION("infinity stays whatever the budget is") {
    std::vector<double> score(10, HUGE_VAL);
    score[7] = 1;
    const Plan result = plan(900, score);
    CHECK(result[0] == keep_all(anatomy)[0]);
    CHECK(result[1] == KeptLayer{{0, 1}, {1, 2}});
  }
  SECTION("a score that is no number is refused with its place") {
    std::vector<double> score = kScores;
    score[6] = std::nan("");
    CHECK_THROWS_WITH(plan(50, score), Catch::Contains("layer 1, key/value head 1"));
  }
  SECTION("a ratio of 0 removes nothing") { CHECK(plan(0, kScores) == keep_all(anatomy)); }
}

TEST_CASE("pruning: collapsed layers, rounded widths, whole layers", "[prune]") {
  ModelConfig config = small_config();
  config.intermediate_size = 6;
  const Anatomy anatomy = anatomy_of(config);
  // Layer 0: heads 9 9, channels 1 2 3 9 9 9; layer 1 all 9.
  std::vector<double> score(16, kHigh);
  score[2] = 1, score[3] = 2, score[4] = 3;
  Amount amount;
  amount.ratio = 0.072;  // three channels of 1000
  CHECK(choose(anatomy, score, 1000, amount)[0] == KeptLayer{{0, 1}, {3, 4, 5}});
  SECTION("the best of those that left come back until the width is a multiple") {
    amount.round_mlp_to = 4;
    CHECK(choose(anatomy, score, 1000, amount)[0] == KeptLayer{{0, 1}, {2, 3, 4, 5}});
    amount.round_mlp_to = 32;
    CHECK(choose(anatomy, score, 1000, amount)[0] == keep_all(anatomy)[0]);
  }
  SECTION("a layer of which less than the given share is left goes as a whole") {
    amount.collapse_below = 0.75;  // heads 1, channels 0.5: 0.75 is not below
    CHECK(choose(anatomy, score, 1000, amount)[0].channels.size() == 3);
    amount.collapse_below = 0.76;
    CHECK(choose(anatomy, score, 1000, amount)[0] == KeptLayer{});
  }
  SECTION("whole layers, by the mean of their groups") {
    amount.unit = Unit::layers;
    const Plan plan = choose(anatomy, score, 1000, amount);
    CHECK(plan[0] == KeptLayer{});
    CHECK(plan[1] == keep_all(anatomy)[1]);
  }
  SECTION("what the model is afterwards") {
    const Plan plan = choose(anatomy, score, 1000, amount);
    const ModelConfig after = pruned_config(config, plan);
    CHECK(after.size_of_layer(0) == LayerSize{4, 2, 3});
    CHECK(after.size_of_layer(1) == LayerSize{4, 2, 6});
    CHECK(parameter_count(config) - parameter_count(after) == 3 * 24);
    CHECK(extreme_layers(anatomy, plan) == 0);  // exactly a half is not more than a half
    score[5] = 4;
    amount.ratio = 0.096;
    CHECK(extreme_layers(anatomy, choose(anatomy, score, 1000, amount)) == 1);
  }
}

TEST_CASE("pruning: ratio and range of the layers' gradients", "[prune]") {
  GradientStatistics s;
  for (const double mean : {.02, .10, .05}) s.layers.push_back({mean, 0, 0, mean});
  const auto [ratio, range] = ratio_and_range(s, &LayerGradients::mean);
  CHECK(ratio == Approx(5.0));
  CHECK(range == Approx(.08));
  s.layers[1].norm = HUGE_VAL;
  CHECK(std::isinf(ratio_and_range(s, &LayerGradients::norm).first));
  CHECK(std::isinf(ratio_and_range(s, &LayerGradients::norm).second));
}

}  // namespace ptq::test
