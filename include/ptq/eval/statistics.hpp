// The few statistics that evaluations print beside their numbers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <vector>

#include "ptq/core/binomial.hpp"

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

// The same with a weight for each value: means of parts that count as much as they are long, and
// the error of such a mean as a ratio of sums (Cochran, Sampling Techniques, 6.4). Equal weights
// give those above.
inline double weighted_mean(std::span<const double> values, std::span<const double> weights) {
  double sum = 0, all = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    sum += weights[i] * values[i];
    all += weights[i];
  }
  return values.empty() ? kUnknown : sum / all;
}
inline double weighted_error(std::span<const double> values, std::span<const double> weights) {
  if (values.size() < 2) return kUnknown;
  const double centre = weighted_mean(values, weights), n = double(values.size());
  double squares = 0, all = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double difference = weights[i] * (values[i] - centre);
    squares += difference * difference;
    all += weights[i];
  }
  return std::sqrt(n / (n - 1) * squares) / all;
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

}  // namespace ptq::eval
