// Everything about one folder of results: what all the files of a report are written from.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "analysis/compare/compare.hpp"
#include "analysis/figures/gnuplot.hpp"
#include "analysis/page/text_pages.hpp"
#include "analysis/pruning/pruning.hpp"
#include "analysis/read/records.hpp"

namespace ptq::report {

struct FullReport {
  std::string name;  // of the folder
  Results results;
  std::vector<Board> boards;                 // point into the results
  std::vector<BoardStatistics> statistics;   // of each board
  std::vector<std::vector<Figure>> figures;  // of each board, drawn
  std::vector<PruningModel> pruning;         // where the folder holds a pruning study
  std::vector<Figure> pruning_plots;
  std::string plot_problem;  // why there are no plots; one line
};

// Reads the samples, compares and draws.
FullReport full_report(const std::filesystem::path& folder, Results results);

std::string html_page(const FullReport& report);
std::string markdown_page(const FullReport& report);  // plots as links to plots/NAME.svg
std::string csv_page(const FullReport& report);
std::string json_page(const FullReport& report);

// Writes report.html, report.md, results.csv, results.json and plots/ into the folder. Returns the
// names of the pages that are there; `problems` names each file that could not be written.
std::vector<std::string> write_report(const FullReport& report, const std::filesystem::path& folder,
                                      std::vector<std::string>& problems);

}  // namespace ptq::report
