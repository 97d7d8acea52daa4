// Multiple choice: of the answers to a question the one that the model holds most likely. Requests,
// scores, decisions and errors are those of EleutherAI/lm-evaluation-harness 0.4.11 (output type
// multiple_choice), so that a task gives the same answer to every question; what a task asks is
// said in datasets/tasks. Log-probabilities are sums in float64 of float32 logits over the whole
// row.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/clock.hpp"
#include "ptq/core/dtype.hpp"
#include "ptq/core/hash.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/eval/choice_batches.hpp"
#include "ptq/eval/choice_requests.hpp"
#include "ptq/eval/choice_scorer.hpp"
#include "ptq/eval/choice_tally.hpp"
#include "ptq/eval/measured.hpp"
#include "ptq/eval/settings.hpp"
#include "ptq/eval/subject.hpp"
#include "ptq/tasks/description.hpp"
#include "ptq/tasks/rows.hpp"

namespace ptq::eval {

namespace choices_detail {

// Tokens that are computed together. A constant: it is the same on every machine.
constexpr int64_t kBatchTokens = 2048;

inline std::vector<tasks::Item> read_items(const tasks::TaskDescription& task,
                                           const ChoicesSettings& s) {
  return tasks::read_items(task, {s.task, s.data, s.labels, s.fewshot_data}, s.fewshot,
                           tasks::parse_rows(s.rows));
}

// What logits of 16 bits leave of a number; nullptr: all of it.
inline float (*rounding(const std::string& logits_dtype))(float) {
  if (logits_dtype == "bf16") return [](float x) { return bf16_to_float(float_to_bf16(x)); };
  if (logits_dtype == "f16") return [](float x) { return round_f16(x); };
  return nullptr;
}

inline int64_t max_length(const ChoicesSettings& s, const ModelConfig& config) {
  return s.max_length > 0 ? std::min(s.max_length, config.max_position_embeddings)
                          : config.max_position_embeddings;
}

// The scores of all choices of all items, of one side.
using ItemScores = std::vector<std::vector<ChoiceScore>>;

// One question as a line of samples.jsonl.
inline Json sample_of(const tasks::TaskDescription& task, const tasks::Item& item,
                      const std::vector<ChoiceScore>& own,
                      const std::vector<ChoiceScore>* reference, ChoiceTallies& tallies) {
  const auto log_probs = [](const std::vector<ChoiceScore>& scores) {
    std::vector<double> out;
    for (const ChoiceScore& score : scores) out.push_back(score.log_prob);
    return out;
  };
  const std::vector<double> values = log_probs(own);
  const auto right = right_by_metric(values, item.question);
  Json greedy = Json::array(), lengths = Json::array();
  for (const ChoiceScore& score : own) greedy.push_back(score.greedy);
  for (const std::string& choice : item.question.choices) lengths.push_back(code_points(choice));
  Json sample = {{"doc_id", item.row}};
  if (!item.subject.empty()) sample["subject"] = item.subject;
  sample["gold"] = item.question.gold;
  sample["prompt_hash"] = sha256_hex(item.block + item.question.context(0));
  sample["loglikelihoods"] = values;
  sample["greedy"] = std::move(greedy);
  sample["lengths"] = std::move(lengths);
  std::optional<std::array<bool, kChoiceMetrics>> right_reference;
  if (reference != nullptr) {
    const std::vector<double> of_reference = log_probs(*reference);
    right_reference = right_by_metric(of_reference, item.question);
    sample["loglikelihoods_reference"] = of_reference;
  }
  const auto& words = tasks::metric_words();
  for (size_t m = 0; m < kChoiceMetrics; ++m)
    if (std::find(task.metrics.begin(), task.metrics.end(), words[m]) != task.metrics.end())
      sample[words[m]] = int(right[m]);
  sample["correct"] = right[tallies.primary()];
  if (right_reference) sample["correct_reference"] = (*right_reference)[tallies.primary()];
  tallies.add(item.subject, right, right_reference);
  return sample;
}

// One number for all scores: SHA-256 over the lists of log-likelihoods as samples.jsonl has them.
inline std::string scores_digest(const std::vector<Json>& samples) {
  Sha256 hash;
  for (const Json& sample : samples)
    hash.update(sample["doc_id"].dump() + " " + sample["loglikelihoods"].dump() + "\n");
  return hash.hex();
}

// How far the scores of the two sides are apart.
struct ScoreDifferences {
  double largest = 0, sum = 0;
  int64_t count = 0;

  void add(const std::vector<ChoiceScore>& own, const std::vector<ChoiceScore>& reference) {
    for (size_t c = 0; c < own.size(); ++c) {
      const double difference = std::fabs(own[c].log_prob - reference[c].log_prob);
      largest = std::max(largest, difference);
      sum += difference;
      ++count;
    }
  }
};

inline std::string time_left(double seconds) {
  char text[32];
  if (seconds < 90) {
    std::snprintf(text, sizeof text, "%.0f s left", seconds);
  } else {
    std::snprintf(text, sizeof text, "%.0f min left", seconds / 60);
  }
  return text;
}

}  // namespace choices_detail

// Errors: settings, a description, data or labels that cannot be read, a choice without tokens,
// logits that are not finite.
inline Outcome choices(Subject& subject, const ChoicesSettings& settings,
                       const Progress& progress) {
  using namespace choices_detail;
  check_settings(settings, "choices");
  const tasks::TaskDescription task = tasks::read_task(settings.task);
  const std::vector<tasks::Item> items = read_items(task, settings);
  const PairTokenizer tokenizer(subject.tokenizer, subject.engine.config(),
                                max_length(settings, subject.engine.config()));
  const ChoiceRequests requests = make_requests(items, tokenizer, task.delimiter, settings.data);

  const auto round = rounding(settings.logits_dtype);
  ChoiceScorer own(subject.engine, subject.kv, settings.regime, subject.noise, round,
                   "model under test");
  std::optional<ChoiceScorer> reference;
  if (subject.reference)
    reference.emplace(*subject.reference, nullptr, Regime::streaming, LayerNoise{}, round,
                      "reference model");
  const bool share = own.shares_prefixes() && (!reference || reference->shares_prefixes());
  const std::vector<ChoiceBatch> batches = make_batches(requests, items, kBatchTokens, share);

  ItemScores scores(items.size()), reference_scores(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    scores[i].resize(items[i].question.choices.size());
    reference_scores[i].resize(scores[i].size());
  }
  std::vector<CacheBytes> caches(items.size());
  int64_t tokens = 0, single = 0, done = 0;
  for (const ChoiceBatch& batch : batches) tokens += batch.tokens();
  for (const ContextRequest& request : requests.contexts) single += request.single_tokens();
  const Stopwatch clock;
  for (const ChoiceBatch& batch : batches) {
    const auto take = [&](const std::vector<ScoredContext>& scored, ItemScores& out) {
      for (size_t i = 0; i < scored.size(); ++i) {
        const ContextRequest& request = *batch.requests[i];
        for (size_t c = 0; c < request.continuations.size(); ++c)
          out[request.item][request.continuations[c].choice] = scored[i].scores[c];
      }
    };
    const auto scored = own.score(batch.requests, batch.shared);
    take(scored, scores);
    for (size_t i = 0; i < scored.size(); ++i) caches[batch.requests[i]->item] = scored[i].bytes;
    if (reference) take(reference->score(batch.requests, batch.shared), reference_scores);
    done += batch.tokens();
    if (!progress) continue;
    const double share_done = double(done) / double(tokens);
    progress(share_done, time_left(clock.seconds() * (1 - share_done) / share_done));
  }

  Outcome outcome;
  ChoiceTallies tallies(task);
  ScoreDifferences differences;
  Measured measured;
  for (size_t i = 0; i < items.size(); ++i) {
    outcome.samples.push_back(
        sample_of(task, items[i], scores[i], reference ? &reference_scores[i] : nullptr, tallies));
    if (reference) differences.add(scores[i], reference_scores[i]);
    measured.cache.add(caches[i]);
  }
  measured.reads = own.reads();
  measured.seconds = own.seconds();
  if (reference) measured.reference_seconds = reference->seconds();

  Json& m = outcome.metrics;
  m["protocol"] = "choices";
  m["task"] = task.name;
  m["task_version"] = task.version;
  m["fewshot"] = settings.fewshot;
  m["logits_dtype"] = settings.logits_dtype;
  tallies.write(m, subject.reference != nullptr);
  if (reference) {
    m["score_difference_mean"] = differences.sum / double(differences.count);
    m["score_difference_max"] = differences.largest;
  }
  m["truncated"] = requests.truncated;
  m["tokens_computed"] = tokens;
  m["tokens_one_pass_per_choice"] = single;
  m["scores_sha256"] = scores_digest(outcome.samples);
  measured.write(m, settings.regime);
  put_rate(m, "tokens_per_second", double(tokens), measured.seconds);
  return outcome;
}

// Whether the files are those of the task; of the texts that they fit into the model.
inline void check_choices(const Unloaded&, const ChoicesSettings& settings) {
  const tasks::TaskDescription task = tasks::read_task(settings.task);
  choices_detail::read_items(task, settings);
}

}  // namespace ptq::eval
