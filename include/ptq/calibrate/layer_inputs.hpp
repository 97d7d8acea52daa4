// Sums over a calibration set of what enters the linear layers of one decoder layer, through the
// tap of a pass. Several layers at a time would need several layers' XtX: for a 7B model one is
// 4096^2 + 4096^2 + 4096^2 + 14336^2 numbers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <vector>

#include "ptq/engine/tap.hpp"

namespace ptq::calibrate {

// Over all rows seen so far.
struct PointSums {
  int64_t rows = 0, width = 0;
  std::vector<double> squares, magnitudes;  // [width]: sums of x^2 and |x|
  std::vector<float> largest;               // [width]: largest |x|
  std::vector<double> gram;                 // [width, width]: XtX; empty unless it is wanted
};

class LayerInputs final : public Tap {
 public:
  // Of one layer; gram: XtX too.
  LayerInputs(int layer, bool gram) : layer_(layer), gram_(gram) {}

  Wanted wants(int layer, Point point) override {
    const bool input = point == Point::attention_in || point == Point::heads_out ||
                       point == Point::mlp_in || point == Point::mlp_inner;
    if (layer != layer_ || !input) return {};
    return {0, true, gram_};
  }
  // The device sums a pass, XtX in float32; passes are added in float64.
  void see(const Seen& seen) override {
    PointSums& sums = points_[seen.point];
    sums.rows += seen.rows;
    sums.width = seen.width;
    add(sums.squares, seen.squares);
    add(sums.magnitudes, seen.magnitudes);
    add(sums.gram, seen.gram);
    sums.largest.resize(seen.largest.size());
    for (size_t i = 0; i < seen.largest.size(); ++i)
      sums.largest[i] = std::max(sums.largest[i], seen.largest[i]);
  }

  // Linear layers that share an input share its sums (LinearPlan::input).
  const PointSums& at(Point point) const { return points_.at(point); }

 private:
  template <class V>
  static void add(std::vector<double>& sum, std::span<const V> x) {
    sum.resize(x.size());
    for (size_t i = 0; i < x.size(); ++i) sum[i] += double(x[i]);
  }

  int layer_;
  bool gram_;
  std::map<Point, PointSums> points_;
};

}  // namespace ptq::calibrate
