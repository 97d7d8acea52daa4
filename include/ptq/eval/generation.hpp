// Perplexity of a real continuation, decoded token by token through the cache ("gen_ppl"): the
// prompt is prefilled, then each true token is appended and the next one scored. A model's own text
// is never scored, because endless repetition looks perfect.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/data/text.hpp"
#include "ptq/eval/cache_report.hpp"
#include "ptq/eval/divergence.hpp"
#include "ptq/eval/evaluation.hpp"
#include "ptq/eval/lock_step.hpp"
#include "ptq/eval/statistics.hpp"
#include "ptq/results/record.hpp"

namespace ptq::eval {

namespace generation_detail {

inline void check(const GenerationSettings& s) {
  if (s.samples < 1 || s.prompt_tokens < 1 || s.continuation_tokens < 1) {
    throw usage_error("samples, prompt_tokens and continuation_tokens must be at least 1",
                      "generation");
  }
  if (s.regime == Regime::independent) {
    throw usage_error("a continuation cannot be decoded without a cache", "generation: regime",
                      "use `prefill_exact` or `streaming`");
  }
}

// Sums over the same part of every sample, or over one sample.
struct Scores {
  std::vector<double> losses, reference_losses;  // per token, nats
  Divergence divergence;

  void add(const Scores& other) {
    losses.insert(losses.end(), other.losses.begin(), other.losses.end());
    reference_losses.insert(reference_losses.end(), other.reference_losses.begin(),
                            other.reference_losses.end());
    divergence.add(other.divergence);
  }
  void write(Json& json) const {
    put_number(json, "nll", mean(losses));
    put_number(json, "ppl", std::exp(mean(losses)), "the loss is too large for a perplexity");
    if (reference_losses.empty()) return;
    put_number(json, "nll_reference", mean(reference_losses));
    put_number(json, "delta_nll", mean(losses) - mean(reference_losses));
    divergence.write_short(json);
  }
};

// Means of blocks of 64 token differences: neighbours are too alike to count as independent.
inline void add_blocks(const Scores& sample, std::vector<double>& blocks) {
  constexpr size_t kBlock = 64;
  for (size_t begin = 0; begin < sample.losses.size(); begin += kBlock) {
    const size_t n = std::min(kBlock, sample.losses.size() - begin);
    blocks.push_back(mean(std::span(sample.losses).subspan(begin, n)) -
                     mean(std::span(sample.reference_losses).subspan(begin, n)));
  }
}

}  // namespace generation_detail

// Errors: settings, too few texts, a text that is too short, logits that are not finite.
inline Outcome generation(Subject& subject, const GenerationSettings& settings,
                          const Progress& progress) {
  namespace detail = generation_detail;
  detail::check(settings);
  constexpr int kQuarters = 4;
  const int64_t prompt = settings.prompt_tokens, scored = settings.continuation_tokens;
  const std::vector<JsonlText> texts = read_jsonl_texts(settings.texts, settings.samples);
  if (int64_t(texts.size()) < settings.samples) {
    throw usage_error("the file holds " + std::to_string(texts.size()) + " texts, " +
                          std::to_string(settings.samples) + " are asked for",
                      settings.texts, "use a smaller `samples`");
  }

  Outcome outcome;
  detail::Scores all, quarters[kQuarters];
  std::vector<double> perplexities, differences, blocks;  // per sample, sample, block
  CacheReads reads;
  CacheBytes cache;
  double prefill_seconds = 0, decode_seconds = 0, reference_seconds = 0;

  for (size_t i = 0; i < texts.size(); ++i) {
    const std::string where = settings.texts + ":" + std::to_string(texts[i].line);
    const std::vector<int32_t> tokens = subject.tokenizer.encode(texts[i].text);
    if (int64_t(tokens.size()) < prompt + scored) {
      throw usage_error("the text is too short: " + std::to_string(tokens.size()) +
                            " tokens found, " + std::to_string(prompt + scored) + " needed",
                        where, "use smaller `prompt_tokens` or `continuation_tokens`");
    }
    detail::Scores parts[kQuarters];
    int64_t place = 0;  // of the next score, 0 .. scored - 1
    const auto score = [&](int64_t, const LogitRow& method, const LogitRow* reference) {
      const int32_t target = tokens[size_t(prompt + place)];
      detail::Scores& part = parts[place * kQuarters / scored];
      part.losses.push_back(method.nll(target));
      if (reference) {
        part.reference_losses.push_back(reference->nll(target));
        part.divergence.add(*reference, method, target);
      }
      ++place;
    };
    LockStep run(subject);
    const auto ids = std::span(tokens);
    run.forward(ids.first(size_t(prompt)), settings.regime, prompt - 1, score);
    prefill_seconds += run.seconds();
    const double before_decode = run.seconds();
    const CacheReads before = run.sequence().reads();
    run.forward(ids.subspan(size_t(prompt), size_t(scored - 1)), Regime::streaming, 0, score, 1);
    decode_seconds += run.seconds() - before_decode;
    reference_seconds += run.reference_seconds();
    add_reads(reads, run.sequence().reads(), before);
    cache = run.sequence().bytes();

    detail::Scores sample;
    for (int q = 0; q < kQuarters; ++q) {
      sample.add(parts[q]);
      quarters[q].add(parts[q]);
    }
    all.add(sample);
    perplexities.push_back(std::exp(mean(sample.losses)));
    Json json = {{"sample", i}, {"line", texts[i].line}, {"tokens", sample.losses.size()}};
    sample.write(json);
    if (subject.reference) {
      differences.push_back(mean(sample.losses) - mean(sample.reference_losses));
      detail::add_blocks(sample, blocks);
    }
    outcome.samples.push_back(std::move(json));
    if (progress) {
      char note[48];
      std::snprintf(note, sizeof note, "ppl %.2f", std::exp(mean(all.losses)));
      progress(double(i + 1) / double(texts.size()), note);
    }
  }

  const char* overflow = "the loss is too large for a perplexity in float64";
  const int64_t decoded = int64_t(texts.size()) * (scored - 1);
  Json& m = outcome.metrics;
  m["protocol"] = "gen_ppl";
  m["samples"] = texts.size();
  m["prompt_tokens"] = prompt;
  m["continuation_tokens"] = scored;
  m["tokens_scored"] = all.losses.size();
  put_number(m, "nll", mean(all.losses));
  put_number(m, "ppl_pooled", std::exp(mean(all.losses)), overflow);
  put_number(m, "mean_ppl", mean(perplexities), overflow);
  if (subject.reference) {
    put_number(m, "nll_reference", mean(all.reference_losses));
    put_number(m, "ppl_pooled_reference", std::exp(mean(all.reference_losses)), overflow);
    put_number(m, "delta_nll", mean(differences));
    put_number(m, "delta_nll_se", standard_error(differences), "one text has no spread");
    put_number(m, "delta_nll_se_blocks", standard_error(blocks), "one block has no spread");
    all.divergence.write(m);
  }
  m["quarters"] = Json::array();
  for (int64_t q = 0; q < kQuarters; ++q) {
    // Score k lies in quarter k * 4 / scored.
    const int64_t first = (q * scored + kQuarters - 1) / kQuarters;
    const int64_t end = ((q + 1) * scored + kQuarters - 1) / kQuarters;
    if (first == end) continue;  // fewer scores than quarters
    Json row = {{"first", first}, {"last", end - 1}};
    quarters[q].write(row);
    m["quarters"].push_back(std::move(row));
  }
  m["regime"] = regime_name(settings.regime);
  write_exposure(m, reads);  // of the continuation's queries
  m["cache"] = cache_json(cache);
  m["seconds"] = prefill_seconds + decode_seconds;
  m["reference_seconds"] = reference_seconds;
  put_number(
      m, "prefill_tokens_per_second",
      prefill_seconds > 0 ? double(texts.size()) * double(prompt) / prefill_seconds : kUnknown,
      "too fast for the clock");
  put_number(m, "decode_tokens_per_second",
             decoded > 0 && decode_seconds > 0 ? double(decoded) / decode_seconds : kUnknown,
             decoded > 0 ? "too fast for the clock" : "no token was fed back");
  return outcome;
}

}  // namespace ptq::eval
