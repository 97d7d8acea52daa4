// Did the method do anything? A published comparison once showed four cache methods equal to full
// precision in every digit because none of them ever ran; these checks look at every result.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "ptq/core/own_json.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/eval/subject.hpp"

namespace ptq::eval {

enum class Severity { warning, error };

struct Finding {
  Severity severity;
  std::string sentence;
};

// What the caller knows about the cell's method.
struct MethodFacts {
  bool lossless = false;
  bool weights = false;  // has a method that changes the weights: encodes or prunes
  bool kv = false;       // has a cache method
  bool evicts = false;   // which drops rows instead of encoding them
  // Tokens before a query from which on the cache must hold encoded rows; unused without kv.
  int64_t first_encoded_length = 0;
};

// The shortest past of which a policy encodes something, the smaller of the two sides.
inline int64_t first_encoded_length(const KvMethod& method) {
  const auto side = [&](KvSide s) {
    const KvPolicy policy = method.policy(s);
    return policy.sink + policy.window + policy.block;
  };
  return std::min(side(KvSide::keys), side(KvSide::values));
}

// Errors mean that the cell must count as failed. Reads the metrics that the evaluations write:
// regime, exposure, kl_max, top1_agreement, score_difference_max, cache.
inline std::vector<Finding> check_exercised(const Outcome& outcome, const MethodFacts& facts) {
  std::vector<Finding> findings;
  if (facts.lossless || (!facts.weights && !facts.kv)) return findings;
  const Json& m = outcome.metrics;
  const auto number = [&](const Json& object, const char* key, double otherwise) {
    const auto found = object.find(key);
    return found != object.end() && found->is_number() ? found->get<double>() : otherwise;
  };
  const bool cache_not_read = m.value("regime", "") == "independent";
  bool cache_silent = cache_not_read;  // the cache method had no chance to change a number

  if (facts.kv && cache_not_read) {
    findings.push_back({Severity::warning,
                        "cache not read: the regime `independent` computes every window in one "
                        "fresh pass, so this number says nothing about the cache method"});
  }
  if (facts.kv && m.value("regime", "") == "prefill-encoded") {
    findings.push_back({Severity::warning,
                        "look-ahead: in the regime `prefill-encoded` tokens of a prompt read "
                        "encodings that were made with later tokens; for reproduction only"});
  }
  if (facts.kv && !cache_not_read && m.contains("cache")) {
    const Json& cache = m["cache"];
    const double tokens = number(cache, "tokens", 0);
    const double encoded = number(cache, "bytes_encoded", 0);
    const std::string lengths = std::to_string(int64_t(tokens)) +
                                " tokens in the cache, encoding begins at " +
                                std::to_string(facts.first_encoded_length);
    if (encoded == 0 && !facts.evicts && tokens >= double(facts.first_encoded_length)) {
      findings.push_back(
          {Severity::error, "method inactive: no row was encoded (" + lengths + ")"});
    }
    if (number(m, "exposure", 0) == 0) {
      cache_silent = true;
      findings.push_back(
          {Severity::warning, "exposure 0: no encoded row was read (" + lengths +
                                  "), so this number says nothing about the method"});
    }
    const double fp16 = number(cache, "bytes_per_token_fp16", 0) * tokens;
    const double total = number(cache, "bytes_total", 0);
    if (encoded > 0 && total >= fp16) {
      findings.push_back({Severity::warning,
                          "the cache is not smaller than FP16: " + std::to_string(int64_t(total)) +
                              " against " + std::to_string(int64_t(fp16)) + " bytes"});
    }
  }
  // Equality is explained where only a cache method was there and its rows were never read.
  if (facts.weights || !cache_silent) {
    // Where the two sides cut their calls differently, sums round differently and cached float16
    // numbers with them: the largest KL of a few hundred tokens was 6e-9 nats.
    constexpr double kRounding = 1e-7;
    const double kl_max = number(m, "kl_max", 1);
    if (number(m, "score_difference_max", 1) == 0) {
      findings.push_back({Severity::error,
                          "identical to FP16: every log-likelihood equals the full-precision "
                          "model's, the method was not exercised"});
    } else if (kl_max == 0 && number(m, "top1_agreement", 0) == 1) {
      findings.push_back({Severity::error,
                          "identical to FP16: every probability equals the full-precision "
                          "model's, the method was not exercised"});
    } else if (kl_max <= kRounding) {
      findings.push_back({Severity::warning,
                          "hardly distinguishable from FP16: the largest KL divergence is of the "
                          "size of rounding, so the method may not have been exercised"});
    }
  }
  return findings;
}

}  // namespace ptq::eval
