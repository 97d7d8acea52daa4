// How far a method's predictions are from the full-precision model's on the same tokens. These move
// long before accuracy or perplexity do, and they are exactly 0 only for a method that did nothing.
//
// Definitions as in ggml-org/llama.cpp tools/perplexity --kl-divergence, but over the full
// vocabulary and from unrounded logits. EAR, the expected acceptance rate: the mean of the sum over
// the vocabulary of min(p, q), as in speculative decoding (Leviathan et al. 2023, arXiv 2211.17192,
// section 3.3).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "ptq/core/own_json.hpp"
#include "ptq/core/token_score.hpp"
#include "ptq/eval/log_softmax.hpp"
#include "ptq/eval/statistics.hpp"

namespace ptq::eval {

// Why a figure of void tokens is not there.
inline constexpr const char* kVoidTokens = "tokens are void: a logit is not finite";

// The scores of one token in float64; TokenScore says what they are.
struct ScoredToken {
  double nll = kUnknown, nll_reference = kUnknown;
  double kl = kUnknown, kl_reverse = kUnknown, overlap = kUnknown, delta_p = kUnknown;
  double confidence = 0;
  double rank = 0;
  bool flip = false;
  bool finite = true;  // else void: only what the reference alone gives is known

  bool has_reference() const { return !std::isnan(nll_reference); }
  TokenScore packed() const {
    const auto share = [](double x) {  // NaN: 0
      return uint16_t(x > 0 ? std::lround(std::min(x, 1.0) * 65535) : 0);
    };
    const uint32_t place = uint32_t(std::min(rank, double(TokenScore::kMostRank)));
    return {float(nll),
            float(nll_reference),
            float(kl),
            float(kl_reverse),
            share(overlap),
            share(confidence),
            place | (flip ? TokenScore::kFlip : 0) | (finite ? 0 : TokenScore::kNotFinite)};
  }
};

// One position; target: the token that really follows. reference: finite, or nullptr.
inline ScoredToken score_token(const LogitRow& method, const LogitRow* reference, int32_t target) {
  ScoredToken out;
  const LogitRow& sure = reference ? *reference : method;
  out.finite = method.finite;
  if (sure.finite) out.confidence = std::exp(sure.log_prob(sure.argmax));
  if (reference) out.nll_reference = reference->nll(target);
  if (!method.finite) return out;
  out.nll = method.nll(target);
  const float level = method.logits[target];
  if (!reference) {
    out.rank = double(std::count_if(method.logits, method.logits + method.vocab,
                                    [level](float x) { return x > level; }));
    return out;
  }
  const RowDivergence d = row_divergence(*reference, method, level);
  out.kl = d.kl;
  out.kl_reverse = d.kl_reverse;
  out.overlap = d.overlap;
  out.rank = d.above;
  out.delta_p = std::exp(method.log_prob(target)) - std::exp(reference->log_prob(target));
  out.flip = reference->argmax != method.argmax;
  return out;
}

class Divergence {
 public:
  // A token that was compared with the reference and is not void.
  void add(const ScoredToken& token) {
    kl_.push_back(token.kl);
    kl_reverse_.push_back(token.kl_reverse);
    overlap_.push_back(token.overlap);
    delta_p_.push_back(token.delta_p);
    equal_top_ += !token.flip;
  }
  // One position of two finite rows; target: the token that really follows.
  void add(const LogitRow& reference, const LogitRow& method, int32_t target) {
    add(score_token(method, &reference, target));
  }
  void add(const Divergence& other) {
    const auto append = [](std::vector<double>& to, const std::vector<double>& from) {
      to.insert(to.end(), from.begin(), from.end());
    };
    append(kl_, other.kl_);
    append(kl_reverse_, other.kl_reverse_);
    append(overlap_, other.overlap_);
    append(delta_p_, other.delta_p_);
    equal_top_ += other.equal_top_;
  }

  size_t count() const { return kl_.size(); }
  double kl_mean() const { return mean(kl_); }
  double top1_agreement() const {
    return kl_.empty() ? kUnknown : double(equal_top_) / double(kl_.size());
  }

  // Nats per token; delta_p is the change of the target's probability.
  void write(Json& metrics) const {
    double squares = 0;
    for (const double d : delta_p_) squares += d * d;
    const char* why = "no position was compared with the reference";
    metrics["kl_tokens"] = kl_.size();
    put_number(metrics, "kl_mean", kl_mean(), why);
    put_number(metrics, "kl_median", quantile(kl_, 0.5), why);
    put_number(metrics, "kl_p90", quantile(kl_, 0.9), why);
    put_number(metrics, "kl_p99", quantile(kl_, 0.99), why);
    put_number(metrics, "kl_max", quantile(kl_, 1.0), why);
    put_number(metrics, "kl_reverse_mean", mean(kl_reverse_), why);
    put_number(metrics, "ear_mean", mean(overlap_), why);
    put_number(metrics, "top1_agreement", top1_agreement(), why);
    put_number(metrics, "delta_p_mean", mean(delta_p_), why);
    put_number(metrics, "delta_p_rms",
               kl_.empty() ? kUnknown : std::sqrt(squares / double(kl_.size())), why);
  }
  // The short form for one window, quarter or text.
  void write_short(Json& sample) const {
    put_number(sample, "kl_mean", kl_mean());
    put_number(sample, "kl_max", quantile(kl_, 1.0));
    put_number(sample, "top1_agreement", top1_agreement());
  }

 private:
  std::vector<double> kl_, kl_reverse_, overlap_, delta_p_;  // one per position
  int64_t equal_top_ = 0;
};

}  // namespace ptq::eval
