// Perplexity of long documents that are read through the cache from beginning to end
// ("cached_decode"), by how far a token can look back. One pass over a document gives every context
// length up to its own: what a token reads depends on its past alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <numbers>
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

namespace cached_decode_detail {

// Borders of the buckets of distance: 0, 512, 2048, 4096, ... doubling, up to `length`.
inline std::vector<int64_t> bucket_borders(int64_t length) {
  std::vector<int64_t> borders = {0};
  for (int64_t next = 512; next < length; next = next == 512 ? 2048 : 2 * next) {
    borders.push_back(next);
  }
  borders.push_back(length);
  return borders;
}

constexpr const char* kShorter = "use smaller `lengths`";

// The lengths that are asked for, and what was scored by them.
struct Scores {
  explicit Scores(std::vector<int64_t> of_lengths)
      : lengths(std::move(of_lengths)),
        borders(bucket_borders(lengths.back())),
        buckets(borders.size() - 1),
        halves(lengths.size()),
        cache_at(lengths.size()) {}

  std::vector<int64_t> lengths;  // ascending
  std::vector<int64_t> borders;  // of the buckets
  TokenScores all;               // of every scored token
  std::vector<TokenScores> buckets;
  std::vector<TokenScores> halves;   // targets that look back on at least half of the length
  std::vector<CacheMeans> cache_at;  // at the end of each length
  std::vector<double> differences;   // per text

  void write_lengths(Json& m) const {
    m["lengths"] = Json::array();
    for (size_t l = 0; l < lengths.size(); ++l) {
      Json row = {{"length", lengths[l]}, {"tokens", halves[l].count()}};
      halves[l].write(row);
      put_number(row, "bytes_per_token", cache_at[l].bytes_per_token());
      put_number(row, "effective_bits", cache_at[l].effective_bits());
      m["lengths"].push_back(std::move(row));
    }
  }
  void write_buckets(Json& m) const {
    m["buckets"] = Json::array();
    for (size_t b = 0; b + 1 < borders.size(); ++b) {
      Json row = {
          {"first", borders[b]}, {"last", borders[b + 1] - 1}, {"tokens", buckets[b].count()}};
      buckets[b].write(row);
      m["buckets"].push_back(std::move(row));
    }
  }
};

// Reads one text through the cache and adds its scores; `read` gets the tokens read so far and the
// perplexity of them. Fills the sample, and adds the scores of the tokens from the second on.
inline void read_text(LockStep& run, std::span<const int32_t> tokens,
                      const CachedDecodeSettings& settings, Scores& scores,
                      const std::function<void(int64_t, double)>& read, Json& json,
                      std::vector<TokenScore>& tokens_out) {
  const std::vector<int64_t>& lengths = scores.lengths;
  const int64_t longest = lengths.back();
  TokenScores sample;
  std::vector<TokenScores> halves(lengths.size());
  int64_t fed = 0;
  run.hand_over_not_finite();
  const auto feed = [&](int64_t end) {
    const int64_t first = fed;
    run.forward(tokens.subspan(size_t(fed), size_t(end - fed)), settings.regime, 0,
                [&](int64_t row, const LogitRow& method, const LogitRow* reference) {
                  const int64_t target = first + row + 1;  // it can look back on `target` tokens
                  if (target == longest) return;
                  const ScoredToken token = score_token(method, reference, tokens[size_t(target)]);
                  tokens_out.push_back(token.packed());
                  sample.add(token);
                  const auto bucket =
                      std::upper_bound(scores.borders.begin(), scores.borders.end(), target);
                  scores.buckets[size_t(bucket - scores.borders.begin()) - 1].add(token);
                  for (size_t l = 0; l < lengths.size(); ++l) {
                    if (target >= lengths[l] / 2 && target < lengths[l]) {
                      halves[l].add(token);
                    }
                  }
                });
    fed = end;
  };
  for (size_t l = 0; l < lengths.size(); ++l) {
    while (fed < lengths[l]) {
      const bool whole = settings.regime == Regime::streaming;
      feed(whole ? lengths[l] : std::min(lengths[l], (fed / settings.chunk + 1) * settings.chunk));
      read(fed, sample.ppl());
    }
    scores.cache_at[l].add(run.sequence().bytes());
  }

  json["tokens"] = sample.count();
  sample.write(json);
  json["lengths"] = Json::array();
  for (size_t l = 0; l < lengths.size(); ++l) {
    Json row = {{"length", lengths[l]}, {"tokens", halves[l].count()}};
    halves[l].write(row);
    json["lengths"].push_back(std::move(row));
    scores.halves[l].add(halves[l]);
  }
  if (sample.count() > 0) scores.differences.push_back(sample.delta_nll());
  scores.all.add(sample);
}

}  // namespace cached_decode_detail

// Errors: settings, too few texts, a text that is too short, logits of the reference that are not
// finite. Those of the subject make their tokens void.
inline Outcome cached_decode(Subject& subject, const CachedDecodeSettings& settings,
                             const Progress& progress) {
  namespace detail = cached_decode_detail;
  check_settings(settings, "cached-decode");
  std::vector<int64_t> lengths = settings.lengths;
  std::sort(lengths.begin(), lengths.end());
  lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  const int64_t longest = lengths.back();
  std::vector<JsonlText> texts = read_jsonl_texts(settings.texts, settings.samples);
  require_texts(texts, settings.samples, settings.texts);

  Outcome outcome;
  detail::Scores scores(std::move(lengths));
  Measured measured;
  Decider decider(settings.decide, subject.reference != nullptr, texts.size());
  int64_t bytes = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    std::vector<int32_t> tokens = subject.tokenizer.encode(texts[i].text);
    require_tokens(tokens, longest, settings.texts, texts[i].line, detail::kShorter);
    tokens.resize(size_t(longest));
    LockStep run(subject);
    Json json = {{"sample", i}, {"line", texts[i].line}};
    const auto show = [&](int64_t fed, double ppl) {
      if (!progress) return;
      char note[48];
      std::snprintf(note, sizeof note, "ppl %.2f", ppl);
      progress((double(i) + double(fed) / double(longest)) / double(texts.size()), note);
    };
    detail::read_text(run, tokens, settings, scores, show, json, outcome.tokens.tokens);
    outcome.tokens.runs.push_back({uint32_t(i), 1, uint32_t(longest - 1)});
    measured.add(run);
    bytes += int64_t(subject.tokenizer.decode(tokens, true).size()) -
             int64_t(subject.tokenizer.decode(std::span(tokens).first(1), true).size());
    outcome.samples.push_back(std::move(json));
    if (decider.decided(outcome)) texts.resize(i + 1);
  }

  Json& m = outcome.metrics;
  m["protocol"] = "cached_decode";
  m["samples"] = texts.size();
  m["chunk"] = settings.regime == Regime::streaming ? 1 : settings.chunk;
  m["tokens_scored"] = scores.all.count();
  m["nonfinite_tokens"] = scores.all.void_tokens();
  scores.all.write(m);
  put_number(
      m, "bits_per_byte",
      bytes > 0 && scores.all.void_tokens() == 0
          ? scores.all.nll() * double(scores.all.count()) / (double(bytes) * std::numbers::ln2)
          : kUnknown,
      scores.all.void_tokens() > 0 ? kVoidTokens : "the scored tokens decode to no text");
  if (subject.reference) {
    put_number(m, "delta_nll_se", standard_error(scores.differences), "one text has no spread");
    scores.all.divergence().write(m);
  }
  scores.write_lengths(m);
  scores.write_buckets(m);
  decider.write(m);
  measured.write(m, settings.regime);  // the caches at the end of the longest
  put_rate(m, "tokens_per_second", double(texts.size()) * double(longest), measured.seconds);
  return outcome;
}

inline void check_cached_decode(const Unloaded& model, const CachedDecodeSettings& settings) {
  check_texts(model.tokenizer, settings.texts, settings.samples, settings.longest_context(),
              cached_decode_detail::kShorter);
}

}  // namespace ptq::eval
