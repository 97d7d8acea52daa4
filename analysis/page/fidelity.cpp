// Divergences of a board as tables: of every cell with scores of its tokens, and where on the
// tokens they come from.
#include <fmt/format.h>

#include <functional>

#include "analysis/decide/texts.hpp"
#include "analysis/page/outline.hpp"

namespace ptq::report {
namespace {

std::string estimate_text(const Estimate& estimate,
                          const std::function<std::string(double)>& write) {
  if (!std::isfinite(estimate.value)) return "-";
  return write(estimate.value) + interval_text(estimate.interval, write);
}

std::string nats_text(double value) { return fmt::format("{:.3g}", value); }
std::string percent_text(double share) { return fmt::format("{:.2f}", 100 * share); }

Table fidelity_table(const Board& board, const BoardStatistics& statistics, Language language) {
  Table table;
  table.head = {in(language, "Method", "方法"),
                in(language, "Evaluation", "评测"),
                "KL",
                in(language, "reverse KL", "反向 KL"),
                in(language, "median", "中位数"),
                "p90",
                "p99",
                in(language, "largest", "最大"),
                "EAR, %",
                "RMS Δp, %",
                "top-1, %",
                in(language, "floor", "下限")};
  for (const Evaluation& evaluation : board.evaluations) {
    const auto floor = noise_floor(board, evaluation.name);
    for (const Row& row : board.rows) {
      const Cell* cell = row.cell(evaluation.name);
      const Fidelity* f = cell ? statistics.fidelity_of(cell) : nullptr;
      if (!f) continue;
      table.rows.push_back(
          {row.method, evaluation.name, estimate_text(f->kl, nats_text),
           estimate_text(f->kl_reverse, nats_text), estimate_text(f->kl_median, nats_text),
           estimate_text(f->kl_p90, nats_text), estimate_text(f->kl_p99, nats_text),
           nats_text(f->kl_max), estimate_text(f->ear, percent_text),
           estimate_text(f->rms_delta_p, percent_text), estimate_text(f->top1, percent_text),
           !floor ? "-"
                  : nats_text(*floor) +
                        (below(f->kl, floor) ? in(language, " (below)", "（低于）") : "")});
    }
  }
  return table;
}

// The KL divergence by part of the tokens, a column each, of one evaluation.
Table parts_table(const Board& board, const BoardStatistics& statistics,
                  const Evaluation& evaluation, std::vector<Fidelity::Part> Fidelity::*parts,
                  Language language) {
  Table table;
  table.head = {in(language, "Method", "方法")};
  for (const Row& row : board.rows) {
    const Cell* cell = row.cell(evaluation.name);
    const Fidelity* f = cell ? statistics.fidelity_of(cell) : nullptr;
    if (!f || (f->*parts).empty()) continue;
    if (table.head.size() == 1)
      for (const Fidelity::Part& part : f->*parts)
        table.head.push_back(fmt::format("{}\n{} {}", part.name,
                                         thousands_text(double(part.tokens)),
                                         in(language, "tokens", "个词元")));
    if ((f->*parts).size() + 1 != table.head.size()) continue;  // of other tokens
    std::vector<std::string> texts = {row.method};
    for (const Fidelity::Part& part : f->*parts)
      texts.push_back(part.tokens ? estimate_text(part.kl, nats_text) : "-");
    table.rows.push_back(std::move(texts));
  }
  return table;
}

}  // namespace

Document fidelity_outline(const Report& report, size_t b) {
  const Board& board = report.boards[b];
  const BoardStatistics& statistics = report.statistics[b];
  const Language language = report.language;
  Document out;
  Table all = fidelity_table(board, statistics, language);
  if (all.rows.empty()) return out;
  out.add(Heading{
      3, in(language, "Distance from full precision, by tokens", "与全精度的距离（按词元）")});
  out.add(
      Paragraph{in(language,
                   "Nats per token, 95 % intervals by blocks of tokens. KL is of full precision "
                   "from the method, reverse KL the other way round; EAR: expected acceptance "
                   "rate, the sum over the vocabulary of the smaller probability; Δp: of the "
                   "token that came; floor: full precision with noise of bfloat16's size.",
                   "单位为每词元 nat，95 % 区间按词元块计算。KL 由全精度到方法，反向 KL 相反；"
                   "EAR：期望接受率，即词表上较小概率之和；Δp：实际词元的概率变化；"
                   "下限：带 bfloat16 大小噪声的全精度。"),
                true});
  out.add(TablePart{std::move(all), fmt::format("fidelity-{}", b), true});
  for (size_t e = 0; e < board.evaluations.size(); ++e) {
    const Evaluation& evaluation = board.evaluations[e];
    const auto add = [&](const char* title, const char* id,
                         std::vector<Fidelity::Part> Fidelity::*parts) {
      Table table = parts_table(board, statistics, evaluation, parts, language);
      if (table.rows.empty()) return;
      out.add(Heading{3, std::string(title) + ", " + evaluation.name});
      out.add(TablePart{std::move(table), fmt::format("{}-{}-{}", id, b, e)});
    };
    add(in(language, "KL by full precision's largest probability", "按全精度最大概率的 KL"),
        "confidence", &Fidelity::by_confidence);
    add(in(language, "KL by position in the context", "按上下文位置的 KL"), "position",
        &Fidelity::by_position);
  }
  return out;
}

}  // namespace ptq::report
