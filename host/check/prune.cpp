// Tests of a method that prunes (ptq.prune/1).
#include <algorithm>
#include <cmath>

#include "host/check/pruner.hpp"

namespace ptq::check {
namespace {

Result settings(const Subject&, Pruner& pruner) {
  const ptq_prune& t = pruner.table();
  const uint32_t known = 2 * PTQ_PRUNE_INFLUENCE - 1;
  if (t.wants & ~known) fail("wants is {:#x}, which has unknown bits", t.wants);
  if (!t.score) fail("score is NULL");
  if (!(t.ratio >= 0 && t.ratio <= 1)) fail("ratio is {}, it must be 0 to 1", t.ratio);
  if (!(t.collapse_below >= 0 && t.collapse_below <= 1))
    fail("collapse_below is {}, it must be 0 to 1", t.collapse_below);
  if (t.round_mlp_to < 1) fail("round_mlp_to is {}, it must be at least 1", t.round_mlp_to);
  if (t.unit != PTQ_PRUNE_GROUPS && t.unit != PTQ_PRUNE_LAYERS) fail("unit is {}", t.unit);
  if (t.batch < 1) fail("batch is {}, it must be at least 1", t.batch);
  if (t.wants != 0 && (t.sequences < 1 || t.length < 2))
    fail("it measures on {} sequences of {} tokens", t.sequences, t.length);
  return {};
}

Result scores(const Subject&, Pruner& pruner) {
  const auto [score, refused] = pruner.scores();
  if (!refused.empty()) fail("it refuses: {}", refused);
  for (const double s : score)
    if (std::isnan(s) || s == -HUGE_VAL) fail("a score is {}", s);
  if (std::all_of(score.begin(), score.end(), [&](double s) { return s == score[0]; }))
    return {Verdict::warn, "all scores are equal"};
  return {};
}

Result same_scores_twice(const Subject&, Pruner& pruner) {
  const auto first = pruner.scores(), second = pruner.scores();
  if (first != second) fail("the same numbers gave other scores the second time");
  return {};
}

Result nothing_measured(const Subject&, Pruner& pruner) {
  if (pruner.table().wants == 0) skip("it asks for nothing");
  pruner.silent = true;
  if (pruner.scores().second.empty()) fail("it made scores of what the host has not measured");
  return {};
}

// Runs test(subject, pruner) for every method that prunes.
template <Result (*test)(const Subject&, Pruner&)>
Result each_pruner(const Subject& subject) {
  const ptq_plugin& plugin = load_plugin(subject);
  Result worst{Verdict::skip, "no method prunes"};
  for (uint32_t i = 0; i < plugin.n_methods; ++i) {
    const ptq_method& method = *plugin.methods[i];
    if ((method.capabilities & PTQ_CAN_PRUNE) == 0) continue;
    Result result;
    try {
      Pruner pruner(method, subject);
      result = test(subject, pruner);
    } catch (Stop& stop) {
      result = stop.result;
    }
    if (!result.sentence.empty())
      result.sentence = fmt::format("{}: {}", method.name, result.sentence);
    if (result.verdict == Verdict::fail) return result;
    if (result.verdict == Verdict::warn || worst.verdict == Verdict::skip) worst = result;
  }
  return worst;
}

}  // namespace

std::vector<Test> prune_tests() {
  return {
      {"prune-settings", "What a pruning method asks for lies in its ranges.", "create-default",
       each_pruner<settings>},
      {"prune-scores", "Every group gets a score, and nothing beside the answers is written.",
       "prune-settings", each_pruner<scores>},
      {"prune-same-twice", "The same numbers give the same scores again.", "prune-scores",
       each_pruner<same_scores_twice>},
      {"prune-not-measured", "What the host has not measured is refused with a sentence.",
       "prune-scores", each_pruner<nothing_measured>},
  };
}

}  // namespace ptq::check
