// What every evaluation measures beside its own figures: the cache it read through, the time it
// took, how many answers were right.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "ptq/core/own_json.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/eval/lock_step.hpp"
#include "ptq/eval/statistics.hpp"

namespace ptq::eval {

// Adds what a sequence has read since `before` to the reads of an evaluation.
inline void add_reads(CacheReads& sum, const CacheReads& now, const CacheReads& before = {}) {
  for (int side = 0; side < 2; ++side) {
    sum.encoded[side] += now.encoded[side] - before.encoded[side];
    sum.total[side] += now.total[side] - before.total[side];
    sum.share_sum[side] += now.share_sum[side] - before.share_sum[side];
  }
  sum.queries += now.queries - before.queries;
}

// Mean share of the attended positions that came from encoded storage.
inline void write_exposure(Json& metrics, const CacheReads& reads) {
  const auto side = [&](KvSide s) {
    return reads.queries > 0 ? reads.share_sum[int(s)] / reads.queries : 0.0;
  };
  metrics["exposure"] = reads.exposure();
  metrics["exposure_keys"] = side(KvSide::keys);
  metrics["exposure_values"] = side(KvSide::values);
}

// The caches of an evaluation, each at the end of its sequence, as means over the sequences:
// quality is a figure of all of them, so bytes are too.
class CacheMeans {
 public:
  void add(const CacheBytes& bytes) {
    encoded_.push_back(double(bytes.encoded));
    window_.push_back(double(bytes.window));
    sink_.push_back(double(bytes.sink));
    reserved_.push_back(double(bytes.reserved));
    tokens_.push_back(double(bytes.tokens));
    if (bytes.tokens > 0) {
      per_token_.push_back(bytes.bytes_per_token());
      per_token_fp16_.push_back(2 * double(bytes.scalars) / double(bytes.tokens));
    }
    if (bytes.scalars > 0) bits_.push_back(bytes.effective_bits());
    dense_ = dense_ || bytes.encoded_is_dense;
  }

  double bytes_per_token() const { return mean(per_token_); }  // NaN: all caches are empty
  double effective_bits() const { return mean(bits_); }

  // bytes_per_token is the mean of the sequences' own, not the ratio of the means beside it; they
  // differ where lengths do. The smallest and the largest say how far they lie apart.
  Json json() const {
    const char* why = "the cache is empty";
    Json json;
    json["sequences"] = tokens_.size();
    json["tokens"] = whole(mean(tokens_));
    json["bytes_encoded"] = whole(mean(encoded_));
    json["bytes_window"] = whole(mean(window_));
    json["bytes_sink"] = whole(mean(sink_));
    json["bytes_total"] = whole(mean(encoded_) + mean(window_) + mean(sink_));
    json["bytes_reserved"] = whole(mean(reserved_));
    put_number(json, "bytes_per_token", bytes_per_token(), why);
    put_number(json, "bytes_per_token_min", quantile(per_token_, 0), why);
    put_number(json, "bytes_per_token_max", quantile(per_token_, 1), why);
    put_number(json, "bytes_per_token_fp16", mean(per_token_fp16_), why);
    put_number(json, "effective_bits", effective_bits(), why);
    put_number(json, "compression_ratio", 16 / effective_bits(), why);
    json["encoded_is_dense"] = dense_;
    return json;
  }

 private:
  // A mean that is a whole number is written as one.
  static Json whole(double value) {
    if (value == std::floor(value) && std::fabs(value) < 0x1p53) return int64_t(value);
    return std::isfinite(value) ? Json(value) : Json(0);  // no sequence at all
  }

  std::vector<double> encoded_, window_, sink_, reserved_, tokens_;
  std::vector<double> per_token_, per_token_fp16_, bits_;
  bool dense_ = false;
};

// The common end of every result.
struct Measured {
  CacheReads reads;  // of the queries that count
  CacheMeans cache;
  double seconds = 0, reference_seconds = 0;  // in the engines, without the scoring

  // A run that has come to its end; before: what its cache had read until the queries that count.
  void add(LockStep& run, const CacheReads& before = {}) {
    add_reads(reads, run.sequence().reads(), before);
    cache.add(run.sequence().bytes());
    add_seconds(run);
  }
  void add_seconds(const LockStep& run) {
    seconds += run.seconds();
    reference_seconds += run.reference_seconds();
  }
  void write(Json& metrics, Regime regime) const {
    metrics["regime"] = regime_word(regime);
    write_exposure(metrics, reads);
    metrics["cache"] = cache.json();
    metrics["seconds"] = seconds;
    metrics["reference_seconds"] = reference_seconds;
  }
};

// Tokens per second; why_none: why there are no tokens where there are none.
inline void put_rate(Json& metrics, const std::string& key, double tokens, double seconds,
                     const std::string& why_none = "no token was fed back") {
  put_number(metrics, key, tokens > 0 && seconds > 0 ? tokens / seconds : kUnknown,
             tokens > 0 ? "too fast for the clock" : why_none);
}

// Answers, right or wrong.
struct Answers {
  int64_t correct = 0, total = 0;

  void add(bool right) {
    correct += right;
    ++total;
  }
  double accuracy() const { return total > 0 ? double(correct) / double(total) : kUnknown; }
  void write(Json& json) const {
    const Interval interval = clopper_pearson95(correct, total);
    json["correct"] = correct;
    json["total"] = total;
    json["accuracy"] = accuracy();
    json["ci95_low"] = interval.low;
    json["ci95_high"] = interval.high;
  }
};

// A warning where sequences differ by more than 1 % in what a token costs: their mean then is the
// figure of none of them. Prompts of nearly one length differ by less.
inline std::string uneven_cache_note(const Json& metrics) {
  const auto cache = metrics.find("cache");
  if (cache == metrics.end() || !cache->contains("bytes_per_token_min")) return {};
  const Json &low = (*cache)["bytes_per_token_min"], &high = (*cache)["bytes_per_token_max"];
  if (!low.is_number() || !high.is_number()) return {};
  if (high.get<double>() <= 1.01 * low.get<double>()) return {};
  char text[160];
  std::snprintf(
      text, sizeof text,
      "the sequences differ in KV bytes per token, %.0f to %.0f; the figure is their mean",
      low.get<double>(), high.get<double>());
  return text;
}

}  // namespace ptq::eval
