// report.html: one file without any reference to another, so that it opens from a mail. Tables are
// there without scripts; sorting, filtering and the details of a cell need one, which is inside.
#include "analysis/write/html.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "analysis/board/columns.hpp"
#include "analysis/compare/statistics_table.hpp"
#include "analysis/page/outline.hpp"
#include "analysis/page/report.hpp"
#include "analysis/read/reproduce.hpp"
#include "analysis/write/numbers.hpp"
#include "report_css.hpp"
#include "report_js.hpp"

namespace ptq::report {
namespace {

// JSON inside a script element: nothing in it may end the element.
std::string script_json(const Json& json) {
  std::string out;
  for (const char c : json_text(json)) {
    if (c == '<') {
      out += "\\u003c";
    } else {
      out += c;
    }
  }
  return out;
}

class HtmlPage {
 public:
  explicit HtmlPage(const Report& report) : r_(report) {}

  std::string render() {
    head();
    summary();
    for (size_t b = 0; b < r_.boards.size(); ++b)
      out_ += to_html(board_outline(r_, b, Detail::file));
    out_ += to_html(pruning_outline(r_));
    cells();
    out_ += to_html(problems_outline(r_, Detail::file));
    out_ += "<p class=\"soft\">Written by ptq-report " PTQ_VERSION
            ".</p>\n</main>\n<script type=\"application/json\" id=\"cells\">" +
            script_json(details_) + "</script>\n<script>" + kReportJs +
            "</script>\n</body></html>\n";
    return std::move(out_);
  }

 private:
  void head() {
    // The policy forbids any request, whatever the page may contain.
    out_ =
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; "
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>" +
        html(r_.name) + "</title>\n<style>" + kReportCss + "</style></head>\n<body><main>\n";
  }

  void fact(size_t count, const std::string& what, bool bad = false) {
    out_ += fmt::format("<li{}><b>{}</b> {}</li>", bad ? " class=\"bad\"" : "", count, html(what));
  }

  void summary() {
    size_t ok = 0, failed = 0, invalid = 0;
    std::set<std::string> models, methods, evaluations;
    std::string first, last;
    std::set<const Cell*> left_out;
    for (const Board& board : r_.boards)
      left_out.insert(board.left_out.begin(), board.left_out.end());
    for (const Cell& cell : r_.results.cells) {
      if (left_out.contains(&cell)) continue;
      ok += cell.status == "ok";
      failed += cell.status == "failed";
      invalid += cell.status == "invalid";
      models.insert(cell.model);
      methods.insert(cell.method);
      evaluations.insert(cell.evaluation);
      if (first.empty() || cell.started < first) first = cell.started;
      last = std::max(last, cell.started);
    }
    out_ += "<h1>" + html(r_.name) + "</h1>\n<p class=\"soft\">" +
            html(first.substr(0, 10) +
                 (last.substr(0, 10) == first.substr(0, 10) ? "" : " to " + last.substr(0, 10))) +
            ". Differences are against the baseline of each table, on the same samples.</p>\n<ul "
            "class=\"facts\">";
    fact(ok, ok == 1 ? "cell measured" : "cells measured");
    if (failed) fact(failed, "failed", true);
    if (invalid) fact(invalid, "not exercised", true);
    if (!r_.results.damaged.empty()) fact(r_.results.damaged.size(), "damaged files", true);
    fact(models.size(), models.size() == 1 ? "model" : "models");
    fact(methods.size(), methods.size() == 1 ? "method" : "methods");
    fact(evaluations.size(), evaluations.size() == 1 ? "evaluation" : "evaluations");
    out_ += "</ul>\n";
    std::vector<std::string> sentences, warnings = r_.results.notes;
    for (const Board& board : r_.boards) {
      for (const std::string& sentence : sentences_of(board)) {
        sentences.push_back(r_.boards.size() > 1 ? board.model + ", " + sentence : sentence);
      }
      for (const std::string& note : all_notes_of(board)) {
        warnings.push_back(r_.boards.size() > 1 ? board.model + ", " + note : note);
      }
    }
    out_ += html_list(sentences, 9);
    if (!warnings.empty()) {
      out_ += "<div class=\"warn\"><b>Before you believe it</b>" +
              html_list(by_weight(merged_notes(warnings)), 5) + "</div>\n";
    }
    out_ += "<nav aria-label=\"sections\">";
    for (size_t b = 0; b < r_.boards.size(); ++b) {
      out_ += fmt::format("<a href=\"#board-{}\">{}</a>", b, html(title_of(r_.boards[b])));
    }
    if (!r_.pruning.empty()) out_ += "<a href=\"#pruning\">Pruning</a>";
    out_ += "<a href=\"#all-cells\">All cells</a></nav>\n";
  }

  void cells() {
    out_ +=
        "<h2 id=\"all-cells\">All cells</h2>\n<input type=\"search\" data-filter=\"cells-table\" "
        "placeholder=\"filter: words in any column\" aria-label=\"filter the cells\"> <span "
        "class=\"soft\" id=\"cells-table-count\"></span>\n"
        "<noscript><p>Details of a cell, sorting and filtering need JavaScript.</p></noscript>\n"
        "<div class=\"scroll tall\"><table class=\"sortable\" id=\"cells-table\">\n" +
        table_head({"Method", "Model", "Evaluation", "Status", "Result", "Difference (95 %)",
                    "Exposure", "Time", ""},
                   true) +
        "<tbody>\n";
    details_ = Json::array();
    for (size_t b = 0; b < r_.boards.size(); ++b) {
      const Board& board = r_.boards[b];
      for (const Row& row : board.rows) {
        for (const Evaluation& evaluation : board.evaluations) {
          if (const Cell* cell = row.cell(evaluation.name)) add_cell(b, row, *cell);
        }
      }
    }
    out_ += "</tbody></table></div>\n";
  }

  void add_cell(size_t b, const Row& row, const Cell& cell) {
    const Board& board = r_.boards[b];
    const Comparison* comparison = r_.statistics[b].of(&cell);
    const bool outdated =
        std::find(board.outdated.begin(), board.outdated.end(), &cell) != board.outdated.end();
    const bool grey = baseline_fails(cell) || outdated || !row.asked;
    out_ += std::string(grey ? "<tr class=\"void\">" : "<tr>") +
            name_cell(cell.method + (cell.joined.empty() ? "" : " †") +
                      (row.asked ? outdated ? " (other settings or version)" : "" : kNotAsked)) +
            name_cell(cell.model) + name_cell(cell.evaluation) +
            table_cell(cell.ok() ? "ok" : status_text(cell)) +
            table_cell(cell.ok() ? headline_text(board, row, cell) : "-") +
            table_cell(comparison ? difference_text(*comparison) : "-") +
            table_cell(exposure_text(cell)) + table_cell(seconds_text(own_seconds(cell))) +
            fmt::format(
                "<td><button class=\"more\" aria-expanded=\"false\" data-cell=\"{}\">details"
                "</button></td></tr>\n",
                details_.size());
    details_.push_back(cell_details(cell));
  }

  // In the order in which they are shown.
  static Json cell_details(const Cell& cell) {
    Json out = Json::object();
    if (!cell.error.empty()) out["Error"] = cell.error;
    if (!cell.warnings.empty()) out["Warnings"] = cell.warnings;
    out["Compute it again"] = reproduce_command(cell);
    if (!cell.joined.empty()) out["Joined from several runs"] = cell.joined;
    Json metrics = cell.metrics;
    if (!metrics.empty()) out["Metrics"] = std::move(metrics);
    Json method = {{"label", cell.method}};
    for (const Record::Part& part : cell.parts) {
      method[part.method] = part.options;
      if (!part.plugin.empty()) {
        method[part.method + " plugin"] =
            part.plugin + " " + part.version + ", sha256 " + part.plugin_sha256.substr(0, 16);
      }
    }
    out["Method"] = std::move(method);
    if (!cell.settings.empty()) out["Evaluation"] = cell.settings;
    Json where = {{"file", cell.source},
                  {"cell", cell.id},
                  {"model", cell.model_path},
                  {"fingerprint", cell.fingerprint},
                  {"seed", cell.seed},
                  {"started", cell.started},
                  {"seconds of the whole cell", cell.seconds},
                  {"ptq", cell.code.version},
                  {"commit", cell.code.git}};
    for (const auto& [key, value] : cell.environment.items()) where[key] = value;
    out["Where and when"] = std::move(where);
    return out;
  }

  const Report& r_;
  std::string out_;
  Json details_;
};

}  // namespace

std::string html_page(const Report& report) { return HtmlPage(report).render(); }

}  // namespace ptq::report
