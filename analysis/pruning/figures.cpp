#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/compare/statistics.hpp"
#include "analysis/figures/axes.hpp"
#include "analysis/pruning/pruning.hpp"

namespace ptq::report {

namespace {

// `methods` of all models: a symbol means one of them in every figure.
Figure scatter(const PruningModel& model, const std::vector<std::string>& methods) {
  const Pairs pairs = perplexity_pairs(model);
  std::string script = "set xlabel 'perplexity'\nset ylabel 'mean accuracy'\n", plot;
  for (size_t m = 0; m < methods.size(); ++m) {
    const auto& runs = model.valid();
    if (std::none_of(runs.begin(), runs.end(),
                     [&](const PruningRun* run) { return run->method == methods[m] && run->ppl; }))
      continue;
    script += fmt::format("$m{} << EOD\n", m);
    for (const PruningRun* run : runs) {
      if (run->method == methods[m] && run->ppl) {
        script += fmt::format("{} {}\n", *run->ppl, *run->acc_mean);
      }
    }
    script += "EOD\n";
    plot += fmt::format("{}$m{} using 1:2 with points {} title {}", plot.empty() ? "plot " : ", ",
                        m, series_style(m, m), script_text(methods[m]));
  }
  const FiniteCorrelation r = finite_correlation(pairs.x, pairs.y);
  return {"pruning-" + model.name + "-scatter",
          "perplexity and accuracy, " + model.name,
          fmt::format("r = {:.3f} ({:.3f} to {:.3f}) over {} runs.", r.r, r.interval.low,
                      r.interval.high, r.pairs),
          script + log_scale("x", pairs.x) + plot + "\n",
          {}};
}

// Spearman between everything that was measured: infinite norms keep their rank.
Figure matrix(const PruningModel& model) {
  std::vector<std::string> names = {"accuracy"};
  std::vector<std::vector<std::optional<double>>> columns(1);
  const auto add = [&](const std::string& name, auto get) {
    std::vector<std::optional<double>> column;
    size_t known = 0;
    for (const PruningRun* run : model.valid()) {
      column.push_back(get(*run));
      known += column.back().has_value();
    }
    if (known < 3) return;
    names.push_back(name);
    columns.push_back(std::move(column));
  };
  for (const PruningRun* run : model.valid()) columns[0].push_back(run->acc_mean);
  add("perplexity", [](const PruningRun& run) { return run.ppl; });
  add("seq_len", [](const PruningRun& run) { return run.seq_len; });
  add("num_samples", [](const PruningRun& run) { return run.num_samples; });
  for (size_t g = 0; g < kGradientMetrics.size(); ++g) {
    add(kGradientMetrics[g], [g](const PruningRun& run) { return run.gradients[g]; });
  }
  add("extreme layers", [](const PruningRun& run) { return run.extreme_layers; });
  std::string script = "$r << EOD\n";
  for (size_t i = 0; i < columns.size(); ++i) {
    for (size_t j = 0; j < columns.size(); ++j) {
      std::vector<double> x, y;
      for (size_t k = 0; k < columns[i].size(); ++k) {
        if (!columns[i][k] || !columns[j][k]) continue;
        x.push_back(*columns[i][k]);
        y.push_back(*columns[j][k]);
      }
      const double rho = spearman(x, y);
      if (std::isnan(rho)) continue;
      script += fmt::format("{} {} {} {:.2f} {}\n", j, columns.size() - 1 - i, rho, rho,
                            std::abs(rho) > 0.6 ? "0xFFFFFF" : "0x000000");
    }
  }
  std::string x_tics, y_tics;
  for (size_t i = 0; i < names.size(); ++i) {
    x_tics += fmt::format("{}{} {}", i ? ", " : "", script_text(names[i]), i);
    y_tics += fmt::format("{}{} {}", i ? ", " : "", script_text(names[i]), names.size() - 1 - i);
  }
  script += fmt::format(
      "EOD\nset xtics ({}) rotate by -35\nset ytics ({})\nset xrange [-0.5:{}]\nset yrange "
      "[-0.5:{}]\nset cbrange [-1:1]\nset palette defined (-1 '#7F3B08', -0.5 '#E08214', 0 "
      "'#F7F7F7', "
      "0.5 '#8073AC', 1 '#2D004B')\nunset key\nunset grid\nset border 0\n"
      "plot $r using 1:2:(0.5):(0.5):3 with boxxyerror palette fillstyle solid border lc rgb "
      "'#FFFFFF', $r using 1:2:4:5 with labels textcolor rgb variable font ',10'\n",
      x_tics, y_tics, double(names.size()) - 0.5, double(names.size()) - 0.5);
  return {"pruning-" + model.name + "-matrix",
          "rank correlations, " + model.name,
          "Spearman's rank correlation of all pairs.",
          script,
          {}};
}

}  // namespace

std::vector<Figure> pruning_figures(const std::vector<PruningModel>& models) {
  std::vector<Figure> figures;
  std::vector<std::string> methods;
  for (const PruningModel& model : models)
    for (const auto& [method, values] : by_method(model)) methods.push_back(method);
  std::sort(methods.begin(), methods.end());
  methods.erase(std::unique(methods.begin(), methods.end()), methods.end());
  for (const PruningModel& model : models) {
    if (perplexity_pairs(model).size() < 3) continue;
    figures.push_back(scatter(model, methods));
    figures.push_back(matrix(model));
  }
  return figures;
}

}  // namespace ptq::report
