// Every cell against the baseline of its board and against every other, on the same tokens or
// answers: differences with intervals, verdicts, fidelity to full precision, and ranks that are
// shared where the data cannot separate.
#pragma once

#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "analysis/board/leaderboard.hpp"
#include "analysis/compare/fidelity.hpp"
#include "analysis/compare/statistics.hpp"
#include "analysis/read/samples.hpp"
#include "analysis/read/tokens.hpp"
#include "ptq/stats/verdict.hpp"

namespace ptq::report {

using stats::Verdict;

// A method against another, usually full precision, on one evaluation. Losses: delta is the mean
// difference of the negative log-likelihood, so exp(delta) is the ratio of the perplexities.
// Answers: delta is the difference of the shares of right answers. docs/metrics.md says how units,
// intervals and verdicts are made.
struct Comparison {
  bool answers = false;
  size_t n = 0;         // paired tokens (by_tokens) or samples
  size_t unpaired = 0;  // of either side without a partner
  double delta = 0, standard_error = 0;
  Interval interval;          // 95 %
  PairedCounts counts;        // of answers
  McNemar p;                  // of answers
  double p_value = 1;         // of no difference; what is corrected
  double p_holm = 1;          // within its evaluation
  double p_equivalence = 1;   // of a difference of the margin or more; corrected as p_holm is
  bool in_lock_step = false;  // full precision was run beside the method, in the same cell
  std::string problem;

  bool by_tokens = false;           // compared token by token, not by lines of samples
  double effective_n = 0;           // independent tokens or answers that n is worth
  size_t block = 1, clusters = 0;   // tokens of a block; texts, windows or prompts
  double mde = 0;                   // smallest |delta| that this run would have shown: alpha 0.05
                                    // two-sided, power 0.8; NaN where unknown
  double margin = 0;                // of equivalence, in units of delta
  Verdict verdict = Verdict::none;  // of delta: better and worse refer to quality
  bool within_margin = false;       // better or worse, but by less than the margin
  double needed = 0;                // too_few: tokens or answers that would do, about; 0: unknown
};

struct BoardStatistics {
  std::map<const Cell*, Comparison> comparisons;  // with the baseline
  std::map<const Cell*, Fidelity> fidelity;       // of cells with token scores
  // Any two cells of an evaluation, the first against the second; both orders are there. Only
  // where they are few enough.
  std::map<std::pair<const Cell*, const Cell*>, Comparison> pairs;
  std::map<const Cell*, int> ranks;  // within its evaluation; shared where a tie cannot be excluded
  std::map<std::string, std::vector<const Cell*>> order;  // by evaluation, from the best
  std::vector<std::string> problems;  // samples that could not be read, with their cell

  const Comparison* of(const Cell* cell) const {
    const auto found = comparisons.find(cell);
    return found == comparisons.end() ? nullptr : &found->second;
  }
  const Fidelity* fidelity_of(const Cell* cell) const {
    const auto found = fidelity.find(cell);
    return found == fidelity.end() ? nullptr : &found->second;
  }
  // a against b.
  const Comparison* pair(const Cell* a, const Cell* b) const {
    const auto found = pairs.find({a, b});
    return found == pairs.end() ? nullptr : &found->second;
  }
  int rank(const Cell* cell) const {
    const auto found = ranks.find(cell);
    return found == ranks.end() ? 0 : found->second;
  }
};

// "better", "worse, by less than 1 %", "equivalent within 1 %", "too few samples to tell (about
// 12,000 tokens would do)", "identical"; "-" without a comparison.
std::string verdict_text(const Comparison& comparison);

// a against b, by answers or by losses of whole samples. These are paired by what they are; without
// a partner they are left out and counted. Not corrected yet, and without a verdict.
Comparison compare(const Samples& a, const Samples& b, bool answers);
// The method against the full precision that ran beside it.
Comparison compare_in_lock_step(const Samples& samples, bool answers);

// The same token by token: of runs that both have.
Comparison compare_tokens(const TokenLosses& a, const TokenLosses& b);
Comparison compare_tokens_in_lock_step(const TokenLosses& losses);

// b against a of a comparison of a against b.
Comparison reversed(Comparison comparison);

// Holm's correction over the comparisons of one family, and what each allows to say.
void judge(const std::vector<Comparison*>& family);

// Reads the tokens and samples of one evaluation at a time.
BoardStatistics statistics_of(const Board& board);

}  // namespace ptq::report
