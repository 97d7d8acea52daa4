// A board as tables: the leaderboard and the passkey counts by depth.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "analysis/board/leaderboard.hpp"
#include "analysis/board/notes.hpp"
#include "analysis/write/numbers.hpp"
#include "analysis/write/table.hpp"
#include "ptq/core/binomial.hpp"

namespace ptq::report {

// "-" = no such cell or figure; otherwise the figure, or the status of a cell without one.
template <class Write>
std::string cell_text(const Row& row, const std::string& evaluation, Write write) {
  const Cell* cell = row.cell(evaluation);
  if (!cell) return "-";
  return cell->ok() ? write(*cell) : status_text(*cell);
}

// "12.310 (+3.1 %)", "19/20 (95 %)"
inline std::string headline_text(const Board& board, const Row& row, const Cell& cell) {
  const auto value = cell.figure();
  if (!value) return "-";
  if (cell.headline.share) {
    const auto correct = cell.number({"correct"}), total = cell.number({"total"});
    const std::string mark = baseline_fails(cell) ? kFailsMark : "";
    if (!correct || !total) return share_text(*value) + mark;
    return fmt::format("{:.0f}/{:.0f} ({:.0f} %)", *correct, *total, 100 * *value) + mark;
  }
  const auto base = board.baseline() ? base_figure(board, cell) : std::nullopt;
  std::string text = figure_text(*value);
  if (base && row.method != board.baseline()->method)
    if (const std::string change = change_text(*value, *base); !change.empty())
      text += " (" + change + ")";
  if (cell.decided_early())
    text += fmt::format(" after {:.0f}/{:.0f}", *cell.number({"decided", "used"}),
                        *cell.number({"decided", "of"}));
  return text;
}

// "PPL wiki ↓", "Passkey study ↑": k/n says that a figure is a share, so its name is enough.
inline std::string head_of(const Evaluation& evaluation) {
  std::string head = evaluation.name;
  std::replace(head.begin(), head.end(), '-', ' ');
  if (!evaluation.headline.share) {
    const std::string name = short_name(evaluation);
    head = short_title(evaluation.headline) + (name.empty() ? "" : " " + name);
  }
  if (!evaluation.headline.title.empty() && head[0] >= 'a' && head[0] <= 'z')
    head[0] = char(head[0] - 32);
  return head + (evaluation.headline.higher ? " ↑" : " ↓") + (evaluation.asked ? "" : kNotAsked);
}

// The exposures of a row's cells: "0.97", or "0.62-0.97" where they differ.
inline std::string exposures_text(const Row& row) {
  double low = 2, high = -1;
  for (const auto& [name, cell] : row.cells) {
    const auto exposure = cell->ok() ? exposure_of(*cell) : std::nullopt;
    if (!exposure) continue;
    low = std::min(low, *exposure);
    high = std::max(high, *exposure);
  }
  if (high < 0) return "-";
  const std::string from = fmt::format("{:.2f}", low), to = fmt::format("{:.2f}", high);
  return from == to ? from : from + "-" + to;
}

// Adds a column; write(row) gives its text.
template <class Write>
void add_column(const Board& board, Table& table, const std::string& head, Write write) {
  table.head.push_back(head);
  for (size_t r = 0; r < board.rows.size(); ++r) table.rows[r].push_back(write(board.rows[r]));
}

// A column of the row's first figure at `path`; left out when no row has one.
template <class Format>
void add_figure(const Board& board, Table& table, const std::string& head,
                std::initializer_list<const char*> path, Format format) {
  const auto figure = [&](const Row& row) { return first_number(board, row, path); };
  if (std::none_of(board.rows.begin(), board.rows.end(), figure)) return;
  add_column(board, table, head, [&](const Row& row) {
    const auto number = figure(row);
    return number ? format(*number) : std::string("-");
  });
}

// The mean over a board's tasks, one number of each: the metric that its description ranks by. What
// several evaluations ask of one task counts once each.
struct TaskMean {
  double mean = 0, error = 0;  // standard error, of independent tasks: sqrt(sum of squares) / k
  int tasks = 0;
};
// Nothing for fewer than two tasks, or where the row lacks one.
inline std::optional<TaskMean> task_mean(const Board& board, const Row& row) {
  TaskMean out;
  double squares = 0;
  for (const Evaluation& evaluation : board.evaluations) {
    if (evaluation.kind != "choices" && evaluation.kind != "answers") continue;
    const Cell* cell = row.cell(evaluation.name);
    const auto share = figure_of(cell);
    const auto total = cell ? cell->number({"total"}) : std::nullopt;
    if (!share || !total || *total < 2) return {};
    const std::string primary = cell->metrics.value("primary", "");
    const auto known = cell->number({(primary + "_se").c_str()});  // pooled over subjects
    const double error = known.value_or(std::sqrt(*share * (1 - *share) / (*total - 1)));
    out.mean += *share;
    squares += error * error;
    ++out.tasks;
  }
  if (out.tasks < 2) return {};
  out.mean /= out.tasks;
  out.error = std::sqrt(squares) / out.tasks;
  return out;
}

inline Table leaderboard(const Board& board) {
  Table table;
  table.rows.resize(board.rows.size());
  add_column(board, table, "Method", [&](const Row& row) {
    return row.method + (&row == board.baseline() ? kBaseline : "") + (row.asked ? "" : kNotAsked);
  });
  const auto has = [&](const Evaluation& evaluation, const char* key) {
    return std::any_of(board.rows.begin(), board.rows.end(), [&](const Row& row) {
      const Cell* cell = row.cell(evaluation.name);
      return cell && cell->ok() && cell->number({key});
    });
  };
  for (const Evaluation& evaluation : board.evaluations) {
    const std::string& name = evaluation.name;
    add_column(board, table, head_of(evaluation), [&](const Row& row) {
      return cell_text(row, name, [&](const Cell& c) { return headline_text(board, row, c); });
    });
    const auto add = [&](const std::string& title, const char* key, auto format) {
      if (!has(evaluation, key)) return;
      add_column(board, table, title, [&](const Row& row) {
        return cell_text(row, name, [&](const Cell& c) {
          const auto number = c.number({key});
          return number ? format(*number) : std::string("-");
        });
      });
    };
    if (evaluation.headline.title != "perplexity") continue;
    add("KL ↓", "kl_mean", divergence_text);
    add("Top-1 ↑", "top1_agreement", share_text);
  }
  const auto any = [&](auto property) {
    return std::any_of(board.rows.begin(), board.rows.end(), property);
  };
  const auto mean_of = [&](const Row& row) { return task_mean(board, row); };
  if (any(mean_of)) {
    add_column(board, table, "Mean of tasks ↑", [&](const Row& row) {
      const auto mean = task_mean(board, row);
      return mean ? fmt::format("{:.4f} ± {:.4f}", mean->mean, mean->error) : std::string("-");
    });
  }
  if (any([](const Row& row) { return exposures_text(row) != "-"; })) {
    add_column(board, table, "Exposure", exposures_text);
  }
  add_figure(board, table, "KV B/token", {"cache", "bytes_per_token"}, thousands_text);
  const auto two_digits = [](double value) { return fmt::format("{:.2f}", value); };
  add_figure(board, table, "KV bits", {"cache", "effective_bits"}, two_digits);
  add_figure(board, table, "KV ratio", {"cache", "compression_ratio"},
             [](double value) { return fmt::format("{:.2f}x", value); });
  const auto encoded_share = [&](const Row& row) -> std::optional<double> {
    const auto encoded = first_number(board, row, {"weights", "encoded_scalars"}),
               dense = first_number(board, row, {"weights", "dense_scalars"});
    if (!encoded || !dense || !(*encoded + *dense > 0)) return {};
    return *encoded / (*encoded + *dense);
  };
  if (any([&](const Row& row) { return encoded_share(row).value_or(0) > 0; })) {
    add_column(board, table, "Weights encoded", [&](const Row& row) {
      const auto share = encoded_share(row);
      return share ? share_text(*share) : std::string("-");
    });
  }
  add_figure(board, table, "Weight bits", {"weights", "encoded_bits"}, two_digits);
  add_figure(board, table, "Layer error", {"weights", "layer_error_mean"},
             [](double value) { return fmt::format("{:.4f}", value); });
  add_figure(board, table, "Weight MiB", {"weights", "bytes"},
             [](double value) { return fmt::format("{:.2f}", value / (1 << 20)); });
  if (any([](const Row& row) { return row.seconds() > 0; }))
    add_column(board, table, "Time", [](const Row& row) { return seconds_text(row.seconds()); });
  return table;
}

inline std::string count_of(int64_t correct, int64_t total, bool intervals) {
  std::string text = fmt::format("{}/{}", correct, total);
  if (!intervals || total <= 0) return text;
  const auto [low, high] = clopper_pearson95(correct, total);
  return text + fmt::format(" ({:.0f}-{:.0f} %)", 100 * low, 100 * high);
}

// Passkey answers by depth of the key, k/n; with `intervals` the 95 % interval of each share.
// Without rows when no method has counts by depth.
inline Table depth_table(const Board& board, const std::string& evaluation, bool intervals) {
  std::set<double> depths;
  for (const Row& row : board.rows) {
    if (const Cell* cell = row.cell(evaluation)) {
      for (const DepthCount& count : cell->depths) depths.insert(count.depth);
    }
  }
  Table table;
  if (depths.empty()) return table;
  table.head = {"Method"};
  for (const double depth : depths)
    table.head.push_back(fmt::format("depth {:.3g} %", 100 * depth));
  table.head.push_back("total");
  for (const Row& row : board.rows) {
    const Cell* cell = row.cell(evaluation);
    if (!cell) continue;
    std::vector<std::string> texts = {row.method};
    const std::vector<DepthCount>& counts = cell->depths;
    int64_t correct = 0, total = 0;
    for (const double depth : depths) {
      const auto at = std::find_if(counts.begin(), counts.end(),
                                   [&](const DepthCount& c) { return c.depth == depth; });
      const bool fails = baseline_fails(*cell, "cells", [&](const Json& entry) {
        const Json value = entry.value("depth", Json());
        return value.is_number() && value.get<double>() == depth;
      });
      texts.push_back(at == counts.end() ? cell->ok() ? "-" : status_text(*cell)
                                         : count_of(at->correct, at->total, intervals) +
                                               (fails ? kFailsMark : ""));
      if (at == counts.end()) continue;
      correct += at->correct;
      total += at->total;
    }
    texts.push_back(counts.empty() ? "-" : count_of(correct, total, intervals));
    table.rows.push_back(std::move(texts));
  }
  return table;
}

// Bytes of the cache per token: the mean over the prompts where the evaluation has it.
inline std::optional<double> cache_bytes(const Cell& cell) {
  if (const auto mean = cell.number({"bytes_per_token"})) return mean;
  return cell.number({"cache", "bytes_per_token"});
}

// Right answers of an evaluation beside the bytes of the cache, smallest cache
// first, with a column for each task of the suite. "*" marks the front: no smaller cache has as
// many right answers. Without rows where all caches are of one size.
inline Table bytes_table(const Board& board, const Evaluation& evaluation, bool intervals) {
  struct Line {
    const Row* row;
    const Cell* cell;
    double bytes, share;
  };
  std::vector<Line> lines;
  std::vector<std::string> tasks;
  std::set<double> sizes;
  if (evaluation.headline.share)
    for (const Row& row : board.rows) {
      const Cell* cell = row.cell(evaluation.name);
      const auto share = figure_of(cell);
      const auto bytes = cell ? cache_bytes(*cell) : std::nullopt;
      if (!share || !bytes) continue;
      lines.push_back({&row, cell, *bytes, *share});
      sizes.insert(*bytes);
      for (const TaskCount& count : cell->tasks)
        if (std::find(tasks.begin(), tasks.end(), count.task) == tasks.end())
          tasks.push_back(count.task);
    }
  Table table;
  if (sizes.size() < 2) return table;
  std::stable_sort(lines.begin(), lines.end(), [](const Line& a, const Line& b) {
    return a.bytes != b.bytes ? a.bytes < b.bytes : a.share > b.share;
  });
  table.head = {"Method", "KV B/token"};
  table.head.insert(table.head.end(), tasks.begin(), tasks.end());
  table.head.insert(table.head.end(), {"total", "front"});
  double best = 0;
  for (const Line& line : lines) {
    std::vector<std::string> texts = {line.row->method, thousands_text(line.bytes)};
    for (const std::string& name : tasks) {
      const auto& counts = line.cell->tasks;
      const auto at = std::find_if(counts.begin(), counts.end(),
                                   [&](const TaskCount& c) { return c.task == name; });
      const bool fails = baseline_fails(*line.cell, "tasks", [&](const Json& entry) {
        const Json task = entry.value("task", Json());
        return task.is_string() && one_line(task.get<std::string>()) == name;
      });
      texts.push_back(at == counts.end()
                          ? "-"
                          : count_of(at->correct, at->total, false) + (fails ? kFailsMark : ""));
    }
    const auto correct = line.cell->number({"correct"}), total = line.cell->number({"total"});
    texts.push_back(correct && total ? count_of(int64_t(*correct), int64_t(*total), intervals)
                                     : share_text(line.share));
    if (baseline_fails(*line.cell)) texts.back() += kFailsMark;
    texts.push_back(line.share > best ? "*" : "");
    best = std::max(best, line.share);
    table.rows.push_back(std::move(texts));
  }
  return table;
}

}  // namespace ptq::report
