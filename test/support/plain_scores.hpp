// Scores of a row of logits by the definitions, in float64 or wider.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace ptq::test {

inline double nll(const float* p, size_t vocab, int32_t target) {
  double top = p[0], sum = 0;
  for (size_t i = 0; i < vocab; ++i) top = std::max(top, double(p[i]));
  for (size_t i = 0; i < vocab; ++i) sum += std::exp(double(p[i]) - top);
  return top + std::log(sum) - double(p[size_t(target)]);
}

// Log-probabilities the plain way, in extended precision.
inline std::vector<long double> log_probs(const std::vector<float>& logits) {
  long double sum = 0;
  for (const float x : logits) sum += std::exp((long double)(x));
  std::vector<long double> out;
  for (const float x : logits) out.push_back((long double)(x)-std::log(sum));
  return out;
}

inline long double plain_kl(const std::vector<float>& p, const std::vector<float>& q) {
  const auto log_p = log_probs(p), log_q = log_probs(q);
  long double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) sum += std::exp(log_p[i]) * (log_p[i] - log_q[i]);
  return sum;
}

}  // namespace ptq::test
