// How long a series of token scores remembers: autocovariance, long-run variance and the length of
// blocks that may be resampled as if they were independent.
//
// Source: D. N. Politis and H. White, Automatic block-length selection for the dependent bootstrap,
// Econometric Reviews 23 (2004), with the correction of A. Patton, D. N. Politis and H. White,
// Econometric Reviews 28 (2009): section 3, equations for the circular block bootstrap.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

namespace ptq::stats {

// A piece of a series within which neighbours are neighbours: the scored tokens of a window or of a
// text. Pieces with one `cluster` are of one text.
struct Run {
  uint32_t cluster = 0;
  size_t length = 0;
};

struct Dependence {
  double mean = 0, variance = 0;  // of single values
  double long_run_variance = 0;   // n times the variance of the mean of n values; > 0 unless all
                                  // values are equal
  size_t memory = 0;              // lag after which nothing is correlated
  size_t block = 1;               // of Politis and White
};

namespace dependence_detail {

// Sum of a[i] * b[i]. Sixteen sums side by side, so that it becomes vector code without leave to
// reorder additions; each is emptied into a double before it loses digits.
inline double dot(const float* a, const float* b, size_t n) {
  constexpr size_t kLanes = 16, kChunk = 4096;
  double sum = 0;
  for (size_t begin = 0; begin < n; begin += kChunk) {
    const size_t end = std::min(n, begin + kChunk), whole = begin + (end - begin) / kLanes * kLanes;
    float lanes[kLanes] = {};
    for (size_t i = begin; i < whole; i += kLanes) {
      for (size_t l = 0; l < kLanes; ++l) lanes[l] += a[i + l] * b[i + l];
    }
    for (const float lane : lanes) sum += double(lane);
    for (size_t i = whole; i < end; ++i) sum += double(a[i]) * double(b[i]);
  }
  return sum;
}

// Autocovariance at a lag, over the pairs within runs and divided by the number of all values, as
// Politis and White do. `centred`: values less their mean.
inline double autocovariance(std::span<const float> centred, std::span<const Run> runs,
                             size_t lag) {
  double sum = 0;
  size_t begin = 0;
  for (const Run& run : runs) {
    if (run.length > lag) {
      sum += dot(centred.data() + begin, centred.data() + begin + lag, run.length - lag);
    }
    begin += run.length;
  }
  return sum / double(centred.size());
}

// Politis and Romano's flat-top window.
inline double flat_top(double t) { return t <= 0.5 ? 1.0 : t <= 1.0 ? 2.0 * (1.0 - t) : 0.0; }

}  // namespace dependence_detail

// values: finite, the runs one after the other.
inline Dependence dependence_of(std::span<const float> values, std::span<const Run> runs) {
  namespace detail = dependence_detail;
  Dependence out;
  const size_t n = values.size();
  if (n == 0) return out;
  out.mean = std::accumulate(values.begin(), values.end(), 0.0) / double(n);
  std::vector<float> centred(n);
  for (size_t i = 0; i < n; ++i) centred[i] = float(double(values[i]) - out.mean);
  std::vector<double> r = {detail::autocovariance(centred, runs, 0)};
  out.variance = out.long_run_variance = r[0];
  if (!(r[0] > 0) || n < 8) return out;

  size_t longest = 0;
  for (const Run& run : runs) longest = std::max(longest, run.length);
  const double root = std::sqrt(double(n)), log_n = std::log10(double(n));
  const size_t quiet_needed = size_t(std::max(5.0, std::ceil(std::sqrt(log_n))));
  const size_t last = std::min(size_t(std::ceil(root)) + quiet_needed, longest - 1);
  const double small = 2 * std::sqrt(log_n / double(n)) * r[0];
  // m: the smallest lag behind which `quiet_needed` correlations in a row are insignificant.
  size_t m = 0, quiet = 0;
  for (size_t lag = 1; lag <= last && quiet < quiet_needed; ++lag) {
    r.push_back(detail::autocovariance(centred, runs, lag));
    if (std::abs(r[lag]) < small) {
      ++quiet;
    } else {
      quiet = 0;
      m = lag;
    }
  }
  out.memory = m;
  const size_t bandwidth = std::clamp<size_t>(2 * m, 1, std::max<size_t>(last, 1));
  while (r.size() <= std::min(bandwidth, last)) {
    r.push_back(detail::autocovariance(centred, runs, r.size()));
  }
  double spread = 0, g = r[0];  // G and g(0) of the paper
  for (size_t lag = 1; lag < r.size() && lag <= bandwidth; ++lag) {
    const double weight = detail::flat_top(double(lag) / double(bandwidth));
    spread += 2 * weight * double(lag) * r[lag];
    g += 2 * weight * r[lag];
  }
  if (!(g > 0)) return out;  // the flat-top estimate may be negative; then nothing is known
  out.long_run_variance = g;
  const double best = std::cbrt(2 * spread * spread / (4.0 / 3.0 * g * g)) * std::cbrt(double(n));
  const double most = std::ceil(std::min(3 * root, double(n) / 3));
  out.block = size_t(std::clamp(std::ceil(best), 1.0, std::max(1.0, most)));
  return out;
}

}  // namespace ptq::stats
