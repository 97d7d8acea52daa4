// Intervals that hold at every moment of a growing sample at once, so that one may look after each
// sample and stop when it is decided.
//
//   BettingSequence   values in [-1, 1]: holds for every n, whatever the distribution, when the
//   mean
//                     of a value given the past is constant
//   anytime_quantile  any mean with a standard error: holds as n grows, like the central limit
//                     theorem, not for every small n
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "ptq/core/binomial.hpp"

namespace ptq::stats {

// Hedged betting: for each mean on a grid, a gambler's capital when that were the truth; means that
// make somebody rich are excluded. Source: I. Waudby-Smith and A. Ramdas, Estimating means of
// bounded random variables by betting, JRSS B 86 (2024), theorem 3 and equations 26 and 31.
class BettingSequence {
 public:
  explicit BettingSequence(double alpha) : alpha_(alpha), up_(kGrid, 0.0), down_(kGrid, 0.0) {}

  // value: in [-1, 1].
  void add(double value) {
    const double x = std::clamp((value + 1) / 2, 0.0, 1.0);
    const double t = double(++n_);
    // Bets know the past only.
    const double spread = (0.25 + squares_) / t;
    const double bet = std::sqrt(2 * std::log(2 / alpha_) / (spread * t * std::log(t + 1)));
    for (size_t i = 0; i < kGrid; ++i) {
      const double mean = grid(i);
      up_[i] += std::log1p(std::min(bet, kMost / mean) * (x - mean));
      down_[i] += std::log1p(-std::min(bet, kMost / (1 - mean)) * (x - mean));
    }
    sum_ += x;
    const double centre = (0.5 + sum_) / (t + 1);
    squares_ += (x - centre) * (x - centre);
    while (low_ < high_ && rich(low_)) ++low_;
    while (high_ > low_ && rich(high_)) --high_;
  }

  size_t count() const { return n_; }
  // Of the mean; shrinks only.
  Interval interval() const {
    const double step = 1.0 / double(kGrid);
    return {2 * (grid(low_) - step / 2) - 1, 2 * (grid(high_) + step / 2) - 1};
  }

 private:
  static constexpr size_t kGrid = 1000;
  static constexpr double kMost = 0.5;  // share of the capital that a bet may lose

  static double grid(size_t i) { return (double(i) + 0.5) / double(kGrid); }
  bool rich(size_t i) const { return std::max(up_[i], down_[i]) >= std::log(2 / alpha_); }

  double alpha_, sum_ = 0, squares_ = 0;
  size_t n_ = 0, low_ = 0, high_ = kGrid - 1;
  std::vector<double> up_, down_;  // log capital
};

// How many standard errors an interval of a mean must reach to either side, to hold at every sample
// size at once: instead of 1.96 for one size. A normal mixture; its guarantee is asymptotic, as
// that of the standard error is. progress: the samples so far as a multiple of those at which the
// interval is to be as narrow as it can.
// Source: I. Waudby-Smith, D. Arbour, R. Sinha, E. H. Kennedy and A. Ramdas, Time-uniform central
// limit theory and asymptotic confidence sequences, Annals of Statistics 52 (2024), theorem 2.2 and
// equation 23; for dependent samples with any consistent variance of their mean, its section 2.5.
inline double anytime_quantile(double progress, double alpha) {
  const double log_alpha = std::log(alpha);
  const double sharpest = -2 * log_alpha + std::log(-2 * log_alpha) + 1;
  const double scaled = progress * sharpest;
  return std::sqrt(2 * (1 + 1 / scaled) * std::log(std::sqrt(scaled + 1) / alpha));
}

}  // namespace ptq::stats
