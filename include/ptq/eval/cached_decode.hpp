// Perplexity of long documents that are read through the cache from beginning to end
// ("cached_decode"), by how far a token can look back. One pass over a document gives every context
// length up to its own: what a token reads depends on its past alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <numbers>
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

namespace cached_decode_detail {

inline void check(const CachedDecodeSettings& s) {
  if (s.samples < 1 || s.chunk < 1 || s.lengths.empty()) {
    throw usage_error("samples, lengths and chunk must not be empty or 0", "cached-decode");
  }
  for (const int64_t length : s.lengths) {
    if (length < 2) throw usage_error("lengths must be at least 2 tokens", "cached-decode");
  }
  if (s.regime == Regime::independent) {
    throw usage_error("the regime `independent` reads no cache", "cached-decode: regime",
                      "use `streaming` or `prefill-exact`");
  }
}

// Borders of the buckets of distance: 0, 512, 2048, 4096, ... doubling, up to `length`.
inline std::vector<int64_t> bucket_borders(int64_t length) {
  std::vector<int64_t> borders = {0};
  for (int64_t next = 512; next < length; next = next == 512 ? 2048 : 2 * next) {
    borders.push_back(next);
  }
  borders.push_back(length);
  return borders;
}

}  // namespace cached_decode_detail

// Errors: settings, too few texts, a text that is too short, logits that are not finite.
inline Outcome cached_decode(Subject& subject, const CachedDecodeSettings& settings,
                             const Progress& progress) {
  namespace detail = cached_decode_detail;
  detail::check(settings);
  std::vector<int64_t> lengths = settings.lengths;
  std::sort(lengths.begin(), lengths.end());
  lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  const int64_t longest = lengths.back();
  const std::vector<int64_t> borders = detail::bucket_borders(longest);
  const std::vector<JsonlText> texts = read_jsonl_texts(settings.texts, settings.samples);
  require_texts(texts, settings.samples, settings.texts);

  Outcome outcome;
  TokenScores all;  // of every scored token
  std::vector<TokenScores> buckets(borders.size() - 1), halves(lengths.size());
  std::vector<CacheMeans> cache_at(lengths.size());  // at the end of each length
  std::vector<double> differences;                   // per text
  CacheReads reads;
  double seconds = 0, reference_seconds = 0;
  int64_t bytes = 0;

  for (size_t i = 0; i < texts.size(); ++i) {
    std::vector<int32_t> tokens = subject.tokenizer.encode(texts[i].text);
    require_tokens(tokens, longest, settings.texts, texts[i].line, "use smaller `lengths`");
    tokens.resize(size_t(longest));
    TokenScores sample;
    std::vector<TokenScores> sample_halves(lengths.size());
    LockStep run(subject);
    int64_t fed = 0;
    const auto feed = [&](int64_t end) {
      const int64_t first = fed;
      run.forward(std::span(tokens).subspan(size_t(fed), size_t(end - fed)), settings.regime, 0,
                  [&](int64_t row, const LogitRow& method, const LogitRow* reference) {
                    const int64_t target = first + row + 1;  // it can look back on `target` tokens
                    if (target == longest) return;
                    const int32_t id = tokens[size_t(target)];
                    sample.add(method, reference, id);
                    const auto bucket = std::upper_bound(borders.begin(), borders.end(), target);
                    buckets[size_t(bucket - borders.begin()) - 1].add(method, reference, id);
                    for (size_t l = 0; l < lengths.size(); ++l) {
                      if (target >= lengths[l] / 2 && target < lengths[l]) {
                        sample_halves[l].add(method, reference, id);
                      }
                    }
                  });
      fed = end;
    };
    for (size_t l = 0; l < lengths.size(); ++l) {
      while (fed < lengths[l]) {
        const bool whole = settings.regime == Regime::streaming;
        feed(whole ? lengths[l]
                   : std::min(lengths[l], (fed / settings.chunk + 1) * settings.chunk));
        if (progress) {
          char note[48];
          std::snprintf(note, sizeof note, "ppl %.2f", sample.ppl());
          progress((double(i) + double(fed) / double(longest)) / double(texts.size()), note);
        }
      }
      cache_at[l].add(run.sequence().bytes());
    }
    add_reads(reads, run.sequence().reads());
    seconds += run.seconds();
    reference_seconds += run.reference_seconds();
    bytes += int64_t(subject.tokenizer.decode(tokens, true).size()) -
             int64_t(subject.tokenizer.decode(std::span(tokens).first(1), true).size());

    Json json = {{"sample", i}, {"line", texts[i].line}, {"tokens", sample.count()}};
    sample.write(json);
    json["lengths"] = Json::array();
    for (size_t l = 0; l < lengths.size(); ++l) {
      Json row = {{"length", lengths[l]}, {"tokens", sample_halves[l].count()}};
      sample_halves[l].write(row);
      json["lengths"].push_back(std::move(row));
      halves[l].add(sample_halves[l]);
    }
    if (subject.reference) differences.push_back(sample.delta_nll());
    all.add(sample);
    outcome.samples.push_back(std::move(json));
  }

  Json& m = outcome.metrics;
  m["protocol"] = "cached_decode";
  m["samples"] = texts.size();
  m["chunk"] = settings.regime == Regime::streaming ? 1 : settings.chunk;
  m["tokens_scored"] = all.count();
  all.write(m);
  put_number(
      m, "bits_per_byte",
      bytes > 0 ? all.nll() * double(all.count()) / (double(bytes) * std::numbers::ln2) : kUnknown,
      "the scored tokens decode to no text");
  if (subject.reference) {
    put_number(m, "delta_nll_se", standard_error(differences), "one text has no spread");
    all.divergence().write(m);
  }
  m["lengths"] = Json::array();  // targets that look back on at least half of the length
  for (size_t l = 0; l < lengths.size(); ++l) {
    Json row = {{"length", lengths[l]}, {"tokens", halves[l].count()}};
    halves[l].write(row);
    put_number(row, "bytes_per_token", cache_at[l].bytes_per_token());
    put_number(row, "effective_bits", cache_at[l].effective_bits());
    m["lengths"].push_back(std::move(row));
  }
  m["buckets"] = Json::array();
  for (size_t b = 0; b + 1 < borders.size(); ++b) {
    Json row = {
        {"first", borders[b]}, {"last", borders[b + 1] - 1}, {"tokens", buckets[b].count()}};
    buckets[b].write(row);
    m["buckets"].push_back(std::move(row));
  }
  m["regime"] = regime_word(settings.regime);
  write_exposure(m, reads);
  m["cache"] = cache_at.back().json();
  m["seconds"] = seconds;
  m["reference_seconds"] = reference_seconds;
  put_number(m, "tokens_per_second",
             seconds > 0 ? double(texts.size()) * double(longest) / seconds : kUnknown,
             "too fast for the clock");
  return outcome;
}

}  // namespace ptq::eval
