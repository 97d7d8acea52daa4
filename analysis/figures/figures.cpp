#include "analysis/figures/figures.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "analysis/board/columns.hpp"
#include "analysis/compare/statistics.hpp"
#include "analysis/figures/axes.hpp"
#include "analysis/write/numbers.hpp"
#include "ptq/core/binomial.hpp"

namespace ptq::report {
namespace {

// --- curves over the length ----------------------------------------------------------------------

struct Curve {
  std::string label;
  std::vector<Point> points;
};

// Perplexity over the context length or the position, and the same of full precision.
struct Curves {
  std::vector<Point> own, reference;
  bool continuation = false;  // over the tokens of a continuation, not of the context
};

Curves curves_of(const Cell& cell) {
  Curves out;
  for (const char* key : {"buckets", "lengths", "quarters"}) {
    for (const Json& row : array_of(cell, key)) {
      const auto length = member(row, "length"), first = member(row, "first"),
                 last = member(row, "last"), ppl = member(row, "ppl"),
                 reference = member(row, "ppl_reference");
      if (!ppl || (!length && !(first && last))) continue;
      const double x = length ? *length : (*first + *last + 1) / 2;
      out.own.push_back({x, *ppl, {}});
      if (reference) out.reference.push_back({x, *reference, {}});
    }
    out.continuation = std::string(key) == "quarters";
    if (out.own.size() > 1) return out;
    out = {};
  }
  return out;
}

// Whether a row of full precision has a curve of its own.
bool has_full_precision(const Board& board, const Evaluation& evaluation) {
  return std::any_of(board.rows.begin(), board.rows.end(), [&](const Row& row) {
    const Cell* cell = row.cell(evaluation.name);
    return row.lossless && cell && cell->ok() && curves_of(*cell).own.size() > 1;
  });
}

// Where the lowest and the highest curve end.
std::string ends_of(const std::vector<Curve>& all, const std::string& model) {
  const auto by_end = [](const Curve& a, const Curve& b) {
    return a.points.back().y < b.points.back().y;
  };
  const auto [low, high] = std::minmax_element(all.begin(), all.end(), by_end);
  return fmt::format(
      "Perplexity over the length, {}, {} curves. At {:g} tokens {} is lowest with "
      "{}, {} highest with {}.",
      model, all.size(), low->points.back().x, low->label, figure_text(low->points.back().y),
      high->label, figure_text(high->points.back().y));
}

std::vector<Figure> curves(const Board& board, const std::string& prefix,
                           const SeriesStyles& styles) {
  std::vector<Figure> figures;
  for (const Evaluation& evaluation : board.evaluations) {
    if (evaluation.headline.share) continue;
    std::vector<Curve> found;
    bool continuation = false;
    for (const Row& row : board.rows) {
      const Cell* cell = row.cell(evaluation.name);
      if (!cell || !cell->ok()) continue;
      auto [own, reference, of_continuation] = curves_of(*cell);
      if (own.size() < 2) continue;
      continuation |= of_continuation;
      // Without a row of its own, full precision is what ran beside the first method.
      if (found.empty() && reference.size() > 1 && !has_full_precision(board, evaluation)) {
        found.push_back({kFullPrecision, reference});
      }
      found.push_back({row.method, own});
    }
    if (found.empty()) continue;
    const std::string note = spread_note(found.size(), kMostSeries);
    const std::vector<Curve> all = spread(std::move(found), kMostSeries);
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
                          styles.of(all[i].label), script_text(all[i].label));
    }
    script += log_scale("y", ys) + (continuation ? std::string() : log_scale("x", xs));
    script += std::string("set xlabel ") +
              (continuation ? "'token of the continuation'" : "'tokens of context'") +
              "\nset ylabel 'perplexity'\n";
    figures.push_back(
        {fmt::format("{}-length-{}", prefix, evaluation.name),
         board_title(board, evaluation.name + (continuation ? ": perplexity along the continuation"
                                                            : " over the context length")),
         "Lower is better. A curve that rises away from full precision shows an error "
         "that grows with what was stored." +
             note,
         script + plot + "\n",
         {},
         ends_of(all, board.model)});
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

using Panel = std::pair<std::string, std::vector<HeatCell>>;

// How many answers each panel has right where any is wrong.
std::string losses_of(const std::vector<Panel>& panels, const std::string& evaluation) {
  std::string lost;
  for (const auto& [method, cells] : panels) {
    double right = 0, all = 0;
    for (const HeatCell& cell : cells) {
      right += cell.correct;
      all += cell.total;
    }
    if (right < all)
      lost += fmt::format("{}{} {:.0f} of {:.0f}", lost.empty() ? "" : ", ", method, right, all);
  }
  return fmt::format("{}, right answers by depth and length, {} methods. {}", evaluation,
                     panels.size(),
                     lost.empty() ? "All answers are right." : "Right: " + lost + ".");
}

// One panel per method, all with one scale.
std::vector<Figure> heat_maps(const Board& board, const std::string& prefix,
                              const SeriesStyles& /*styles*/) {
  std::vector<Figure> figures;
  for (const Evaluation& evaluation : board.evaluations) {
    std::vector<Panel> found;
    std::set<double> lengths, depths;
    for (const Row& row : board.rows) {
      const Cell* cell = row.cell(evaluation.name);
      if (!cell || !cell->ok()) continue;
      std::vector<HeatCell> cells = heat_of(*cell);
      if (cells.empty()) continue;
      for (const HeatCell& heat : cells) {
        lengths.insert(heat.length);
        depths.insert(heat.depth);
      }
      found.push_back({row.method, std::move(cells)});
    }
    if (found.empty() || depths.size() < 2) continue;
    const std::string note = spread_note(found.size(), kMostSeries);
    const auto panels = spread(std::move(found), kMostSeries);
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
         "prompt. Figures are right answers of all." +
             note,
         script,
         {},
         losses_of(panels, evaluation.name)});
  }
  return figures;
}

// --- bars ----------------------------------------------------------------------------------------

// The share of right answers and its 95 % interval.
std::optional<std::pair<double, Interval>> share_with_interval(const Cell& cell) {
  const auto share = cell.figure();
  if (!share) return {};
  const auto correct = cell.number({"correct"}), total = cell.number({"total"});
  if (correct && total && *total > 0) {
    const auto [low, high] = clopper_pearson95(int64_t(*correct), int64_t(*total));
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

std::vector<Figure> bars(const Board& board, const std::string& prefix,
                         const SeriesStyles& styles) {
  std::vector<const Evaluation*> tasks;
  for (const Evaluation& evaluation : board.evaluations) {
    if (evaluation.headline.share && tasks.size() < 12) tasks.push_back(&evaluation);
  }
  if (tasks.empty()) return {};
  std::string script, plot;
  constexpr size_t kMostBars = 8;
  std::vector<const Row*> found;
  for (const Row& row : board.rows) {
    const auto has_bar = [&](const Evaluation* task) {
      const Cell* cell = row.cell(task->name);
      return cell && cell->ok() && share_with_interval(*cell);
    };
    if (std::any_of(tasks.begin(), tasks.end(), has_bar)) found.push_back(&row);
  }
  if (found.empty()) return {};
  const std::string note = spread_note(found.size(), kMostBars);
  found = spread(std::move(found), kMostBars);
  size_t series = 0;
  std::string shares;  // in words
  const double width = 0.8 / double(found.size());
  for (const Row* row : found) {
    std::string data;
    for (size_t t = 0; t < tasks.size(); ++t) {
      const Cell* cell = row->cell(tasks[t]->name);
      const auto bar = cell && cell->ok() ? share_with_interval(*cell) : std::nullopt;
      if (!bar) continue;
      shares += fmt::format("{} {} {}. ", row->method, tasks[t]->name, share_text(bar->first));
      data += fmt::format("{} {} {} {}\n", double(t) + width * (double(series) + 0.5) - 0.4,
                          bar->first, bar->second.low, bar->second.high);
    }
    script += fmt::format("$b{} << EOD\n{}EOD\n", series, data);
    plot += fmt::format(
        "{}$b{} using 1:2:({}) with boxes fs solid {} border lc rgb '#444444' {} title {}, $b{} "
        "using "
        "1:3:(0):($4-$3) with vectors nohead dt 1 lw 2 lc rgb '#222222' notitle",
        series ? ", " : "plot ", series, width * 0.92, styles.light(row->method) ? 0.55 : 0.85,
        styles.colour(row->method), script_text(row->method), series);
    ++series;
  }
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
           "these are known). Differences on the same questions are in the table." +
               note,
           script + plot + "\n",
           {},
           "Right answers by task, " + board.model + ". " + shares}};
}

// --- errors by layer -----------------------------------------------------------------------------

std::vector<Figure> layers(const Board& board, const std::string& prefix,
                           const SeriesStyles& styles) {
  std::string script, plot;
  size_t series = 0;
  std::vector<double> ys;
  for (const Row& row : board.rows) {
    const Json* found = nullptr;
    for (const auto& [name, cell] : row.cells) {
      if (!found && !array_of(*cell, "layers").empty()) found = &array_of(*cell, "layers");
    }
    if (!found || series >= kMostSeries) continue;
    size_t curve = 0;  // of the row
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
                          series, styles.of(row.method, curve++), script_text(label));
      ++series;
    }
  }
  if (series == 0) return {};
  script += log_scale("y", ys) + "set xlabel 'layer'\nset ylabel 'relative error'\nset xtics 1\n";
  return {{prefix + "-layers",
           board_title(board, "error by layer"),
           "Relative error of what the method stores, by layer.",
           script + plot + "\n",
           {},
           fmt::format("Relative error by layer, {}, {} curves, {:.2g} to {:.2g}.", board.model,
                       series, *std::min_element(ys.begin(), ys.end()),
                       *std::max_element(ys.begin(), ys.end()))}};
}

}  // namespace

SeriesStyles::SeriesStyles(const std::vector<Board>& boards) {
  for (const Board& board : boards)
    for (const Row& row : board.rows)
      if (grouped(board)) add(methods_of(row));
  for (const Board& board : boards)
    for (const Row& row : board.rows) add(row.method);
  add(kFullPrecision);
}

void SeriesStyles::add(const std::string& name) {
  if (std::find(names_.begin(), names_.end(), name) == names_.end()) names_.push_back(name);
}

size_t SeriesStyles::index(const std::string& name) const {
  return size_t(std::find(names_.begin(), names_.end(), name) - names_.begin()) % kStyles;
}

std::string SeriesStyles::of(const std::string& name, size_t dash) const {
  return series_style(index(name), index(name) + dash);
}

std::string SeriesStyles::colour(const std::string& name) const {
  return series_colour(index(name));
}

bool SeriesStyles::light(const std::string& name) const { return index(name) / 8 % 2 == 1; }

std::vector<Figure> figures_of(const Board& board, const std::string& prefix,
                               const SeriesStyles& styles) {
  std::vector<Figure> all;
  for (auto* make : {bytes_figures, curves, heat_maps, bars, layers, divergence_figures}) {
    std::vector<Figure> figures = make(board, prefix, styles);
    std::move(figures.begin(), figures.end(), std::back_inserter(all));
  }
  name_apart(all);
  return all;
}

}  // namespace ptq::report
