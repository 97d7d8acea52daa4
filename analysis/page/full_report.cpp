#include "analysis/page/full_report.hpp"

#include <fmt/format.h>

#include "analysis/compare/statistics_table.hpp"
#include "analysis/figures/plots.hpp"
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

void add_comparison_lines(const Comparison& c, const std::string& prefix, std::string& out) {
  const auto add = [&](const char* name, double value) {
    if (std::isfinite(value))
      out += prefix + "comparison." + name + "," + Json(value).dump() + "\n";
  };
  add("n", double(c.n));
  add(c.answers ? "delta_accuracy" : "delta_nll", c.delta);
  add("standard_error", c.standard_error);
  add("low95", c.interval.low);
  add("high95", c.interval.high);
  add("p", c.p_value);
  add("p_holm", c.p_holm);
  if (!c.answers) return;
  add("mcnemar_exact", c.p.exact);
  add("lost", double(c.counts.lost));
  add("gained", double(c.counts.gained));
  add("flips", c.counts.flips());
}

Json comparison_json(const Comparison& c) {
  Json json = {{"n", c.n},
               {"unpaired", c.unpaired},
               {"measure", c.answers ? "accuracy" : "nll"},
               {"in_lock_step", c.in_lock_step}};
  put_number(json, "delta", c.delta);
  put_number(json, "standard_error", c.standard_error, "one sample has no spread");
  put_number(json, "low95", c.interval.low, "too few samples");
  put_number(json, "high95", c.interval.high, "too few samples");
  json["p"] = c.p_value;
  json["p_holm"] = c.p_holm;
  if (c.answers) {
    json["mcnemar"] = {{"exact", c.p.exact}, {"mid", c.p.mid}};
    json["lost"] = c.counts.lost;
    json["gained"] = c.counts.gained;
    json["flips"] = c.counts.flips();
  }
  if (!c.problem.empty()) json["problem"] = c.problem;
  return json;
}

}  // namespace

FullReport full_report(const fs::path& folder, Results results) {
  FullReport report;
  report.name = fs::absolute(folder).lexically_normal().filename().string();
  if (report.name.empty()) {
    report.name = fs::absolute(folder).lexically_normal().parent_path().filename().string();
  }
  report.results = std::move(results);
  report.boards = make_boards(report.results.cells, report.results.asked);
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
  return report;
}

std::string markdown_page(const FullReport& report) {
  std::string out = to_page(report.results, true, {});
  for (size_t b = 0; b < report.boards.size(); ++b) {
    const Table table = statistics_table(report.boards[b], report.statistics[b]);
    if (!table.rows.empty()) {
      out += "\n### " + markdown_text(title_of(report.boards[b])) + ": against " +
             markdown_text(report.boards[b].reference()) + ", on the same samples\n\n" +
             to_markdown(table);
    }
    for (const Figure& figure : report.figures[b]) {
      if (!figure.svg.empty()) {
        out += "\n![" + markdown_text(figure.title) + "](plots/" + figure.name + ".svg)\n\n" +
               figure.caption + "\n";
      }
    }
  }
  if (!report.pruning.empty()) out += "\n" + pruning_page(report.pruning, Language::en);
  if (!report.plot_problem.empty()) out += "\n" + report.plot_problem + "\n";
  return out;
}

std::string csv_page(const FullReport& report) {
  std::string out = to_csv(report.results);
  for (size_t b = 0; b < report.boards.size(); ++b) {
    for (const auto& [cell, comparison] : report.statistics[b].comparisons) {
      add_comparison_lines(comparison, csv_prefix(*cell), out);
    }
  }
  return with_byte_order_mark(out);
}

std::string json_page(const FullReport& report) {
  Json json = to_json_value(report.results);
  json["comparisons"] = Json::array();
  for (size_t b = 0; b < report.boards.size(); ++b) {
    for (const Row& row : report.boards[b].rows) {
      for (const auto& [evaluation, cell] : row.cells) {
        const Comparison* comparison = report.statistics[b].of(cell);
        if (!comparison) continue;
        Json entry = {{"experiment", cell->experiment},
                      {"model", cell->model},
                      {"method", cell->method},
                      {"evaluation", evaluation},
                      {"against", report.boards[b].reference()},
                      {"rank", report.statistics[b].rank(cell)}};
        entry.update(comparison_json(*comparison));
        json["comparisons"].push_back(std::move(entry));
      }
    }
  }
  if (!report.pruning.empty())
    json["cross_model_comparison"] = cross_model_comparison(report.pruning);
  json["notes"] = report.results.notes;
  if (!report.plot_problem.empty()) json["plots"] = report.plot_problem;
  return json_text(json, 2) + "\n";
}

std::vector<std::string> write_report(const FullReport& report, const fs::path& folder,
                                      std::vector<std::string>& problems) {
  using PageOf = std::string (*)(const FullReport&);
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
                                                             {"report.md", markdown_page},
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
