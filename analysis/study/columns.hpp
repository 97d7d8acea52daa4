// Which run feeds which column of a leaderboard: read from a small TOML file, or made from the runs
// alone (the newest run of each method that has the figure).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "analysis/study/study.hpp"

namespace ptq::report {

struct Layout {
  struct Row {
    std::string label;  // Markdown, as it stands in the table
    // Ids of runs: `run` for every column that has no run of its own. Empty: a row without results.
    std::string run, ppl, tasks, passkey, generation, vram;
  };
  struct Column {
    std::string key, head;
  };
  struct Task {
    std::string task, name, head, metric;  // head: the metric that the heading names
  };
  struct Board {
    std::string track, title, model;
    std::vector<Column> ppl;
    std::vector<Row> rows;  // the baseline first
    std::vector<Task> tasks, fields;
  };
  struct Environment {
    std::string name, path, suffix, only;
    std::map<std::string, std::string> stated;  // by track
  };
  std::map<std::string, std::string> names;
  std::string later;  // the model that later published passkey results belong to
  std::vector<Board> boards;
  std::vector<Environment> environment;
  bool written = false;  // read from a file, not made from the runs

  std::string name(const std::string& key) const {
    const auto found = names.find(key);
    return found == names.end() ? key : found->second;
  }
};

// Throws a usage error with the line of the mistake.
Layout parse_layout(const std::string& text, const std::string& where);

// The layout of the study's documents, which is part of the program.
const std::string& study_layout_text();

// From the runs alone.
Layout automatic_layout(const std::vector<Run>& runs);

// A layout file if one is given; the study's if all its runs are there; otherwise the automatic
// one.
Layout choose_layout(const std::vector<Run>& runs, const std::string& file);

}  // namespace ptq::report
