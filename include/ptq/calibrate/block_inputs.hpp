// What enters the linear layers of one block over a calibration set, through the tap of a pass.
// Several blocks at a time would need several blocks' XtX: for a 7B model one is 4096^2 + 4096^2 +
// 4096^2 + 14336^2 numbers.
#pragma once

#include <cblas.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/engine/method.hpp"
#include "ptq/engine/tap.hpp"

namespace ptq::calibrate {

// The places that linear layers read.
inline constexpr std::array kInputPoints = {Point::attention_in, Point::heads_out, Point::mlp_in,
                                            Point::mlp_inner};

// Sums over all rows seen so far.
struct PointSums {
  int64_t rows = 0, width = 0;
  std::vector<double> squares, magnitudes;  // [width]: sums of x^2 and |x|
  std::vector<float> largest;               // [width]: largest |x|
  std::vector<float> gram;                  // [width, width]: XtX; empty unless it is wanted
  std::vector<float> cross;                 // (X_full - X)tX
  std::vector<float> sample;                // rows at even distances
};

// The rows of one pass at every place that is looked at, for `cross`.
class PassRows final : public Tap {
 public:
  explicit PassRows(int layer) : layer_(layer) {}
  Wanted wants(int layer, Point point) override {
    const bool input =
        std::find(kInputPoints.begin(), kInputPoints.end(), point) != kInputPoints.end();
    return {layer == layer_ && input ? std::numeric_limits<int32_t>::max() : 0, false, false};
  }
  void see(const Seen& seen) override {
    rows_[seen.point].assign(seen.values.begin(), seen.values.end());
  }
  const std::vector<float>& at(Point point) const { return rows_.at(point); }

 private:
  int layer_;
  std::map<Point, std::vector<float>> rows_;
};

class BlockInputs final : public Tap {
 public:
  // Of one layer; total: rows that will be seen; points: empty = all of kInputPoints.
  BlockInputs(int layer, const InputsWanted& wanted, int64_t total, std::vector<Point> points = {})
      : layer_(layer), wanted_(wanted), total_(total), points_(std::move(points)) {}

  // The rows that the same pass had in the full-precision model, before each pass; for `cross`.
  void beside(const PassRows* full) { full_ = full; }

  Wanted wants(int layer, Point point) override {
    const auto in = [&](const auto& list) {
      return std::find(list.begin(), list.end(), point) != list.end();
    };
    if (layer != layer_ || !(points_.empty() ? in(kInputPoints) : in(points_))) return {};
    const bool rows = wanted_.sample_rows > 0 || wanted_.cross;
    return {rows ? std::numeric_limits<int32_t>::max() : 0, true, wanted_.gram};
  }
  // The device sums a pass in float32 (XtX) and float64; passes are added here.
  void see(const Seen& seen) override {
    PointSums& sums = sums_[seen.point];
    sums.width = seen.width;
    add(sums.squares, seen.squares);
    add(sums.magnitudes, seen.magnitudes);
    add(sums.gram, seen.gram);
    sums.largest.resize(seen.largest.size());
    for (size_t i = 0; i < seen.largest.size(); ++i)
      sums.largest[i] = std::max(sums.largest[i], seen.largest[i]);
    if (wanted_.sample_rows > 0) take_sample(seen, sums);
    if (wanted_.cross && full_) add_cross(seen, sums);
    sums.rows += seen.rows;
  }

  // Linear layers that share an input share its sums (LinearPlan::input).
  const PointSums& at(Point point) const { return sums_.at(point); }
  // The same, which leaves: XtX of a 7B model's widest input is 0.8 GiB.
  PointSums take(Point point) { return std::move(sums_.at(point)); }

 private:
  template <class S, class V>
  static void add(std::vector<S>& sum, std::span<const V> x) {
    sum.resize(x.size());
    for (size_t i = 0; i < x.size(); ++i) sum[i] += S(x[i]);
  }
  // Row i of the set is taken when floor(i n / total) grows there.
  void take_sample(const Seen& seen, PointSums& sums) const {
    const int64_t n = std::min(wanted_.sample_rows, total_);
    for (int64_t i = 0; i < seen.rows; ++i) {
      const int64_t row = sums.rows + i;
      if (row * n / total_ == (row + 1) * n / total_) continue;
      const float* x = seen.values.data() + i * seen.width;
      sums.sample.insert(sums.sample.end(), x, x + seen.width);
    }
  }
  void add_cross(const Seen& seen, PointSums& sums) const {
    const int64_t w = seen.width;
    std::vector<float> difference = full_->at(seen.point);
    for (size_t i = 0; i < difference.size(); ++i) difference[i] -= seen.values[i];
    sums.cross.resize(size_t(w * w));
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, int(w), int(w), int(seen.rows), 1.0f,
                difference.data(), int(w), seen.values.data(), int(w), 1.0f, sums.cross.data(),
                int(w));
  }

  int layer_;
  InputsWanted wanted_;
  int64_t total_;
  std::vector<Point> points_;
  const PassRows* full_ = nullptr;
  std::map<Point, PointSums> sums_;
};

// The same as a method is given it: means instead of sums.
class MeanInputs {
 public:
  // where: names the place. Errors: numbers that are not finite.
  MeanInputs(PointSums sums, uint64_t id, const std::string& where)
      : gram_(std::move(sums.gram)),
        cross_(std::move(sums.cross)),
        sample_(std::move(sums.sample)),
        largest_(std::move(sums.largest)) {
    const double rows = double(sums.rows);
    for (int64_t i = 0; i < sums.width; ++i) {
      square_.push_back(float(sums.squares[size_t(i)] / rows));
      magnitude_.push_back(float(sums.magnitudes[size_t(i)] / rows));
      if (!std::isfinite(square_.back()))
        throw Error(ExitCode::disagree, "what enters a linear layer is not finite",
                    where + ", channel " + std::to_string(i),
                    "a damaged weight or an overflow does this; try another calibration.text");
    }
    for (std::vector<float>* sum : {&gram_, &cross_})
      for (float& x : *sum) x = float(x / rows);
    view_.id = id;
    view_.rows = sums.rows;
    view_.width = sums.width;
  }
  void divide(std::span<const float> by) {
    const size_t n = by.size();
    for (size_t i = 0; i < n; ++i) {
      square_[i] /= by[i] * by[i];
      magnitude_[i] /= by[i];
      largest_[i] /= by[i];
    }
    for (std::vector<float>* sum : {&gram_, &cross_})
      for (size_t i = 0; i < sum->size(); ++i) (*sum)[i] /= by[i / n] * by[i % n];
    for (size_t i = 0; i < sample_.size(); ++i) sample_[i] /= by[i % n];
  }
  const LinearInputs& view() {
    view_.mean_square = square_;
    view_.mean_abs = magnitude_;
    view_.largest = largest_;
    view_.gram = gram_;
    view_.cross = cross_;
    view_.sample = sample_;
    return view_;
  }

 private:
  std::vector<float> gram_, cross_, sample_, largest_, square_, magnitude_;
  LinearInputs view_;
};

}  // namespace ptq::calibrate
