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
#include "ptq/core/own_json.hpp"
#include "ptq/data/text.hpp"
#include "ptq/eval/cache_report.hpp"
#include "ptq/eval/evaluation.hpp"
#include "ptq/eval/lock_step.hpp"
#include "ptq/eval/statistics.hpp"
#include "ptq/eval/token_scores.hpp"

namespace ptq::eval {

namespace generation_detail {

inline void check(const GenerationSettings& s) {
  if (s.samples < 1 || s.prompt_tokens < 1 || s.continuation_tokens < 1 || s.batch < 1) {
    throw usage_error("samples, prompt_tokens, continuation_tokens and batch must be at least 1",
                      "generation");
  }
  if (s.regime == Regime::independent) {
    throw usage_error("a continuation cannot be decoded without a cache", "generation: regime",
                      "use `streaming`, `prefill-exact` or `prefill-encoded`");
  }
}

constexpr int kQuarters = 4;

// Score k lies in quarter k * 4 / scored.
inline Json quarters_json(const TokenScores (&quarters)[kQuarters], int64_t scored) {
  Json rows = Json::array();
  for (int64_t q = 0; q < kQuarters; ++q) {
    const int64_t first = (q * scored + kQuarters - 1) / kQuarters;
    const int64_t end = ((q + 1) * scored + kQuarters - 1) / kQuarters;
    if (first == end) continue;  // fewer scores than quarters
    Json row = {{"first", first}, {"last", end - 1}, {"tokens", quarters[q].count()}};
    quarters[q].write(row);
    rows.push_back(std::move(row));
  }
  return rows;
}

// One text while it is decoded.
struct Sample {
  std::vector<int32_t> tokens;
  TokenScores quarters[kQuarters];
  int64_t place = 0;  // of the next score, 0 .. scored - 1

  void add(const LogitRow& method, const LogitRow* reference, int64_t prompt, int64_t scored) {
    quarters[place * kQuarters / scored].add(method, reference, tokens[size_t(prompt + place)]);
    ++place;
  }
};

}  // namespace generation_detail

// Errors: settings, too few texts, a text that is too short, logits that are not finite.
inline Outcome generation(Subject& subject, const GenerationSettings& settings,
                          const Progress& progress) {
  namespace detail = generation_detail;
  detail::check(settings);
  using detail::kQuarters;
  const int64_t prompt = settings.prompt_tokens, scored = settings.continuation_tokens;
  const std::vector<JsonlText> texts = read_jsonl_texts(settings.texts, settings.samples);
  require_texts(texts, settings.samples, settings.texts);

  Outcome outcome;
  TokenScores all, quarters[kQuarters];
  std::vector<double> perplexities, differences, blocks;  // per sample, sample, block
  CacheReads reads;
  CacheMeans cache;
  double prefill_seconds = 0, decode_seconds = 0, reference_seconds = 0;

  for (size_t begin = 0; begin < texts.size(); begin += size_t(settings.batch)) {
    const size_t n = std::min(size_t(settings.batch), texts.size() - begin);
    std::vector<detail::Sample> samples(n);
    std::vector<LockStep> runs;
    std::vector<CacheReads> before;
    std::vector<std::span<const int32_t>> continuations;
    for (size_t i = 0; i < n; ++i) {
      detail::Sample& sample = samples[i];
      const JsonlText& text = texts[begin + i];
      sample.tokens = subject.tokenizer.encode(text.text);
      require_tokens(sample.tokens, prompt + scored, settings.texts, text.line,
                     "use smaller `prompt_tokens` or `continuation_tokens`");
      const auto ids = std::span(std::as_const(sample.tokens));
      runs.emplace_back(subject);
      runs[i].forward(ids.first(size_t(prompt)), settings.regime, prompt - 1,
                      [&](int64_t, const LogitRow& method, const LogitRow* reference) {
                        sample.add(method, reference, prompt, scored);
                      });
      prefill_seconds += runs[i].seconds();
      decode_seconds -= runs[i].seconds();
      before.push_back(runs[i].sequence().reads());
      continuations.push_back(ids.subspan(size_t(prompt), size_t(scored - 1)));
    }
    LockStep::decode(runs, continuations,
                     [&](size_t run, const LogitRow& method, const LogitRow* reference) {
                       samples[run].add(method, reference, prompt, scored);
                     });

    for (size_t i = 0; i < n; ++i) {
      decode_seconds += runs[i].seconds();
      reference_seconds += runs[i].reference_seconds();
      add_reads(reads, runs[i].sequence().reads(), before[i]);
      cache.add(runs[i].sequence().bytes());
      TokenScores sample;
      for (int q = 0; q < kQuarters; ++q) {
        sample.add(samples[i].quarters[q]);
        quarters[q].add(samples[i].quarters[q]);
      }
      all.add(sample);
      perplexities.push_back(sample.ppl());
      Json json = {
          {"sample", begin + i}, {"line", texts[begin + i].line}, {"tokens", sample.count()}};
      sample.write(json);
      json["quarters"] = detail::quarters_json(samples[i].quarters, scored);
      if (subject.reference) {
        differences.push_back(sample.delta_nll());
        sample.add_blocks(blocks);
      }
      outcome.samples.push_back(std::move(json));
    }
    if (progress) {
      char note[48];
      std::snprintf(note, sizeof note, "ppl %.2f", all.ppl());
      progress(double(begin + n) / double(texts.size()), note);
    }
  }

  const char* overflow = "the loss is too large for a perplexity in float64";
  const int64_t decoded = int64_t(texts.size()) * (scored - 1);
  Json& m = outcome.metrics;
  m["protocol"] = "gen_ppl";
  m["samples"] = texts.size();
  m["prompt_tokens"] = prompt;
  m["continuation_tokens"] = scored;
  m["batch"] = settings.batch;
  m["tokens_scored"] = all.count();
  put_number(m, "nll", all.nll());
  put_number(m, "ppl_pooled", all.ppl(), overflow);
  put_number(m, "mean_ppl", mean(perplexities), overflow);
  if (subject.reference) {
    put_number(m, "nll_reference", all.nll_reference());
    put_number(m, "ppl_pooled_reference", std::exp(all.nll_reference()), overflow);
    put_number(m, "delta_nll", mean(differences));
    put_number(m, "delta_nll_se", standard_error(differences), "one text has no spread");
    put_number(m, "delta_nll_se_blocks", standard_error(blocks), "one block has no spread");
    all.divergence().write(m);
    put_number(m, "flips", 1 - all.divergence().top1_agreement());
  }
  m["quarters"] = detail::quarters_json(quarters, scored);
  m["regime"] = regime_word(settings.regime);
  write_exposure(m, reads);  // of the continuation's queries
  m["cache"] = cache.json();
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
