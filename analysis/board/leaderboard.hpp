// Orders the cells of one experiment and model into a board: one row per method, the baseline
// first, then by quality.
#pragma once

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "analysis/read/records.hpp"

namespace ptq::report {

struct Evaluation {
  std::string name, kind;  // kind: "perplexity", "choices", "passkey", "retrieval", "generation"
  bool asked = true;       // false: the experiment no longer asks for it

  // Counts right answers; the other kinds measure a perplexity.
  bool is_share() const {
    return kind != "perplexity" && kind != "cached-decode" && kind != "generation";
  }
};

// The name without what the column's title says anyway: "ppl-disjoint" is "disjoint" under PPL,
// "passkey-study" is "study" under Passkey, and an evaluation that is called like its kind needs no
// name.
inline std::string short_name(const Evaluation& evaluation) {
  if (evaluation.name == evaluation.kind) return {};
  const std::string prefix = (evaluation.kind == "perplexity" ? "ppl" : evaluation.kind) + "-";
  return evaluation.name.substr(evaluation.name.starts_with(prefix) ? prefix.size() : 0);
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
  std::vector<Evaluation> evaluations;  // perplexities, then retrieval, then generation
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
  // What comparisons are with, in words.
  std::string reference() const {
    return baseline() ? baseline_name : baseline_name.empty() ? "full precision" : baseline_name;
  }
};

inline int kind_order(std::string_view kind) {
  constexpr std::string_view kOrder[] = {"perplexity", "cached-decode", "choices",
                                         "passkey",    "retrieval",     "generation"};
  return int(std::find(std::begin(kOrder), std::end(kOrder), kind) - std::begin(kOrder));
}

// The share of right answers of a cell of any kind that counts them. Multiple choice: the metric
// that the record names as primary, else the one that divides by length, else the plain one.
inline std::optional<double> share_of(const Cell& cell) {
  const Json primary = cell.metrics.value("primary", Json());
  if (primary.is_string()) {
    if (const auto value = cell.number({primary.get<std::string>().c_str()})) return value;
  }
  const bool by_length = cell.evaluation == "hellaswag" || cell.evaluation == "arc_challenge" ||
                         cell.evaluation == "openbookqa";
  if (by_length) {
    if (const auto value = cell.number({"acc_norm,none"})) return value;
  }
  for (const char* key : {"accuracy", "acc,none", "acc", "exact", "exact_match,strict-match",
                          "exact_match,none", "partial"}) {
    if (const auto value = cell.number({key})) return value;
  }
  return {};
}

// Infinity where the loss was measured but its exponential is beyond a double: records write null.
inline std::optional<double> perplexity_of(const Cell& cell, const char* key) {
  const auto ppl = cell.number({key}), nll = cell.number({"nll"});
  const bool too_large =
      !ppl && cell.metrics.contains(key) && nll && !std::isfinite(std::exp(*nll));
  return too_large ? std::numeric_limits<double>::infinity() : ppl;
}

// The one figure of an evaluation that ranks: perplexity, or the share of answers. Nothing for a
// missing cell or one without a result.
inline std::optional<double> headline(const Cell* cell) {
  if (!cell || !cell->ok()) return {};
  if (cell->kind == "perplexity" || cell->kind == "cached-decode")
    return perplexity_of(*cell, "ppl");
  if (cell->kind == "generation") return perplexity_of(*cell, "ppl_pooled");
  return share_of(*cell);
}

// Smaller is better; a cell without a figure is behind every other.
inline double rank_key(const Row& row, const Evaluation& evaluation) {
  const double worst = std::numeric_limits<double>::infinity();
  const double value = headline(row.cell(evaluation.name)).value_or(worst);
  return evaluation.is_share() && value != worst ? -value : value;
}

// Better first, by the first evaluation in which they differ.
inline bool better(const Board& board, const Row& a, const Row& b) {
  const bool first = a.method == board.baseline_name;
  if (first != (b.method == board.baseline_name)) return first;
  if (board.baseline_name.empty() && a.lossless != b.lossless) return a.lossless;
  for (const Evaluation& evaluation : board.evaluations) {
    const double key_a = rank_key(a, evaluation), key_b = rank_key(b, evaluation);
    if (key_a != key_b) return key_a < key_b;
  }
  return a.method < b.method;
}

// Whether the experiment asks for a cell: by its names, and by the id that its settings make.
struct Wish {
  const Asked* experiment = nullptr;  // nullptr: nothing is known, everything counts as asked for
  bool method = true, evaluation = true, id = true;
};

inline Wish wish_for(const Cell& cell, const std::vector<Asked>& asked) {
  for (const Asked& a : asked)
    if (a.name == cell.experiment)
      return {&a, a.methods.contains(cell.method) && a.models.contains(cell.model),
              a.evaluations.contains(cell.evaluation),
              a.cells.empty() || a.cells.contains(cell.id)};
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
              return std::make_tuple(kind_order(a.kind), a.name) <
                     std::make_tuple(kind_order(b.kind), b.name);
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
    if (std::none_of(list.begin(), list.end(),
                     [&](const Evaluation& e) { return e.name == cell.evaluation; })) {
      list.push_back({cell.evaluation, cell.kind, wish.evaluation});
    }
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
