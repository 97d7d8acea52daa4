// Orders the cells of one experiment and model into a board: one row per method, the baseline
// first, then by quality.
#pragma once

#include <algorithm>
#include <iterator>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "analysis/read/records.hpp"

namespace ptq::report {

struct Evaluation {
  std::string name, kind;
  Headline headline;    // of a cell that was measured, if there is one
  size_t position = 0;  // in the experiment
  bool asked = true;    // false: the experiment no longer asks for it
};

// "PPL" of "perplexity of long documents": a title as tables have room for it.
inline std::string short_title(const Headline& headline) {
  constexpr std::string_view kLong = "perplexity";
  std::string title = headline.title.substr(0, headline.title.find(" of "));
  if (const size_t at = title.find(kLong); at != title.npos) title.replace(at, kLong.size(), "PPL");
  return title;
}

// The name without what the column's title says anyway: "ppl-disjoint" is "disjoint" under PPL,
// "passkey" nothing under "passkeys found".
inline std::string short_name(const Evaluation& evaluation) {
  const std::string& name = evaluation.name;
  std::string title = short_title(evaluation.headline);
  for (char& c : title) c = c >= 'A' && c <= 'Z' ? char(c + 32) : c;
  const size_t dash = name.find('-');
  if (title.find(name.substr(0, dash)) == title.npos) return name;
  return dash == name.npos ? std::string() : name.substr(dash + 1);
}

// Seconds of the method alone, in the engine, where the record has them; the time of a whole cell
// also holds the full-precision reference that runs beside it.
inline double own_seconds(const Cell& cell) {
  const auto own = cell.number({"seconds"});
  return own && *own > 0 ? *own : cell.seconds;
}

struct Row {
  std::string method;
  bool lossless = false;  // every cell that was measured is of full precision
  bool asked = true;      // false: the experiment no longer asks for this method or model
  std::map<std::string, const Cell*> cells;  // by name of the evaluation

  const Cell* cell(const std::string& evaluation) const {
    const auto found = cells.find(evaluation);
    return found == cells.end() ? nullptr : found->second;
  }
  bool any(bool (Cell::*property)() const) const {
    return std::any_of(cells.begin(), cells.end(), [&](const auto& entry) {
      return entry.second->ok() && (entry.second->*property)();
    });
  }
  double seconds() const {
    double sum = 0;
    for (const auto& [name, cell] : cells) sum += own_seconds(*cell);
    return sum;
  }
};

struct Board {
  std::string experiment, model;
  int64_t parameters = 0;
  std::vector<Evaluation> evaluations;  // shares last; else in the order of the experiment
  std::vector<Row> rows;
  // What differences refer to: the experiment's baseline, or the first full-precision row where it
  // names none. Empty: neither.
  std::string baseline_name;
  std::vector<const Cell*> outdated;  // not what the experiment asks for under this name now
  std::vector<const Cell*> left_out;  // failures that nobody asks for any more: in no table

  const Row* baseline() const {
    return !rows.empty() && !baseline_name.empty() && rows.front().method == baseline_name
               ? &rows.front()
               : nullptr;
  }
  // The baseline's cell of an evaluation, also before the rows are in order.
  const Cell* baseline_cell(const std::string& evaluation) const {
    const auto found = std::find_if(rows.begin(), rows.end(), [&](const Row& row) {
      return baseline_name.empty() ? row.lossless : row.method == baseline_name;
    });
    return found != rows.end() ? found->cell(evaluation) : nullptr;
  }
  // What comparisons are with, in words.
  std::string reference() const {
    return baseline() ? baseline_name : baseline_name.empty() ? "full precision" : baseline_name;
  }
};

// The figure that ranks. Nothing for a missing cell or one without a result.
inline std::optional<double> figure_of(const Cell* cell) {
  return cell ? cell->figure() : std::nullopt;
}

// What the figure of a cell may be compared with: the baseline's, but full precision's on the same
// samples where the cell was decided early and has only the first of them.
inline std::optional<double> base_figure(const Board& board, const Cell& cell) {
  if (cell.decided_early() && !cell.headline.share) {
    if (const auto same = cell.number({(cell.headline.key + "_reference").c_str()})) return same;
  }
  return figure_of(board.baseline_cell(cell.evaluation));
}

// The figure that may stand beside those of other cells: of one that was decided early, the
// baseline's times the ratio on the samples that it has.
inline std::optional<double> comparable_figure(const Board& board, const Cell* cell) {
  const auto own = figure_of(cell);
  if (!own || !cell->decided_early() || cell->headline.share) return own;
  const auto base = base_figure(board, *cell),
             whole = figure_of(board.baseline_cell(cell->evaluation));
  return base && whole ? *own / *base * *whole : *own;
}

// Smaller is better; a cell without a figure is behind every other.
inline double rank_key(const Board& board, const Row& row, const Evaluation& evaluation) {
  const double worst = std::numeric_limits<double>::infinity();
  const double value = comparable_figure(board, row.cell(evaluation.name)).value_or(worst);
  return evaluation.headline.higher && value != worst ? -value : value;
}

// Better first, by the first evaluation in which they differ.
inline bool better(const Board& board, const Row& a, const Row& b) {
  const bool first = a.method == board.baseline_name;
  if (first != (b.method == board.baseline_name)) return first;
  if (board.baseline_name.empty() && a.lossless != b.lossless) return a.lossless;
  for (const Evaluation& evaluation : board.evaluations) {
    const double key_a = rank_key(board, a, evaluation), key_b = rank_key(board, b, evaluation);
    if (key_a != key_b) return key_a < key_b;
  }
  return a.method < b.method;
}

// Whether the experiment asks for a cell: by its names, and by the id that its settings make.
struct Wish {
  const Asked* experiment = nullptr;  // nullptr: nothing is known, everything counts as asked for
  bool method = true, evaluation = true, id = true;
  size_t position = 0;  // of the evaluation; behind all where it is not asked for
};

inline Wish wish_for(const Cell& cell, const std::vector<Asked>& asked) {
  for (const Asked& a : asked) {
    if (a.name != cell.experiment) continue;
    const auto at = std::find(a.evaluations.begin(), a.evaluations.end(), cell.evaluation);
    return {&a, a.methods.contains(cell.method) && a.models.contains(cell.model),
            at != a.evaluations.end(), a.cells.empty() || a.cells.contains(cell.id),
            size_t(at - a.evaluations.begin())};
  }
  return {};
}

// Puts the rows of a board in order, the baseline first.
inline void order_rows(Board& board) {
  for (Row& row : board.rows) {
    const auto measured = [](const auto& entry) { return entry.second->status != "failed"; };
    row.lossless = std::any_of(row.cells.begin(), row.cells.end(), measured) &&
                   std::all_of(row.cells.begin(), row.cells.end(), [&](const auto& entry) {
                     return !measured(entry) || entry.second->lossless;
                   });
  }
  std::sort(board.evaluations.begin(), board.evaluations.end(),
            [](const Evaluation& a, const Evaluation& b) {
              return std::tie(a.headline.share, a.position, a.headline.title, a.name) <
                     std::tie(b.headline.share, b.position, b.headline.title, b.name);
            });
  std::sort(board.rows.begin(), board.rows.end(),
            [&](const Row& a, const Row& b) { return better(board, a, b); });
  if (board.baseline_name.empty() && !board.rows.empty() && board.rows.front().lossless)
    board.baseline_name = board.rows.front().method;
}

// One board per experiment and model, in order of their names. The boards point into `cells`.
inline std::vector<Board> make_boards(const std::vector<Cell>& cells,
                                      const std::vector<Asked>& asked = {}) {
  std::map<std::pair<std::string, std::string>, Board> boards;
  std::set<std::pair<const Board*, std::string>> measured;  // evaluations
  for (const Cell& cell : cells) {
    Board& board = boards[{cell.experiment, cell.model}];
    board.experiment = cell.experiment;
    board.model = cell.model;
    board.parameters = std::max(board.parameters, cell.parameters);
    const Wish wish = wish_for(cell, asked);
    if (wish.experiment) board.baseline_name = wish.experiment->baseline;
    if (!wish.method || !wish.evaluation || !wish.id) {
      if (cell.status == "failed") {
        board.left_out.push_back(&cell);
        continue;
      }
      if (wish.method && wish.evaluation) board.outdated.push_back(&cell);
    }
    auto& list = board.evaluations;
    auto evaluation = std::find_if(list.begin(), list.end(), [&](const Evaluation& known) {
      return known.name == cell.evaluation;
    });
    if (evaluation == list.end()) {
      list.push_back({cell.evaluation, cell.kind, cell.headline, wish.position, wish.evaluation});
      evaluation = std::prev(list.end());
    }
    // A cell that failed does not say what it is judged by.
    if (cell.ok() && measured.insert({&board, cell.evaluation}).second)
      evaluation->headline = cell.headline;
    auto row = std::find_if(board.rows.begin(), board.rows.end(),
                            [&](const Row& r) { return r.method == cell.method; });
    if (row == board.rows.end()) {
      board.rows.push_back({cell.method, false, wish.method, {}});
      row = std::prev(board.rows.end());
    }
    row->cells[cell.evaluation] = &cell;
  }
  std::vector<Board> out;
  for (auto& [key, board] : boards) {
    order_rows(board);
    if (!board.rows.empty()) out.push_back(std::move(board));
  }
  return out;
}

}  // namespace ptq::report
