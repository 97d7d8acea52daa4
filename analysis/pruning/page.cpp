// Our pruning page: the study's questions with statistics that hold.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/compare/statistics.hpp"
#include "analysis/pruning/pruning.hpp"
#include "analysis/write/numbers.hpp"

namespace ptq::report {
namespace {

double deviation(const std::vector<double>& values, double divisor) {
  const double mean = mean_of(values);
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return divisor > 0 ? std::sqrt(squares / divisor) : std::nan("");
}

std::string f4(double value) { return std::isfinite(value) ? fmt::format("{:.4f}", value) : "-"; }
std::string signed4(double value) {
  return std::isfinite(value) ? fmt::format("{:+.4f}", value) : "-";
}
std::string range_text(const Interval& interval) {
  return interval.known() ? fmt::format("{:+.4f} .. {:+.4f}", interval.low, interval.high) : "-";
}

class Page {
 public:
  explicit Page(Language language) : zh_(language == Language::zh) {}

  Document make(const std::vector<PruningModel>& models) {
    out_.add(Heading{1, t("剪枝分析", "Pruning analysis")});
    for (const PruningModel& model : models) add_model(model);
    if (models.size() > 1) across(models);
    return std::move(out_);
  }

 private:
  std::string t(const char* zh, const char* en) const { return zh_ ? zh : en; }
  void heading(const std::string& text) { out_.add(Heading{3, text}); }
  void note(const std::string& text) { notes_.push_back(text); }

  void add_model(const PruningModel& model) {
    notes_.clear();
    const size_t valid = model.valid().size();
    out_.add(Heading{2, model.name});
    out_.add(Paragraph{
        fmt::format(fmt::runtime(t("{} 次实验, {} 次有效", "{} experiments, {} of them valid")),
                    model.runs.size(), valid)});
    if (valid == 0) return;
    methods(model);
    paired(model, PruningAxis::seq_len, "seq_len");
    paired(model, PruningAxis::num_samples, "num_samples");
    correlations(model);
    best(model);
    if (notes_.empty()) return;
    heading(t("提醒", "Warnings"));
    out_.add(Lines{std::move(notes_)});
  }

  void methods(const PruningModel& model) {
    heading(t("剪枝方法", "Pruning methods"));
    Table table;
    table.head = {t("方法", "Method"),
                  t("平均 ACC", "Mean ACC"),
                  t("总体标准差", "Std (population)"),
                  t("样本标准差", "Std (sample)"),
                  t("最小值", "Minimum"),
                  t("最大值", "Maximum"),
                  "n"};
    auto groups = by_method(model);
    std::sort(groups.begin(), groups.end(),
              [](const auto& a, const auto& b) { return mean_of(a.second) > mean_of(b.second); });
    for (const auto& [method, values] : groups) {
      const auto [low, high] = std::minmax_element(values.begin(), values.end());
      const double n = double(values.size());
      table.rows.push_back({method, f4(mean_of(values)), f4(deviation(values, n)),
                            f4(deviation(values, n - 1)), f4(*low), f4(*high),
                            std::to_string(values.size())});
    }
    out_.add(TablePart{std::move(table)});
    if (groups.front().first != model.best()->method) {
      note(fmt::format(
          fmt::runtime(t("单次最佳运行的方法是 {} ({:.4f}), 但平均最佳的是 {} ({:.4f})",
                         "the best single run is {} ({:.4f}), but by mean the best method is {} "
                         "({:.4f})")),
          model.best()->method, *model.best()->acc_mean, groups.front().first,
          mean_of(groups.front().second)));
    }
  }

  // Levels of one parameter, compared within the cells that agree in everything else.
  void paired(const PruningModel& model, PruningAxis axis, const char* name) {
    auto groups = by_axis(model, axis);
    if (groups.size() < 2) return;
    std::sort(groups.begin(), groups.end());
    heading(name +
            t(": 同一 (方法, 其他参数) 内的配对比较", ": paired within (method, other parameter)"));
    Table table;
    table.head = {
        name,   t("平均 ACC", "Mean ACC"), "n",     t("与最佳的差 (配对)", "to the best, paired"),
        "95 %", t("配对数", "pairs"),      "p (t)", "p (Holm)"};
    size_t best = 0;
    double lowest = 1, highest = 0, spread = 0;
    for (size_t g = 0; g < groups.size(); ++g) {
      const double mean = mean_of(groups[g].second);
      if (mean > mean_of(groups[best].second)) best = g;
      lowest = std::min(lowest, mean);
      highest = std::max(highest, mean);
      spread = std::max(spread, deviation(groups[g].second, double(groups[g].second.size())));
    }
    std::vector<double> p;  // of the levels other than the best
    std::vector<std::vector<double>> all;
    for (size_t g = 0; g < groups.size(); ++g) {
      all.push_back(differences(model, axis, groups[g].first, groups[best].first));
      if (g != best) p.push_back(paired_t(all.back()));
    }
    std::vector<double> corrected = holm(p);
    const auto best_at = std::ptrdiff_t(best);
    p.insert(p.begin() + best_at, 1.0);
    corrected.insert(corrected.begin() + best_at, 1.0);
    bool any = false;
    for (size_t g = 0; g < groups.size(); ++g) {
      std::vector<std::string> row = {std::to_string(groups[g].first),
                                      f4(mean_of(groups[g].second)),
                                      std::to_string(groups[g].second.size())};
      if (g == best || all[g].empty()) {
        row.insert(row.end(), {"-", "-", "-", "-", "-"});
      } else {
        const Interval interval = bootstrap_of(all[g].size()).mean(all[g]);
        any = any || corrected[g] < 0.05;
        row.insert(row.end(),
                   {signed4(mean_of(all[g])), range_text(interval), std::to_string(all[g].size()),
                    fmt::format("{:.3f}", p[g]), fmt::format("{:.3f}", corrected[g])});
      }
      table.rows.push_back(std::move(row));
    }
    out_.add(TablePart{std::move(table)});
    if (!any || highest - lowest < spread) {
      note(fmt::format(
          fmt::runtime(t("{} 的均值最多相差 {:.4f}, 组内标准差达 {:.4f}; 配对检验{}区分最佳值",
                         "the means of {} differ by at most {:.4f}, the spread inside a group "
                         "reaches {:.4f}; the paired test {} a best level")),
          name, highest - lowest, spread,
          any ? t("能", "supports") : t("不能", "does not support")));
    }
  }

  static std::vector<double> differences(const PruningModel& model, PruningAxis axis, int64_t level,
                                         int64_t reference) {
    const auto key = [&](const PruningRun& run) {
      return axis == PruningAxis::seq_len ? run.seq_len : run.num_samples;
    };
    const auto other = [&](const PruningRun& run) {
      return axis == PruningAxis::seq_len ? run.num_samples : run.seq_len;
    };
    std::vector<double> out;
    for (const PruningRun* a : model.valid()) {
      if (!key(*a) || int64_t(*key(*a)) != level || level == reference) continue;
      for (const PruningRun* b : model.valid()) {
        if (b->method == a->method && other(*b) == other(*a) && key(*b) &&
            int64_t(*key(*b)) == reference) {
          out.push_back(*a->acc_mean - *b->acc_mean);
          break;
        }
      }
    }
    return out;
  }

  void correlations(const PruningModel& model) {
    heading(t("与 ACC 的相关性", "Correlation with ACC"));
    Table table;
    table.head = {t("指标", "Metric"),
                  "r",
                  t("95 % (自助法)", "95 % (bootstrap)"),
                  t("有限对数", "finite pairs"),
                  t("无穷值", "infinite"),
                  "Spearman ρ"};
    const auto add = [&](const std::string& name, const Pairs& pairs) {
      if (pairs.size() < 2) return;
      const FiniteCorrelation c = finite_correlation(pairs.x, pairs.y);
      table.rows.push_back({name, signed4(c.r), range_text(c.interval), std::to_string(c.pairs),
                            std::to_string(c.left_out), signed4(spearman(pairs.x, pairs.y))});
      if (c.left_out > 0) {
        note(fmt::format(
            fmt::runtime(
                t("{}: {} 个无穷值 (fp16 溢出); 原文印出 nan, 此处只用有限对",
                  "{}: {} infinite values (overflow of a norm); the study prints nan, here "
                  "r is over the finite pairs")),
            name, c.left_out));
      }
    };
    bool nan = false;
    std::vector<double> magnitudes;
    for (size_t g = 0; g < kGradientMetrics.size(); ++g) {
      const Pairs pairs = gradient_pairs(model, g);
      add(kGradientMetrics[g], pairs);
      if (pairs.size() < 2) continue;
      const double r = study_correlation(pairs);
      nan = nan || std::isnan(r);
      if (!std::isnan(r)) magnitudes.push_back(std::abs(r));
    }
    add("extreme_pruning_layers", extreme_pairs(model));
    add("ppl", perplexity_pairs(model));
    out_.add(TablePart{std::move(table)});
    if (nan && !std::is_sorted(magnitudes.rbegin(), magnitudes.rend())) {
      note(t("原文按 |r| 的排序因 nan 而失效",
             "the study's order by |r| is broken by the nan in it"));
    }
    partial(model);
  }

  void partial(const PruningModel& model) {
    std::vector<double> ppl, acc;
    std::vector<int> group;
    std::vector<std::string> names;
    for (const PruningRun* run : model.valid()) {
      if (!run->ppl || !std::isfinite(*run->ppl)) continue;
      auto at = std::find(names.begin(), names.end(), run->method);
      if (at == names.end()) at = names.insert(names.end(), run->method);
      group.push_back(int(at - names.begin()));
      ppl.push_back(*run->ppl);
      acc.push_back(*run->acc_mean);
    }
    if (ppl.size() < 4 || names.size() < 2) return;
    out_.add(Paragraph{fmt::format(
        fmt::runtime(t("PPL 与 ACC 在方法内部的相关 (偏相关): {} (n = {})",
                       "PPL and ACC within methods (partial correlation): {} (n = {})")),
        signed4(within_groups(ppl, acc, group)), ppl.size())});
  }

  void best(const PruningModel& model) {
    const PruningRun& run = *model.best();
    const size_t n = model.valid().size();
    std::vector<double> acc;
    for (const PruningRun* valid : model.valid()) acc.push_back(*valid->acc_mean);
    std::sort(acc.rbegin(), acc.rend());
    heading(t("最佳配置", "Best configuration"));
    std::string text = fmt::format("{}: ACC {:.4f}", run.method, *run.acc_mean);
    if (run.ppl) text += fmt::format(", PPL {:.2f}", *run.ppl);
    if (run.seq_len) text += fmt::format(", seq_len {:.0f}", *run.seq_len);
    if (run.num_samples) text += fmt::format(", num_samples {:.0f}", *run.num_samples);
    out_.add(Paragraph{std::move(text)});
    if (n > 1) {
      note(fmt::format(
          fmt::runtime(t("最佳值是在测试任务上从 {} 次运行中选出的 (选择偏差); 第二名 {:.4f}",
                         "the best is chosen among {} runs on the test tasks, so it is too high on "
                         "average; the second is {:.4f}")),
          n, acc[1]));
    }
    note(t("任务准确率混合了 acc_norm (有则用) 和 acc (BoolQ, Winogrande)",
           "task accuracies mix acc_norm (where a task has it) and acc (BoolQ, Winogrande)"));
  }

  void across(const std::vector<PruningModel>& models) {
    out_.add(Heading{2, t("跨模型", "Across models")});
    Table table;
    table.head = {t("模型", "Model"), t("最佳方法", "Best method"), t("最佳 ACC", "Best ACC"),
                  "PPL", t("有效实验", "Valid runs")};
    for (const PruningModel& model : models) {
      const PruningRun* run = model.best();
      if (!run) continue;
      table.rows.push_back({model.name, run->method, f4(*run->acc_mean),
                            run->ppl ? fmt::format("{:.2f}", *run->ppl) : "-",
                            std::to_string(model.valid().size())});
    }
    out_.add(TablePart{std::move(table)});
  }

  const bool zh_;
  Document out_;
  std::vector<std::string> notes_;
};

}  // namespace

Document pruning_page(const std::vector<PruningModel>& models, Language language) {
  return Page(language).make(models);
}

}  // namespace ptq::report
