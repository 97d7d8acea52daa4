#include "plots.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "numbers.hpp"
#include "statistics.hpp"
#include "tables.hpp"

namespace ptq::report {
namespace {

constexpr size_t kMostSeries = 12;  // more cannot be told apart

struct Point {
  double x, y;
  std::string label;
};

std::optional<double> member(const Json& row, const char* key) {
  if (!row.is_object()) return {};
  const auto found = row.find(key);
  if (found == row.end() || !found->is_number()) return {};
  return found->get<double>();
}

const Json& array_of(const Cell& cell, const char* key) {
  static const Json none = Json::array();
  const auto found = cell.metrics.find(key);
  return found == cell.metrics.end() || !found->is_array() ? none : *found;
}

std::string board_title(const Board& board, const std::string& what) {
  return what + ", " + board.model;
}

// A logarithmic axis where values span more than a factor of ten.
std::string log_scale(const char* axis, const std::vector<double>& values) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return !values.empty() && *low > 0 && *high > 10 * *low ? fmt::format("set logscale {}\n", axis)
                                                          : std::string();
}

// About five round tics on an axis from the smallest to the largest value.
std::string few_tics(const char* axis, const std::vector<double>& values) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  if (values.empty() || !(*high > *low)) return {};
  const double rough = (*high - *low) / 4, power = std::pow(10.0, std::floor(std::log10(rough)));
  const double step = rough < 2 * power ? 2 * power : rough < 5 * power ? 5 * power : 10 * power;
  return fmt::format("set {}tics {}\n", axis, step);
}

// --- quality against bytes -----------------------------------------------------------------------

// Bytes of a row: of the cache per token where that is what the rows differ in, else of the
// weights.
std::optional<double> bytes_of(const Cell& cell, bool cache) {
  return cache ? cache_bytes(cell) : cell.number({"weights", "bytes"});
}

bool differs(const Board& board, const Evaluation& evaluation, bool cache) {
  std::set<double> seen;
  for (const Row& row : board.rows) {
    const Cell* cell = row.cell(evaluation.name);
    if (cell && cell->ok()) {
      if (const auto bytes = bytes_of(*cell, cache)) seen.insert(*bytes);
    }
  }
  return seen.size() > 1;
}

// One evaluation against bytes; nothing where fewer than two rows have both.
std::optional<Figure> against_bytes(const Board& board, const std::string& prefix,
                                    const Evaluation& evaluation, bool cache) {
  std::vector<Point> points;
  for (const Row& row : board.rows) {
    const Cell* cell = row.cell(evaluation.name);
    const auto value = headline(cell);
    const auto bytes = cell ? bytes_of(*cell, cache) : std::nullopt;
    if (value && bytes && *bytes > 0) points.push_back({*bytes, *value, row.method});
  }
  if (points.size() < 2) return {};
  // The front: no other row is both smaller and better.
  const double sign = evaluation.is_share() ? -1 : 1;  // smaller is better
  std::vector<Point> front, sorted = points;
  std::sort(sorted.begin(), sorted.end(), [&](const Point& a, const Point& b) {
    return std::make_pair(a.x, sign * a.y) < std::make_pair(b.x, sign * b.y);
  });
  for (const Point& point : sorted)
    if (front.empty() || sign * point.y < sign * front.back().y) front.push_back(point);
  std::string script;
  std::vector<double> xs, ys;
  for (const Point& point : points) {
    xs.push_back(point.x);
    ys.push_back(point.y);
  }
  const std::string logarithmic = log_scale("x", xs);
  script += logarithmic.empty() ? few_tics("x", xs) : logarithmic;
  script += evaluation.is_share() ? "set yrange [0:1.05]\n" : log_scale("y", ys);
  script += fmt::format(
      "set xlabel '{}'\nset ylabel '{}'\n"
      "set offsets graph 0.05, graph 0.12, graph 0.08, graph 0.08\n",
      cache ? "bytes of the cache per token" : "bytes of the weights",
      evaluation.is_share() ? "share of right answers" : "perplexity");
  script += "$front << EOD\n";
  for (const Point& point : front) script += fmt::format("{} {}\n", point.x, point.y);
  script += "EOD\n";
  std::string plot = "plot $front using 1:2 with steps lc rgb '#999999' lw 2 title 'Pareto front'";
  if (points.size() > kMostSeries) {
    script += "$others << EOD\n";
    for (size_t i = kMostSeries; i < points.size(); ++i)
      script += fmt::format("{} {}\n", points[i].x, points[i].y);
    script += "EOD\n";
    plot += ", $others using 1:2 with points pt 7 ps 0.5 lc rgb '#BBBBBB' title 'other rows'";
  }
  for (size_t i = 0; i < points.size() && i < kMostSeries; ++i) {
    script += fmt::format("$p{} << EOD\n{} {}\nEOD\n", i, points[i].x, points[i].y);
    plot += fmt::format(", $p{} using 1:2 with points {} title {}", i, series_style(i),
                        script_text(points[i].label));
  }
  return Figure{
      fmt::format("{}-pareto-{}-{}", prefix, cache ? "cache" : "weights", evaluation.name),
      board_title(board, evaluation.name + " against bytes"),
      fmt::format("Left and {} is better. The line joins the rows that no other row beats in "
                  "both; bytes are measured.",
                  evaluation.is_share() ? "high" : "low") +
          (points.size() > kMostSeries ? " Only the first rows of the board have their names."
                                       : ""),
      script + plot + "\n",
      {}};
}

// The first perplexity that differs in bytes, and every passkey and retrieval evaluation that does.
std::vector<Figure> pareto(const Board& board, const std::string& prefix) {
  std::vector<Figure> figures;
  bool perplexity = false;
  for (const Evaluation& evaluation : board.evaluations) {
    const bool answers = evaluation.kind == "passkey" || evaluation.kind == "retrieval";
    if (!answers && (evaluation.is_share() || perplexity)) continue;
    for (const bool cache : {true, false}) {
      if (!differs(board, evaluation, cache)) continue;
      if (auto figure = against_bytes(board, prefix, evaluation, cache)) {
        figures.push_back(std::move(*figure));
        perplexity |= !answers;
        break;
      }
    }
  }
  return figures;
}

// --- curves over the length ----------------------------------------------------------------------

struct Curve {
  std::string label;
  std::vector<Point> points;
};

// Perplexity over the context length or the position, and the same of full precision.
std::pair<std::vector<Point>, std::vector<Point>> curve_of(const Cell& cell) {
  std::pair<std::vector<Point>, std::vector<Point>> out;
  for (const char* key : {"buckets", "lengths", "quarters"}) {
    for (const Json& row : array_of(cell, key)) {
      const auto length = member(row, "length"), first = member(row, "first"),
                 last = member(row, "last"), ppl = member(row, "ppl"),
                 reference = member(row, "ppl_reference");
      if (!ppl || (!length && !(first && last))) continue;
      const double x = length ? *length : (*first + *last + 1) / 2;
      out.first.push_back({x, *ppl, {}});
      if (reference) out.second.push_back({x, *reference, {}});
    }
    if (out.first.size() > 1) return out;
    out = {};
  }
  return out;
}

std::vector<Figure> curves(const Board& board, const std::string& prefix) {
  std::vector<Figure> figures;
  for (const Evaluation& evaluation : board.evaluations) {
    if (evaluation.is_share()) continue;
    std::vector<Curve> all;
    for (const Row& row : board.rows) {
      const Cell* cell = row.cell(evaluation.name);
      if (!cell || !cell->ok() || all.size() == kMostSeries) continue;
      auto [own, reference] = curve_of(*cell);
      if (own.size() < 2) continue;
      // Without a baseline row, full precision is what ran beside the first method.
      if (all.empty() && !row.lossless && reference.size() > 1) {
        all.push_back({"full precision", reference});
      }
      all.push_back({row.method, own});
    }
    if (all.empty()) continue;
    std::string script, plot;
    std::vector<double> ys, xs;
    for (size_t i = 0; i < all.size(); ++i) {
      script += fmt::format("$c{} << EOD\n", i);
      for (const Point& point : all[i].points) {
        script += fmt::format("{} {}\n", point.x, point.y);
        xs.push_back(point.x);
        ys.push_back(point.y);
      }
      script += "EOD\n";
      plot += fmt::format("{}$c{} using 1:2 with linespoints {} title {}", i ? ", " : "plot ", i,
                          series_style(i), script_text(all[i].label));
    }
    const bool quarters = evaluation.kind == "generation";
    script += log_scale("y", ys) + (quarters ? std::string() : log_scale("x", xs));
    script += std::string("set xlabel ") +
              (quarters ? "'token of the continuation'" : "'tokens of context'") +
              "\nset ylabel 'perplexity'\n";
    figures.push_back(
        {fmt::format("{}-length-{}", prefix, evaluation.name),
         board_title(board, evaluation.name + (quarters ? ": perplexity along the continuation"
                                                        : " over the context length")),
         "Lower is better. A curve that rises away from full precision shows an error "
         "that grows with what was stored.",
         script + plot + "\n",
         {}});
  }
  return figures;
}

// --- heat maps -----------------------------------------------------------------------------------

struct HeatCell {
  double length, depth, correct, total;
};

std::vector<HeatCell> heat_of(const Cell& cell) {
  std::vector<HeatCell> out;
  const auto add = [&](double length, double depth, double correct, double total) {
    for (HeatCell& known : out) {
      if (known.length == length && known.depth == depth) {
        known.correct += correct;  // several tasks of one place
        known.total += total;
        return;
      }
    }
    out.push_back({length, depth, correct, total});
  };
  for (const Json& row : array_of(cell, "cells")) {
    const auto length = member(row, "length"), depth = member(row, "depth"),
               correct = member(row, "correct"), total = member(row, "total");
    if (length && depth && correct && total && *total > 0) add(*length, *depth, *correct, *total);
  }
  if (!out.empty()) return out;
  const auto length = cell.number({"context_length"});
  for (const DepthCount& count : cell.depths) {
    if (length && count.total > 0) {
      add(*length, count.depth, double(count.correct), double(count.total));
    }
  }
  return out;
}

// One panel per method, all with one scale.
std::vector<Figure> heat_maps(const Board& board, const std::string& prefix) {
  std::vector<Figure> figures;
  for (const Evaluation& evaluation : board.evaluations) {
    std::vector<std::pair<std::string, std::vector<HeatCell>>> panels;
    std::set<double> lengths, depths;
    for (const Row& row : board.rows) {
      const Cell* cell = row.cell(evaluation.name);
      if (!cell || !cell->ok() || panels.size() == kMostSeries) continue;
      std::vector<HeatCell> cells = heat_of(*cell);
      if (cells.empty()) continue;
      for (const HeatCell& heat : cells) {
        lengths.insert(heat.length);
        depths.insert(heat.depth);
      }
      panels.push_back({row.method, std::move(cells)});
    }
    if (panels.empty() || depths.size() < 2) continue;
    const std::vector<double> x(lengths.begin(), lengths.end()), y(depths.begin(), depths.end());
    const auto place = [](const std::vector<double>& axis, double value) {
      return std::find(axis.begin(), axis.end(), value) - axis.begin();
    };
    std::string script =
        "set cbrange [0:1]\nset palette defined (0 '#7F3B08', 0.25 '#E08214', 0.5 "
        "'#F7F7F7', 0.75 '#8073AC', 1 '#2D004B')\nunset key\nunset grid\n"
        "set border lc rgb '#444444'\nunset colorbox\n";
    const size_t columns = std::min<size_t>(4, panels.size()),
                 rows = (panels.size() + columns - 1) / columns;
    script += "set terminal svg size 760," + std::to_string(90 + 210 * rows) +
              " dynamic font 'DejaVu Sans,Arial,sans-serif,13' background 'white'\n"
              "set termoption noenhanced\n";
    script +=
        fmt::format("set multiplot layout {},{} title {}\nunset title\n", rows, columns,
                    script_text(board_title(board, evaluation.name + ": right answers by depth and "
                                                                     "length")));
    script += fmt::format(
        "set xrange [-0.5:{}]\nset yrange [-0.5:{}]\nset xlabel 'tokens' offset 0,0.3\n",
        double(x.size()) - 0.5, double(y.size()) - 0.5);
    std::string tics;
    for (size_t i = 0; i < x.size(); ++i) {
      tics += fmt::format("{}'{:g}' {}", i ? ", " : "", x[i], i);
    }
    script += "set xtics (" + tics + ")\n";
    tics.clear();
    for (size_t i = 0; i < y.size(); ++i) {
      tics += fmt::format("{}'{:g} %%' {}", i ? ", " : "", 100 * y[i], i);
    }
    script += "set ytics (" + tics + ")\n";
    for (size_t p = 0; p < panels.size(); ++p) {
      script += fmt::format("$h{} << EOD\n", p);
      for (const HeatCell& heat : panels[p].second) {
        const double share = heat.correct / heat.total;
        // Dark squares carry a light figure.
        script += fmt::format("{} {} {} {:.0f}/{:.0f} {}\n", place(x, heat.length),
                              place(y, heat.depth), share, heat.correct, heat.total,
                              share < 0.15 || share > 0.7 ? "0xFFFFFF" : "0x000000");
      }
      script += fmt::format(
          "EOD\nset title {}\nplot $h{} using 1:2:(0.5):(0.5):3 with boxxyerror palette fillstyle "
          "solid border lc rgb '#FFFFFF', $h{} using 1:2:4:5 with labels textcolor rgb variable "
          "font "
          "',11'\n",
          script_text(panels[p].first), p, p);
    }
    script += "unset multiplot\n";
    figures.push_back(
        {fmt::format("{}-depth-{}", prefix, evaluation.name),
         "",
         "Dark violet: all found, orange and brown: lost. Depth 0 % is the start of the "
         "prompt. Figures are right answers of all.",
         script,
         {}});
  }
  return figures;
}

// --- bars ----------------------------------------------------------------------------------------

// The share of right answers and its 95 % interval.
std::optional<std::pair<double, Interval>> share_with_interval(const Cell& cell) {
  const auto share = share_of(cell);
  if (!share) return {};
  const auto correct = cell.number({"correct"}), total = cell.number({"total"});
  if (correct && total && *total > 0) {
    const auto [low, high] = interval95(int64_t(*correct), int64_t(*total));
    return {{*share, {low, high}}};
  }
  for (const char* key :
       {"acc_norm_stderr,none", "acc_stderr,none", "exact_match_stderr,strict-match"}) {
    if (const auto error = cell.number({key})) {
      return {
          {*share, {std::max(0.0, *share - 1.96 * *error), std::min(1.0, *share + 1.96 * *error)}}};
    }
  }
  return {{*share, {*share, *share}}};
}

std::vector<Figure> bars(const Board& board, const std::string& prefix) {
  std::vector<const Evaluation*> tasks;
  for (const Evaluation& evaluation : board.evaluations) {
    if (evaluation.is_share() && tasks.size() < 12) tasks.push_back(&evaluation);
  }
  if (tasks.empty()) return {};
  std::string script, plot;
  size_t series = 0;
  size_t drawn = 0;
  for (const Row& row : board.rows) drawn += drawn < 8 && row.cells.size() > 0;
  const double width = 0.8 / double(std::max<size_t>(drawn, 1));
  for (const Row& row : board.rows) {
    if (series == drawn) break;
    std::string data;
    for (size_t t = 0; t < tasks.size(); ++t) {
      const Cell* cell = row.cell(tasks[t]->name);
      const auto bar = cell && cell->ok() ? share_with_interval(*cell) : std::nullopt;
      if (!bar) continue;
      data += fmt::format("{} {} {} {}\n", double(t) + width * (double(series) + 0.5) - 0.4,
                          bar->first, bar->second.low, bar->second.high);
    }
    if (data.empty()) continue;
    script += fmt::format("$b{} << EOD\n{}EOD\n", series, data);
    plot += fmt::format(
        "{}$b{} using 1:2:({}) with boxes fs solid {} border lc rgb '#444444' {} title {}, $b{} "
        "using "
        "1:3:(0):($4-$3) with vectors nohead dt 1 lw 2 lc rgb '#222222' notitle",
        series ? ", " : "plot ", series, width * 0.92, series % 2 ? 0.55 : 0.85,
        series_style(series + 1).substr(0, 16), script_text(row.method), series);
    ++series;
  }
  if (series == 0) return {};
  std::string tics;
  for (size_t t = 0; t < tasks.size(); ++t) {
    tics += fmt::format("{}{} {}", t ? ", " : "", script_text(tasks[t]->name), t);
  }
  script += fmt::format(
      "set xtics ({}) {}\nset xrange [-0.6:{}]\nset yrange [0:1.02]\nset ylabel 'share of right "
      "answers'\n",
      tics, tasks.size() > 4 ? "rotate by -30" : "", double(tasks.size()) - 0.4);
  return {{prefix + "-tasks",
           board_title(board, "right answers by task"),
           "With 95 % intervals of each share (Clopper-Pearson, or 1.96 standard errors where only "
           "these are known). Differences on the same questions are in the table.",
           script + plot + "\n",
           {}}};
}

// --- errors by layer -----------------------------------------------------------------------------

std::vector<Figure> layers(const Board& board, const std::string& prefix) {
  std::string script, plot;
  size_t series = 0;
  std::vector<double> ys;
  for (const Row& row : board.rows) {
    const Json* found = nullptr;
    for (const auto& [name, cell] : row.cells) {
      if (!found && !array_of(*cell, "layers").empty()) found = &array_of(*cell, "layers");
    }
    if (!found || series >= kMostSeries) continue;
    for (const char* key : {"error", "error_keys", "error_values"}) {
      std::string data;
      for (const Json& layer : *found) {
        const auto at = member(layer, "layer"), error = member(layer, key);
        if (!at || !error) continue;
        data += fmt::format("{} {}\n", *at, *error);
        ys.push_back(*error);
      }
      if (data.empty()) continue;
      const std::string label = row.method + (std::string(key) == "error"        ? ""
                                              : std::string(key) == "error_keys" ? ", keys"
                                                                                 : ", values");
      script += fmt::format("$l{} << EOD\n{}EOD\n", series, data);
      plot += fmt::format("{}$l{} using 1:2 with linespoints {} title {}", series ? ", " : "plot ",
                          series, series_style(series), script_text(label));
      ++series;
    }
  }
  if (series == 0) return {};
  script += log_scale("y", ys) + "set xlabel 'layer'\nset ylabel 'relative error'\nset xtics 1\n";
  return {{prefix + "-layers",
           board_title(board, "error by layer"),
           "Relative error of what the method stores, by layer.",
           script + plot + "\n",
           {}}};
}

// --- change against divergence -------------------------------------------------------------------

std::vector<Figure> scatter(const Board& board, const std::string& prefix) {
  std::string script, plot;
  size_t series = 0;
  std::vector<double> xs, ys;
  for (const Row& row : board.rows) {
    if (row.lossless || series == kMostSeries) continue;
    std::string data;
    for (const Evaluation& evaluation : board.evaluations) {
      const Cell* cell = row.cell(evaluation.name);
      if (!cell || !cell->ok()) continue;
      const auto kl = cell->number({"kl_mean"}), delta = cell->number({"delta_nll"});
      if (!kl || !delta || *kl <= 0) continue;
      data += fmt::format("{} {}\n", *kl, std::exp(*delta));
      xs.push_back(*kl);
      ys.push_back(std::exp(*delta));
    }
    if (data.empty()) continue;
    script += fmt::format("$s{} << EOD\n{}EOD\n", series, data);
    plot += fmt::format("{}$s{} using 1:2 with points {} title {}", series ? ", " : "plot ", series,
                        series_style(series), script_text(row.method));
    ++series;
  }
  if (xs.size() < 3) return {};
  const double rho = spearman(xs, ys);
  script += log_scale("x", xs) + log_scale("y", ys) +
            "set xlabel 'mean KL divergence from full precision (nats)'\n"
            "set ylabel 'perplexity ratio'\n";
  return {
      {prefix + "-correlation",
       board_title(board, "perplexity ratio against divergence"),
       fmt::format("One point per method and evaluation; Spearman's rank correlation {:.3f} over "
                   "{} points. A method far above the others at equal divergence changes what is "
                   "scored, not only how surely.",
                   rho, xs.size()),
       script + plot + "\n",
       {}}};
}

}  // namespace

std::vector<Figure> figures_of(const Board& board, const std::string& prefix) {
  std::vector<Figure> all;
  for (auto* make : {pareto, curves, heat_maps, bars, layers, scatter}) {
    for (Figure& figure : make(board, prefix)) {
      for (char& c : figure.name) {
        if (!std::isalnum(static_cast<unsigned char>(c)) && c != '-') c = '-';
      }
      all.push_back(std::move(figure));
    }
  }
  return all;
}

std::vector<Figure> pruning_figures(const std::vector<PruningModel>& models) {
  std::vector<Figure> figures;
  for (const PruningModel& model : models) {
    const Pairs pairs = perplexity_pairs(model);
    if (pairs.size() < 3) continue;
    std::string script = "set xlabel 'perplexity'\nset ylabel 'mean accuracy'\n", plot;
    std::vector<std::string> methods;
    for (const auto& [method, values] : by_method(model)) methods.push_back(method);
    std::sort(methods.begin(), methods.end());
    for (size_t m = 0; m < methods.size(); ++m) {
      script += fmt::format("$m{} << EOD\n", m);
      for (const PruningRun* run : model.valid()) {
        if (run->method == methods[m] && run->ppl) {
          script += fmt::format("{} {}\n", *run->ppl, *run->acc_mean);
        }
      }
      script += "EOD\n";
      plot += fmt::format("{}$m{} using 1:2 with points {} title {}", m ? ", " : "plot ", m,
                          series_style(m), script_text(methods[m]));
    }
    const FiniteCorrelation r = finite_correlation(pairs.x, pairs.y);
    figures.push_back({"pruning-" + model.name + "-scatter",
                       "perplexity and accuracy, " + model.name,
                       fmt::format("r = {:.3f} ({:.3f} to {:.3f}) over {} runs.", r.r,
                                   r.interval.low, r.interval.high, r.pairs),
                       script + log_scale("x", pairs.x) + plot + "\n",
                       {}});

    // Spearman between everything that was measured: infinite norms keep their rank.
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
    script = "$r << EOD\n";
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
    figures.push_back({"pruning-" + model.name + "-matrix",
                       "rank correlations, " + model.name,
                       "Spearman's rank correlation of all pairs.",
                       script,
                       {}});
  }
  return figures;
}

}  // namespace ptq::report
