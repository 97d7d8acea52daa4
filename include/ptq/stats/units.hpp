// What is resampled: texts where there are enough of them, blocks of neighbouring tokens otherwise.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ptq/stats/dependence.hpp"
#include "ptq/stats/student.hpp"

namespace ptq::stats {

inline constexpr size_t kManyClusters = 30;  // from here on texts are the units
inline constexpr size_t kMostUnits = 400;    // more make no interval narrower; blocks grow instead
inline constexpr size_t kLeastUnits = 5;     // fewer have no interval

// A series cut into pieces that count as independent: unit i is [border[i], border[i + 1]).
struct Units {
  std::vector<size_t> border;
  size_t block = 1;         // values of a unit, about
  size_t clusters = 0;      // texts or windows that the series has
  bool by_cluster = false;  // units are texts, or several each

  size_t count() const { return border.empty() ? 0 : border.size() - 1; }
};

namespace units_detail {

// Joins neighbouring units until there are kMostUnits at most, all of about as many values.
inline void join(std::vector<size_t>& border) {
  const size_t units = border.size() - 1;
  if (units <= kMostUnits) return;
  std::vector<size_t> kept;
  for (size_t u = 0; u <= kMostUnits; ++u) kept.push_back(border[u * units / kMostUnits]);
  border = std::move(kept);
}

inline std::vector<size_t> cluster_borders(std::span<const Run> runs) {
  std::vector<size_t> border;
  size_t begin = 0;
  for (size_t i = 0; i < runs.size(); ++i) {
    if (i == 0 || runs[i].cluster != runs[i - 1].cluster) border.push_back(begin);
    begin += runs[i].length;
  }
  border.push_back(begin);
  return border;
}

// Tokens of a block: three times the block of Politis and White, which is best for a variance and
// too short for an interval; at least 16 where that leaves 60 blocks, because weak correlations
// hide behind heavy tails; no more than leaves 8 blocks; and a kMostUnits-th of the series.
inline double block_length(double n, const Dependence& dependence) {
  const double wanted = std::max(3.0 * double(dependence.block), std::min(16.0, n / 60));
  return std::max({std::min(wanted, n / 8), n / double(kMostUnits), 1.0});
}

// Every run in pieces of about `block` values.
inline std::vector<size_t> block_borders(std::span<const Run> runs, double block) {
  std::vector<size_t> border;
  size_t begin = 0;
  for (const Run& run : runs) {
    if (run.length == 0) continue;
    const size_t pieces = std::max<size_t>(1, size_t(double(run.length) / block));
    for (size_t p = 0; p < pieces; ++p) border.push_back(begin + p * run.length / pieces);
    begin += run.length;
  }
  border.push_back(begin);
  return border;
}

// Spread of the mean of all values, when the units are independent: sum of squared deviations of
// the units' sums, with the factor k / (k - 1), over n squared.
inline double variance_of_mean(std::span<const float> values, const std::vector<size_t>& border,
                               double mean) {
  const double k = double(border.size() - 1);
  double squares = 0;
  for (size_t u = 0; u + 1 < border.size(); ++u) {
    double sum = 0;
    for (size_t i = border[u]; i < border[u + 1]; ++i) sum += double(values[i]) - mean;
    squares += sum * sum;
  }
  return k > 1 ? squares * k / (k - 1) / double(values.size()) / double(values.size()) : 0;
}

}  // namespace units_detail

// Cuts a series. From kManyClusters texts on the texts are the units. With fewer, units are blocks
// of tokens that never cross the border of a run. Where kLeastUnits texts or more differ by more
// than their blocks explain (F test, 10 %), they are the units after all; with fewer texts the
// interval is about these texts and not about others.
inline Units cut(std::span<const float> values, std::span<const Run> runs) {
  Units out;
  if (values.empty()) return out;
  std::vector<size_t> clusters = units_detail::cluster_borders(runs);
  out.clusters = clusters.size() - 1;
  const double n = double(values.size());
  if (out.clusters >= kManyClusters) {
    out.border = std::move(clusters);
    out.by_cluster = true;
  } else {
    const Dependence d = dependence_of(values, runs);
    out.border = units_detail::block_borders(runs, units_detail::block_length(n, d));
    const double within = units_detail::variance_of_mean(values, out.border, d.mean),
                 between = units_detail::variance_of_mean(values, clusters, d.mean);
    const double df1 = double(out.clusters) - 1, df2 = double(out.count()) - 1;
    if (out.clusters >= kLeastUnits && within > 0 && f_upper(between / within, df1, df2) < 0.1) {
      out.border = std::move(clusters);
      out.by_cluster = true;
    }
  }
  units_detail::join(out.border);
  out.block = size_t(std::lround(n / double(out.count())));
  return out;
}

}  // namespace ptq::stats
