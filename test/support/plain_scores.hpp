// Scores of a row of logits in long double, by the definitions.
#pragma once

#include <cmath>
#include <vector>

namespace ptq::test {

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
