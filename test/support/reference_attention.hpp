// Attention in float64 as plain as it gets: the reference of the fast version.
#pragma once

#include <cmath>
#include <functional>
#include <vector>

namespace ptq::test {

// One query at absolute position t. key(s), value(s): the row (head_dim numbers) that this query
// reads at position s. Visible are the last `window` rows (0 = all) up to t.
inline std::vector<double> reference_attention(
    const float* q, int64_t dim, int64_t t, int64_t window,
    const std::function<std::vector<float>(int64_t)>& key,
    const std::function<std::vector<float>(int64_t)>& value) {
  const int64_t first = window > 0 ? std::max<int64_t>(0, t + 1 - window) : 0;
  std::vector<double> score;
  double top = -1e300;
  for (int64_t s = first; s <= t; ++s) {
    const auto k = key(s);
    double x = 0;
    for (int64_t d = 0; d < dim; ++d) x += double(q[d]) * double(k[size_t(d)]);
    score.push_back(x / std::sqrt(double(dim)));
    top = std::max(top, score.back());
  }
  double sum = 0;
  std::vector<double> out(static_cast<size_t>(dim));
  for (int64_t s = first; s <= t; ++s) {
    const double p = std::exp(score[size_t(s - first)] - top);
    sum += p;
    const auto v = value(s);
    for (int64_t d = 0; d < dim; ++d) out[size_t(d)] += p * double(v[size_t(d)]);
  }
  for (double& x : out) x /= sum;
  return out;
}

}  // namespace ptq::test
