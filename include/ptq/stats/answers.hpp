// Right or wrong answers of two methods to the same questions, some of which belong together (one
// prompt at several depths).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <span>
#include <vector>

#include "ptq/core/binomial.hpp"
#include "ptq/stats/student.hpp"

namespace ptq::stats {

// Two-sided p values of "neither method is better".
struct SignFlip {
  double exact = 1, mid = 1;
};

// The sign-flip (permutation) test of clusters: under the null each cluster's sum of differences
// might as well have the other sign. With clusters of one answer it is McNemar's exact test. The
// distribution of the sum is built cluster by cluster. differences: gained less lost of a cluster;
// more than 2000 in all are tested by their normal approximation.
inline SignFlip sign_flip(std::span<const int> differences) {
  int64_t observed = 0, most = 0;
  double squares = 0;
  for (const int d : differences) {
    observed += d;
    most += std::abs(d);
    squares += double(d) * d;
  }
  observed = std::abs(observed);
  if (most == 0) return {};
  if (most > 2000) {
    const double p =
        2 * t_upper(double(observed) / std::sqrt(squares), std::numeric_limits<double>::infinity());
    return {p, p};
  }
  std::vector<double> chance(size_t(2 * most + 1), 0.0), next;  // of sums from -most on
  chance[size_t(most)] = 1;
  int64_t reach = 0;
  for (const int signed_size : differences) {
    const int64_t size = std::abs(signed_size);
    if (size == 0) continue;
    next.assign(chance.size(), 0.0);
    for (int64_t s = most - reach; s <= most + reach; ++s) {
      next[size_t(s - size)] += chance[size_t(s)] / 2;
      next[size_t(s + size)] += chance[size_t(s)] / 2;
    }
    reach += size;
    chance.swap(next);
  }
  double beyond = 0;
  for (int64_t s = most + observed; s <= 2 * most; ++s) beyond += chance[size_t(s)];
  const double at = chance[size_t(most + observed)];
  if (observed == 0) return {1, 1 - at / 2};
  return {std::min(1.0, 2 * beyond), 2 * beyond - at};
}

// Score statistic of "the shares of right answers differ by `difference`", positive where more was
// gained than that. Counts need not be whole: they are divided by the design effect of clusters.
// Source: T. Tango, Equivalence test and confidence interval for the difference in proportions for
// the paired-sample design, Statistics in Medicine 17 (1998), equations 8 to 10.
inline double tango_score(double n, double gained, double lost, double difference) {
  const double a = 2 * n, b = -gained - lost + (2 * n - gained + lost) * difference,
               c = -lost * difference * (1 - difference);
  const double share = (std::sqrt(std::max(0.0, b * b - 4 * a * c)) - b) / (2 * a);
  const double variance = n * (2 * share + difference * (1 - difference));
  const double distance = gained - lost - n * difference;
  if (variance > 0) return distance / std::sqrt(variance);
  return distance == 0 ? 0 : std::copysign(std::numeric_limits<double>::infinity(), distance);
}

// Tango's interval of gained/n - lost/n; it has a width even where no answer differs. z: the normal
// quantile of the coverage, 1.96 for 95 %.
inline Interval tango_interval(double n, double gained, double lost, double z) {
  if (!(n > 0)) return {};
  const double estimate = (gained - lost) / n;
  // The score falls as the difference grows.
  const auto where = [&](double target, double low, double high) {
    for (int i = 0; i < 60; ++i) {
      const double middle = (low + high) / 2;
      (tango_score(n, gained, lost, middle) > target ? low : high) = middle;
    }
    return (low + high) / 2;
  };
  return {where(z, -1, estimate), where(-z, estimate, 1)};
}

// How much the variance of the mean difference grows because answers of a cluster are alike, at
// least 1 (Rao and Scott, Biometrics 48, 1992). sums, sizes: per cluster.
inline double design_effect(std::span<const int> sums, std::span<const int> sizes, double gained,
                            double lost) {
  double n = 0;
  for (const int size : sizes) n += size;
  const double g = double(sums.size()), mean = (gained - lost) / n;
  const double single = (gained + lost - n * mean * mean) / n / n;
  if (g < 2 || !(single > 0)) return 1;
  double squares = 0;
  for (size_t i = 0; i < sums.size(); ++i) {
    const double e = double(sums[i]) - mean * double(sizes[i]);
    squares += e * e;
  }
  return std::max(1.0, squares * g / (g - 1) / n / n / single);
}

}  // namespace ptq::stats
