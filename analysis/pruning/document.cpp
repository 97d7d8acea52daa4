// The study's pruning document: its layout, and its statistics with population deviations.
#include <algorithm>
#include <cctype>
#include <cmath>

#include "analysis/pruning/pruning.hpp"
#include "analysis/write/python_text.hpp"

namespace ptq::report {
namespace {

using python::fixed, python::ljust, python::rjust;

struct DocumentWords {
  const char *analysis, *total, *valid, *invalid, *invalid_title, *pruning_method, *reason, *no_ppl,
      *no_acc, *no_gradient, *success, *section1, *section2, *section3, *section4, *section5,
      *section6, *method, *mean, *std, *min, *max, *count, *best_method, *group_by, *best, *average,
      *metric, *r, *explain, *strong, *medium, *positive, *negative, *layers_r, *group_layers,
      *layers, *ppl_r, *tasks, *cross, *model, *best_method_head, *best_acc, *best_ppl,
      *valid_count, *overall, *model_word, *saved;
};

constexpr DocumentWords kChinese = {"模型分析",
                                    "总实验数",
                                    "有效结果",
                                    "无效实验",
                                    "无效实验详情",
                                    "剪枝方法",
                                    "失败原因",
                                    "PPL缺失",
                                    "ACC缺失",
                                    "梯度统计缺失",
                                    "success标记",
                                    "1. 剪枝方法对比",
                                    "2. Taylor 参数影响分析",
                                    "3. 梯度指标与 ACC 的相关性",
                                    "4. 极端剪枝层数影响",
                                    "5. PPL 与 ACC 的关系",
                                    "6. 最佳配置详情",
                                    "方法",
                                    "平均ACC",
                                    "标准差",
                                    "最小值",
                                    "最大值",
                                    "实验数",
                                    "最佳剪枝方法",
                                    "按 {} 分组",
                                    "最佳",
                                    "平均 ACC",
                                    "指标",
                                    "相关系数",
                                    "相关性解释",
                                    "强",
                                    "中等",
                                    "正",
                                    "负",
                                    "与 ACC 的相关系数",
                                    "按极端剪枝层数分组",
                                    "层数",
                                    "PPL 与 ACC 的相关系数",
                                    "各任务详细 ACC",
                                    "跨模型对比",
                                    "模型",
                                    "最佳方法",
                                    "最佳ACC",
                                    "最佳PPL",
                                    "有效实验数",
                                    "总体最佳",
                                    "模型",
                                    "已保存跨模型对比到"};
constexpr DocumentWords kEnglish = {"model analysis",
                                    "Experiments",
                                    "valid",
                                    "invalid",
                                    "Invalid experiments",
                                    "Pruning method",
                                    "Reason",
                                    "no PPL",
                                    "no ACC",
                                    "no gradient statistics",
                                    "success flag",
                                    "1. Pruning methods",
                                    "2. Influence of the Taylor parameters",
                                    "3. Correlation of gradient metrics with ACC",
                                    "4. Layers pruned to the extreme",
                                    "5. PPL and ACC",
                                    "6. Best configuration",
                                    "Method",
                                    "Mean ACC",
                                    "Std. dev.",
                                    "Minimum",
                                    "Maximum",
                                    "Runs",
                                    "Best pruning method",
                                    "By {}",
                                    "Best",
                                    "mean ACC",
                                    "Metric",
                                    "Correlation",
                                    "In words",
                                    "strong ",
                                    "medium ",
                                    "positive ",
                                    "negative ",
                                    "Correlation with ACC",
                                    "By number of extreme layers",
                                    "Layers",
                                    "Correlation of PPL and ACC",
                                    "ACC of each task",
                                    "Across models",
                                    "Model",
                                    "Best method",
                                    "Best ACC",
                                    "Best PPL",
                                    "Valid runs",
                                    "Best of all",
                                    "model",
                                    "Comparison saved to"};

std::string upper(std::string text) {
  for (char& c : text) c = char(std::toupper(static_cast<unsigned char>(c)));
  return text;
}
std::string capitalised(std::string text) {
  for (char& c : text) c = char(std::tolower(static_cast<unsigned char>(c)));
  if (!text.empty()) text[0] = char(std::toupper(static_cast<unsigned char>(text[0])));
  return text;
}
std::string repeated(const char* piece, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += piece;
  return out;
}
std::string whole(double value) { return fmt::format("{:.0f}", value); }

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / double(values.size());
}
// The population's: the study divides by n.
double std_of(const std::vector<double>& values) {
  if (values.size() < 2) return 0;
  const double mean = mean_of(values);
  double sum = 0;
  for (const double value : values) sum += (value - mean) * (value - mean);
  return std::sqrt(sum / double(values.size()));
}

// The group with the highest mean, the first that appeared among equals.
template <class Key>
const std::pair<Key, std::vector<double>>& best_group(const Groups<Key>& groups) {
  size_t best = 0;
  for (size_t g = 1; g < groups.size(); ++g) {
    if (mean_of(groups[g].second) > mean_of(groups[best].second)) best = g;
  }
  return groups[best];
}

template <class Key>
Groups<Key> sorted(Groups<Key> groups) {
  std::sort(groups.begin(), groups.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  return groups;
}

struct Correlation {
  std::string name;
  double r;
};

// In canonical order; metrics of which fewer than two runs have a value are left out.
std::vector<Correlation> gradient_correlations(const PruningModel& model) {
  std::vector<Correlation> out;
  for (size_t g = 0; g < kGradientMetrics.size(); ++g) {
    const Pairs pairs = gradient_pairs(model, g);
    if (pairs.size() >= 2) out.push_back({kGradientMetrics[g], study_correlation(pairs)});
  }
  return out;
}

class StudyDocument {
 public:
  explicit StudyDocument(const DocumentWords& words) : w_(words) {}

  std::string render(const std::vector<PruningModel>& models) {
    for (const PruningModel& model : models) add_model(model);
    if (models.size() >= 2) across(models);
    return std::move(out_);
  }

 private:
  void line(const std::string& text = {}) { out_ += text + "\n"; }
  void title(const std::string& text) {
    line(repeated("=", 80));
    line(text);
    line(repeated("=", 80));
  }
  void section(const std::string& text) {
    line();
    line(repeated("─", 80));
    line(text);
    line(repeated("─", 80));
  }
  // Cells with their widths, one blank between.
  void row(const std::vector<std::pair<std::string, size_t>>& cells) {
    std::string text;
    for (const auto& [cell, width] : cells) text += (text.empty() ? "" : " ") + ljust(cell, width);
    line(text);
  }
  void rule(int width) { line(repeated("-", width)); }

  void add_model(const PruningModel& model) {
    const size_t valid = model.valid().size();
    line();
    title(upper(model.name) + " " + w_.analysis);
    line(fmt::format("{}: {}, {}: {}, {}: {}", w_.total, model.runs.size(), w_.valid, valid,
                     w_.invalid, model.runs.size() - valid));
    if (valid < model.runs.size()) invalid(model);
    if (valid == 0) return;
    methods(model);
    parameters(model);
    gradients(model);
    extremes(model);
    perplexity(model);
    best(model);
  }

  void invalid(const PruningModel& model) {
    section(w_.invalid_title);
    int number = 0;
    for (const PruningRun& run : model.runs) {
      if (run.acc_mean) continue;
      std::string reasons;
      const auto reason = [&](bool missing, const char* text) {
        if (missing) reasons += (reasons.empty() ? "" : ", ") + std::string(text);
      };
      reason(!run.ppl, w_.no_ppl);
      reason(!run.acc_mean, w_.no_acc);
      reason(std::none_of(run.gradients.begin(), run.gradients.end(),
                          [](const auto& value) { return value.has_value(); }),
             w_.no_gradient);
      line();
      line(fmt::format("{}. {}", ++number, run.output_dir));
      const auto item = [&](const char* name, const std::string& value) {
        line("   " + std::string(name) + ": " + value);
      };
      item(w_.pruning_method, run.method);
      item("taylor_seq_len", run.seq_len ? whole(*run.seq_len) : "None");
      item("taylor_num_samples", run.num_samples ? whole(*run.num_samples) : "None");
      item(w_.reason, reasons);
      item(w_.success, run.success.empty() ? "None" : run.success);
    }
  }

  void methods(const PruningModel& model) {
    section(w_.section1);
    row({{w_.method, 15}, {w_.mean, 12}, {w_.std, 10}, {w_.min, 10}, {w_.max, 10}, {w_.count, 8}});
    rule(80);
    for (const auto& [method, values] : sorted(by_method(model))) {
      const auto [low, high] = std::minmax_element(values.begin(), values.end());
      row({{upper(method), 15},
           {fixed(mean_of(values), 4), 12},
           {fixed(std_of(values), 4), 10},
           {fixed(*low, 4), 10},
           {fixed(*high, 4), 10},
           {std::to_string(values.size()), 8}});
    }
    line();
    line(fmt::format("✓ {}: {} (ACC: {})", w_.best_method, upper(model.best()->method),
                     fixed(*model.best()->acc_mean, 4)));
  }

  void axis(const PruningModel& model, PruningAxis axis, const char* key, const char* head,
            const char* name) {
    const auto groups = by_axis(model, axis);
    if (groups.size() < 2) return;
    line();
    line(fmt::format(fmt::runtime(w_.group_by), key) + ":");
    row({{head, 12}, {w_.mean, 12}, {w_.std, 10}, {w_.count, 8}});
    rule(50);
    for (const auto& [value, values] : sorted(groups)) {
      row({{std::to_string(value), 12},
           {fixed(mean_of(values), 4), 12},
           {fixed(std_of(values), 4), 10},
           {std::to_string(values.size()), 8}});
    }
    const auto& best = best_group(groups);
    line(fmt::format("✓ {} {}: {} ({}: {})", w_.best, name, best.first, w_.average,
                     fixed(mean_of(best.second), 4)));
  }

  void parameters(const PruningModel& model) {
    section(w_.section2);
    axis(model, PruningAxis::seq_len, "taylor_seq_len", "Seq Len", "seq_len");
    axis(model, PruningAxis::num_samples, "taylor_num_samples", "Num Samples", "num_samples");
  }

  void gradients(const PruningModel& model) {
    section(w_.section3);
    std::vector<Correlation> table = gradient_correlations(model);
    if (table.empty()) return;
    // CPython's sort leaves a list with NaN as it is in every case that the study shows.
    if (std::none_of(table.begin(), table.end(),
                     [](const Correlation& c) { return std::isnan(c.r); })) {
      std::stable_sort(table.begin(), table.end(), [](const Correlation& a, const Correlation& b) {
        return std::abs(a.r) > std::abs(b.r);
      });
    }
    row({{w_.metric, 25}, {w_.r, 12}});
    rule(40);
    for (const auto& [name, r] : table) line(ljust(name, 25) + " " + rjust(fixed(r, 4), 11));
    line();
    line(std::string(w_.explain) + ":");
    for (const auto& [name, r] : table) {
      if (!(std::abs(r) > 0.5)) continue;
      const bool zh = &w_ == &kChinese;
      line(fmt::format("  • {}: {}{}{} ({})", name, std::abs(r) > 0.7 ? w_.strong : w_.medium,
                       r > 0 ? w_.positive : w_.negative, zh ? "相关" : "correlation",
                       fixed(r, 3)));
    }
  }

  void extremes(const PruningModel& model) {
    const auto groups = by_axis(model, PruningAxis::extreme_layers);
    if (groups.empty()) return;
    section(w_.section4);
    line(std::string(w_.layers_r) + ": " + fixed(study_correlation(extreme_pairs(model)), 4));
    line();
    line(std::string(w_.group_layers) + ":");
    row({{w_.layers, 8}, {w_.mean, 12}, {w_.count, 8}});
    rule(30);
    for (const auto& [layers, values] : sorted(groups)) {
      row({{std::to_string(layers), 8},
           {fixed(mean_of(values), 4), 12},
           {std::to_string(values.size()), 8}});
    }
  }

  void perplexity(const PruningModel& model) {
    const Pairs pairs = perplexity_pairs(model);
    if (pairs.size() == 0) return;
    section(w_.section5);
    line(std::string(w_.ppl_r) + ": " + fixed(study_correlation(pairs), 4));
  }

  void best(const PruningModel& model) {
    const PruningRun& run = *model.best();
    section(w_.section6);
    const auto item = [&](const std::string& name, const std::optional<double>& value,
                          int decimals) {
      if (value) line(name + ": " + fixed(*value, decimals));
    };
    line(std::string(w_.pruning_method) + ": " + upper(run.method));
    item("ACC mean", run.acc_mean, 4);
    item("PPL", run.ppl, 2);
    item("taylor_seq_len", run.seq_len, 0);
    item("taylor_num_samples", run.num_samples, 0);
    item("grad_norm_ratio", run.gradients[1], 2);
    item("extreme_pruning_layers", run.extreme_layers, 0);
    line();
    line(std::string(w_.tasks) + ":");
    for (size_t t = 0; t < kPruningTasks.size(); ++t) {
      if (!run.tasks[t]) continue;
      line("  • " + ljust(upper(kPruningTasks[t]), 15) + ": " + fixed(*run.tasks[t], 4));
    }
  }

  void across(const std::vector<PruningModel>& models) {
    std::vector<const PruningModel*> order;
    for (const PruningModel& model : models) {
      if (model.best()) order.push_back(&model);
    }
    if (order.empty()) return;
    std::stable_sort(order.begin(), order.end(), [](const PruningModel* a, const PruningModel* b) {
      return *a->best()->acc_mean > *b->best()->acc_mean;
    });
    const auto ppl = [](const PruningRun& run) { return run.ppl ? fixed(*run.ppl, 2) : "N/A"; };
    line();
    line();
    title(w_.cross);
    line();
    row({{w_.model, 12},
         {w_.best_method_head, 12},
         {w_.best_acc, 12},
         {w_.best_ppl, 12},
         {w_.valid_count, 12}});
    rule(80);
    for (const PruningModel* model : order) {
      const PruningRun& run = *model->best();
      row({{capitalised(model->name), 12},
           {upper(run.method), 12},
           {fixed(*run.acc_mean, 4), 12},
           {ppl(run), 12},
           {std::to_string(model->valid().size()), 12}});
    }
    const PruningRun& run = *order[0]->best();
    line();
    line(fmt::format("✓ {}: {} {}", w_.overall, upper(order[0]->name), w_.model_word));
    line(std::string("  - ") + w_.pruning_method + ": " + upper(run.method));
    line("  - ACC: " + fixed(*run.acc_mean, 4));
    line("  - PPL: " + ppl(run));
    line();
    line(std::string("✓ ") + w_.saved + ": results/cross_model_comparison.json");
  }

  const DocumentWords& w_;
  std::string out_;
};

}  // namespace

std::string pruning_document(const std::vector<PruningModel>& models, Language language) {
  return StudyDocument(language == Language::zh ? kChinese : kEnglish).render(models);
}

Json cross_model_comparison(const std::vector<PruningModel>& models) {
  Json out = Json::array();
  for (const PruningModel& model : models) {
    const PruningRun* best = model.best();
    Json row = {{"model", capitalised(model.name)},
                {"total_experiments", model.runs.size()},
                {"valid_experiments", model.valid().size()},
                {"best_method", best ? Json(best->method) : Json()},
                {"best_acc", best ? Json(*best->acc_mean) : Json()},
                {"best_ppl", best && best->ppl ? Json(*best->ppl) : Json()},
                {"correlations", Json::object()}};
    Json nonfinite = Json::object();
    for (size_t g = 0; g < kGradientMetrics.size(); ++g) {
      const Pairs pairs = gradient_pairs(model, g);
      if (pairs.size() < 2) continue;
      const double r = study_correlation(pairs);
      row["correlations"][kGradientMetrics[g]] = std::isfinite(r) ? Json(r) : Json();
      const auto bad =
          std::count_if(pairs.x.begin(), pairs.x.end(), [](double x) { return !std::isfinite(x); });
      if (bad > 0) nonfinite[kGradientMetrics[g]] = bad;
    }
    if (!nonfinite.empty()) row["nonfinite"] = std::move(nonfinite);
    out.push_back(std::move(row));
  }
  return out;
}

}  // namespace ptq::report
