// The uncertainty of a share that was counted. binomial.cpp is compiled once (library ptq_core), so
// that only it includes Boost.Math.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace ptq {

struct Interval {
  double low = std::numeric_limits<double>::quiet_NaN();
  double high = std::numeric_limits<double>::quiet_NaN();
  bool contains(double value) const { return low <= value && value <= high; }
  bool known() const { return std::isfinite(low) && std::isfinite(high); }
};

// Exact two-sided 95 % interval of a share (Clopper and Pearson, Biometrika 1934): 20 of 20 is 0.83
// to 1. Counts that are none (trials < 1, successes outside 0 to trials) say nothing: 0 to 1.
Interval clopper_pearson95(int64_t successes, int64_t trials);

}  // namespace ptq
