#include "analysis/page/outline.hpp"

#include <fmt/format.h>

#include <utility>

#include "analysis/board/columns.hpp"
#include "analysis/board/notes.hpp"
#include "analysis/compare/statistics_table.hpp"
#include "analysis/write/numbers.hpp"

namespace ptq::report {
namespace {

void add_pictures(const std::vector<Figure>& figures, Document& out) {
  for (const Figure& figure : figures)
    out.add(Picture{figure.name, figure.title, figure.caption, figure.svg, figure.seen});
}

std::string how_compared(Language language) {
  return in(language,
            "Perplexities: ratio, from the paired differences of the loss; shares: points; 95 % "
            "intervals. p: McNemar exact / mid for answers; Holm corrects within an evaluation. A "
            "rank is shared with the best that the data cannot separate from it. docs/metrics.md "
            "says how.",
            "困惑度：由配对的损失差得到的比值；答对率：百分点；95 % 区间。p：答案用 McNemar 精确 / "
            "mid 检验；Holm 校正在一个评测之内。数据无法区分者名次并列。方法见 docs/metrics.md。");
}

void add_comparisons(const Report& report, size_t b, Document& out) {
  const Board& board = report.boards[b];
  Table table = statistics_table(board, report.statistics[b]);
  if (table.rows.empty()) return;
  out.add(Heading{3, in(report.language, "Against ", "对照 ") + board.reference() +
                         in(report.language, ", on the same samples", "，相同样本")});
  out.add(Paragraph{how_compared(report.language), true});
  TablePart part{std::move(table), fmt::format("statistics-{}", b), true};
  if (!report.statistics[b].pairs.empty())
    for (const Row& row : board.rows)
      if (part.against.size() < kMostChoices)
        part.against.emplace_back(row.method,
                                  &row == board.baseline()
                                      ? part.table
                                      : statistics_table(board, report.statistics[b], row.method));
  out.add(std::move(part));
}

// The tables of one evaluation; `number` of it in the board.
void add_answers(const Report& report, size_t b, size_t number, Detail detail, Document& out) {
  const Language language = report.language;
  const Board& board = report.boards[b];
  const Evaluation& evaluation = board.evaluations[number];
  const bool file = detail == Detail::file;
  const auto add = [&](const std::string& title, const char* says, const char* id, Table table) {
    if (table.rows.empty()) return;
    out.add(Heading{3, title + ", " + evaluation.name});
    if (file) out.add(Paragraph{says, true});
    out.add(TablePart{std::move(table), fmt::format("{}-{}-{}", id, b, number)});
  };
  add(in(language, "Answers by depth of the key", "按深度的答案"),
      in(language, "With 95 % intervals (Clopper-Pearson).", "附 95 % 区间（Clopper-Pearson）。"),
      "depth", depth_table(board, evaluation.name, file));
  add(in(language, "Answers against bytes", "答案与字节数"),
      in(language,
         "Smallest cache first, with 95 % intervals (Clopper-Pearson). *: no smaller cache has as "
         "many right answers.",
         "缓存小者在前，附 95 % 区间（Clopper-Pearson）。*：没有更小的缓存答对得同样多。"),
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
  const Language language = report.language;
  Document out;
  out.add(Fold{Heading{2, title_of(board), fmt::format("board-{}", b)}});
  out.add(TablePart{leaderboard(board), fmt::format("table-{}", b), true});
  out.add(Lines{provenance_of(board), "", true});
  if (detail == Detail::file) {
    if (!report.figures.empty()) add_pictures(report.figures[b], out);
    add_comparisons(report, b, out);
    out.append(fidelity_outline(report, b));
  }
  for (size_t e = 0; e < board.evaluations.size(); ++e) add_answers(report, b, e, detail, out);
  out.add(Lines{by_weight(notes_of(board)), in(language, "Notes", "注意")});
  out.add(Lines{sentences_of(board), in(language, "In one line each", "各用一行")});
  out.add(FoldEnd{});
  return out;
}

Document pruning_outline(const Report& report) {
  Document out;
  if (report.pruning.empty()) return out;
  out = pruning_page(report.pruning, report.language);
  for (Document::Part& part : out.parts)
    if (auto* heading = std::get_if<Heading>(&part)) ++heading->level;
  Heading title = std::get<Heading>(out.parts.front());
  title.anchor = "pruning";
  out.parts.front() = Fold{std::move(title)};
  add_pictures(report.pruning_plots, out);
  out.add(FoldEnd{});
  return out;
}

Document problems_outline(const Report& report, Detail detail) {
  const Language language = report.language;
  Document out;
  if (detail == Detail::file && !report.results.notes.empty()) {
    out.add(Fold{Heading{2, in(language, "Findings about the files", "关于文件")}});
    out.add(Paragraph{in(language,
                         "A number is that of the kind of finding. † in a table: the row joins "
                         "several runs.",
                         "数字为同类发现的个数。表中的 † 表示该行合并了几次运行。"),
                      true});
    out.add(Lines{report.results.notes});
    out.add(FoldEnd{});
  }
  Lines damaged{{}, in(language, "Damaged records", "损坏的记录")};
  for (const Damaged& file : report.results.damaged) damaged.lines.push_back(damaged_text(file));
  out.add(std::move(damaged));
  if (!report.plot_problem.empty()) out.add(Paragraph{report.plot_problem});
  return out;
}

Document outline(const Report& report, Detail detail) {
  Document out = first_screen(report, detail);
  for (size_t b = 0; b < report.boards.size(); ++b) out.append(board_outline(report, b, detail));
  out.append(pruning_outline(report));
  out.append(problems_outline(report, detail));
  return out;
}

}  // namespace ptq::report
