// What the figures of a board share: axes, and which rows are drawn where there are too many.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "analysis/board/leaderboard.hpp"
#include "analysis/figures/figures.hpp"
#include "analysis/figures/gnuplot.hpp"

namespace ptq::report {

constexpr size_t kMostSeries = 12;  // more cannot be told apart

struct Point {
  double x, y;
  std::string label;
};

inline std::optional<double> member(const Json& row, const char* key) {
  if (!row.is_object()) return {};
  const auto found = row.find(key);
  if (found == row.end() || !found->is_number()) return {};
  return found->get<double>();
}

inline const Json& array_of(const Cell& cell, const char* key) {
  static const Json none = Json::array();
  const auto found = cell.metrics.find(key);
  return found == cell.metrics.end() || !found->is_array() ? none : *found;
}

inline std::string board_title(const Board& board, const std::string& what) {
  return what + ", " + board.model;
}

// A logarithmic axis where values span more than a factor of ten: as long as the values need, with
// figures at 1, 2, 5, 10 ...; at powers of ten alone where there would be too many.
inline std::string log_scale(const char* axis, const std::vector<double>& values) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  if (values.empty() || !(*low > 0) || !(*high > 10 * *low) || !std::isfinite(*high)) return {};
  const double begin = *low / 1.2, end = *high * 1.2;
  std::string tics;
  for (double power = std::pow(10.0, std::floor(std::log10(begin))); power < end; power *= 10)
    for (const int step : {1, 2, 5})
      if (step * power >= begin && step * power <= end && (step == 1 || end < 1e3 * begin))
        tics += fmt::format("{}{:g}", tics.empty() ? "" : ", ", step * power);
  return fmt::format("set logscale {0}\nset {0}range [{1}:{2}]\nset {0}tics ({3})\n", axis, begin,
                     end, tics);
}

// The rows of a board that a figure of `most` series shows: all, or the first, the last and rows
// evenly spread between them, so that good and bad ones are seen.
template <class T>
std::vector<T> spread(std::vector<T> rows, size_t most) {
  if (rows.size() <= most) return rows;
  std::vector<T> chosen;
  for (size_t i = 0; i < most; ++i)
    chosen.push_back(std::move(rows[i * (rows.size() - 1) / (most - 1)]));
  return chosen;
}

// What a caption says then.
inline std::string spread_note(size_t rows, size_t most) {
  return rows <= most ? std::string()
                      : fmt::format(" {} of {} rows, evenly spread over the board.", most, rows);
}

// The methods of a row, as the plugins call them: "kivi", "rtn + kivi".
inline std::string methods_of(const Row& row) {
  std::string names;
  for (const auto& [evaluation, cell] : row.cells) {
    for (const Record::Part& part : cell->parts)
      names += (names.empty() ? "" : " + ") + one_line(part.method);
    if (!names.empty()) return names;
  }
  return row.method;
}

// Where there are more rows than symbols, figures of points show one symbol per method.
inline bool grouped(const Board& board) { return board.rows.size() > kMostSeries; }

// What is drawn where no row of full precision is: the reference that ran beside the methods.
constexpr const char* kFullPrecision = "full precision";

// One point per row: quality against bytes, and change against divergence (point_figures.cpp).
std::vector<Figure> bytes_figures(const Board& board, const std::string& prefix,
                                  const SeriesStyles& styles);
std::vector<Figure> divergence_figures(const Board& board, const std::string& prefix,
                                       const SeriesStyles& styles);

}  // namespace ptq::report
