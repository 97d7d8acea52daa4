// The paired comparisons of a board as a table: differences from the baseline on the same samples.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "analysis/board/columns.hpp"
#include "analysis/compare/compare.hpp"
#include "analysis/write/numbers.hpp"
#include "analysis/write/table.hpp"

namespace ptq::report {

inline std::string p_text(double p) { return p < 0.001 ? "<0.001" : fmt::format("{:.3f}", p); }

// "+3.1 % (+2.7 .. +3.5)" of a perplexity, "-1.20 (-2.1 .. -0.3)" points of a share.
inline std::string difference_text(const Comparison& c) {
  if (c.n == 0) return c.problem.empty() ? "-" : c.problem;
  const auto value = [&](double delta) {
    return c.answers ? 100 * delta : 100 * (std::exp(delta) - 1);
  };
  std::string text = signed_text(value(c.delta)) + (c.answers ? " pts" : " %");
  if (c.interval.known()) {
    text += " (" + signed_text(value(c.interval.low)) + " .. " +
            signed_text(value(c.interval.high)) + ")";
  }
  return text;
}

// One row per cell that was compared, in the order of the board. `reference`: the method that the
// others are compared with; empty: the baseline.
inline Table statistics_table(const Board& board, const BoardStatistics& statistics,
                              const std::string& reference = {}) {
  Table table;
  const auto other = std::find_if(board.rows.begin(), board.rows.end(), [&](const Row& row) {
    return !reference.empty() && row.method == reference;
  });
  for (const Evaluation& evaluation : board.evaluations) {
    const Cell* with = other == board.rows.end() ? nullptr : other->cell(evaluation.name);
    for (const Row& row : board.rows) {
      const Cell* cell = row.cell(evaluation.name);
      const Comparison* c = !cell               ? nullptr
                            : reference.empty() ? statistics.of(cell)
                                                : statistics.pair(cell, with);
      if (!c) continue;
      const auto figure = [&](std::initializer_list<const char*> path, auto write) {
        const auto value = cell->number(path);
        return value ? write(*value) : std::string("-");
      };
      table.rows.push_back(
          {row.method + (baseline_fails(*cell) ? kFailsMark : ""), evaluation.name,
           std::to_string(c->n), difference_text(*c),
           c->answers ? p_text(c->p.exact) + " / " + p_text(c->p.mid) : p_text(c->p_value),
           p_text(c->p_holm), verdict_text(*c),
           c->answers ? fmt::format("{} lost, {} gained", c->counts.lost, c->counts.gained) : "-",
           figure({"kl_mean"}, divergence_text), exposure_text(*cell),
           std::to_string(statistics.rank(cell))});
    }
  }
  if (!table.rows.empty()) {
    table.head = {"Method",  "Evaluation", "n",  "Difference (95 %)", "p",   "p (Holm)",
                  "Verdict", "Flips",      "KL", "Exposure",          "Rank"};
  }
  return table;
}

}  // namespace ptq::report
