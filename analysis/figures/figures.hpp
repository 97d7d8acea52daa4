// The figures of a report. What a cell must hold to appear in one (all keys are of its metrics):
//
//   quality against bytes     ppl, and cache.bytes_per_token or weights.bytes
//   curve over the length     an array `lengths` of {length, ppl} or `buckets` or `quarters` of
//                             {first, last, ppl}, each with ppl_reference for full precision
//   heat map                  an array `cells` of {length, depth, correct, total}, or `depths` of
//                             {depth, correct, total} beside context_length
//   bars of tasks             shares of right answers with correct and total, or acc_stderr,none
//   error by layer            an array `layers` of {layer, error} or {layer, error_keys,
//                             error_values}, relative errors of what the method stores
//
// Anything else in these arrays is ignored, and a cell without them is left out.
#pragma once

#include <vector>

#include "analysis/board/leaderboard.hpp"
#include "analysis/figures/gnuplot.hpp"

namespace ptq::report {

// What a colour and a symbol stand for, the same in all figures of a report: each row's label, and
// the methods that share a symbol where a board has too many rows.
class SeriesStyles {
 public:
  explicit SeriesStyles(const std::vector<Board>& boards);
  // A gnuplot style; dash: another kind of line for a second curve of one method.
  std::string of(const std::string& name, size_t dash = 0) const;
  std::string colour(const std::string& name) const;
  bool light(const std::string& name) const;  // the colour comes a second time

 private:
  void add(const std::string& name);
  size_t index(const std::string& name) const;
  std::vector<std::string> names_;
};

// Figures of one board; `prefix` begins their names.
std::vector<Figure> figures_of(const Board& board, const std::string& prefix,
                               const SeriesStyles& styles);

}  // namespace ptq::report
