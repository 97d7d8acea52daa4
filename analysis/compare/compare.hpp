// Every cell against the baseline of its board, on the same samples: differences with intervals,
// McNemar, flips, Holm's correction, and ranks that are shared where the data cannot separate.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "analysis/board/leaderboard.hpp"
#include "analysis/compare/statistics.hpp"
#include "analysis/read/samples.hpp"

namespace ptq::report {

// A method against full precision on one evaluation. Losses: delta is the mean difference of the
// negative log-likelihood, so exp(delta) is the ratio of the perplexities. Answers: delta is the
// difference of the shares of right answers.
struct Comparison {
  bool answers = false;
  size_t n = 0;         // paired samples
  size_t unpaired = 0;  // samples of either side without a partner
  double delta = 0, standard_error = 0;
  Interval interval;          // 95 %, paired bootstrap
  PairedCounts counts;        // of answers
  McNemar p;                  // of answers
  double p_value = 1;         // mid-p or paired t: what is corrected
  double p_holm = 1;          // within the board
  bool in_lock_step = false;  // full precision was run beside the method, in the same cell
  std::string problem;
};

struct BoardStatistics {
  std::map<const Cell*, Comparison> comparisons;
  std::map<const Cell*, int> ranks;  // within its evaluation; shared where a tie cannot be excluded
  std::map<std::string, std::vector<const Cell*>> order;  // by evaluation, from the best
  std::vector<std::string> problems;  // samples that could not be read, with their cell

  const Comparison* of(const Cell* cell) const {
    const auto found = comparisons.find(cell);
    return found == comparisons.end() ? nullptr : &found->second;
  }
  int rank(const Cell* cell) const {
    const auto found = ranks.find(cell);
    return found == ranks.end() ? 0 : found->second;
  }
};

// a against b. Samples are paired by what they are; without a partner they are left out and
// counted.
Comparison compare(const Samples& a, const Samples& b, bool answers);
// The method against the full precision that ran beside it.
Comparison compare_in_lock_step(const Samples& samples, bool answers);

// Reads the samples of one evaluation at a time.
BoardStatistics statistics_of(const Board& board);

}  // namespace ptq::report
