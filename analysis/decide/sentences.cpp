#include "analysis/decide/sentences.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "analysis/board/columns.hpp"
#include "analysis/decide/texts.hpp"

namespace ptq::report {
namespace {

// A budget of bytes: the smallest of a quarter and a half of full precision's in which a method
// was measured; all of them else.
struct Budget {
  double limit = HUGE_VAL;
  int part = 1;  // of full precision: 4, 2; 1: no limit
};

bool counts(const Standing& s) { return s.damage && s.row->asked; }

Budget budget_of(const Standings& standings) {
  if (!standings.full_bytes) return {};
  for (const int part : {4, 2}) {
    const double limit = *standings.full_bytes / part;
    for (const Standing& s : standings.methods)
      if (counts(s) && s.bytes && *s.bytes <= limit) return {limit, part};
  }
  return {};
}

std::string joined(const std::vector<std::string>& names, size_t most, Language language) {
  std::string out;
  for (size_t i = 0; i < names.size() && i < most; ++i)
    out += (i ? in(language, ", ", "、") : "") + names[i];
  if (names.size() > most)
    out += fmt::format(fmt::runtime(in(language, " and {} more", " 等 {} 个")),
                       language == Language::zh ? names.size() : names.size() - most);
  return out;
}

// "KL 0.031 [0.028, 0.034], perplexity +3.5 % [+2.1, +4.9]"
std::string figures_of(const Standings& standings, const Standing& s, Language language) {
  const Comparison* c = standings.statistics->of(s.cell);
  std::string out;
  if (standings.damage == Damage::divergence) out = "KL " + kl_text(*s.damage);
  if (c && c->n > 0) {
    out += out.empty() ? "" : in(language, ", ", "，");
    if (!c->answers) out += in(language, "perplexity ", "困惑度 ");
    out += change_text(*c, language);
  }
  return out.empty() ? damage_text(*s.damage, standings.damage, language) : out;
}

// Whether it loses nothing, or less than counts as a loss.
bool costs_nothing(const Standings& standings, const Standing& s) {
  const Comparison* c = standings.statistics->of(s.cell);
  return s.below_floor || (c && (c->verdict == Verdict::equivalent ||
                                 c->verdict == Verdict::identical || c->within_margin));
}

// Methods of a budget that cannot be told from the one that does least damage.
std::vector<std::string> ties_of(const Standings& standings, const Standing& winner, double limit) {
  std::vector<std::string> ties;
  for (const Standing& s : standings.methods)
    if (&s != &winner && counts(s) && s.bytes.value_or(0) <= limit &&
        !separable(standings, winner, s))
      ties.push_back(s.row->method);
  return ties;
}

// "passkey 1/40 (fp16 40/40)" of the evaluation in which a method loses most; empty where none is
// worse.
std::string lost_answers(const Standings& standings, const Row& row, double& lost) {
  const Board& board = *standings.board;
  std::string out;
  for (const Evaluation& evaluation : board.evaluations) {
    const Cell* cell = row.cell(evaluation.name);
    const Comparison* c = cell ? standings.statistics->of(cell) : nullptr;
    if (!c || !c->answers || c->verdict != Verdict::worse || baseline_fails(*cell)) continue;
    if (-c->delta <= lost) continue;
    lost = -c->delta;
    const auto count = [](const Cell* of) -> std::string {
      const auto correct = of ? of->number({"correct"}) : std::nullopt,
                 total = of ? of->number({"total"}) : std::nullopt;
      return correct && total ? fmt::format("{:.0f}/{:.0f}", *correct, *total) : std::string();
    };
    const std::string own = count(cell),
                      base = board.baseline() ? count(board.baseline()->cell(evaluation.name)) : "";
    out = evaluation.name + " " + own +
          (base.empty() ? "" : " (" + board.baseline_name + " " + base + ")");
  }
  return out;
}

// The methods that lose answers, the winner first and then those that lose most.
std::string answers_clause(const Standings& standings, const Standing* winner, Language language) {
  std::vector<std::tuple<bool, double, std::string>> found;
  for (const Standing& s : standings.methods) {
    double lost = 0;
    const std::string text = s.row->asked ? lost_answers(standings, *s.row, lost) : "";
    if (!text.empty()) found.emplace_back(&s != winner, -lost, s.row->method + ": " + text);
  }
  if (found.empty()) return {};
  std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
    return std::tie(std::get<0>(a), std::get<1>(a)) < std::tie(std::get<0>(b), std::get<1>(b));
  });
  std::vector<std::string> texts;
  for (const auto& entry : found) texts.push_back(std::get<2>(entry));
  return in(language, " Answers are lost by ", "丢失答案：") + joined(texts, 2, language) +
         in(language, ".", "。");
}

std::string free_clause(const Standings& standings, const Standing* winner, Language language) {
  const Standing* smallest = nullptr;
  for (const Standing& s : standings.methods)
    if (counts(s) && s.bytes && costs_nothing(standings, s) &&
        s.bytes < standings.full_bytes.value_or(HUGE_VAL) &&
        (!smallest || *s.bytes < *smallest->bytes))
      smallest = &s;
  if (!smallest) return {};
  const Comparison* c = standings.statistics->of(smallest->cell);
  const std::string why = smallest->below_floor
                              ? in(language, "KL below the noise floor", "KL 低于噪声下限")
                          : c ? verdict_words(*c, language)
                              : "";
  if (smallest == winner) return in(language, " It is ", "它") + why + in(language, ".", "。");
  return fmt::format(fmt::runtime(in(language, " Smallest within the margin: {} ({}; {}).",
                                     "等价界内的最小方案：{}（{}；{}）。")),
                     smallest->row->method, size_text(*smallest->bytes, standings.bytes), why);
}

// --- what is not decided -------------------------------------------------------------------------

// The undecided comparisons of one evaluation, over the models.
struct Open {
  std::vector<std::string> methods;
  size_t undecided = 0, all = 0, n = 0;
  bool answers = false, tokens = false;
  double detectable = 0, needed = 0;
};

std::string open_text(const std::string& evaluation, const std::string& reference, const Open& o,
                      Language language) {
  const bool zh = language == Language::zh;
  const char* unit = o.answers  ? in(language, "answers", "个答案")
                     : o.tokens ? in(language, "tokens", "个词元")
                                : in(language, "samples", "个样本");
  std::string out = fmt::format(
      fmt::runtime(zh ? "{}（{} {}）：与 {} 的 {} 个比较中 {} 个无定论（{}）"
                      : "{} ({} {}): of {} comparisons with {}, {} undecided ({})"),
      evaluation, thousands_text(double(o.n)), unit, zh ? reference : std::to_string(o.all),
      zh ? std::to_string(o.all) : reference, o.undecided, joined(o.methods, 3, language));
  if (o.detectable > 0 && std::isfinite(o.detectable)) {
    const std::string size =
        o.answers
            ? fmt::format("{:.0f}{}", 100 * o.detectable, in(language, " points", " 个百分点"))
            : fmt::format("{:.2g} %", 100 * (std::exp(o.detectable) - 1));
    out += fmt::format(
        fmt::runtime(zh ? "；小于 {} 的差异看不出来" : "; a difference below {} is not seen"),
        size);
  }
  if (o.needed > 0 && std::isfinite(o.needed))
    out += fmt::format(fmt::runtime(zh ? "；约需 {} {}" : "; about {} {} would decide"),
                       forecast_text(o.needed), unit);
  return out;
}

// Cells whose perplexity says the opposite of their divergence.
std::vector<std::string> unreliable(const Standings& standings) {
  std::vector<std::string> out;
  for (const Row& row : standings.board->rows)
    for (const auto& [name, cell] : row.cells) {
      const Fidelity* fidelity = standings.statistics->fidelity_of(cell);
      if (fidelity && fidelity->ppl_unreliable)
        out.push_back(row.method + ", " + name + " (" + standings.board->model + ")");
    }
  return out;
}

// Evaluations in which full precision itself fails.
bool says_nothing(const Standings& standings, const Evaluation& evaluation) {
  return std::any_of(standings.board->rows.begin(), standings.board->rows.end(),
                     [&](const Row& row) {
                       const Cell* cell = row.cell(evaluation.name);
                       return cell && baseline_fails(*cell);
                     });
}

void add_open(const Standings& standings, const Evaluation& evaluation, Open& open) {
  for (const Row& row : standings.board->rows) {
    const Cell* cell = row.cell(evaluation.name);
    const Comparison* c = cell && row.asked ? standings.statistics->of(cell) : nullptr;
    if (!c || c->n == 0) continue;
    ++open.all;
    open.n = std::max(open.n, c->n);
    open.answers = c->answers;
    open.tokens = c->by_tokens;
    if (c->verdict != Verdict::too_few) continue;
    ++open.undecided;
    if (std::find(open.methods.begin(), open.methods.end(), row.method) == open.methods.end())
      open.methods.push_back(row.method);
    if (std::isfinite(c->mde)) open.detectable = std::max(open.detectable, c->mde);
    if (std::isfinite(c->needed)) open.needed = std::max(open.needed, c->needed);
  }
}

std::string reference_of(const Decision& decision) {
  return decision.models.empty() ? "" : decision.models.front().board->reference();
}

}  // namespace

std::string verdict_words(const Comparison& c, Language language) {
  if (language == Language::en) return verdict_text(c);
  switch (c.verdict) {
    case Verdict::none: return "-";
    case Verdict::identical: return "完全相同";
    case Verdict::better:
      return c.within_margin ? "更好，但不到 " + margin_text(c, language) : "更好";
    case Verdict::worse:
      return c.within_margin ? "更差，但不到 " + margin_text(c, language) : "更差";
    case Verdict::equivalent: return "等价（" + margin_text(c, language) + " 以内）";
    case Verdict::too_few:
      return c.needed > double(c.n) ? "样本太少，无定论（约需 " + forecast_text(c.needed) + "）"
                                    : "样本太少，无定论";
  }
  return {};
}

std::string verdict_word(const Comparison& c, Language language) {
  const std::string less = c.within_margin ? " < " + margin_text(c, language) : "";
  switch (c.verdict) {
    case Verdict::equivalent: return in(language, "equivalent", "等价");
    case Verdict::too_few: return in(language, "too few samples", "样本太少");
    case Verdict::better: return in(language, "better", "更好") + less;
    case Verdict::worse: return in(language, "worse", "更差") + less;
    default: return verdict_words(c, language);
  }
}

std::string verdict_sentence(const Standings& standings, Language language) {
  const std::string who = standings.board->model + in(language, ": ", "：");
  const Budget budget = budget_of(standings);
  const auto found =
      std::find_if(standings.methods.begin(), standings.methods.end(), [&](const Standing& s) {
        return counts(s) && (budget.part == 1 || (s.bytes && *s.bytes <= budget.limit));
      });
  const Standing* winner = found == standings.methods.end() ? nullptr : &*found;
  if (!winner)
    return who + in(language,
                    "no method that is asked for has a sound result against full precision here.",
                    "所要求的方法都没有与全精度比较的可靠结果。");
  std::string out = who;
  if (budget.part > 1)
    out += fmt::format(
        fmt::runtime(in(language, "at ≤ {} ({} of full precision) ", "≤ {}（全精度的{}）时 ")),
        size_text(budget.limit, standings.bytes),
        budget.part == 4 ? in(language, "a quarter", "四分之一") : in(language, "half", "一半"));
  out += winner->row->method + in(language, " does least damage: ", " 损伤最小：") +
         figures_of(standings, *winner, language);
  if (const auto ties = ties_of(standings, *winner, budget.limit); !ties.empty())
    out += in(language, "; not separable from ", "；无法区分于 ") + joined(ties, 3, language);
  return out + in(language, ".", "。") + free_clause(standings, winner, language) +
         answers_clause(standings, winner, language);
}

std::string family_sentence(const Decision& decision, Language language) {
  std::vector<std::pair<double, std::string>> alarms;
  for (const std::string& method : decision.methods) {
    const auto ratio = family_ratio(decision, method);
    if (!ratio || ratio->ratio <= kFamilyAlarm) continue;
    alarms.emplace_back(-ratio->ratio,
                        fmt::format(fmt::runtime(in(language, "{} {:.0f}x ({} against {})",
                                                    "{} {:.0f} 倍（{} 对 {}）")),
                                    method, ratio->ratio, ratio->worst, ratio->best));
  }
  if (alarms.empty()) return {};
  std::sort(alarms.begin(), alarms.end());
  std::vector<std::string> texts;
  for (const auto& [ratio, text] : alarms) texts.push_back(text);
  return in(language, "Depends on the model, damage of the worst over the best: ",
            "依赖模型（最差与最好之比）：") +
         joined(texts, 3, language) + in(language, ".", "。");
}

std::vector<std::string> not_concluded(const Decision& decision, Language language) {
  std::vector<std::string> out, names, odd;
  for (const Standings& standings : decision.models) {
    for (const Evaluation& evaluation : standings.board->evaluations)
      if (std::find(names.begin(), names.end(), evaluation.name) == names.end())
        names.push_back(evaluation.name);
    for (std::string& text : unreliable(standings)) odd.push_back(std::move(text));
  }
  for (const std::string& name : names) {
    Open open;
    std::vector<std::string> failing;
    for (const Standings& standings : decision.models)
      for (const Evaluation& evaluation : standings.board->evaluations) {
        if (evaluation.name != name) continue;
        if (says_nothing(standings, evaluation)) failing.push_back(standings.board->model);
        add_open(standings, evaluation, open);
      }
    if (!failing.empty())
      out.push_back(name +
                    in(language, ": full precision itself answers fewer than 90 % (",
                       "：全精度本身答对不到 90 %（") +
                    joined(failing, 3, language) +
                    in(language, "), so it judges no method there", "），不能据此评判方法"));
    if (open.undecided > 0) out.push_back(open_text(name, reference_of(decision), open, language));
  }
  if (!odd.empty())
    out.push_back(in(language, "perplexity is unreliable where it falls although KL rises: ",
                     "困惑度不可靠（KL 上升而困惑度下降）：") +
                  joined(odd, 3, language));
  return out;
}

std::string chart_in_words(const Standings& standings, Language language) {
  std::vector<std::string> front, below;
  const Standing* worst = nullptr;
  for (const Standing& s : standings.methods) {
    if (!s.damage || !s.bytes) continue;
    worst = &s;
    if (s.below_floor) below.push_back(s.row->method);
    if (s.front)
      front.push_back(fmt::format("{} ({}, {})", s.row->method,
                                  size_text(*s.bytes, standings.bytes),
                                  damage_text(*s.damage, standings.damage, language)));
  }
  if (!worst) return {};
  std::string out =
      standings.board->model +
      in(language,
         ", damage against bytes. On the Pareto front: ", "，损伤与字节数。帕累托前沿：") +
      joined(front, 8, language) + in(language, ". Most damage: ", "。损伤最大：") +
      worst->row->method + " (" + damage_text(*worst->damage, standings.damage, language) + ")";
  if (!below.empty())
    out +=
        in(language, ". Below the noise floor: ", "。低于噪声下限：") + joined(below, 4, language);
  return out + in(language, ".", "。");
}

}  // namespace ptq::report
