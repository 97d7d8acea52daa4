// Intervals of quantiles and of shares of a series that is cut into units.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "ptq/core/binomial.hpp"
#include "ptq/stats/bootstrap.hpp"
#include "ptq/stats/units.hpp"

namespace ptq::stats {

// Linear interpolation at fraction * (n - 1) of sorted values, as numpy's default.
inline double quantile_of_sorted(std::span<const float> sorted, double fraction) {
  const double place = std::clamp(fraction, 0.0, 1.0) * double(sorted.size() - 1);
  const size_t below = size_t(place), above = std::min(below + 1, sorted.size() - 1);
  return double(sorted[below]) +
         (place - double(below)) * (double(sorted[above]) - double(sorted[below]));
}

// The 95 % interval of a quantile: that of the share of values below it, from the units, read off
// the sorted values (R. S. Woodruff, Confidence intervals for medians and other position measures,
// JASA 47, 1952). `sorted` are the values of `values`.
inline Interval quantile_interval(std::span<const float> values, std::span<const float> sorted,
                                  double fraction, const Units& units) {
  const float at = float(quantile_of_sorted(sorted, fraction));
  std::vector<double> below(units.count(), 0.0), sizes(units.count());
  for (size_t u = 0; u < units.count(); ++u) {
    size_t count = 0;
    for (size_t i = units.border[u]; i < units.border[u + 1]; ++i) count += values[i] <= at;
    below[u] = double(count);
    sizes[u] = double(units.border[u + 1] - units.border[u]);
  }
  const MeanEstimate share = estimate_ratio(below, sizes);
  if (!share.known()) return {};
  const double half = t_quantile(0.975, share.df) * share.standard_error;
  return {quantile_of_sorted(sorted, fraction - half), quantile_of_sorted(sorted, fraction + half)};
}

// The 95 % interval of a share of n values: that of Clopper and Pearson for as many independent
// values as its standard error from units is worth (E. L. Korn and B. I. Graubard, Survey
// Methodology 24, 1998). It has a width where the share is 0 or 1.
inline Interval share_interval(const MeanEstimate& share, double n) {
  if (!share.known()) return {};
  const double spread = share.value * (1 - share.value),
               variance = share.standard_error * share.standard_error;
  double worth = variance > 0 ? std::min(n, spread / variance) : n;
  const double t = t_quantile(0.975, share.df) / 1.96;
  worth /= t * t;
  const double trials = std::max(1.0, std::floor(worth));
  return clopper_pearson95(int64_t(std::lround(share.value * trials)), int64_t(trials));
}

}  // namespace ptq::stats
