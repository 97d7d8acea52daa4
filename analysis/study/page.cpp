// Our pages of the study's runs: the same figures, joined rows marked, intervals and warnings.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/study/audit.hpp"
#include "analysis/study/leaderboard.hpp"
#include "analysis/write/numbers.hpp"
#include "analysis/write/python_text.hpp"
#include "ptq/core/binomial.hpp"

namespace ptq::report {
namespace {

std::string number_text(const std::optional<double>& value, int decimals) {
  return value ? fmt::format("{:.{}f}", *value, decimals) : "-";
}

std::string passkey_text(const Run* run) {
  if (!run) return "-";
  const auto correct = run->number(std::string(kPasskey) + "total_correct"),
             total = run->number(std::string(kPasskey) + "total_tests");
  if (!correct || !total) return "-";
  const auto [low, high] = clopper_pearson95(int64_t(*correct), int64_t(*total));
  return fmt::format("{:.0f}/{:.0f} ({:.1f}-{:.1f} %)", *correct, *total, 100 * low, 100 * high);
}

std::string generation_text(const Run* run) {
  if (!run) return "-";
  const std::vector<double> ppls = generation_ppls(*run);
  if (ppls.empty()) return "-";
  double sum = 0, logs = 0;
  for (const double ppl : ppls) {
    sum += ppl;
    logs += std::log(ppl);
  }
  return fmt::format("{:.2f} / {:.2f}", sum / double(ppls.size()),
                     std::exp(logs / double(ppls.size())));
}

class StudyPage {
 public:
  StudyPage(const Layout& layout, const std::vector<Run>& runs, Language language)
      : layout_(layout), runs_(runs), zh_(language == Language::zh) {}

  Document make(const Json& later) {
    out_.add(Heading{1, t("排行榜", "Leaderboard")});
    for (const StudyBoard& board : join(layout_, runs_)) add(board);
    out_.add(Lines{joined_, "† " + t("此行合并了多次运行", "The row joins several runs")});
    const std::vector<Finding> findings = audit(layout_, runs_, later);
    if (findings.empty()) return std::move(out_);
    out_.add(Heading{2, t("提醒", "Warnings")});
    out_.add(Paragraph{t("编号表示问题的种类。", "A number is that of the kind of finding.")});
    Lines list;
    for (const Finding& finding : findings) list.lines.push_back(finding.line());
    out_.add(std::move(list));
    return std::move(out_);
  }

 private:
  std::string t(const char* zh, const char* en) const { return zh_ ? zh : en; }

  void add(const StudyBoard& board) {
    out_.add(Heading{2, "Track " + board.layout->track + ": " + board.layout->title});
    Table table;
    table.head = {t("方法", "Method")};
    for (const auto& column : board.layout->ppl) table.head.push_back("PPL " + column.head + " ↓");
    table.head.insert(
        table.head.end(),
        {t("各任务平均 ↑", "Mean of tasks ↑"), t("原文平均 ↑", "Study's average ↑"),
         "Passkey ↑ (95 %)", t("生成 PPL: 均值 / 合并", "Gen PPL: mean / pooled"), "VRAM MiB"});
    const BoardRow* baseline = board.baseline();
    for (const BoardRow& row : board.rows) {
      std::string name = row.empty() ? plain(row.label) : layout_.name(row.method);
      if (row.runs().size() > 1) {
        name += " †";
        std::string ids;
        for (const Run* run : row.runs()) ids += (ids.empty() ? "" : ", ") + run->id;
        joined_.push_back(board.layout->title + ", " + layout_.name(row.method) + ": " + ids);
      }
      std::vector<std::string> cells = {name};
      if (row.empty()) {
        cells.resize(table.head.size(), "-");
        table.rows.push_back(std::move(cells));
        continue;
      }
      for (const auto& column : board.layout->ppl) {
        const std::string path = "results/ppl/" + column.key + "/ppl";
        const auto value = row.ppl->number(path);
        std::string text = number_text(value, 4);
        const auto base = baseline ? baseline->ppl->number(path) : std::nullopt;
        if (value && base && &row != baseline) text += " (" + change_text(*value, *base) + ")";
        cells.push_back(text);
      }
      const TaskAverage average = row.tasks ? average_of_tasks(*row.tasks) : TaskAverage{};
      cells.push_back(average.tasks ? fmt::format("{:.4f} ± {:.4f} ({})", average.mean,
                                                  average.error, average.tasks)
                                    : "-");
      cells.push_back(number_text(row.tasks ? row.tasks->average_accuracy() : std::nullopt, 4));
      cells.push_back(passkey_text(row.passkey));
      cells.push_back(generation_text(row.generation));
      cells.push_back(number_text(
          row.vram ? row.vram->number("results/system_metrics/vram_peak_mb") : std::nullopt, 1));
      table.rows.push_back(std::move(cells));
    }
    out_.add(TablePart{std::move(table)});
  }

  // A label of a table without its markup.
  static std::string plain(const std::string& label) {
    std::string out;
    for (const char c : label) {
      if (c != '*') out += c;
    }
    return out;
  }

  const Layout& layout_;
  const std::vector<Run>& runs_;
  const bool zh_;
  Document out_;
  std::vector<std::string> joined_;
};

}  // namespace

Document study_leaderboard(const Layout& layout, const std::vector<Run>& runs, const Json& later,
                           Language language) {
  return StudyPage(layout, runs, language).make(later);
}

namespace {

std::string member_text(const Json& row, const char* key) {
  const Json value = row.is_object() ? row.value(key, Json()) : Json();
  return value.is_number() ? figure_text(value.get<double>()) : "-";
}

// Perplexity by context length of each decoding run through the cache.
void add_lengths(const Run& run, bool zh, Document& out) {
  const Json& sets = run.at("results/ppl");
  if (!sets.is_object()) return;
  for (const auto& [name, values] : sets.items()) {
    const Json lengths = values.is_object() ? values.value("lengths", Json()) : Json();
    if (!lengths.is_array() || lengths.empty()) continue;
    Table table;
    table.head = {zh ? "上下文长度" : "Context", "PPL", zh ? "全精度 PPL" : "PPL, full precision"};
    for (const Json& row : lengths) {
      const Json length = row.is_object() ? row.value("length", Json()) : Json();
      if (!length.is_number()) continue;
      table.rows.push_back({thousands_text(length.get<double>()), member_text(row, "ppl"),
                            member_text(row, "ppl_reference")});
    }
    out.add(Heading{2, name + (zh ? " (按长度)" : " by context length")});
    out.add(TablePart{std::move(table)});
  }
}

// Right answers by task of each retrieval suite.
void add_retrieval(const Run& run, bool zh, Document& out) {
  const Json& suites = run.at("results/kv_stress_test/retrieval");
  if (!suites.is_object()) return;
  for (const auto& [name, tasks] : suites.items()) {
    Table table;
    table.head = {zh ? "任务" : "Task", zh ? "长度" : "Context", zh ? "正确" : "Correct", "95 %",
                  zh ? "全精度" : "Full precision"};
    for (const Json& task : tasks) {
      const auto number = [&](const char* key) {
        const Json value = task.is_object() ? task.value(key, Json()) : Json();
        return value.is_number() ? std::optional(value.get<double>()) : std::nullopt;
      };
      const auto length = number("length"), correct = number("correct"), total = number("total"),
                 reference = number("accuracy_reference");
      if (!correct || !total) continue;
      const auto [low, high] = clopper_pearson95(int64_t(*correct), int64_t(*total));
      const Json label = task.value("task", Json()), haystack = task.value("haystack", Json());
      table.rows.push_back({(label.is_string() ? label.get<std::string>() : "-") +
                                (haystack.is_string() ? ", " + haystack.get<std::string>() : ""),
                            length ? thousands_text(*length) : "-",
                            fmt::format("{:.0f}/{:.0f}", *correct, *total),
                            fmt::format("{:.0f}-{:.0f} %", 100 * low, 100 * high),
                            reference ? share_text(*reference) : "-"});
    }
    if (table.rows.empty()) continue;
    out.add(Heading{2, name + (zh ? " (按任务)" : " by task")});
    out.add(TablePart{std::move(table)});
  }
}

}  // namespace

Document run_details(const Run& run, Language language) {
  const bool zh = language == Language::zh;
  Document out;
  const Json& passkey = run.at("results/kv_stress_test/passkey_retrieval");
  const Json& depths = run.at(std::string(kPasskey) + "depth_accuracy");
  const auto keys = run.number(std::string(kPasskey) + "num_keys");
  if (passkey.is_object() && depths.is_object() && keys) {
    Table table;
    table.head = {zh ? "深度" : "Depth", zh ? "正确" : "Correct", "95 %"};
    for (const auto& [depth, share] : depths.items()) {
      if (!share.is_number()) continue;
      const auto correct = int64_t(std::llround(share.get<double>() * *keys));
      const auto [low, high] = clopper_pearson95(correct, int64_t(*keys));
      table.rows.push_back({depth, fmt::format("{}/{:.0f}", correct, *keys),
                            fmt::format("{:.0f}-{:.0f} %", 100 * low, 100 * high)});
    }
    out.add(Heading{2, std::string("Passkey") + (zh ? " (按深度)" : " by depth")});
    out.add(TablePart{std::move(table)});
  }
  add_lengths(run, zh, out);
  add_retrieval(run, zh, out);
  const std::vector<double> ppls = generation_ppls(run);
  if (!ppls.empty()) {
    Table table;
    table.head = {zh ? "样本" : "Sample", "PPL"};
    for (size_t i = 0; i < ppls.size(); ++i) {
      table.rows.push_back({std::to_string(i), number_text(ppls[i], 4)});
    }
    table.rows.push_back({zh ? "均值 / 合并" : "mean / pooled", generation_text(&run)});
    out.add(Heading{2, zh ? "生成 PPL" : "Generation perplexity"});
    out.add(TablePart{std::move(table)});
  }
  const TaskAverage average = average_of_tasks(run);
  if (average.tasks > 0) {
    out.add(Paragraph{fmt::format(
        fmt::runtime(zh ? "各任务主指标的平均: {:.4f} ± {:.4f} ({} 个任务)"
                        : "Mean of the primary metric of each task: {:.4f} ± {:.4f} ({} tasks)"),
        average.mean, average.error, average.tasks)});
  }
  return out;
}

}  // namespace ptq::report
