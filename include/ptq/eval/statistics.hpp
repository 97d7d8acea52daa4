// The few statistics that evaluations print beside their numbers.
#pragma once

#include <algorithm>
#include <boost/math/distributions/beta.hpp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace ptq::eval {

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

// NaN for an empty span.
inline double mean(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return values.empty() ? kUnknown : sum / double(values.size());
}

// Sample standard deviation (n - 1) over sqrt(n); NaN for fewer than two values.
inline double standard_error(std::span<const double> values) {
  if (values.size() < 2) return kUnknown;
  const double centre = mean(values), n = double(values.size());
  double squares = 0;
  for (const double value : values) squares += (value - centre) * (value - centre);
  return std::sqrt(squares / (n - 1) / n);
}

// Linear interpolation at fraction * (n - 1) of the sorted values, as numpy's default and
// llama.cpp's perplexity tool do; NaN for no values.
inline double quantile(std::vector<double> values, double fraction) {
  if (values.empty()) return kUnknown;
  std::sort(values.begin(), values.end());
  const double place = fraction * double(values.size() - 1);
  const size_t below = size_t(place);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (place - double(below)) * (values[above] - values[below]);
}

struct Interval {
  double low, high;
};

// Exact two-sided 95 % interval of a share (Clopper and Pearson, Biometrika 1934) through quantiles
// of the beta distribution; trials >= 1.
inline Interval clopper_pearson95(int64_t successes, int64_t trials) {
  const double k = double(successes), n = double(trials);
  const auto beta = [](double a, double b, double probability) {
    return boost::math::quantile(boost::math::beta_distribution<double>(a, b), probability);
  };
  return {successes == 0 ? 0.0 : beta(k, n - k + 1, 0.025),
          successes == trials ? 1.0 : beta(k + 1, n - k, 0.975)};
}

}  // namespace ptq::eval
