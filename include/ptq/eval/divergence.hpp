// How far a method's predictions are from the full-precision model's on the same tokens. These move
// long before accuracy or perplexity do, and they are exactly 0 only for a method that did nothing.
//
// Definitions as in ggml-org/llama.cpp tools/perplexity --kl-divergence, but over the full
// vocabulary and from unrounded logits.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "ptq/core/own_json.hpp"
#include "ptq/eval/log_softmax.hpp"
#include "ptq/eval/statistics.hpp"

namespace ptq::eval {

class Divergence {
 public:
  // One position; target: the token that really follows.
  void add(const LogitRow& reference, const LogitRow& method, int32_t target) {
    kl_.push_back(kl_divergence(reference, method));
    delta_p_.push_back(std::exp(method.log_prob(target)) - std::exp(reference.log_prob(target)));
    equal_top_ += reference.argmax == method.argmax;
  }
  void add(const Divergence& other) {
    kl_.insert(kl_.end(), other.kl_.begin(), other.kl_.end());
    delta_p_.insert(delta_p_.end(), other.delta_p_.begin(), other.delta_p_.end());
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
    put_number(metrics, "kl_p99", quantile(kl_, 0.99), why);
    put_number(metrics, "kl_max", quantile(kl_, 1.0), why);
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
  std::vector<double> kl_, delta_p_;  // one per position
  int64_t equal_top_ = 0;
};

}  // namespace ptq::eval
