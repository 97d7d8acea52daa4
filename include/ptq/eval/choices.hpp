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

#include "ptq/core/dtype.hpp"
#include "ptq/core/hash.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/eval/choice_batches.hpp"
#include "ptq/eval/choice_requests.hpp"
#include "ptq/eval/choice_scorer.hpp"
#include "ptq/eval/choice_tally.hpp"
#include "ptq/eval/measured.hpp"
#include "ptq/eval/score_book.hpp"
#include "ptq/eval/settings.hpp"
#include "ptq/eval/subject.hpp"
#include "ptq/eval/task_items.hpp"
#include "ptq/tasks/description.hpp"
#include "ptq/tasks/rows.hpp"

namespace ptq::eval {

namespace choices_detail {

// Tokens that are computed together. A constant: it is the same on every machine.
constexpr int64_t kBatchTokens = 2048;

// What logits of 16 bits leave of a number; nullptr: all of it.
inline float (*rounding(const std::string& logits_dtype))(float) {
  if (logits_dtype == "bf16") return [](float x) { return bf16_to_float(float_to_bf16(x)); };
  if (logits_dtype == "f16") return [](float x) { return round_f16(x); };
  return nullptr;
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

// Tokens of one pass for each choice.
inline int64_t single_tokens(const ChoiceRequests& requests) {
  int64_t sum = 0;
  for (const ContextRequest& request : requests.contexts) sum += request.single_tokens();
  return sum;
}

// All scores of the subject or of the reference.
class SideScores {
 public:
  // book: of this side, or nullptr.
  SideScores(const ChoiceRequests& requests, const std::vector<tasks::Item>& items, ScoreBook* book)
      : requests_(requests), items_(items), book_(book), scored_(requests.contexts.size()) {}

  // Takes what the book has and plans the rest.
  void prepare(Engine& engine, KvMethod* kv, Regime regime, const LayerNoise& noise,
               float (*round)(float), const char* whose) {
    scorer_.emplace(engine, kv, regime, noise, round, whose);
    batches_ = make_batches(requests_, items_, kBatchTokens, scorer_->shares_prefixes());
    for (size_t i = 0; i < scored_.size() && book_ != nullptr; ++i)
      if (const ScoredContext* known = book_->find(requests_.contexts[i])) scored_[i] = *known;
  }

  void run(TaskProgress& report) {
    for (const ChoiceBatch& batch : batches_) {
      const std::vector<const ContextRequest*> left = left_of(batch);
      if (left.empty()) continue;
      const auto scored = scorer_->score(left, batch.shared);
      if (book_ != nullptr) book_->add(left, scored);
      for (size_t i = 0; i < left.size(); ++i) scored_[place(left[i])] = scored[i];
      report(batch.tokens(scorer_->forks()));
    }
  }

  int64_t tokens() const {  // of all batches, each computed once
    int64_t sum = 0;
    for (const ChoiceBatch& batch : batches_) sum += batch.tokens(scorer_->forks());
    return sum;
  }
  int64_t tokens_left() const {
    int64_t sum = 0;
    for (const ChoiceBatch& batch : batches_)
      if (!left_of(batch).empty()) sum += batch.tokens(scorer_->forks());
    return sum;
  }
  double seconds() const {
    double sum = 0;
    for (const ScoredContext& context : scored_) sum += context.seconds;
    return sum;
  }
  void add_to(Measured& measured) const {
    std::vector<CacheBytes> caches(items_.size());  // of several contexts the last
    for (size_t i = 0; i < scored_.size(); ++i) {
      add_reads(measured.reads, scored_[i].reads);
      caches[requests_.contexts[i].item] = scored_[i].bytes;
    }
    for (const CacheBytes& cache : caches) measured.cache.add(cache);
    measured.seconds = seconds();
  }
  // Of a side that was not run: no scores.
  ItemScores by_item() const {
    ItemScores out(items_.size());
    for (size_t i = 0; i < items_.size(); ++i) out[i].resize(items_[i].question.choices.size());
    for (size_t i = 0; i < scored_.size(); ++i) {
      const ContextRequest& request = requests_.contexts[i];
      for (size_t c = 0; c < scored_[i].scores.size(); ++c)
        out[request.item][request.continuations[c].choice] = scored_[i].scores[c];
    }
    return out;
  }

 private:
  size_t place(const ContextRequest* request) const {
    return size_t(request - requests_.contexts.data());
  }
  std::vector<const ContextRequest*> left_of(const ChoiceBatch& batch) const {
    std::vector<const ContextRequest*> left;
    for (const ContextRequest* request : batch.requests)
      if (scored_[place(request)].scores.empty()) left.push_back(request);
    return left;
  }

  const ChoiceRequests& requests_;
  const std::vector<tasks::Item>& items_;
  ScoreBook* book_;
  std::vector<ScoredContext> scored_;  // as the requests' contexts; without scores: to be done
  std::optional<ChoiceScorer> scorer_;
  std::vector<ChoiceBatch> batches_;
};

}  // namespace choices_detail

// Errors: settings, a description, data or labels that cannot be read, a choice without tokens,
// logits that are not finite.
inline Outcome choices(Subject& subject, const ChoicesSettings& settings,
                       const Progress& progress) {
  using namespace choices_detail;
  check_settings(settings, "choices");
  const tasks::TaskDescription task = read_task_of(settings, "choices");
  const std::vector<tasks::Item> items = read_items(task, settings);
  const PairTokenizer tokenizer(subject.tokenizer, subject.engine.config(),
                                max_length(settings, subject.engine.config()));
  const ChoiceRequests requests = make_requests(items, tokenizer, task.delimiter, settings.data);

  const auto round = rounding(settings.logits_dtype);
  SideScores own(requests, items, subject.scores);
  SideScores reference(requests, items, subject.reference_scores);
  own.prepare(subject.engine, subject.kv, settings.regime, subject.noise, round,
              "model under test");
  const bool held_against = subject.reference != nullptr;
  if (held_against)
    reference.prepare(*subject.reference, nullptr, Regime::streaming, {}, round, "reference model");
  TaskProgress report(progress, own.tokens_left() + reference.tokens_left());
  own.run(report);
  if (held_against) reference.run(report);
  const ItemScores scores = own.by_item(), reference_scores = reference.by_item();

  Outcome outcome;
  ChoiceTallies tallies(task);
  ScoreDifferences differences;
  Measured measured;
  for (size_t i = 0; i < items.size(); ++i) {
    outcome.samples.push_back(sample_of(task, items[i], scores[i],
                                        held_against ? &reference_scores[i] : nullptr, tallies));
    if (held_against) differences.add(scores[i], reference_scores[i]);
  }
  own.add_to(measured);
  measured.reference_seconds = reference.seconds();

  Json& m = outcome.metrics;
  m["protocol"] = "choices";
  m["task"] = task.name;
  m["task_version"] = task.version;
  m["fewshot"] = settings.fewshot;
  m["logits_dtype"] = settings.logits_dtype;
  tallies.write(m, held_against);
  if (held_against) {
    m["score_difference_mean"] = differences.sum / double(differences.count);
    m["score_difference_max"] = differences.largest;
  }
  m["truncated"] = requests.truncated;
  const int64_t tokens = own.tokens();
  m["tokens_computed"] = tokens;
  m["tokens_one_pass_per_choice"] = single_tokens(requests);
  m["scores_sha256"] = scores_digest(outcome.samples);
  measured.write(m, settings.regime);
  put_rate(m, "tokens_per_second", double(tokens), measured.seconds);
  return outcome;
}

// What an evaluation has to compute, of a subject whose sequences fork.
struct ChoicesCost {
  int64_t questions = 0;
  int64_t tokens = 0;         // fed to the model, each shared beginning once
  int64_t tokens_single = 0;  // in one pass for each choice
};
inline ChoicesCost choices_cost(const Tokenizer& tokenizer, const ModelConfig& config,
                                const ChoicesSettings& settings) {
  using namespace choices_detail;
  const tasks::TaskDescription task = read_task_of(settings, "choices");
  const std::vector<tasks::Item> items = read_items(task, settings);
  const PairTokenizer pairs(tokenizer, config, max_length(settings, config));
  const ChoiceRequests requests = make_requests(items, pairs, task.delimiter, settings.data);
  ChoicesCost cost{int64_t(items.size()), 0, single_tokens(requests)};
  const bool streaming = settings.regime == Regime::streaming;
  for (const ChoiceBatch& batch : make_batches(requests, items, kBatchTokens, streaming))
    cost.tokens += batch.tokens(settings.regime != Regime::independent);
  return cost;
}

// Whether the files are those of the task; of the texts that they fit into the model.
inline void check_choices(const Unloaded&, const ChoicesSettings& settings) {
  read_items(read_task_of(settings, "choices"), settings);
}

}  // namespace ptq::eval
