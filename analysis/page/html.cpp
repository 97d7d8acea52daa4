// report.html: one file without any reference to another, so that it opens from a mail. Tables are
// there without scripts; sorting, filtering and the details of a cell need one, which is inside.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <map>
#include <sstream>

#include "analysis/compare/statistics_table.hpp"
#include "analysis/page/full_report.hpp"
#include "analysis/read/reproduce.hpp"
#include "analysis/write/numbers.hpp"
#include "report_css.hpp"
#include "report_js.hpp"

namespace ptq::report {
namespace {

std::string html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
  return out;
}

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

std::string base64(std::string_view bytes) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t three = 0;
    const size_t n = std::min<size_t>(3, bytes.size() - i);
    for (size_t k = 0; k < 3; ++k) {
      three = three << 8 | (k < n ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    }
    for (size_t k = 0; k < 4; ++k) out += k <= n ? kDigits[three >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

// The number of a cell's text, to sort by: "2,048" is 2048, "19/20 (95 %)" the share 0.95, "2 min
// 05 s" 125 and "<0.001" smaller than 0.001.
std::optional<double> sort_key(const std::string& text) {
  double a = 0, b = 0;
  int used = 0;
  if (std::sscanf(text.c_str(), "%lf min %lf s%n", &a, &b, &used) == 2 && used > 0)
    return 60 * a + b;
  if (std::sscanf(text.c_str(), "%lf/%lf", &a, &b) == 2 && b > 0) return a / b;
  if (text.starts_with("> 1e308")) return HUGE_VAL;
  if (text.starts_with("<")) {
    const auto bound = sort_key(text.substr(1));
    return bound ? std::optional(0.99 * *bound) : std::nullopt;
  }
  std::string digits;
  for (const char c : text) {
    if (c == ',' && !digits.empty()) continue;
    if (std::isdigit(static_cast<unsigned char>(c)) || (c == '.' && !digits.empty()) ||
        (digits.empty() && (c == '-' || c == '+')) || (c == 'e' && !digits.empty()) ||
        (!digits.empty() && digits.back() == 'e' && (c == '-' || c == '+'))) {
      digits += c;
    } else {
      break;
    }
  }
  char* end = nullptr;
  const double value = std::strtod(digits.c_str(), &end);
  if (digits.empty() || end == digits.c_str()) return {};
  return value;
}

// As JavaScript writes numbers.
std::string key_text(double key) { return std::isinf(key) ? "Infinity" : fmt::format("{}", key); }

bool is_bad(const std::string& text) {
  return text == "failed" || text == "not exercised" || text == "invalid" || text == "worse";
}

std::string table_head(const std::vector<std::string>& head) {
  std::string out = "<thead><tr>";
  for (const std::string& text : head) {
    out += "<th scope=\"col\">" +
           (text.empty() ? std::string() : "<button>" + html(text) + "</button>") + "</th>";
  }
  return out + "</tr></thead>\n";
}

std::string table_cell(const std::string& text) {
  const auto key = sort_key(text);
  const bool words = !key && text.size() > 1;
  return "<td" +
         (is_bad(text)                 ? std::string(" class=\"left bad\"")
          : text.ends_with(kFailsMark) ? " class=\"void\""
          : words                      ? " class=\"left\""
                                       : "") +
         (key ? " data-v=\"" + key_text(*key) + "\"" : std::string()) + ">" + html(text) + "</td>";
}

// A name: sorted as text, also where it begins with a digit.
std::string name_cell(const std::string& text) {
  return "<td class=\"left\">" + html(text) + "</td>";
}

std::string html_table(const Table& table, const std::string& id, bool filter) {
  std::string out;
  if (filter && table.rows.size() > 8) {
    out += fmt::format(
        "<input type=\"search\" data-filter=\"{}\" placeholder=\"filter\" "
        "aria-label=\"filter the table\">\n",
        id);
  }
  out += "<div class=\"scroll" + std::string(table.rows.size() > 25 ? " tall" : "") +
         "\"><table class=\"sortable\" id=\"" + id + "\">\n" + table_head(table.head) + "<tbody>\n";
  for (const auto& row : table.rows) {
    out += row[0].ends_with(" (baseline)")                               ? "<tr class=\"baseline\">"
           : row[0].ends_with(kFailsMark) || row[0].ends_with(kNotAsked) ? "<tr class=\"void\">"
                                                                         : "<tr>";
    for (size_t c = 0; c < row.size(); ++c) out += c ? table_cell(row[c]) : name_cell(row[c]);
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

std::string html_list(const std::vector<std::string>& lines, size_t most) {
  if (lines.empty()) return {};
  std::string out = "<ul class=\"lines\">";
  for (size_t i = 0; i < lines.size() && i < most; ++i) out += "<li>" + html(lines[i]) + "</li>";
  if (lines.size() > most) out += fmt::format("<li>and {} more below</li>", lines.size() - most);
  return out + "</ul>\n";
}

std::string html_figures(const std::vector<Figure>& figures) {
  std::string out;
  for (const Figure& figure : figures) {
    if (figure.svg.empty()) continue;
    out += "<figure><img alt=\"" + html(figure.title.empty() ? figure.name : figure.title) +
           "\" src=\"data:image/svg+xml;base64," + base64(figure.svg) + "\"><figcaption>" +
           html(figure.caption) + "</figcaption></figure>\n";
  }
  return out.empty() ? out : "<div class=\"figures\">\n" + out + "</div>\n";
}

// Our own Markdown pages use headings, tables, lists and paragraphs only.
std::string html_of_markdown(const std::string& page) {
  const auto plain = [](const std::string& text) {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '\\' && i + 1 < text.size()) ++i;
      out += text[i];
    }
    return html(out);
  };
  std::string out, list, table;
  const auto close = [&] {
    if (!list.empty()) out += "<ul class=\"lines\">" + list + "</ul>\n";
    if (!table.empty()) out += "<div class=\"scroll\"><table>" + table + "</table></div>\n";
    list.clear();
    table.clear();
  };
  std::istringstream in(page);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("- ")) {
      list += "<li>" + plain(line.substr(2)) + "</li>";
    } else if (line.starts_with("|")) {
      if (line.find_first_not_of("|-: ") == line.npos) continue;
      const char* name = table.empty() ? "th" : "td";
      std::string row;
      for (size_t at = 1; at < line.size();) {
        size_t end = at;
        while (end < line.size() && (line[end] != '|' || line[end - 1] == '\\')) ++end;
        std::string text = line.substr(at, end - at);
        text = text.substr(std::min(text.size(), text.find_first_not_of(' ')));
        row += fmt::format("<{}>{}</{}>", name, plain(text), name);
        at = end + 1;
      }
      table += (table.empty() ? "<thead><tr>" + row + "</tr></thead>" : "<tr>" + row + "</tr>");
    } else {
      close();
      const size_t level = line.find_first_not_of('#');
      if (level != line.npos && level > 0) {
        out += fmt::format("<h{}>{}</h{}>\n", std::min<size_t>(level + 1, 4),
                           plain(line.substr(level + 1)), std::min<size_t>(level + 1, 4));
      } else if (!line.empty()) {
        out += "<p>" + plain(line) + "</p>\n";
      }
    }
  }
  close();
  return out;
}

// What a reader must see first: comparisons that are void, then numbers that say nothing.
std::vector<std::string> by_weight(std::vector<std::string> notes) {
  const auto weight = [](const std::string& note) {
    const char* order[] = {"NOT CONSISTENT", "CONFLICT",     "NOT COMPARABLE", "cache not read",
                           "exposure 0",     "identical to", "not exercised",  "failed",
                           "not smaller",    "damaged"};
    for (size_t i = 0; i < std::size(order); ++i) {
      if (note.find(order[i]) != note.npos) return i;
    }
    return std::size(order);
  };
  std::stable_sort(notes.begin(), notes.end(), [&](const std::string& a, const std::string& b) {
    return weight(a) < weight(b);
  });
  return notes;
}

class HtmlPage {
 public:
  explicit HtmlPage(const FullReport& report) : r_(report) {}

  std::string render() {
    head();
    summary();
    for (size_t b = 0; b < r_.boards.size(); ++b) board(b);
    pruning();
    cells();
    rest();
    out_ += "</main>\n<script type=\"application/json\" id=\"cells\">" + script_json(details_) +
            "</script>\n<script>" + kReportJs + "</script>\n</body></html>\n";
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

  void board(size_t b) {
    const Board& board = r_.boards[b];
    out_ += fmt::format("<h2 id=\"board-{}\">{}</h2>\n", b, html(title_of(board)));
    out_ += html_table(leaderboard(board), fmt::format("table-{}", b), true);
    for (const std::string& line : provenance_of(board))
      out_ += "<p class=\"soft\">" + html(line) + "</p>\n";
    out_ += html_figures(r_.figures[b]);
    const Table statistics = statistics_table(board, r_.statistics[b]);
    if (!statistics.rows.empty()) {
      out_ +=
          "<h3>Against " + html(board.reference()) +
          ", on the same samples</h3>\n<p class=\"soft\">Perplexities: "
          "ratio, from the paired differences of the loss; shares: points. 95 % by paired "
          "bootstrap (10,000 resamples). p: McNemar exact / mid for answers, paired t for losses; "
          "Holm corrects for all rows of this table. A rank is shared with the best that "
          "the data cannot separate from it.</p>\n" +
          html_table(statistics, fmt::format("statistics-{}", b), true);
    }
    for (size_t e = 0; e < board.evaluations.size(); ++e) {
      const Evaluation& evaluation = board.evaluations[e];
      const auto part = [&](const char* title, const char* says, const char* id,
                            const Table& table) {
        if (table.rows.empty()) return;
        out_ += "<h3>" + html(std::string(title) + ", " + evaluation.name) +
                "</h3>\n<p class=\"soft\">" + says + "</p>\n" +
                html_table(table, fmt::format("{}-{}-{}", id, b, e), false);
      };
      part("Answers by depth of the key", "With 95 % intervals (Clopper-Pearson).", "depth",
           depth_table(board, evaluation.name, true));
      part(
          "Answers against bytes",
          "Smallest cache first, with 95 % intervals (Clopper-Pearson). *: no smaller cache has as "
          "many right answers.",
          "bytes", bytes_table(board, evaluation, true));
    }
    const std::vector<std::string> notes = by_weight(notes_of(board));
    if (!notes.empty()) out_ += "<h3>Notes</h3>\n" + html_list(notes, 200);
  }

  void pruning() {
    if (r_.pruning.empty()) return;
    std::string page = pruning_page(r_.pruning, Language::en);
    page = page.substr(std::min(page.size(), page.find('\n')));  // its title
    out_ += "<h2 id=\"pruning\">Pruning</h2>\n" + html_of_markdown(page) +
            html_figures(r_.pruning_plots);
  }

  void cells() {
    out_ +=
        "<h2 id=\"all-cells\">All cells</h2>\n<input type=\"search\" data-filter=\"cells-table\" "
        "placeholder=\"filter: words in any column\" aria-label=\"filter the cells\"> <span "
        "class=\"soft\" id=\"cells-table-count\"></span>\n"
        "<noscript><p>Details of a cell, sorting and filtering need JavaScript.</p></noscript>\n"
        "<div class=\"scroll tall\"><table class=\"sortable\" id=\"cells-table\">\n" +
        table_head({"Method", "Model", "Evaluation", "Status", "Result", "Difference (95 %)",
                    "Exposure", "Time", ""}) +
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

  void rest() {
    if (!r_.results.notes.empty()) {
      out_ +=
          "<h2>Findings about the study's files</h2>\n<p class=\"soft\">A number is "
          "that of the kind of finding. † in a table: the row joins several runs.</p>\n" +
          html_list(r_.results.notes, 500);
    }
    if (!r_.results.damaged.empty()) {
      std::vector<std::string> lines;
      for (const Damaged& file : r_.results.damaged) lines.push_back(damaged_text(file));
      out_ += "<h2>Damaged records</h2>\n" + html_list(lines, 500);
    }
    if (!r_.plot_problem.empty()) out_ += "<p class=\"warn\">" + html(r_.plot_problem) + "</p>\n";
    out_ += "<p class=\"soft\">Written by ptq-report " PTQ_VERSION ".</p>\n";
  }

  const FullReport& r_;
  std::string out_;
  Json details_;
};

}  // namespace

std::string html_page(const FullReport& report) { return HtmlPage(report).render(); }

}  // namespace ptq::report
