#include "analysis/decide/table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "analysis/board/columns.hpp"
#include "analysis/decide/texts.hpp"

namespace ptq::report {
namespace {

const Row* row_of(const Board& board, const std::string& method) {
  const auto found = std::find_if(board.rows.begin(), board.rows.end(),
                                  [&](const Row& row) { return row.method == method; });
  return found == board.rows.end() ? nullptr : &*found;
}

// The comparison of a cell with the reference; nullptr where it is the reference itself.
const Comparison* against(const Standings& standings, const Cell* cell,
                          const std::string& reference) {
  if (reference.empty() || reference == standings.board->baseline_name)
    return standings.statistics->of(cell);
  const Row* other = row_of(*standings.board, reference);
  const Cell* with = other ? other->cell(standings.evaluation->name) : nullptr;
  return with ? standings.statistics->pair(cell, with) : nullptr;
}

std::string model_cell(const Standings& standings, const Row& row, const std::string& reference,
                       Language language) {
  const Cell* cell = standings.evaluation ? row.cell(standings.evaluation->name) : nullptr;
  if (!cell) return "-";
  if (!cell->ok()) return status_text(*cell);
  const Standing* s = standings.of(row.method);
  std::string first, second;
  if (s && s->damage) {
    first = std::string(s->front ? kFrontMark : "") +
            damage_text(*s->damage, standings.damage, language) +
            (s->rank > 0 ? fmt::format(" #{}", s->rank) : "") +
            (s->below_floor ? in(language, ", below floor", "，低于下限") : "");
  } else if (!s && cell->figure()) {
    first = short_title(standings.evaluation->headline) + " " +
            headline_text(*standings.board, row, *cell);
  }
  const Comparison* c = against(standings, cell, reference);
  if (c && c->n > 0) {
    // The damage of a loss or of answers is this change, against the baseline.
    const bool said = standings.damage != Damage::divergence && reference.empty();
    second = (said ? "" : change_text(*c, language) + " ") + verdict_word(*c, language);
  }
  if (first.empty()) return second.empty() ? "-" : second;
  return second.empty() ? first : first + "\n" + second;
}

// The values of a figure over the models: "397 / 403", once where all are equal.
template <class Value>
std::string over_models(const Decision& decision, const std::string& method, Value value) {
  std::vector<std::string> texts;
  for (const Standings& standings : decision.models) {
    const Row* row = row_of(*standings.board, method);
    texts.push_back(row ? value(standings, *row) : std::string("-"));
  }
  if (std::all_of(texts.begin(), texts.end(), [&](const auto& t) { return t == texts[0]; }))
    return texts[0];
  return fmt::format("{}", fmt::join(texts, " / "));
}

// Whether the values of a method differ by less than 2 % over the models.
bool alike(const std::vector<double>& values) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return !values.empty() && *high <= 1.02 * *low;
}

const Cell* measured(const Standings& standings, const Row& row) {
  const Cell* cell = standings.evaluation ? row.cell(standings.evaluation->name) : nullptr;
  return cell && cell->ok() ? cell : nullptr;
}

std::string bytes_cell(const Decision& decision, const std::string& method) {
  std::vector<double> values;
  const std::string text =
      over_models(decision, method, [&](const Standings& standings, const Row& row) {
        const Cell* cell = measured(standings, row);
        const auto bytes = cell ? bytes_of(*cell, standings.bytes) : std::nullopt;
        if (!bytes) return std::string("-");
        values.push_back(*bytes);
        return number_text(*bytes, standings.bytes);
      });
  if (values.size() != decision.models.size() || !alike(values)) return text;
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return number_text(sum / double(values.size()), decision.models[0].bytes);
}

// The geometric mean over the models of the speed relative to the baseline; tokens per second of
// the baseline itself.
std::string speed_cell(const Decision& decision, const std::string& method) {
  double logs = 0, count = 0;
  std::vector<std::string> absolute;
  bool ratios = true;
  for (const Standings& standings : decision.models) {
    const Row* row = row_of(*standings.board, method);
    const auto speed = row ? speed_of(standings, *row) : std::nullopt;
    if (!speed) continue;
    absolute.push_back(thousands_text(speed->own));
    ratios &= speed->baseline && row != standings.board->baseline();
    logs += std::log(speed->own / speed->baseline.value_or(speed->own));
    ++count;
  }
  if (count == 0) return "-";
  if (ratios) return fmt::format("{:.2f}x", std::exp(logs / count));
  return fmt::format("{} tok/s", fmt::join(absolute, " / "));
}

std::string memory_cell(const Decision& decision, const std::string& method) {
  return over_models(decision, method, [](const Standings& standings, const Row& row) {
    const Cell* cell = measured(standings, row);
    const auto memory = cell ? memory_of(*cell) : std::nullopt;
    return memory ? mebibytes_text(*memory) : std::string("-");
  });
}

// A column that is empty everywhere is left out.
void add_column(const Decision& decision, Table& table, const std::string& head,
                const std::function<std::string(const std::string&)>& text) {
  std::vector<std::string> texts;
  for (const std::string& method : decision.methods) texts.push_back(text(method));
  if (std::all_of(texts.begin(), texts.end(), [](const auto& t) { return t == "-"; })) return;
  table.head.push_back(head);
  for (size_t r = 0; r < texts.size(); ++r) table.rows[r].push_back(std::move(texts[r]));
}

bool is_baseline(const Decision& decision, const std::string& method) {
  return std::any_of(decision.models.begin(), decision.models.end(), [&](const Standings& s) {
    return s.board->baseline() && s.board->baseline_name == method;
  });
}

bool is_asked(const Decision& decision, const std::string& method) {
  return std::any_of(decision.models.begin(), decision.models.end(), [&](const Standings& s) {
    const Row* row = row_of(*s.board, method);
    return row && row->asked;
  });
}

}  // namespace

std::string damage_title(const Standings& standings, Language language) {
  if (!standings.evaluation) return "-";
  const char* what = standings.damage == Damage::divergence ? "KL"
                     : standings.damage == Damage::loss ? in(language, "PPL change", "困惑度变化")
                                                        : in(language, "answers", "答案");
  return std::string(what) + ", " + standings.evaluation->name;
}

Table decision_table(const Decision& decision, Language language, const std::string& reference) {
  Table table;
  table.head = {in(language, "Method", "方法")};
  for (const std::string& method : decision.methods)
    table.rows.push_back({method + (is_baseline(decision, method) ? kBaseline : "") +
                          (is_asked(decision, method) ? "" : kNotAsked)});
  const Bytes bytes = decision.models.empty() ? Bytes::cache : decision.models[0].bytes;
  add_column(decision, table,
             bytes == Bytes::cache     ? in(language, "KV B/token", "缓存 B/token")
             : bytes == Bytes::weights ? in(language, "Weights, MiB", "权重 MiB")
                                       : in(language, "Weights + cache, MiB", "权重 + 缓存 MiB"),
             [&](const std::string& method) { return bytes_cell(decision, method); });
  for (const Standings& standings : decision.models)
    add_column(decision, table, standings.board->model + "\n" + damage_title(standings, language),
               [&](const std::string& method) {
                 const Row* row = row_of(*standings.board, method);
                 return row ? model_cell(standings, *row, reference, language) : std::string("-");
               });
  add_column(decision, table, in(language, "Worst / best\nmodel", "最差 / 最好\n模型"),
             [&](const std::string& method) -> std::string {
               const auto ratio = family_ratio(decision, method);
               if (!ratio) return "-";
               return fmt::format("{:.1f}x{}", ratio->ratio,
                                  ratio->ratio > kFamilyAlarm ? " !" : "");
             });
  add_column(decision, table, in(language, "Speed", "速度"),
             [&](const std::string& method) { return speed_cell(decision, method); });
  if (bytes != Bytes::total)
    add_column(decision, table, in(language, "Weights +\ncache, MiB", "权重 + 缓存\nMiB"),
               [&](const std::string& method) { return memory_cell(decision, method); });
  return table;
}

std::string decision_legend(const Decision& decision, Language language) {
  const bool several = decision.models.size() > 1;
  const Standings* first = decision.models.empty() ? nullptr : &decision.models.front();
  std::string out = in(language, "Chart: left and low is better; ", "图：越靠左下越好；");
  if (first && first->damage == Damage::divergence)
    out += in(language, "KL is the mean divergence from full precision, nats per token. ",
              "KL 是与全精度的平均散度，单位为每词元 nat。");
  out += in(language,
            "[ ] and bars: 95 % intervals. ◆ and the line: the Pareto front of bytes and damage. "
            "#: rank by damage, shared where the data do not separate. ",
            "[ ] 与误差线：95 % 区间。◆ "
            "与折线：字节与损伤的帕累托前沿。#：按损伤的名次，数据无法区分者并列。");
  if (first && first->board->baseline())
    out += in(language, "Second line: change of the figure and verdict, paired with ",
              "第二行：指标的变化与结论，配对于 ") +
           first->board->baseline_name +
           in(language, "; speed is against it. ", "；速度也相对于它。");
  if (several)
    out += in(language, "a / b: by model. !: the worst model suffers more than 5x the best. ",
              "a / b：各模型的值。!：最差模型的损伤超过最好模型的 5 倍。");
  if (first && first->baseline())
    if (const auto tokens = first->baseline()->number({"cache", "tokens"}))
      out +=
          fmt::format(fmt::runtime(in(language, "Memory is at {} tokens.", "内存按 {} 词元计。")),
                      thousands_text(*tokens));
  return out;
}

}  // namespace ptq::report
