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
#include "ptq/core/suggest.hpp"
#include "ptq/data/passkey_prompt.hpp"
#include "ptq/eval/cache_report.hpp"
#include "ptq/eval/divergence.hpp"
#include "ptq/eval/evaluation.hpp"
#include "ptq/eval/lock_step.hpp"
#include "ptq/eval/statistics.hpp"

namespace ptq::eval {

namespace passkey_detail {

inline void check(const PasskeySettings& s) {
  const std::vector<std::string> known = {"cached", "prefilled"};
  if (s.question != known[0] && s.question != known[1]) {
    throw usage_error("question = `" + s.question + "` is not known", "passkey",
                      did_you_mean(s.question, known));
  }
  if (s.keys < 1 || s.max_new_tokens < 1 || s.context_length < 1 || s.depths.empty()) {
    throw usage_error("keys, depths, context_length and max_new_tokens must not be empty or 0",
                      "passkey");
  }
  for (const double depth : s.depths) {
    if (!(depth >= 0 && depth <= 1)) throw usage_error("depths must lie in 0 .. 1", "passkey");
  }
  if (s.regime == Regime::independent) {
    throw usage_error("an answer cannot be generated without a cache", "passkey: regime",
                      "use `streaming`, `prefill-exact` or `prefill-encoded`");
  }
}

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

struct Tally {
  int64_t correct = 0, total = 0;
  void write(Json& json) const {
    const Interval interval = clopper_pearson95(correct, total);
    json["correct"] = correct;
    json["total"] = total;
    json["accuracy"] = double(correct) / double(total);
    json["ci95_low"] = interval.low;
    json["ci95_high"] = interval.high;
  }
};

}  // namespace passkey_detail

// Errors: settings, a context_length that holds no prompt, logits that are not finite.
inline Outcome passkey(Subject& subject, const PasskeySettings& settings,
                       const Progress& progress) {
  namespace detail = passkey_detail;
  detail::check(settings);
  const bool cached = settings.question == "cached";
  // Under prefill_exact a prefilled prompt reads itself densely, so its first answer token says
  // nothing about the cache.
  const bool first_reads_cache = cached || settings.regime != Regime::prefill_exact;

  Outcome outcome;
  detail::Tally all, all_reference;
  std::vector<detail::Tally> by_depth(settings.depths.size());
  std::vector<double> first_losses;
  Divergence divergence;
  CacheReads reads;
  CacheMeans cache;
  int64_t shortest = 0, longest = 0, agreeing = 0, lost = 0, gained = 0, decoded = 0;
  double prefill_seconds = 0, decode_seconds = 0, reference_seconds = 0;
  int64_t prefilled = 0;

  const std::vector<int64_t> keys = passkey_keys(settings.seed, settings.keys);
  const int64_t total = settings.keys * int64_t(settings.depths.size());
  for (const int64_t key : keys) {
    for (size_t d = 0; d < settings.depths.size(); ++d) {
      const PasskeyPrompt prompt =
          make_passkey_prompt(subject.tokenizer, key, settings.depths[d], settings.context_length);
      const auto ids = std::span(prompt.ids);
      const int64_t length = int64_t(ids.size());
      shortest = all.total == 0 ? length : std::min(shortest, length);
      longest = std::max(longest, length);
      const std::optional<int32_t> key_token = detail::first_key_token(subject.tokenizer, prompt);

      LockStep run(subject);
      int32_t first = 0, first_reference = 0;
      double first_loss = kUnknown;
      const auto first_answer = [&](int64_t, const LogitRow& method, const LogitRow* reference) {
        first = method.argmax;
        if (key_token) first_loss = method.nll(*key_token);
        if (!reference) return;
        first_reference = reference->argmax;
        if (first_reads_cache) {
          divergence.add(*reference, method, key_token.value_or(reference->argmax));
        }
      };
      CacheReads before;
      if (cached) {
        run.forward(ids.first(size_t(prompt.question_begin)), settings.regime,
                    prompt.question_begin, {});
        before = run.sequence().reads();
        const auto question = ids.subspan(size_t(prompt.question_begin));
        run.forward(question, Regime::streaming, int64_t(question.size()) - 1, first_answer);
      } else {
        run.forward(ids, settings.regime, length - 1, first_answer);
        if (!first_reads_cache) before = run.sequence().reads();
      }
      prefilled += length;
      prefill_seconds += run.seconds();
      const double before_decode = run.seconds();

      const std::string text = detail::answer_text(
          subject.tokenizer,
          detail::continue_greedily(first, settings.max_new_tokens,
                                    [&](int32_t id) { return run.next_greedy(id); }));
      decoded += settings.max_new_tokens - 1;
      decode_seconds += run.seconds() - before_decode;
      add_reads(reads, run.sequence().reads(), before);
      cache.add(run.sequence().bytes());

      const bool correct = text.find(std::to_string(key)) != std::string::npos;
      all.correct += correct;
      ++all.total;
      by_depth[d].correct += correct;
      ++by_depth[d].total;
      if (key_token) first_losses.push_back(first_loss);
      Json sample = {{"key", key},       {"depth", settings.depths[d]},
                     {"tokens", length}, {"question_begin", prompt.question_begin},
                     {"answer", text},   {"correct", correct}};
      put_number(sample, "first_token_nll", first_loss, "the key shares a token with the question");
      if (subject.reference) {
        const std::string reference_text = detail::answer_text(
            subject.tokenizer,
            detail::continue_greedily(first_reference, settings.max_new_tokens,
                                      [&](int32_t id) { return run.next_greedy_reference(id); }));
        const bool reference_correct =
            reference_text.find(std::to_string(key)) != std::string::npos;
        all_reference.correct += reference_correct;
        ++all_reference.total;
        agreeing += reference_correct == correct && reference_text == text;
        lost += reference_correct && !correct;
        gained += !reference_correct && correct;
        sample["answer_reference"] = reference_text;
        sample["correct_reference"] = reference_correct;
      }
      reference_seconds += run.reference_seconds();
      outcome.samples.push_back(std::move(sample));
      if (progress) {
        char note[64];
        std::snprintf(note, sizeof note, "%lld of %lld correct",
                      static_cast<long long>(all.correct), static_cast<long long>(all.total));
        progress(double(all.total) / double(total), note);
      }
    }
  }

  Json& m = outcome.metrics;
  m["protocol"] = "passkey_compat";
  m["question"] = settings.question;
  m["context_length"] = settings.context_length;
  all.write(m);
  m["depths"] = Json::array();
  for (size_t d = 0; d < by_depth.size(); ++d) {
    Json row = {{"depth", settings.depths[d]}};
    by_depth[d].write(row);
    m["depths"].push_back(std::move(row));
  }
  m["prompt_tokens_min"] = shortest;
  m["prompt_tokens_max"] = longest;
  put_number(m, "first_token_nll", mean(first_losses), "the key shares a token with the question");
  if (subject.reference) {
    const double n = double(all.total);
    m["accuracy_reference"] = double(all_reference.correct) / n;
    m["agreement"] = double(agreeing) / n;
    m["lost"] = lost;      // correct with full precision, wrong with the method
    m["gained"] = gained;  // the other way round
    m["flips"] = double(lost + gained) / n;
    m["kl_positions"] = "first answer token";
    divergence.write(m);
  }
  m["regime"] = regime_word(settings.regime);
  write_exposure(m, reads);  // of the queries after the prefill
  m["cache"] = cache.json();
  m["seconds"] = prefill_seconds + decode_seconds;
  m["reference_seconds"] = reference_seconds;
  put_number(m, "prefill_tokens_per_second",
             prefill_seconds > 0 ? double(prefilled) / prefill_seconds : kUnknown,
             "too fast for the clock");
  put_number(m, "decode_tokens_per_second",
             decoded > 0 && decode_seconds > 0 ? double(decoded) / decode_seconds : kUnknown,
             decoded > 0 ? "too fast for the clock" : "no token was fed back");
  return outcome;
}

}  // namespace ptq::eval
