// Statistics of comparisons on the same samples: McNemar, paired bootstrap, Holm, shared ranks; and
// correlations that say how many pairs they rest on.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "ptq/core/binomial.hpp"

namespace ptq::report {

inline constexpr int kResamples = 10000;
inline constexpr uint64_t kBootstrapSeed = 20261125;

// --- right or wrong on the same questions --------------------------------------------------------

// gained: wrong before and right now; lost: the other way round.
struct PairedCounts {
  int64_t n = 0, gained = 0, lost = 0;

  double delta() const { return n > 0 ? double(gained - lost) / double(n) : 0; }
  double flips() const { return n > 0 ? double(gained + lost) / double(n) : 0; }
  // Of delta(); unpaired formulas are two to five times too wide.
  double standard_error() const {
    if (n < 2) return std::numeric_limits<double>::quiet_NaN();
    const double sum = double(gained + lost), difference = double(gained - lost);
    return std::sqrt((sum - difference * difference / double(n)) / double(n - 1) / double(n));
  }
};

struct McNemar {
  double exact = 1, mid = 1;  // two-sided
};

McNemar mcnemar(int64_t gained, int64_t lost);

// Resamples the questions of each stratum (whose size stays): the interval of the difference.
Interval bootstrap_counts(const std::vector<PairedCounts>& strata);

// --- means of differences ------------------------------------------------------------------------

// Resampling of n units in order, as counts: the same for every method, so that their intervals can
// be compared. More than `kBlocks` units are taken in blocks of neighbours, which are not
// independent.
class Bootstrap {
 public:
  static constexpr size_t kBlocks = 400;

  explicit Bootstrap(size_t units);

  size_t block() const { return block_; }

  // The interval of the mean of `values` (one per unit).
  Interval mean(const std::vector<double>& values) const;

 private:
  size_t units_, block_, blocks_;
  std::vector<uint8_t> counts_;
};

// The table of resamples is the same for equal n and costs more than its use.
const Bootstrap& bootstrap_of(size_t units);

double mean_of(const std::vector<double>& values);

double standard_error_of(const std::vector<double>& values);

// Two-sided p of the paired t test: the mean of the differences is 0.
double paired_t(const std::vector<double>& differences);

// --- many comparisons ----------------------------------------------------------------------------

// Holm's step-down correction: adjusted p values in the order of the input.
std::vector<double> holm(const std::vector<double>& p);

// Ranks of rows in order from the best: a row shares the rank of the best of a group when `same`
// says that the two cannot be told apart.
template <class Same>
std::vector<int> shared_ranks(size_t rows, Same same) {
  std::vector<int> ranks(rows);
  size_t best = 0;  // of the group that shares a rank
  for (size_t i = 0; i < rows; ++i) {
    if (i > 0 && !same(best, i)) best = i;
    ranks[i] = int(best) + 1;
  }
  return ranks;
}

// --- correlations --------------------------------------------------------------------------------

struct FiniteCorrelation {
  double r = std::numeric_limits<double>::quiet_NaN();
  Interval interval;  // bootstrap
  size_t pairs = 0, left_out = 0;
};

double pearson(const std::vector<double>& x, const std::vector<double>& y);

// Ranks from 1, equal values share their mean rank. Infinite values have a rank.
std::vector<double> ranks_of(const std::vector<double>& values);

double spearman(const std::vector<double>& x, const std::vector<double>& y);

// Pearson over the pairs in which both values are finite, with a bootstrap interval.
FiniteCorrelation finite_correlation(const std::vector<double>& x, const std::vector<double>& y);

// Correlation of x and y within groups: both are taken relative to the mean of their group.
double within_groups(std::vector<double> x, std::vector<double> y, const std::vector<int>& group);

}  // namespace ptq::report
