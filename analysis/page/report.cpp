#include "analysis/page/report.hpp"

#include <fmt/format.h>

#include <iterator>
#include <utility>

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
    if (cell.track == "pruning" && cell.metrics.contains("acc_mean")) return true;
  }
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (is_pruning_csv(entry.path())) return true;
  }
  return false;
}

}  // namespace

Report make_report(Results results) {
  Report report;
  report.results = std::move(results);
  report.boards = make_boards(report.results.cells, report.results.asked);
  return report;
}

void complete(Report& report, const fs::path& folder) {
  report.name = fs::absolute(folder).lexically_normal().filename().string();
  if (report.name.empty()) {
    report.name = fs::absolute(folder).lexically_normal().parent_path().filename().string();
  }
  const SeriesStyles styles(report.boards);
  std::vector<Figure> all;
  std::vector<size_t> counts;
  for (size_t b = 0; b < report.boards.size(); ++b) {
    report.statistics.push_back(statistics_of(report.boards[b]));
    const std::vector<std::string>& problems = report.statistics.back().problems;
    report.results.notes.insert(report.results.notes.end(), problems.begin(), problems.end());
    const std::string prefix =
        fmt::format("{}-{}", report.boards[b].experiment, report.boards[b].model);
    std::vector<Figure> figures = figures_of(report.boards[b], prefix, styles);
    counts.push_back(figures.size());
    std::move(figures.begin(), figures.end(), std::back_inserter(all));
  }
  if (holds_pruning(folder, report.results)) {
    // The records among the damaged files are named already.
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
    std::vector<Figure> figures = pruning_figures(report.pruning);
    std::move(figures.begin(), figures.end(), std::back_inserter(all));
  }
  name_apart(all);
  report.plot_problem = draw(all);
  auto next = all.begin();
  for (const size_t count : counts) {
    report.figures.emplace_back(std::make_move_iterator(next),
                                std::make_move_iterator(next + std::ptrdiff_t(count)));
    next += std::ptrdiff_t(count);
  }
  report.pruning_plots.assign(std::make_move_iterator(next), std::make_move_iterator(all.end()));
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
  for (const auto& figures : report.figures) write_figures(figures);
  write_figures(report.pruning_plots);
  return written;
}

}  // namespace ptq::report
