#include "analysis/figures/decision_figures.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "analysis/decide/sentences.hpp"
#include "analysis/decide/texts.hpp"
#include "analysis/figures/axes.hpp"
#include "analysis/write/table.hpp"

namespace ptq::report {
namespace {

constexpr double kWidth = 500, kHeight = 420;            // of a picture
constexpr double kInnerWidth = 385, kInnerHeight = 315;  // about, of what its axes enclose
constexpr double kLetter = 8.2, kLine = 17;              // of a label, about
constexpr size_t kMostNames = 16;

// A point as it is drawn.
struct Dot {
  const Standing* standing;
  double x, y, low, high;
};

// An axis from low to high.
struct Axis {
  double low = HUGE_VAL, high = -HUGE_VAL;
  bool logarithmic = true;

  void hold(double value) {
    if (!std::isfinite(value) || (logarithmic && !(value > 0))) return;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  // Leaves room at both ends.
  void widen(double part) {
    if (!(high >= low)) low = logarithmic ? 0.1 : 0, high = 1;
    if (logarithmic) {
      const double room = std::max(std::pow(high / low, part), 1.25);
      low /= room, high *= room;
    } else {
      const double room = std::max(part * (high - low), 0.02);
      low -= room, high += room;
    }
  }
  // 0 to 1 along the axis.
  double place(double value) const {
    return logarithmic ? std::log(value / low) / std::log(high / low)
                       : (value - low) / (high - low);
  }
  std::string script(const char* name) const {
    std::string out = fmt::format("set {}range [{}:{}]\n", name, low, high);
    if (!logarithmic) return out;
    std::string tics;
    const bool few = high / low > 300;  // powers of ten alone
    for (double power = std::pow(10.0, std::floor(std::log10(low))); power < high; power *= 10)
      for (const int step : {1, 2, 5})
        if (step * power >= low && step * power <= high && (step == 1 || !few))
          tics += fmt::format("{}{:g}", tics.empty() ? "" : ", ", step * power);
    return out +
           fmt::format("set logscale {0}\nset format {0} '%g'\nset {0}tics ({1})\n", name, tics);
  }
};

// What is drawn for an amount of damage: nats, percent of the perplexity, points of the answers.
double drawn(double damage, Damage kind) {
  if (kind == Damage::loss) return 100 * std::expm1(damage);
  return kind == Damage::answers ? 100 * damage : damage;
}

std::vector<Dot> dots_of(const Standings& standings) {
  std::vector<Dot> dots;
  for (const Standing& s : standings.methods) {
    if (!s.damage || !s.bytes || !(*s.bytes > 0)) continue;
    const double y = drawn(s.damage->value, standings.damage);
    if (!std::isfinite(y)) continue;
    const Interval& i = s.damage->interval;
    dots.push_back({&s, *s.bytes, y, i.known() ? drawn(i.low, standings.damage) : y,
                    i.known() ? drawn(i.high, standings.damage) : y});
  }
  return dots;
}

// A box of a picture, in its points from the lower left corner of the axes.
struct Box {
  double left, low, right, high;
  double overlap(const Box& other) const {
    const double w = std::min(right, other.right) - std::max(left, other.left),
                 h = std::min(high, other.high) - std::max(low, other.low);
    return w > 0 && h > 0 ? w * h : 0;
  }
};

// Names beside their points, each where it covers least of the points and names before it.
std::string labels_script(const std::vector<Dot>& dots, const Axis& x, const Axis& y) {
  std::vector<Box> taken;
  const auto at = [&](const Dot& dot) {
    return std::pair(x.place(dot.x) * kInnerWidth, y.place(std::max(dot.y, y.low)) * kInnerHeight);
  };
  for (const Dot& dot : dots) {
    const auto [px, py] = at(dot);
    taken.push_back({px - 6, py - 6, px + 6, py + 6});
  }
  std::string script;
  for (const Dot& dot : dots) {
    if (dots.size() > kMostNames && !dot.standing->front) continue;
    const std::string& name = dot.standing->row->method;
    const auto [px, py] = at(dot);
    const double length = kLetter * double(width(name));
    // Where the middle of the left or right end stands, away from the point.
    struct Side {
      double dx, dy;
      bool right;  // of the point
    };
    constexpr std::array<Side, 8> kSides = {{{10, 8, true},
                                             {-10, 8, false},
                                             {10, -10, true},
                                             {-10, -10, false},
                                             {10, 24, true},
                                             {-10, 24, false},
                                             {10, -26, true},
                                             {-10, -26, false}}};
    double least = HUGE_VAL;
    Side best = kSides[0];
    Box box{};
    for (const Side& side : kSides) {
      const double left = px + side.dx - (side.right ? 0 : length), middle = py + side.dy;
      const Box here{left, middle - kLine / 2, left + length, middle + kLine / 2};
      double cost = 0.5 * std::abs(side.dy);
      for (const Box& other : taken) cost += here.overlap(other);
      const Box inside{0, 0, kInnerWidth + 20, kInnerHeight};
      cost += 3 * (length * kLine - here.overlap(inside));
      if (cost >= least) continue;
      least = cost;
      best = side;
      box = here;
    }
    taken.push_back(box);
    script += fmt::format(
        "set label {} at graph {:.4f}, graph {:.4f} {} front font ',13'{}\n", script_text(name),
        (px + best.dx) / kInnerWidth, (py + best.dy) / kInnerHeight, best.right ? "left" : "right",
        dot.standing->front ? " textcolor rgb '#000000'" : " textcolor rgb '#555555'");
  }
  return script;
}

std::string axis_titles(const Standings& standings, Language language) {
  const char* x = standings.bytes == Bytes::cache
                      ? in(language, "bytes of the cache per token", "每词元的缓存字节数")
                  : standings.bytes == Bytes::weights
                      ? in(language, "bytes of the weights", "权重字节数")
                      : in(language, "bytes of weights and cache", "权重与缓存的字节数");
  const char* y =
      standings.damage == Damage::divergence
          ? in(language, "KL from full precision, nats per token", "与全精度的 KL，nat/词元")
      : standings.damage == Damage::loss
          ? in(language, "perplexity above the baseline, %", "困惑度高于基线，%")
          : in(language, "answers lost, points", "丢失的答案，百分点");
  return fmt::format("set xlabel {}\nset ylabel {}\n", script_text(x), script_text(y));
}

// The lines behind the points: full precision's bytes, the noise floor, the front.
std::string lines_script(const Standings& standings, const std::vector<Dot>& dots, const Axis& x,
                         const Axis& y, Language language) {
  std::string script;
  if (standings.full_bytes)
    script += fmt::format(
        "set arrow from first {0}, graph 0 to first {0}, graph 1 nohead dt 3 lw 1.5 lc rgb "
        "'#666666'\nset label {1} at first {0}, graph 0.97 right offset -0.5,0 font ',12' "
        "textcolor rgb '#555555'\n",
        *standings.full_bytes, script_text(in(language, "full precision", "全精度")));
  if (standings.floor && *standings.floor > y.low)
    script += fmt::format(
        "set arrow from graph 0, first {0} to graph 1, first {0} nohead dt 2 lw 1.5 lc rgb "
        "'#A33600'\nset label {1} at graph 0.01, first {0} left offset 0,0.5 font ',12' textcolor "
        "rgb '#A33600'\n",
        *standings.floor, script_text(in(language, "noise floor", "噪声下限")));
  std::vector<const Dot*> front;
  for (const Dot& dot : dots)
    if (dot.standing->front) front.push_back(&dot);
  std::sort(front.begin(), front.end(), [](const Dot* a, const Dot* b) { return a->x < b->x; });
  script += "$front << EOD\n";
  for (const Dot* dot : front) script += fmt::format("{} {}\n", dot->x, std::max(dot->y, y.low));
  if (!front.empty()) script += fmt::format("{} {}\n", x.high, std::max(front.back()->y, y.low));
  return script + "EOD\n";
}

Figure figure_of(const Standings& standings, const std::vector<Dot>& dots, const Axis& x,
                 const Axis& y, const SeriesStyles& styles, Language language) {
  std::string script = fmt::format(
      "set terminal svg size {},{} dynamic font 'DejaVu Sans,Arial,sans-serif,15' background "
      "'white'\nset termoption noenhanced\nset encoding utf8\nunset key\n",
      kWidth, kHeight);
  script += x.script("x") + y.script("y") + axis_titles(standings, language);
  script += lines_script(standings, dots, x, y, language) + labels_script(dots, x, y);
  std::string plot = "plot $front using 1:2 with steps lc rgb '#999999' lw 2 notitle";
  for (size_t i = 0; i < dots.size(); ++i) {
    const Dot& dot = dots[i];
    script +=
        fmt::format("$d{} << EOD\n{:.6g} {:.6g} {:.6g} {:.6g}\nEOD\n", i, dot.x,
                    std::max(dot.y, y.low), std::max(dot.low, y.low), std::max(dot.high, y.low));
    plot += fmt::format(", $d{} using 1:2:3:4 with yerrorbars {} notitle", i,
                        styles.of(grouped(*standings.board) ? methods_of(*dot.standing->row)
                                                            : dot.standing->row->method));
  }
  return {"damage-" + standings.board->experiment + "-" + standings.board->model,
          standings.board->model + ", " + standings.evaluation->name,
          dots.size() > kMostNames
              ? in(language, "Only methods of the front are named.", "只标出前沿上的方法。")
              : "",
          script + plot + "\n",
          {},
          chart_in_words(standings, language)};
}

}  // namespace

std::vector<Figure> decision_figures(const Decision& decision, const SeriesStyles& styles,
                                     Language language) {
  std::vector<Figure> figures;
  for (const Standings& standings : decision.models) {
    const std::vector<Dot> dots = dots_of(standings);
    if (dots.size() < 2) continue;
    // The axes of all models that are measured alike.
    Axis x, y;
    y.logarithmic = standings.damage != Damage::answers;
    for (const Standings& other : decision.models) {
      if (other.damage != standings.damage || other.bytes != standings.bytes) continue;
      if (other.full_bytes) x.hold(*other.full_bytes);
      if (other.floor) y.hold(*other.floor);
      for (const Dot& dot : dots_of(other)) {
        x.hold(dot.x);
        y.hold(dot.y);
        y.hold(dot.high);
      }
    }
    x.widen(0.06);
    y.widen(0.08);
    figures.push_back(figure_of(standings, dots, x, y, styles, language));
  }
  return figures;
}

}  // namespace ptq::report
