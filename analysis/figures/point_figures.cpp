// Figures with one point per row of the board. Where there are more rows than symbols, the rows of
// one method share a symbol.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "analysis/board/columns.hpp"
#include "analysis/compare/statistics.hpp"
#include "analysis/figures/axes.hpp"
#include "analysis/figures/figures.hpp"
#include "analysis/write/numbers.hpp"

namespace ptq::report {
namespace {

// About five round tics on an axis from the smallest to the largest value.
std::string few_tics(const char* axis, const std::vector<double>& values) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  if (values.empty() || !(*high > *low)) return {};
  const double rough = (*high - *low) / 4, power = std::pow(10.0, std::floor(std::log10(rough)));
  const double step = rough < 2 * power ? 2 * power : rough < 5 * power ? 5 * power : 10 * power;
  return fmt::format("set {}tics {}\n", axis, step);
}

// Points that share a colour, a symbol and a name.
struct Series {
  std::string name;
  std::vector<Point> points;
};

// The row's series: its own, or that of its methods where the board is grouped.
Series& series_of(std::vector<Series>& all, const Board& board, const Row& row) {
  const std::string name = grouped(board) ? methods_of(row) : row.method;
  const auto known =
      std::find_if(all.begin(), all.end(), [&](const Series& s) { return s.name == name; });
  if (known != all.end()) return *known;
  return all.emplace_back(Series{name, {}});
}

// Data blocks and the parts of a plot command. Series beyond the symbols are grey and nameless.
void add_series(const std::vector<Series>& all, const SeriesStyles& styles, std::string& script,
                std::string& plot) {
  for (size_t i = 0; i < all.size(); ++i) {
    script += fmt::format("$p{} << EOD\n", i);
    for (const Point& point : all[i].points) script += fmt::format("{} {}\n", point.x, point.y);
    script += "EOD\n";
    const std::string style =
        i < kMostSeries ? styles.of(all[i].name) : "pt 7 ps 0.5 lc rgb '#BBBBBB'";
    const std::string title = i < kMostSeries    ? "title " + script_text(all[i].name)
                              : i == kMostSeries ? "title 'others'"
                                                 : "notitle";
    plot += fmt::format("{}$p{} using 1:2 with points {} {}", plot.empty() ? "plot " : ", ", i,
                        style, title);
  }
}

const char* const kGroupedNote = " Rows of one method share a symbol.";

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
                                    const SeriesStyles& styles, const Evaluation& evaluation,
                                    bool cache) {
  std::vector<Series> series;
  std::vector<Point> sorted;
  std::vector<double> xs, ys;
  for (const Row& row : board.rows) {
    const Cell* cell = row.cell(evaluation.name);
    if (!cell) continue;
    const auto value = comparable_figure(board, cell), bytes = bytes_of(*cell, cache);
    if (!value || !std::isfinite(*value) || !bytes || !(*bytes > 0)) continue;
    const Point point{*bytes, *value, row.method};
    series_of(series, board, row).points.push_back(point);
    sorted.push_back(point);
    xs.push_back(point.x);
    ys.push_back(point.y);
  }
  if (sorted.size() < 2) return {};
  // The front: no other row is both smaller and better.
  const double sign = evaluation.headline.higher ? -1 : 1;  // smaller is better
  std::vector<Point> front;
  std::sort(sorted.begin(), sorted.end(), [&](const Point& a, const Point& b) {
    return std::make_pair(a.x, sign * a.y) < std::make_pair(b.x, sign * b.y);
  });
  for (const Point& point : sorted)
    if (front.empty() || sign * point.y < sign * front.back().y) front.push_back(point);
  const std::string& title = evaluation.headline.title;
  const std::string what = !evaluation.headline.share ? title
                           : title.empty()            ? "share of right answers"
                                                      : title + " (share)";
  std::string script;
  const std::string logarithmic = log_scale("x", xs);
  script += logarithmic.empty() ? few_tics("x", xs) : logarithmic;
  script += evaluation.headline.share ? "set yrange [0:1.05]\n" : log_scale("y", ys);
  script += fmt::format(
      "set xlabel '{}'\nset ylabel {}\n"
      "set offsets graph 0.05, graph 0.12, graph 0.08, graph 0.08\n",
      cache ? "bytes of the cache per token" : "bytes of the weights", script_text(what));
  script += "$front << EOD\n";
  for (const Point& point : front) script += fmt::format("{} {}\n", point.x, point.y);
  script += "EOD\n";
  std::string plot = "plot $front using 1:2 with steps lc rgb '#999999' lw 2 title 'Pareto front'";
  add_series(series, styles, script, plot);
  std::string names, seen;
  for (const Point& point : front) {
    names += (names.empty() ? " On it: " : ", ") + point.label;
    seen += fmt::format("{}{} ({} bytes, {})", seen.empty() ? "" : ", ", point.label,
                        thousands_text(point.x), figure_text(point.y));
  }
  return Figure{
      fmt::format("{}-pareto-{}-{}", prefix, cache ? "cache" : "weights", evaluation.name),
      board_title(board, evaluation.name + " against bytes"),
      fmt::format("Left and {} is better. The line joins the rows that no other row beats in "
                  "both; bytes are measured.",
                  evaluation.headline.higher ? "high" : "low") +
          (grouped(board) ? kGroupedNote + names + "." : ""),
      script + plot + "\n",
      {},
      fmt::format("{} against bytes, {}, {} methods. On the Pareto front: {}.", what, board.model,
                  sorted.size(), seen)};
}

}  // namespace

// Every share of right answers of rows that differ in bytes, and the first figure of each other
// sort.
std::vector<Figure> bytes_figures(const Board& board, const std::string& prefix,
                                  const SeriesStyles& styles) {
  std::vector<Figure> figures;
  std::set<std::string> drawn;  // sorts of figures
  for (const Evaluation& evaluation : board.evaluations) {
    const Headline& headline = evaluation.headline;
    if (!headline.share && drawn.contains(short_title(headline))) continue;
    for (const bool cache : {true, false}) {
      if (!differs(board, evaluation, cache)) continue;
      if (auto figure = against_bytes(board, prefix, styles, evaluation, cache)) {
        figures.push_back(std::move(*figure));
        drawn.insert(short_title(headline));
        break;
      }
    }
  }
  return figures;
}

// --- change against divergence -------------------------------------------------------------------

std::vector<Figure> divergence_figures(const Board& board, const std::string& prefix,
                                       const SeriesStyles& styles) {
  std::vector<Series> series;
  std::vector<double> xs, ys;
  for (const Row& row : board.rows) {
    if (row.lossless) continue;
    for (const Evaluation& evaluation : board.evaluations) {
      const Cell* cell = row.cell(evaluation.name);
      if (!cell || !cell->ok()) continue;
      const auto kl = cell->number({"kl_mean"}), delta = cell->number({"delta_nll"});
      if (!kl || !delta || *kl <= 0 || !std::isfinite(std::exp(*delta))) continue;
      xs.push_back(*kl);
      ys.push_back(std::exp(*delta));
      series_of(series, board, row).points.push_back({xs.back(), ys.back(), row.method});
    }
  }
  if (xs.size() < 3) return {};
  std::string script, plot;
  add_series(series, styles, script, plot);
  const double rho = spearman(xs, ys);
  script += log_scale("x", xs) + log_scale("y", ys) +
            "set xlabel 'mean KL divergence from full precision (nats)'\n"
            "set ylabel 'perplexity ratio'\n";
  return {
      {prefix + "-correlation",
       board_title(board, "perplexity ratio against divergence"),
       fmt::format("One point per row and evaluation; Spearman's rank correlation {:.3f} over "
                   "{} points. A method far above the others at equal divergence changes what is "
                   "scored, not only how surely.",
                   rho, xs.size()) +
           (grouped(board) ? kGroupedNote : ""),
       script + plot + "\n",
       {},
       fmt::format("Perplexity ratio against KL, {}: {} points from KL {:.2g} to {:.2g}, ratio "
                   "{:.3g} to {:.3g}, rank correlation {:.2f}.",
                   board.model, xs.size(), *std::min_element(xs.begin(), xs.end()),
                   *std::max_element(xs.begin(), xs.end()), *std::min_element(ys.begin(), ys.end()),
                   *std::max_element(ys.begin(), ys.end()), rho)}};
}

}  // namespace ptq::report
