// Probabilities from one row of logits: log-sum-exp, target likelihood, argmax, divergences. All
// sums run in float64 over the full vocabulary; the loops are written so that the compiler turns
// them into vector code (a vocabulary has up to 152k entries).
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include "ptq/core/error.hpp"

namespace ptq::eval {

// e^x for x <= 0, relative error below 1e-15; inputs below -700 count as -700 (1e-304), which no
// sum that contains a term of at least 1e-280 can notice. std::exp is a library call that keeps a
// loop scalar; this is straight-line code: x = n ln 2 + r, |r| <= ln 2 / 2, Taylor series of e^r to
// r^13 (remainder below 5e-18), 2^n through the exponent bits.
inline double exp_nonpositive(double x) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: the sum's low bits are the integer
  constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
  x = x < -700.0 ? -700.0 : x;
  const double shifted = x * 1.44269504088896340736 + kRound;
  const double n = shifted - kRound;
  const double r = (x - n * kLn2High) - n * kLn2Low;
  double p = 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  return std::bit_cast<double>(std::bit_cast<int64_t>(p) + (std::bit_cast<int64_t>(shifted) << 52));
}

// One row of logits and what every score needs of it. The logits stay where they are.
struct LogitRow {
  const float* logits = nullptr;
  int64_t vocab = 0;
  float max = 0;
  int32_t argmax = 0;  // the first maximum
  double log_sum_exp = 0;
  const double* exps = nullptr;  // [vocab], e^(logit - max), where the caller wants them kept
  bool finite = true;            // else the row has no probabilities, and the rest says nothing

  double log_prob(int32_t id) const { return double(logits[id]) - log_sum_exp; }
  double nll(int32_t id) const { return log_sum_exp - double(logits[id]); }  // nats
};

// exps: room for e^(logit - max) of the whole row, or nullptr. A NaN or an infinity makes the row
// one that is not finite.
inline LogitRow scan_logits(const float* logits, int64_t vocab, double* exps = nullptr) {
  constexpr int kLanes = 16;  // independent partial results, so that lanes need no reordering
  constexpr float kLargest = std::numeric_limits<float>::max();
  const int64_t whole = vocab / kLanes * kLanes;

  float max[kLanes];
  int32_t bad[kLanes] = {};
  std::fill(max, max + kLanes, -kLargest);
  const auto look = [&](int lane, float x) {
    bad[lane] |= !(std::abs(x) <= kLargest);
    max[lane] = x > max[lane] ? x : max[lane];
  };
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) look(lane, logits[i + lane]);
  }
  for (int64_t i = whole; i < vocab; ++i) look(0, logits[i]);
  LogitRow row{logits, vocab, *std::max_element(max, max + kLanes), 0, 0, exps, true};
  if (vocab <= 0 || std::any_of(bad, bad + kLanes, [](int32_t b) { return b != 0; })) {
    row.finite = false;
    return row;
  }
  row.argmax = int32_t(std::find(logits, logits + vocab, row.max) - logits);

  double sum[kLanes] = {};
  const double top = row.max;
  const auto sum_up = [&](const auto& keep) {
    const auto add = [&](int lane, int64_t v) {
      const double e = exp_nonpositive(double(logits[v]) - top);
      keep(v, e);
      sum[lane] += e;
    };
    for (int64_t i = 0; i < whole; i += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) add(lane, i + lane);
    }
    for (int64_t i = whole; i < vocab; ++i) add(0, i);
  };
  if (exps != nullptr) {
    sum_up([exps](int64_t v, double e) { exps[v] = e; });
  } else {
    sum_up([](int64_t, double) {});
  }
  double total = 0;
  for (const double s : sum) total += s;
  row.log_sum_exp = top + std::log(total);
  return row;
}

// Errors: a row that is not finite. `whose` and `position` (0-based index of the token that was
// read) name the place.
inline void require_finite(const LogitRow& row, int64_t position, const char* whose) {
  if (row.finite) return;
  const float* end = row.logits + row.vocab;
  const int64_t id =
      std::find_if(row.logits, end, [](float x) { return !std::isfinite(x); }) - row.logits;
  throw Error(ExitCode::disagree,
              std::string("the ") + whose + " computed a logit that is not finite",
              "position " + std::to_string(position) + ", token id " + std::to_string(id),
              "an encoding with a broken scale or an overflow in 16-bit numbers does this");
}

// A row that must be finite.
inline LogitRow read_logits(const float* logits, int64_t vocab, int64_t position,
                            const char* whose) {
  const LogitRow row = scan_logits(logits, vocab);
  require_finite(row, position, whose);
  return row;
}

// Two distributions over one vocabulary, p of the reference and q of a method.
struct RowDivergence {
  double kl = 0, kl_reverse = 0;  // KL(p || q), KL(q || p), nats; equal logits give exactly 0
  double overlap = 0;             // sum of min(p, q), 0 .. 1
  double above = 0;               // tokens whose logit in q is above `level`
};

// All of it in one pass over the vocabulary. Rounding below 0 and above 1 is cut off. level: a
// logit of the method.
inline RowDivergence row_divergence(const LogitRow& reference, const LogitRow& method,
                                    float level = 0) {
  constexpr int kLanes = 8;
  const int64_t vocab = reference.vocab, whole = vocab / kLanes * kLanes;
  const float *p = reference.logits, *q = method.logits;
  const double p_sum = reference.log_sum_exp, q_sum = method.log_sum_exp;
  double kl[kLanes] = {}, reverse[kLanes] = {}, overlap[kLanes] = {};
  int32_t above[kLanes] = {};
  const auto run = [&](const auto& q_of) {
    const auto add = [&](int lane, int64_t v) {
      const double log_p = double(p[v]) - p_sum, log_q = double(q[v]) - q_sum;
      const double own_p = exp_nonpositive(log_p), own_q = q_of(v, log_q), d = log_p - log_q;
      kl[lane] += own_p * d;
      reverse[lane] -= own_q * d;
      overlap[lane] += own_p < own_q ? own_p : own_q;
      above[lane] += q[v] > level;
    };
    for (int64_t v = 0; v < whole; v += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) add(lane, v + lane);
    }
    for (int64_t v = whole; v < vocab; ++v) add(0, v);
  };
  if (method.exps != nullptr) {  // a product instead of another exponential
    const double scale = std::exp(double(method.max) - q_sum);
    run([exps = method.exps, scale](int64_t v, double) { return exps[v] * scale; });
  } else {
    run([](int64_t, double log_q) { return exp_nonpositive(log_q); });
  }
  RowDivergence sum;
  for (int lane = 0; lane < kLanes; ++lane) {
    sum.kl += kl[lane];
    sum.kl_reverse += reverse[lane];
    sum.overlap += overlap[lane];
    sum.above += above[lane];
  }
  sum.kl = std::max(sum.kl, 0.0);
  sum.kl_reverse = std::max(sum.kl_reverse, 0.0);
  sum.overlap = std::min(sum.overlap, 1.0);
  return sum;
}

inline double kl_divergence(const LogitRow& reference, const LogitRow& method) {
  return row_divergence(reference, method).kl;
}

}  // namespace ptq::eval
