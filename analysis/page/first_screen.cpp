// The first screen of a report: what to use, how sure that is, and what cannot be said.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "analysis/board/notes.hpp"
#include "analysis/decide/sentences.hpp"
#include "analysis/decide/table.hpp"
#include "analysis/page/outline.hpp"

namespace ptq::report {
namespace {

constexpr size_t kMostWarnings = 3;

// "180 cells measured, 1 failed; 3 models, 12 methods, 5 evaluations; 2026-11-27"
std::string facts_of(const Report& report) {
  const bool zh = report.language == Language::zh;
  size_t ok = 0, failed = 0, invalid = 0;
  std::set<std::string> models, methods, evaluations, days;
  std::set<const Cell*> left_out;
  for (const Board& board : report.boards)
    left_out.insert(board.left_out.begin(), board.left_out.end());
  for (const Cell& cell : report.results.cells) {
    if (left_out.contains(&cell)) continue;
    ok += cell.status == "ok";
    failed += cell.status == "failed";
    invalid += cell.status == "invalid";
    models.insert(cell.model);
    methods.insert(cell.method);
    evaluations.insert(cell.evaluation);
    days.insert(cell.started.substr(0, 10));
  }
  const auto count = [&](size_t n, const char* one, const char* chinese) {
    return zh ? fmt::format("{} {}", n, chinese)
              : fmt::format("{} {}{}", n, one, n == 1 ? "" : "s");
  };
  std::string out = count(ok, "cell", "个单元") + in(report.language, " measured", "已测量");
  if (failed) out += fmt::format(fmt::runtime(zh ? "，{} 个失败" : ", {} failed"), failed);
  if (invalid)
    out += fmt::format(fmt::runtime(zh ? "，{} 个未起作用" : ", {} not exercised"), invalid);
  if (!report.results.damaged.empty())
    out += fmt::format(fmt::runtime(zh ? "，{} 个文件损坏" : ", {} damaged"),
                       report.results.damaged.size());
  out += "; " + count(models.size(), "model", "个模型") + ", " +
         count(methods.size(), "method", "种方法") + ", " +
         count(evaluations.size(), "evaluation", "项评测");
  if (!days.empty() && !days.begin()->empty())
    out += "; " + *days.begin() +
           (days.size() > 1 ? in(report.language, " to ", " 至 ") + *days.rbegin() : "");
  return out;
}

// What must be known before the sentences are believed, of the boards of one experiment.
std::vector<std::string> warnings_of(const Report& report, const Decision& decision) {
  std::vector<std::string> warnings;
  for (const Standings& standings : decision.models)
    for (const std::string& note : all_notes_of(*standings.board))
      if (weight_of(note) < kLightNote)
        warnings.push_back(decision.models.size() > 1 ? standings.board->model + ", " + note
                                                      : note);
  for (const std::string& note : report.results.notes)
    if (weight_of(note) < kLightNote) warnings.push_back(note);
  return by_weight(merged_notes(warnings));
}

// With what and where everything was computed, and from which seed.
std::vector<std::string> origin_of(const Decision& decision, Language language) {
  std::vector<std::string> lines;
  std::set<uint64_t> seeds;
  for (const Standings& standings : decision.models) {
    for (const std::string& line : provenance_of(*standings.board))
      if (std::find(lines.begin(), lines.end(), line) == lines.end()) lines.push_back(line);
    for (const Row& row : standings.board->rows)
      for (const auto& [name, cell] : row.cells) seeds.insert(cell->seed);
  }
  if (!lines.empty())
    lines.back() += fmt::format("{}{}", in(language, "; seed ", "；种子 "), fmt::join(seeds, ", "));
  return lines;
}

bool decides(const Decision& decision) {
  return std::any_of(decision.models.begin(), decision.models.end(),
                     [](const Standings& standings) { return standings.evaluation; });
}

// The table, and in a file the same against other rows where the pairs were compared.
TablePart table_of(const Decision& decision, size_t number, Language language, Detail detail) {
  TablePart part{decision_table(decision, language), fmt::format("decision-{}", number)};
  part.says =
      in(language, "damage, bytes and verdict of every method", "各方法的损伤、字节数与结论");
  const bool paired =
      std::any_of(decision.models.begin(), decision.models.end(),
                  [](const Standings& standings) { return !standings.statistics->pairs.empty(); });
  if (detail == Detail::screen || !paired) return part;
  for (const std::string& method : decision.methods)
    if (part.against.size() < kMostChoices)
      part.against.emplace_back(method, decision_table(decision, language, method));
  return part;
}

void add_decision(const Report& report, size_t number, Detail detail, Document& out) {
  const Decision& decision = report.decisions[number];
  const Language language = report.language;
  if (!decides(decision)) return;
  out.add(Heading{2,
                  in(language, "What to use", "结论") +
                      (report.decisions.size() > 1 ? ": " + decision.experiment : std::string()),
                  fmt::format("decision-of-{}", number)});
  Lines sentences;
  for (const Standings& standings : decision.models)
    sentences.lines.push_back(verdict_sentence(standings, language));
  if (std::string family = family_sentence(decision, language); !family.empty())
    sentences.lines.push_back(std::move(family));
  out.add(std::move(sentences));
  Lines warnings{warnings_of(report, decision), in(language, "Before you believe it", "采信之前")};
  warnings.box = true;
  warnings.most = kMostWarnings;
  out.add(std::move(warnings));
  if (detail == Detail::file && !report.first_figures.empty())
    for (const Figure& figure : report.first_figures[number])
      out.add(Picture{figure.name, figure.title, figure.caption, figure.svg, figure.seen});
  out.add(table_of(decision, number, language, detail));
  if (detail == Detail::file) out.add(Paragraph{decision_legend(decision, language), true});
  Lines open{not_concluded(decision, language),
             in(language, "What cannot be concluded", "不能得出的结论")};
  open.box = true;
  open.most = 6;
  out.add(std::move(open));
  out.add(Lines{origin_of(decision, language), "", true});
}

}  // namespace

Document first_screen(const Report& report, Detail detail) {
  Document out;
  if (!report.boards.empty()) out.add(Paragraph{facts_of(report), true});
  for (size_t d = 0; d < report.decisions.size(); ++d) add_decision(report, d, detail, out);
  return out;
}

}  // namespace ptq::report
