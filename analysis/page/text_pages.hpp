// The whole report of a results folder as text: terminal, Markdown, CSV or JSON.
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <string>
#include <vector>

#include "analysis/board/columns.hpp"
#include "analysis/board/leaderboard.hpp"
#include "analysis/board/notes.hpp"
#include "analysis/read/records.hpp"
#include "analysis/write/table.hpp"

namespace ptq::report {

enum class Format { terminal, markdown, csv, json };

// How the terminal looks like: box characters for people, and its width (0 = no limit).
struct Screen {
  bool box = false;
  size_t columns = 0;
};

inline std::string title_of(const Board& board) {
  std::string title = board.model;
  if (board.parameters > 0) title += " (" + count_text(board.parameters) + " parameters)";
  return board.experiment.empty() ? title : board.experiment + ": " + title;
}

inline std::string damaged_text(const Damaged& damaged) {
  return damaged.file + ": left out, this is no readable record: " + damaged.reason;
}

inline std::string list_text(const std::string& title, const std::vector<std::string>& lines,
                             bool markdown) {
  if (lines.empty()) return {};
  std::string out = "\n" + title + ":\n" + (markdown ? "\n" : "");
  for (const std::string& line : lines) {
    out += markdown ? "- " + markdown_text(line) + "\n" : "  " + line + "\n";
  }
  return out;
}

// Terminal and Markdown have the same parts in the same order.
inline std::string to_page(const Results& results, bool markdown, const Screen& screen) {
  const auto table_text = [&](const Table& table) {
    return markdown ? to_markdown(table) : to_terminal(table, screen.box, screen.columns);
  };
  const auto heading = [&](const std::string& title, const char* level) {
    return (markdown ? std::string(level) + " " + markdown_text(title) : title) + "\n\n";
  };
  std::string out;
  for (const Board& board : make_boards(results.cells, results.asked)) {
    if (!out.empty()) out += "\n";
    out += heading(title_of(board), "##") + table_text(leaderboard(board));
    const std::vector<std::string> provenance = provenance_of(board);
    if (!provenance.empty()) out += "\n";
    for (const std::string& line : provenance)
      out += markdown ? "- " + markdown_text(line) + "\n" : "  " + line + "\n";
    for (const Evaluation& evaluation : board.evaluations) {
      const std::string what = markdown ? ", with 95 % intervals (Clopper-Pearson)" : "";
      const auto part = [&](const std::string& title, const Table& table) {
        if (table.rows.empty()) return;
        out += "\n" + heading(title + ", " + evaluation.name + what, "###") + table_text(table);
      };
      part("Answers by depth of the key", depth_table(board, evaluation.name, markdown));
      part("Answers against bytes", bytes_table(board, evaluation, markdown));
    }
    out += list_text("Notes", notes_of(board), markdown);
    out += list_text("In one line each", sentences_of(board), markdown);
  }
  std::vector<std::string> damaged;
  for (const Damaged& file : results.damaged) damaged.push_back(damaged_text(file));
  return out + list_text("Damaged records", damaged, markdown);
}

// One tidy long table: a line per number, so that a spreadsheet or pandas can pivot it.
inline void add_numbers(const std::string& prefix, const std::string& path, const Json& value,
                        std::string& out) {
  if (value.is_number()) {
    out += prefix + csv_field(path) + "," + value.dump() + "\n";
  } else if (value.is_object()) {
    for (const auto& [key, child] : value.items()) {
      add_numbers(prefix, path.empty() ? key : path + "." + key, child, out);
    }
  } else if (value.is_array()) {
    for (size_t i = 0; i < value.size(); ++i) {
      add_numbers(prefix, path + "." + std::to_string(i), value[i], out);
    }
  }
}

// The columns before `metric,value`.
inline std::string csv_prefix(const Cell& cell) {
  std::string prefix;
  for (const std::string* field :
       {&cell.experiment, &cell.model, &cell.method, &cell.evaluation, &cell.kind}) {
    prefix += csv_field(*field) + ",";
  }
  return prefix + cell.status + ",";
}

inline std::string to_csv(const Results& results) {
  std::string out = "experiment,model,method,evaluation,kind,status,metric,value\n";
  for (const Cell& cell : results.cells) {
    const std::string prefix = csv_prefix(cell);
    add_numbers(prefix, "", cell.metrics, out);
    out += prefix + "seconds," + Json(cell.seconds).dump() + "\n";
  }
  return out;
}

inline Json to_json_value(const Results& results) {
  Json out;
  out["schema_version"] = 1;
  out["boards"] = Json::array();
  for (const Board& board : make_boards(results.cells, results.asked)) {
    Json rows = Json::array();
    for (const Row& row : board.rows) {
      Json evaluations = Json::object();
      for (const Evaluation& evaluation : board.evaluations) {
        const Cell* cell = row.cell(evaluation.name);
        if (!cell) continue;
        evaluations[evaluation.name] = {{"kind", cell->kind},       {"status", cell->status},
                                        {"error", cell->error},     {"metrics", cell->metrics},
                                        {"seconds", cell->seconds}, {"settings", cell->settings}};
      }
      rows.push_back({{"method", row.method},
                      {"lossless", row.lossless},
                      {"asked_for", row.asked},
                      {"evaluations", std::move(evaluations)}});
    }
    out["boards"].push_back({{"experiment", board.experiment},
                             {"model", board.model},
                             {"parameters", board.parameters},
                             {"baseline", board.baseline() ? Json(board.baseline_name) : Json()},
                             {"computed_with", provenance_of(board)},
                             {"rows", std::move(rows)},
                             {"notes", notes_of(board)},
                             {"sentences", sentences_of(board)}});
  }
  out["damaged"] = Json::array();
  for (const Damaged& file : results.damaged) {
    out["damaged"].push_back({{"file", file.file}, {"reason", file.reason}});
  }
  return out;
}

inline std::string to_json(const Results& results) {
  return json_text(to_json_value(results), 2) + "\n";
}

inline std::string render(const Results& results, Format format, const Screen& screen = {}) {
  switch (format) {
    case Format::terminal: return to_page(results, false, screen);
    case Format::markdown: return to_page(results, true, screen);
    case Format::csv: return with_byte_order_mark(to_csv(results));
    case Format::json: return to_json(results);
  }
  return {};
}

}  // namespace ptq::report
