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

#include "gnuplot.hpp"
#include "leaderboard.hpp"
#include "pruning.hpp"

namespace ptq::report {

// Figures of one board; `prefix` begins their names.
std::vector<Figure> figures_of(const Board& board, const std::string& prefix);

// Scatter and matrix of correlations of a pruning study.
std::vector<Figure> pruning_figures(const std::vector<PruningModel>& models);

}  // namespace ptq::report
