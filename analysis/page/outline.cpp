#include "analysis/page/outline.hpp"

#include <fmt/format.h>

#include <utility>

#include "analysis/board/columns.hpp"
#include "analysis/board/notes.hpp"
#include "analysis/compare/statistics_table.hpp"
#include "analysis/write/numbers.hpp"

namespace ptq::report {
namespace {

constexpr const char* kHowCompared =
    "Perplexities: ratio, from the paired differences of the loss; shares: points. 95 % by paired "
    "bootstrap (10,000 resamples). p: McNemar exact / mid for answers, paired t for losses; Holm "
    "corrects for all rows of this table. A rank is shared with the best that the data cannot "
    "separate from it.";

void add_pictures(const std::vector<Figure>& figures, Document& out) {
  for (const Figure& figure : figures)
    out.add(Picture{figure.name, figure.title, figure.caption, figure.svg});
}

void add_comparisons(const Report& report, size_t b, Document& out) {
  const Board& board = report.boards[b];
  Table table = statistics_table(board, report.statistics[b]);
  if (table.rows.empty()) return;
  out.add(Heading{3, "Against " + board.reference() + ", on the same samples"});
  out.add(Paragraph{kHowCompared, true});
  out.add(TablePart{std::move(table), fmt::format("statistics-{}", b), true});
}

// The tables of one evaluation; `number` of it in the board.
void add_answers(const Board& board, size_t b, size_t number, Detail detail, Document& out) {
  const Evaluation& evaluation = board.evaluations[number];
  const bool file = detail == Detail::file;
  const auto add = [&](const std::string& title, const char* says, const char* id, Table table) {
    if (table.rows.empty()) return;
    out.add(Heading{3, title + ", " + evaluation.name});
    if (file) out.add(Paragraph{says, true});
    out.add(TablePart{std::move(table), fmt::format("{}-{}-{}", id, b, number)});
  };
  add("Answers by depth of the key", "With 95 % intervals (Clopper-Pearson).", "depth",
      depth_table(board, evaluation.name, file));
  add("Answers against bytes",
      "Smallest cache first, with 95 % intervals (Clopper-Pearson). *: no smaller cache has as "
      "many "
      "right answers.",
      "bytes", bytes_table(board, evaluation, file));
}

}  // namespace

std::string title_of(const Board& board) {
  std::string title = board.model;
  if (board.parameters > 0) title += " (" + count_text(board.parameters) + " parameters)";
  return board.experiment.empty() ? title : board.experiment + ": " + title;
}

std::string damaged_text(const Damaged& damaged) {
  return damaged.file + ": left out, this is no readable record: " + damaged.reason;
}

Document board_outline(const Report& report, size_t b, Detail detail) {
  const Board& board = report.boards[b];
  Document out;
  out.add(Heading{2, title_of(board), fmt::format("board-{}", b)});
  out.add(TablePart{leaderboard(board), fmt::format("table-{}", b), true});
  out.add(Lines{provenance_of(board), "", true});
  if (!report.statistics.empty()) {
    add_pictures(report.figures[b], out);
    add_comparisons(report, b, out);
  }
  for (size_t e = 0; e < board.evaluations.size(); ++e) add_answers(board, b, e, detail, out);
  out.add(Lines{by_weight(notes_of(board)), "Notes"});
  out.add(Lines{sentences_of(board), "In one line each"});
  return out;
}

Document pruning_outline(const Report& report) {
  Document out;
  if (report.pruning.empty()) return out;
  out = pruning_page(report.pruning, Language::en);
  for (Document::Part& part : out.parts)
    if (auto* heading = std::get_if<Heading>(&part)) ++heading->level;
  std::get<Heading>(out.parts.front()).anchor = "pruning";
  add_pictures(report.pruning_plots, out);
  return out;
}

Document problems_outline(const Report& report, Detail detail) {
  Document out;
  if (detail == Detail::file && !report.results.notes.empty()) {
    out.add(Heading{2, "Findings about the files"});
    out.add(Paragraph{
        "A number is that of the kind of finding. † in a table: the row joins several runs.",
        true});
    out.add(Lines{report.results.notes});
  }
  Lines damaged{{}, "Damaged records"};
  for (const Damaged& file : report.results.damaged) damaged.lines.push_back(damaged_text(file));
  out.add(std::move(damaged));
  if (!report.plot_problem.empty()) out.add(Paragraph{report.plot_problem});
  return out;
}

Document outline(const Report& report, Detail detail) {
  Document out;
  for (size_t b = 0; b < report.boards.size(); ++b) out.append(board_outline(report, b, detail));
  out.append(pruning_outline(report));
  out.append(problems_outline(report, detail));
  return out;
}

}  // namespace ptq::report
