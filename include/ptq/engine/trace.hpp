// Every point of a pass under the name of a reference implementation's module, and where two such
// traces part: the way from a wrong logit to the operation that is wrong.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ptq/engine/tap.hpp"
#include "ptq/model/anatomy.hpp"

namespace ptq {

// Keeps all rows of all points of one sequence's passes, in the order of the first pass.
class Trace final : public Tap {
 public:
  struct Entry {
    std::string name;  // Anatomy::point_name
    int64_t width;
    std::vector<float> values;  // [tokens, width]
    int64_t rows() const { return int64_t(values.size()) / width; }
  };

  explicit Trace(Anatomy anatomy) : anatomy_(std::move(anatomy)) {}

  const std::vector<Entry>& entries() const { return entries_; }

  Wanted wants(int, Point) override {
    Wanted all;
    all.rows = std::numeric_limits<int32_t>::max();
    return all;
  }
  void see(const Seen& seen) override {
    const std::string name = anatomy_.point_name(seen.layer, seen.point);
    const auto [found, added] = index_.emplace(name, entries_.size());
    if (added) entries_.push_back({name, seen.width, {}});
    std::vector<float>& values = entries_[found->second].values;
    values.insert(values.end(), seen.values.begin(), seen.values.end());
  }

 private:
  Anatomy anatomy_;
  std::vector<Entry> entries_;
  std::unordered_map<std::string, size_t> index_;
};

// How far one point of a trace lies from the same point of another.
struct PointDifference {
  std::string name;
  double relative = 0;          // largest |a - b| over the largest |b|; infinite where not finite
  int64_t row = 0, column = 0;  // of the largest
  float a = 0, b = 0;           // there
};

inline PointDifference point_difference(const Trace::Entry& entry, std::span<const float> other) {
  PointDifference d{entry.name, 0, 0, 0, 0, 0};
  double largest = 0, most = -1;
  for (const float b : other) largest = std::max(largest, std::fabs(double(b)));
  for (size_t i = 0; i < other.size(); ++i) {
    double gap = std::fabs(double(entry.values[i]) - double(other[i]));
    if (!std::isfinite(gap)) gap = std::numeric_limits<double>::infinity();
    if (gap <= most) continue;
    most = gap;
    d.row = int64_t(i) / entry.width;
    d.column = int64_t(i) % entry.width;
    d.a = entry.values[i];
    d.b = other[i];
  }
  d.relative = most <= 0 ? 0.0 : most / largest;
  return d;
}

// The other trace's numbers of a point, [rows, width]; nothing where it has none.
using OtherPoint = std::function<std::optional<std::vector<float>>(const std::string& name,
                                                                   int64_t rows, int64_t width)>;

// In the order of the pass, as far as both traces have the point.
inline std::vector<PointDifference> compare_traces(const Trace& trace, const OtherPoint& other) {
  std::vector<PointDifference> result;
  for (const Trace::Entry& entry : trace.entries())
    if (const auto values = other(entry.name, entry.rows(), entry.width))
      result.push_back(point_difference(entry, *values));
  return result;
}

}  // namespace ptq
