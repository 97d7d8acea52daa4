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
#include "ptq/eval/evaluation.hpp"
#include "ptq/eval/lock_step.hpp"
#include "ptq/eval/statistics.hpp"
#include "ptq/eval/token_scores.hpp"
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
  CacheBytes cache;
  double prefill_seconds = 0, decode_seconds = 0, reference_seconds = 0;

  for (size_t i = 0; i < texts.size(); ++i) {
    const std::vector<int32_t> tokens = subject.tokenizer.encode(texts[i].text);
    require_tokens(tokens, prompt + scored, settings.texts, texts[i].line,
                   "use smaller `prompt_tokens` or `continuation_tokens`");
    TokenScores parts[kQuarters];
    int64_t place = 0;  // of the next score, 0 .. scored - 1
    const auto score = [&](int64_t, const LogitRow& method, const LogitRow* reference) {
      const int32_t target = tokens[size_t(prompt + place)];
      parts[place * kQuarters / scored].add(method, reference, target);
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

    TokenScores sample;
    for (int q = 0; q < kQuarters; ++q) {
      sample.add(parts[q]);
      quarters[q].add(parts[q]);
    }
    all.add(sample);
    perplexities.push_back(sample.ppl());
    Json json = {{"sample", i}, {"line", texts[i].line}, {"tokens", sample.count()}};
    sample.write(json);
    json["quarters"] = detail::quarters_json(parts, scored);
    if (subject.reference) {
      differences.push_back(sample.delta_nll());
      sample.add_blocks(blocks);
    }
    outcome.samples.push_back(std::move(json));
    if (progress) {
      char note[48];
      std::snprintf(note, sizeof note, "ppl %.2f", all.ppl());
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
