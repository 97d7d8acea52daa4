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
#include "analysis/compare/statistics.hpp"
#include "analysis/read/samples.hpp"
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

// A figure with its 95 % interval, unknown where there are too few independent tokens.
struct Estimate {
  double value = std::numeric_limits<double>::quiet_NaN();
  Interval interval;
};

// How far the predictions of one cell are from full precision's, from its tokens. Nats.
struct Fidelity {
  Estimate kl, kl_reverse, kl_median, kl_p90, kl_p99;
  Estimate ear;          // expected acceptance rate: sum over the vocabulary of min(p, q)
  Estimate rms_delta_p;  // of the probability of the target
  Estimate top1;         // share of tokens with the same most likely token
  double kl_max = 0;
  size_t tokens = 0;
  struct Part {
    std::string name;
    size_t tokens = 0;
    Estimate kl, top1;
  };
  std::vector<Part> by_confidence;  // largest probability of full precision
  std::vector<Part> by_position;    // of the token in its context: powers of two
  bool below_floor = false;         // KL not above the measured noise floor
  std::optional<double> floor;      // KL of full precision with noise, where it was measured
  bool ppl_unreliable = false;      // the loss fell although the predictions moved away
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

// a against b. Samples are paired by what they are; without a partner they are left out and
// counted.
Comparison compare(const Samples& a, const Samples& b, bool answers);
// The method against the full precision that ran beside it.
Comparison compare_in_lock_step(const Samples& samples, bool answers);

// Reads the samples of one evaluation at a time.
BoardStatistics statistics_of(const Board& board);

}  // namespace ptq::report
