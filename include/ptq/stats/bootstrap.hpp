// Intervals of means and ratios by a studentized bootstrap of units.
//
// Sources: B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), section 12.5
// (bootstrap-t); F. Götze and H. R. Künsch, Second-order correctness of the blockwise bootstrap for
// stationary observations, Annals of Statistics 24 (1996); E. Carlstein, The use of subseries
// values, Annals of Statistics 14 (1986) for blocks side by side.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "ptq/core/binomial.hpp"
#include "ptq/stats/student.hpp"
#include "ptq/stats/units.hpp"

namespace ptq::stats {

inline constexpr size_t kResamples = 2000;
inline constexpr size_t kResampledUnits = 8;  // with fewer, resamples say less than Student's t
inline constexpr uint64_t kSeed = 20261125;

// Resamples of `units` units as counts: the same for all series with as many units, so that
// intervals of methods can be compared.
class Resamples {
 public:
  explicit Resamples(size_t units) : units_(units), counts_(kResamples * units) {
    uint64_t state = kSeed;
    for (size_t r = 0; r < kResamples; ++r) {
      uint8_t* row = counts_.data() + r * units;
      for (size_t u = 0; u < units; ++u) {
        // splitmix64 (Steele, Lea and Flood 2014), and Lemire's reduction of 32 of its bits.
        uint64_t z = state += 0x9E3779B97F4A7C15u;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        ++row[size_t((uint64_t(uint32_t(z >> 32)) * units) >> 32)];
      }
    }
  }
  size_t units() const { return units_; }
  const uint8_t* row(size_t r) const { return counts_.data() + r * units_; }

 private:
  size_t units_;
  std::vector<uint8_t> counts_;
};

// The table of the thread's last number of units, which usually is that of the next call.
inline const Resamples& resamples_of(size_t units) {
  thread_local Resamples last(0);
  if (last.units() != units) last = Resamples(units);
  return last;
}

// A mean with what is known of its error. The statistic (mean - truth) / standard_error is taken to
// be Student's t with `df`, stretched by `below` for truths below the mean and by `above` for those
// above it: so that the resamples' 2.5 % and 97.5 % points are met. Skewed scores need that.
struct MeanEstimate {
  double value = std::numeric_limits<double>::quiet_NaN();
  double standard_error = std::numeric_limits<double>::quiet_NaN();
  double df = 0, below = 1, above = 1;
  size_t units = 0;

  bool known() const { return units >= kLeastUnits && std::isfinite(standard_error); }

  // Two-sided, of this coverage; unknown with fewer than kLeastUnits units.
  Interval interval(double coverage) const {
    if (!known()) return {};
    const double half = t_quantile((1 + coverage) / 2, df) * standard_error;
    return {value - half * below, value + half * above};
  }
  // Two-sided p of "the truth is `null`": below 0.05 where the 95 % interval excludes it.
  double p(double null) const {
    if (!known()) return 1;
    return std::min(1.0, 2 * tail(std::abs(value - null), value > null ? below : above));
  }
  // Two one-sided tests (Schuirmann 1987) of "the truth is `margin` or more away from 0": below
  // 0.05 where the 90 % interval lies within the margin.
  double p_equivalence(double margin) const {
    if (!known()) return 1;
    return std::max(tail(value + margin, below), tail(margin - value, above));
  }
  // Smallest |truth| that would have been told from 0: 5 % two-sided, power 80 %.
  double detectable() const {
    if (!known()) return std::numeric_limits<double>::quiet_NaN();
    return (t_quantile(0.975, df) + t_quantile(0.8, df)) * std::max(below, above) * standard_error;
  }

 private:
  double tail(double distance, double stretch) const {
    if (!(standard_error > 0)) return distance > 0 ? 0 : 1;
    return t_upper(distance / (standard_error * stretch), df);
  }
};

namespace bootstrap_detail {

inline constexpr double kMostStretch = 4;  // beyond that resamples have no spread, not a meaning

// A unit beside the ratio of all: e = sum - ratio * size.
struct Residual {
  float e, size, ee, e_size, size_size;
};

// (ratio of a resample - ratio) / (its own standard error), for all resamples, sorted.
inline std::vector<double> studentized(const std::vector<Residual>& units) {
  const Resamples& resamples = resamples_of(units.size());
  std::vector<float> columns[5];
  for (const Residual& u : units) {
    columns[0].push_back(u.e);
    columns[1].push_back(u.size);
    columns[2].push_back(u.ee);
    columns[3].push_back(u.e_size);
    columns[4].push_back(u.size_size);
  }
  const double k = double(units.size()), unbiased = k / (k - 1);
  std::vector<double> t(kResamples);
  for (size_t r = 0; r < kResamples; ++r) {
    const uint8_t* counts = resamples.row(r);
    double s[5];
    for (size_t c = 0; c < 5; ++c) {
      constexpr size_t kLanes = 16;
      const float* column = columns[c].data();
      float lanes[kLanes] = {};
      size_t u = 0;
      for (; u + kLanes <= units.size(); u += kLanes) {
        for (size_t l = 0; l < kLanes; ++l) lanes[l] += float(counts[u + l]) * column[u + l];
      }
      for (size_t l = 0; u < units.size(); ++u, ++l) lanes[l] += float(counts[u]) * column[u];
      s[c] = 0;
      for (const float lane : lanes) s[c] += double(lane);
    }
    const double off = s[0] / s[1];  // from the ratio of all
    const double squares = s[2] - 2 * off * s[3] + off * off * s[4];
    t[r] = off / (std::sqrt(std::max(0.0, squares * unbiased)) / s[1]);
    if (std::isnan(t[r])) t[r] = 0;  // every unit the same
  }
  std::sort(t.begin(), t.end());
  return t;
}

}  // namespace bootstrap_detail

// The ratio of the sums of two columns, one value of each per unit: a mean where `sizes` counts
// values. sizes >= 0, not all 0. `sums` and `sizes` have one length; units of size 0 and sum 0 take
// part, as they should: a bucket need not occur in every unit.
inline MeanEstimate estimate_ratio(std::span<const double> sums, std::span<const double> sizes) {
  MeanEstimate out;
  double sum = 0, size = 0;
  for (const double s : sums) sum += s;
  for (const double s : sizes) {
    size += s;
    out.units += s > 0;
  }
  if (!(size > 0)) return out;
  out.value = sum / size;
  const double k = double(sums.size()), typical = size / k;
  double squares = 0;
  std::vector<double> e(sums.size());
  for (size_t u = 0; u < e.size(); ++u) {
    e[u] = sums[u] - out.value * sizes[u];
    squares += e[u] * e[u];
  }
  if (out.units < 2) return out;
  out.standard_error = std::sqrt(squares * k / (k - 1)) / size;
  out.df = double(out.units) - 1;
  if (out.units < kResampledUnits || !(squares > 0)) return out;

  const double scale = std::sqrt(squares / k);  // keeps floats in their range
  std::vector<bootstrap_detail::Residual> units;
  for (size_t u = 0; u < e.size(); ++u) {
    const double own = e[u] / scale, own_size = sizes[u] / typical;
    units.push_back({float(own), float(own_size), float(own * own), float(own * own_size),
                     float(own_size * own_size)});
  }
  const std::vector<double> t = bootstrap_detail::studentized(units);
  const double expected = t_quantile(0.975, out.df);
  const size_t low = size_t(0.025 * double(t.size())), high = t.size() - 1 - low;
  const auto stretch = [&](double point) {
    return std::clamp(point / expected, 1 / bootstrap_detail::kMostStretch,
                      bootstrap_detail::kMostStretch);
  };
  out.below = stretch(t[high]);
  out.above = stretch(-t[low]);
  return out;
}

// The mean of a series over its units.
inline MeanEstimate estimate_mean(std::span<const float> values, const Units& units) {
  std::vector<double> sums(units.count(), 0.0), sizes(units.count(), 0.0);
  for (size_t u = 0; u < units.count(); ++u) {
    for (size_t i = units.border[u]; i < units.border[u + 1]; ++i) sums[u] += double(values[i]);
    sizes[u] = double(units.border[u + 1] - units.border[u]);
  }
  return estimate_ratio(sums, sizes);
}

}  // namespace ptq::stats
