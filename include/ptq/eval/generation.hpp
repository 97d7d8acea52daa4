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

#include "ptq/core/own_json.hpp"
#include "ptq/data/text.hpp"
#include "ptq/eval/decide.hpp"
#include "ptq/eval/lock_step.hpp"
#include "ptq/eval/measured.hpp"
#include "ptq/eval/settings.hpp"
#include "ptq/eval/statistics.hpp"
#include "ptq/eval/subject.hpp"
#include "ptq/eval/token_scores.hpp"

namespace ptq::eval {

namespace generation_detail {

constexpr int kQuarters = 4;
constexpr const char* kShorter = "use smaller `prompt_tokens` or `continuation_tokens`";

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
  std::vector<TokenScore> scores;  // of the continuation, as far as it is read

  void add(const LogitRow& method, const LogitRow* reference, int64_t prompt, int64_t scored) {
    const int64_t place = int64_t(scores.size());  // 0 .. scored - 1
    const ScoredToken token = score_token(method, reference, tokens[size_t(prompt + place)]);
    quarters[place * kQuarters / scored].add(token);
    scores.push_back(token.packed());
  }
};

// What is known of the texts that are done.
struct Scores {
  TokenScores all, quarters[kQuarters];
  std::vector<double> perplexities, differences, blocks;  // per sample, sample, block

  // Adds one text and returns its own scores.
  TokenScores add(const Sample& text, bool with_reference) {
    TokenScores sample;
    for (int q = 0; q < kQuarters; ++q) {
      sample.add(text.quarters[q]);
      quarters[q].add(text.quarters[q]);
    }
    all.add(sample);
    if (sample.count() == 0) return sample;  // all of it is void
    perplexities.push_back(sample.ppl());
    if (with_reference) {
      differences.push_back(sample.delta_nll());
      sample.add_blocks(blocks);
    }
    return sample;
  }
  void write(Json& m, bool with_reference, int64_t scored) const {
    const char* overflow = "the loss is too large for a perplexity in float64";
    m["tokens_scored"] = all.count();
    m["nonfinite_tokens"] = all.void_tokens();
    put_number(m, "nll", all.nll());
    put_number(m, "ppl_pooled", all.ppl(), overflow);
    put_number(m, "mean_ppl", mean(perplexities), overflow);
    if (with_reference) {
      put_number(m, "nll_reference", all.nll_reference());
      put_number(m, "ppl_pooled_reference", std::exp(all.nll_reference()), overflow);
      put_number(m, "delta_nll", mean(differences));
      put_number(m, "delta_nll_se", standard_error(differences), "one text has no spread");
      put_number(m, "delta_nll_se_blocks", standard_error(blocks), "one block has no spread");
      all.divergence().write(m);
      put_number(m, "flips", 1 - all.divergence().top1_agreement());
    }
    m["quarters"] = quarters_json(quarters, scored);
  }
};

// Seconds of the subject's engine in the two parts of the work.
struct Times {
  double prefill = 0, decode = 0;
};

// Decodes the texts side by side, and adds what their runs measured.
inline std::vector<Sample> decode_batch(Subject& subject, const GenerationSettings& settings,
                                        std::span<const JsonlText> texts, Measured& measured,
                                        Times& times) {
  const int64_t prompt = settings.prompt_tokens, scored = settings.continuation_tokens;
  std::vector<Sample> samples(texts.size());
  std::vector<LockStep> runs;
  std::vector<CacheReads> before;
  std::vector<std::span<const int32_t>> continuations;
  for (size_t i = 0; i < texts.size(); ++i) {
    Sample& sample = samples[i];
    sample.tokens = subject.tokenizer.encode(texts[i].text);
    require_tokens(sample.tokens, prompt + scored, settings.texts, texts[i].line, kShorter);
    const auto ids = std::span(std::as_const(sample.tokens));
    runs.emplace_back(subject);
    runs[i].hand_over_not_finite();
    runs[i].forward(ids.first(size_t(prompt)), settings.regime, prompt - 1,
                    [&](int64_t, const LogitRow& method, const LogitRow* reference) {
                      sample.add(method, reference, prompt, scored);
                    });
    times.prefill += runs[i].seconds();
    times.decode -= runs[i].seconds();
    before.push_back(runs[i].sequence().reads());
    continuations.push_back(ids.subspan(size_t(prompt), size_t(scored - 1)));
  }
  LockStep::decode(runs, continuations,
                   [&](size_t run, const LogitRow& method, const LogitRow* reference) {
                     samples[run].add(method, reference, prompt, scored);
                   });
  for (size_t i = 0; i < runs.size(); ++i) {
    times.decode += runs[i].seconds();
    measured.add(runs[i], before[i]);  // the continuation's queries
  }
  return samples;
}

}  // namespace generation_detail

// Errors: settings, too few texts, a text that is too short, logits of the reference that are not
// finite. Those of the subject make their tokens void.
inline Outcome generation(Subject& subject, const GenerationSettings& settings,
                          const Progress& progress) {
  namespace detail = generation_detail;
  check_settings(settings, "generation");
  std::vector<JsonlText> texts = read_jsonl_texts(settings.texts, settings.samples);
  require_texts(texts, settings.samples, settings.texts);
  const bool with_reference = subject.reference != nullptr;

  Outcome outcome;
  detail::Scores scores;
  detail::Times times;
  Measured measured;
  Decider decider(settings.decide, subject.reference != nullptr, texts.size());
  for (size_t begin = 0; begin < texts.size(); begin += size_t(settings.batch)) {
    const size_t n = std::min(size_t(settings.batch), texts.size() - begin);
    const std::vector<detail::Sample> batch = detail::decode_batch(
        subject, settings, std::span(texts).subspan(begin, n), measured, times);
    for (size_t i = 0; i < n; ++i) {
      const TokenScores own = scores.add(batch[i], with_reference);
      Json json = {{"sample", begin + i}, {"line", texts[begin + i].line}, {"tokens", own.count()}};
      own.write(json);
      json["quarters"] = detail::quarters_json(batch[i].quarters, settings.continuation_tokens);
      outcome.samples.push_back(std::move(json));
      const std::vector<TokenScore>& tokens = batch[i].scores;
      outcome.tokens.runs.push_back(
          {uint32_t(begin + i), uint32_t(settings.prompt_tokens), uint32_t(tokens.size())});
      outcome.tokens.tokens.insert(outcome.tokens.tokens.end(), tokens.begin(), tokens.end());
    }
    if (progress) {
      char note[48];
      std::snprintf(note, sizeof note, "ppl %.2f", scores.all.ppl());
      progress(double(begin + n) / double(texts.size()), note);
    }
    if (decider.decided(outcome)) texts.resize(begin + n);
  }

  const double count = double(texts.size());
  Json& m = outcome.metrics;
  m["protocol"] = "gen_ppl";
  m["samples"] = texts.size();
  m["prompt_tokens"] = settings.prompt_tokens;
  m["continuation_tokens"] = settings.continuation_tokens;
  m["batch"] = settings.batch;
  scores.write(m, with_reference, settings.continuation_tokens);
  decider.write(m);
  measured.write(m, settings.regime);
  put_rate(m, "prefill_tokens_per_second", count * double(settings.prompt_tokens), times.prefill);
  put_rate(m, "decode_tokens_per_second", count * double(settings.continuation_tokens - 1),
           times.decode);
  return outcome;
}

inline void check_generation(const Unloaded& model, const GenerationSettings& settings) {
  check_texts(model.tokenizer, settings.texts, settings.samples, settings.longest_context(),
              generation_detail::kShorter);
}

}  // namespace ptq::eval
