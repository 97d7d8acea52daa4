// report.html: one file without any reference to another, so that it opens from a mail. Tables are
// there without scripts; sorting, filtering and the details of a cell need one, which is inside.
#include "analysis/write/html.hpp"

#include <fmt/format.h>

#include <algorithm>

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

class HtmlPage {
 public:
  explicit HtmlPage(const Report& report) : r_(report) {}

  std::string render() {
    head();
    out_ += to_html(first_screen(r_, Detail::file), r_.language);
    contents();
    for (size_t b = 0; b < r_.boards.size(); ++b)
      out_ += to_html(board_outline(r_, b, Detail::file), r_.language);
    out_ += to_html(pruning_outline(r_), r_.language);
    cells();
    out_ += to_html(problems_outline(r_, Detail::file), r_.language);
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
        std::string("<!doctype html>\n<html lang=\"") + say("en", "zh") +
        "\"><head><meta charset=\"utf-8\">\n"
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; "
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>" +
        html(r_.name) + "</title>\n<style>" + kReportCss + "</style></head>\n<body><main>\n<h1>" +
        html(r_.name) + "</h1>\n";
  }

  // Links into the parts that are folded away.
  void contents() {
    out_ += std::string("<nav aria-label=\"") + say("everything else", "其余内容") + "\">";
    for (size_t b = 0; b < r_.boards.size(); ++b) {
      out_ += fmt::format("<a href=\"#board-{}\">{}</a>", b, html(title_of(r_.boards[b])));
    }
    if (!r_.pruning.empty())
      out_ += std::string("<a href=\"#pruning\">") + say("Pruning", "剪枝") + "</a>";
    out_ += std::string("<a href=\"#all-cells\">") + say("All cells", "全部单元") + "</a></nav>\n";
  }

  void cells() {
    const std::string title = say("All cells", "全部单元"),
                      filter = say("filter: words in any column", "筛选：任意列中的词");
    out_ += "<details><summary><h2 id=\"all-cells\">" + title +
            "</h2></summary>\n<input type=\"search\" data-filter=\"cells-table\" placeholder=\"" +
            filter + "\" aria-label=\"" + filter +
            "\"> <span class=\"soft\" id=\"cells-table-count\"></span>\n<noscript><p>" +
            say("Details of a cell, sorting and filtering need JavaScript.",
                "单元详情、排序与筛选需要 JavaScript。") +
            "</p></noscript>\n<div class=\"scroll tall\" tabindex=\"0\" role=\"region\" "
            "aria-label=\"" +
            title + "\"><table class=\"sortable\" id=\"cells-table\">\n" +
            table_head({say("Method", "方法"), say("Model", "模型"), say("Evaluation", "评测"),
                        say("Status", "状态"), say("Result", "结果"),
                        say("Difference (95 %)", "差异（95 %）"), say("Exposure", "暴露度"),
                        say("Time", "时间"), ""}) +
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
    out_ += "</tbody></table></div></details>\n";
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
                "<td><button class=\"more\" aria-expanded=\"false\" data-cell=\"{}\">{}"
                "</button></td></tr>\n",
                details_.size(), say("details", "详情"));
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

  const char* say(const char* english, const char* chinese) const {
    return in(r_.language, english, chinese);
  }

  const Report& r_;
  std::string out_;
  Json details_;
};

}  // namespace

std::string html_page(const Report& report) { return HtmlPage(report).render(); }

}  // namespace ptq::report
