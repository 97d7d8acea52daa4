#include "analysis/page/report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "analysis/figures/decision_figures.hpp"
#include "analysis/figures/figures.hpp"
#include "analysis/page/every_number.hpp"
#include "analysis/page/outline.hpp"
#include "ptq/core/atomic_file.hpp"

namespace ptq::report {
namespace {

namespace fs = std::filesystem;

// A pruning study lies as CSV beside the records or is made of them.
bool holds_pruning(const fs::path& folder, const Results& results) {
  for (const Cell& cell : results.cells) {
    if (cell.metrics.contains("pruning")) return true;
  }
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (is_pruning_csv(entry.path())) return true;
  }
  return false;
}

// The records among the damaged files are named already.
void read_pruning_beside(Report& report, const fs::path& folder) {
  std::vector<Damaged> damaged;
  try {
    report.pruning = read_pruning(folder, damaged);
  } catch (const Error&) {  // none of them can be read; each is named below
  }
  for (const Damaged& file : damaged) {
    const auto& known = report.results.damaged;
    const auto same = [&](const Damaged& other) { return other.file == file.file; };
    if (std::none_of(known.begin(), known.end(), same)) report.results.damaged.push_back(file);
  }
}

// visit(figures) for every list of figures of a report.
template <class AReport, class Visit>
void for_each_figures(AReport& report, Visit visit) {
  for (auto& figures : report.first_figures) visit(figures);
  for (auto& figures : report.figures) visit(figures);
  visit(report.pruning_plots);
}

// Draws all figures by one run of the program. Returns why some are missing.
std::string draw_all(Report& report) {
  std::vector<Figure> all;
  for_each_figures(report, [&](std::vector<Figure>& figures) {
    std::move(figures.begin(), figures.end(), std::back_inserter(all));
  });
  name_apart(all);
  std::string problem = draw(all);
  auto next = all.begin();
  for_each_figures(report, [&](std::vector<Figure>& figures) {
    for (Figure& figure : figures) figure = std::move(*next++);
  });
  return problem;
}

}  // namespace

Report make_report(Results results, Language language) {
  Report report;
  report.results = std::move(results);
  report.language = language;
  report.boards = make_boards(report.results.cells, report.results.asked);
  for (const Board& board : report.boards) {
    report.statistics.push_back(statistics_of(board));
    const std::vector<std::string>& problems = report.statistics.back().problems;
    report.results.notes.insert(report.results.notes.end(), problems.begin(), problems.end());
  }
  report.decisions = decisions_of(report.boards, report.statistics);
  return report;
}

void complete(Report& report, const fs::path& folder) {
  report.name = fs::absolute(folder).lexically_normal().filename().string();
  if (report.name.empty()) {
    report.name = fs::absolute(folder).lexically_normal().parent_path().filename().string();
  }
  if (holds_pruning(folder, report.results)) read_pruning_beside(report, folder);
  const SeriesStyles styles(report.boards);
  for (const Decision& decision : report.decisions)
    report.first_figures.push_back(decision_figures(decision, styles, report.language));
  for (const Board& board : report.boards)
    report.figures.push_back(
        figures_of(board, fmt::format("{}-{}", board.experiment, board.model), styles));
  report.pruning_plots = pruning_figures(report.pruning);
  report.plot_problem = draw_all(report);
}

std::string render(const Report& report, Format format, const Screen& screen) {
  switch (format) {
    case Format::terminal: return to_terminal(outline(report, Detail::screen), screen);
    case Format::markdown: return to_markdown(outline(report, Detail::file));
    case Format::csv: return csv_page(report);
    case Format::json: return json_page(report);
  }
  return {};
}

std::vector<std::string> write_report(const Report& report, const fs::path& folder,
                                      std::vector<std::string>& problems) {
  using PageOf = std::string (*)(const Report&);
  const auto markdown = [](const Report& r) { return render(r, Format::markdown); };
  require_writable_folder(folder);
  // A file that cannot be written costs itself only.
  const auto write = [&](const std::string& name, const std::string& text) {
    try {
      write_file_atomic(folder / name, text);
      return true;
    } catch (const Error& error) {
      problems.push_back(name + ": " + error.message());
      return false;
    }
  };
  std::vector<std::string> written;
  for (const auto& [name, page] :
       std::initializer_list<std::pair<const char*, PageOf>>{{"report.html", html_page},
                                                             {"report.md", markdown},
                                                             {"results.csv", csv_page},
                                                             {"results.json", json_page}}) {
    if (write(name, page(report))) written.push_back(name);
  }
  const auto write_figures = [&](const std::vector<Figure>& figures) {
    for (const Figure& figure : figures) {
      if (figure.svg.empty()) continue;
      std::error_code error;
      fs::create_directories(folder / "plots", error);  // without it the files below are named
      write("plots/" + figure.name + ".svg", figure.svg);
      // To draw it again or otherwise: `gnuplot NAME.gp`.
      write("plots/" + figure.name + ".gp", whole_script(figure, figure.name + ".svg"));
    }
  };
  for_each_figures(report, write_figures);
  return written;
}

}  // namespace ptq::report
