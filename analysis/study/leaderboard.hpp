// The study's leaderboards, computed again from its runs: a board is a layout joined with the runs.
#pragma once

#include <string>
#include <vector>

#include "analysis/study/columns.hpp"
#include "analysis/write/document.hpp"
#include "analysis/write/language.hpp"

namespace ptq::report {

// One row: the run behind every group of columns; null where there is none.
struct BoardRow {
  std::string label, method;
  const Run *ppl = nullptr, *tasks = nullptr, *passkey = nullptr, *generation = nullptr,
            *vram = nullptr;

  bool empty() const { return ppl == nullptr; }
  std::vector<const Run*> runs() const;  // each once, in the order of the columns
};

struct StudyBoard {
  const Layout::Board* layout = nullptr;
  std::vector<BoardRow> rows;

  const BoardRow* baseline() const {
    return rows.empty() || rows.front().empty() ? nullptr : &rows.front();
  }
};

// Throws when the layout names a run that is not there. The boards point into both arguments.
std::vector<StudyBoard> join(const Layout& layout, const std::vector<Run>& runs);

// What the document printed: the tables of all boards and the environments.
std::string compat_leaderboard(const Layout& layout, const std::vector<Run>& runs,
                               Language language);

// Our page of the same: joined rows marked, averages that count each task once, intervals, and what
// must not be believed.
Document study_leaderboard(const Layout& layout, const std::vector<Run>& runs, const Json& later,
                           Language language);

// What the study's page of one run leaves out: passkeys by depth with intervals, generation by
// sample, the average over tasks.
Document run_details(const Run& run, Language language);

// Figures of a row that several pages need.
std::string environment_value(const Run& run, const std::string& path);
// Mean over tasks of one primary metric each, and its error; the fields of MMLU are one task.
struct TaskAverage {
  double mean = 0, error = 0;
  int tasks = 0;
};
TaskAverage average_of_tasks(const Run& run);
std::vector<double> generation_ppls(const Run& run);

}  // namespace ptq::report
