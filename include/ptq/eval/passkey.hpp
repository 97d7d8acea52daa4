// Passkey retrieval: can the model still read five digits out of a compressed cache?
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/data/passkey_prompt.hpp"
#include "ptq/eval/decide.hpp"
#include "ptq/eval/divergence.hpp"
#include "ptq/eval/lock_step.hpp"
#include "ptq/eval/measured.hpp"
#include "ptq/eval/settings.hpp"
#include "ptq/eval/statistics.hpp"
#include "ptq/eval/subject.hpp"

namespace ptq::eval {

namespace passkey_detail {

// The answer as text: no special tokens, no blanks around it.
inline std::string answer_text(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  const std::string text = tokenizer.decode_chosen(ids);
  const char* blanks = " \t\n\r\f\v";
  const size_t begin = text.find_first_not_of(blanks);
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(blanks) - begin + 1);
}

// The first token of the key where the prompt ends; none if prompt and key share a token.
inline std::optional<int32_t> first_key_token(const Tokenizer& tokenizer,
                                              const PasskeyPrompt& prompt) {
  const std::vector<int32_t> whole = tokenizer.encode(prompt.text + std::to_string(prompt.key));
  const size_t shared = size_t(common_prefix(prompt.ids, whole));
  if (shared < prompt.ids.size() || shared == whole.size()) return {};
  return whole[shared];
}

// Greedy decoding from the row that ends the prompt: appends one token at a time, max_new tokens in
// all. The last token is never fed back.
template <class Forward>
std::vector<int32_t> continue_greedily(int32_t first, int64_t max_new, const Forward& forward) {
  std::vector<int32_t> answer = {first};
  while (int64_t(answer.size()) < max_new) answer.push_back(forward(answer.back()));
  return answer;
}

// Asks one prompt after the other and keeps count.
class Questions {
 public:
  Questions(Subject& subject, const PasskeySettings& settings)
      : subject_(subject),
        settings_(settings),
        first_reads_cache_(settings.question == "cached" ||
                           settings.regime != Regime::prefill_exact),
        by_depth_(settings.depths.size()) {}

  const Answers& answers() const { return all_; }

  // The prompt of a key at depth number d; returns its sample.
  Json ask(int64_t key, size_t d) {
    const PasskeyPrompt prompt =
        make_passkey_prompt(subject_.tokenizer, key, settings_.depths[d], settings_.context_length);
    const int64_t length = int64_t(prompt.ids.size());
    shortest_ = all_.total == 0 ? length : std::min(shortest_, length);
    longest_ = std::max(longest_, length);
    LockStep run(subject_);
    const First first = prefill(run, prompt);
    prefilled_ += length;
    prefill_seconds_ += run.seconds();

    const double before_decode = run.seconds();
    const std::string text = answer(first.own, [&](int32_t id) { return run.next_greedy(id); });
    decoded_ += settings_.max_new_tokens - 1;
    decode_seconds_ += run.seconds() - before_decode;

    const bool correct = text.find(std::to_string(key)) != std::string::npos;
    all_.add(correct);
    by_depth_[d].add(correct);
    if (first.has_key_token) first_losses_.push_back(first.loss);
    Json sample = {{"key", key},       {"depth", settings_.depths[d]},
                   {"tokens", length}, {"question_begin", prompt.question_begin},
                   {"answer", text},   {"correct", correct}};
    put_number(sample, "first_token_nll", first.loss, kSharedToken);
    if (subject_.reference) {
      const std::string reference_text =
          answer(first.reference, [&](int32_t id) { return run.next_greedy_reference(id); });
      const bool reference_correct = reference_text.find(std::to_string(key)) != std::string::npos;
      reference_.add(reference_correct);
      agreeing_ += reference_correct == correct && reference_text == text;
      lost_ += reference_correct && !correct;
      gained_ += !reference_correct && correct;
      sample["answer_reference"] = reference_text;
      sample["correct_reference"] = reference_correct;
    }
    measured_.add(run, first.reads_before);
    return sample;
  }

  void write(Json& m) const {
    m["protocol"] = "passkey_compat";
    m["question"] = settings_.question;
    m["context_length"] = settings_.context_length;
    all_.write(m);
    m["depths"] = Json::array();
    for (size_t d = 0; d < by_depth_.size(); ++d) {
      Json row = {{"depth", settings_.depths[d]}};
      by_depth_[d].write(row);
      m["depths"].push_back(std::move(row));
    }
    m["prompt_tokens_min"] = shortest_;
    m["prompt_tokens_max"] = longest_;
    put_number(m, "first_token_nll", mean(first_losses_), kSharedToken);
    if (subject_.reference) {
      const double n = double(all_.total);
      m["accuracy_reference"] = reference_.accuracy();
      m["agreement"] = double(agreeing_) / n;
      m["lost"] = lost_;      // correct with full precision, wrong with the method
      m["gained"] = gained_;  // the other way round
      m["flips"] = double(lost_ + gained_) / n;
      m["kl_positions"] = "first answer token";
      divergence_.write(m);
    }
    measured_.write(m, settings_.regime);  // of the queries after the prefill
    put_rate(m, "prefill_tokens_per_second", double(prefilled_), prefill_seconds_);
    put_rate(m, "decode_tokens_per_second", double(decoded_), decode_seconds_);
  }

 private:
  static constexpr const char* kSharedToken = "the key shares a token with the question";

  // The first answer token.
  struct First {
    int32_t own = 0, reference = 0;  // the most likely one of each side
    bool has_key_token = false;
    double loss = kUnknown;   // of the key's first token
    CacheReads reads_before;  // by the queries that do not count
  };

  First prefill(LockStep& run, const PasskeyPrompt& prompt) {
    const auto ids = std::span(prompt.ids);
    const std::optional<int32_t> key_token = first_key_token(subject_.tokenizer, prompt);
    First first;
    first.has_key_token = key_token.has_value();
    const auto take = [&](int64_t, const LogitRow& method, const LogitRow* reference) {
      first.own = method.argmax;
      if (key_token) first.loss = method.nll(*key_token);
      if (!reference) return;
      first.reference = reference->argmax;
      if (first_reads_cache_) {
        divergence_.add(*reference, method, key_token.value_or(reference->argmax));
      }
    };
    if (settings_.question == "cached") {
      run.forward(ids.first(size_t(prompt.question_begin)), settings_.regime, prompt.question_begin,
                  {});
      first.reads_before = run.sequence().reads();
      const auto question = ids.subspan(size_t(prompt.question_begin));
      run.forward(question, Regime::streaming, int64_t(question.size()) - 1, take);
    } else {
      run.forward(ids, settings_.regime, int64_t(ids.size()) - 1, take);
      if (!first_reads_cache_) first.reads_before = run.sequence().reads();
    }
    return first;
  }

  template <class Next>
  std::string answer(int32_t first, const Next& next) const {
    return answer_text(subject_.tokenizer,
                       continue_greedily(first, settings_.max_new_tokens, next));
  }

  Subject& subject_;
  const PasskeySettings& settings_;
  // Under prefill_exact a prefilled prompt reads itself densely, so its first answer token says
  // nothing about the cache.
  bool first_reads_cache_;
  Answers all_, reference_;
  std::vector<Answers> by_depth_;
  std::vector<double> first_losses_;
  Divergence divergence_;
  Measured measured_;
  int64_t shortest_ = 0, longest_ = 0, agreeing_ = 0, lost_ = 0, gained_ = 0;
  int64_t prefilled_ = 0, decoded_ = 0;  // tokens
  double prefill_seconds_ = 0, decode_seconds_ = 0;
};

}  // namespace passkey_detail

// Errors: settings, a context_length that holds no prompt, logits that are not finite.
inline Outcome passkey(Subject& subject, const PasskeySettings& settings,
                       const Progress& progress) {
  check_settings(settings, "passkey");
  Outcome outcome;
  passkey_detail::Questions questions(subject, settings);
  const size_t depths = settings.depths.size();
  const int64_t total = settings.keys * int64_t(depths);
  Decider decider(settings.decide, subject.reference != nullptr, size_t(total), depths);
  for (const int64_t key : passkey_keys(settings.seed, settings.keys)) {
    for (size_t d = 0; d < depths; ++d) {
      outcome.samples.push_back(questions.ask(key, d));
      if (!progress) continue;
      const Answers& answers = questions.answers();
      char note[64];
      std::snprintf(note, sizeof note, "%lld of %lld correct",
                    static_cast<long long>(answers.correct), static_cast<long long>(answers.total));
      progress(double(answers.total) / double(total), note);
    }
    if (decider.decided(outcome)) break;
  }
  questions.write(outcome.metrics);
  decider.write(outcome.metrics);
  return outcome;
}

inline void check_passkey(const Unloaded& model, const PasskeySettings& s) {
  const int64_t prompt = longest_passkey_prompt(model.tokenizer, passkey_keys(s.seed, s.keys),
                                                s.depths, s.context_length);
  const int64_t fed = prompt + s.max_new_tokens - 1;  // the last token is not fed back
  if (fed <= model.longest_context) return;
  throw usage_error("a prompt has " + std::to_string(prompt) + " tokens and is fed up to " +
                        std::to_string(fed) + ", but the context of " + model.name + " ends at " +
                        std::to_string(model.longest_context),
                    "context_length",
                    "choose a smaller `context_length`: at depths near 0 and 1 a prompt is up to "
                    "a unit of filler longer than that");
}

}  // namespace ptq::eval
