// Everything about one folder of results: what all of its pages are written from.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "analysis/compare/compare.hpp"
#include "analysis/decide/standing.hpp"
#include "analysis/figures/gnuplot.hpp"
#include "analysis/pruning/pruning.hpp"
#include "analysis/read/records.hpp"
#include "analysis/write/document.hpp"
#include "analysis/write/language.hpp"

namespace ptq::report {

struct Report {
  Results results;
  Language language = Language::en;         // of the pages
  std::vector<Board> boards;                // point into the results
  std::vector<BoardStatistics> statistics;  // of each board
  std::vector<Decision> decisions;          // of each experiment; point into both

  // Filled in by complete():
  std::string name;                                // of the folder
  std::vector<std::vector<Figure>> first_figures;  // of each decision, drawn
  std::vector<std::vector<Figure>> figures;        // of each board, drawn
  std::vector<PruningModel> pruning;               // where the folder holds a pruning study
  std::vector<Figure> pruning_plots;
  std::string plot_problem;  // why there are no plots; one line
};

// Reads the samples and compares.
Report make_report(Results results, Language language = Language::en);

// Draws, and reads a pruning study beside the records.
void complete(Report& report, const std::filesystem::path& folder);

enum class Format { terminal, markdown, csv, json };
std::string render(const Report& report, Format format, const Screen& screen = {});
std::string html_page(const Report& report);  // of a complete report

// Writes report.html, report.md, results.csv, results.json and plots/ into the folder. Returns the
// names of the pages that are there; `problems` names each file that could not be written.
std::vector<std::string> write_report(const Report& report, const std::filesystem::path& folder,
                                      std::vector<std::string>& problems);

}  // namespace ptq::report
