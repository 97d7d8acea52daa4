// What passes through a model over a calibration set: means of what enters its linears, and how far
// each layer turns the hidden state.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "ptq/engine/engine.hpp"
#include "ptq/engine/tap.hpp"

namespace ptq::prune {

// Of every channel that enters a linear.
struct InputMeans {
  std::vector<float> mean, mean_square;
};

// Sums over the rows of whole passes.
class Watcher final : public Tap {
 public:
  Watcher(bool inputs, bool influence) : inputs_(inputs), influence_(influence) {}

  Wanted wants(int, Point point) override {
    return {wanted(point) ? std::numeric_limits<int32_t>::max() : 0, false, false};
  }
  void see(const Seen& seen) override {
    if (is_state(seen.point)) return see_state(seen);
    Sums& sums = sums_[{seen.layer, seen.point}];
    sums.sum.resize(size_t(seen.width));
    sums.squares.resize(size_t(seen.width));
    for (int64_t r = 0; r < seen.rows; ++r)
      for (int64_t c = 0; c < seen.width; ++c) {
        const double x = seen.values[size_t(r * seen.width + c)];
        sums.sum[size_t(c)] += x;
        sums.squares[size_t(c)] += x * x;
      }
    sums.rows += seen.rows;
  }

  InputMeans means(int layer, Point point) const {
    const Sums& sums = sums_.at({layer, point});
    InputMeans means;
    for (const double s : sums.sum) means.mean.push_back(float(s / double(sums.rows)));
    for (const double s : sums.squares) means.mean_square.push_back(float(s / double(sums.rows)));
    return means;
  }
  // 1 - the mean cosine of what enters and what leaves each layer (block influence of ShortGPT,
  // arXiv 2403.03853, equation 1).
  std::vector<double> influence() const {
    std::vector<double> result;
    for (const double cosines : cosines_) result.push_back(1 - cosines / double(tokens_));
    return result;
  }

 private:
  struct Sums {
    int64_t rows = 0;
    std::vector<double> sum, squares;
  };
  static bool is_state(Point point) {
    return point == Point::embedding || point == Point::layer_out;
  }
  bool wanted(Point point) const {
    const bool input = point == Point::attention_in || point == Point::heads_out ||
                       point == Point::mlp_in || point == Point::mlp_inner;
    return (inputs_ && input) || (influence_ && is_state(point));
  }
  void see_state(const Seen& seen) {
    if (seen.point == Point::embedding) {
      tokens_ += seen.rows;
    } else {
      cosines_.resize(std::max(cosines_.size(), size_t(seen.layer) + 1));
      for (int64_t r = 0; r < seen.rows; ++r)
        cosines_[size_t(seen.layer)] +=
            cosine(state_.data() + r * seen.width, seen.values.data() + r * seen.width, seen.width);
    }
    state_.assign(seen.values.begin(), seen.values.end());
  }
  static double cosine(const float* a, const float* b, int64_t n) {
    double ab = 0, aa = 0, bb = 0;
    for (int64_t i = 0; i < n; ++i) {
      ab += double(a[i]) * double(b[i]);
      aa += double(a[i]) * double(a[i]);
      bb += double(b[i]) * double(b[i]);
    }
    return aa > 0 && bb > 0 ? ab / std::sqrt(aa * bb) : 0;
  }

  bool inputs_, influence_;
  std::map<std::pair<int, Point>, Sums> sums_;
  std::vector<float> state_;  // in front of the layer that comes
  std::vector<double> cosines_;
  int64_t tokens_ = 0;
};

// Runs the sequences, each from position 0, past the watcher.
inline void watch(Engine& engine, std::span<const std::vector<int32_t>> sequences, Watcher& watcher,
                  const std::function<void(double)>& progress) {
  for (size_t i = 0; i < sequences.size(); ++i) {
    const auto sequence = engine.start(nullptr);
    const int64_t none = int64_t(sequences[i].size());
    engine.forward(*sequence, sequences[i], Regime::independent, none, {}, &watcher);
    progress(double(i + 1) / double(sequences.size()));
  }
}

}  // namespace ptq::prune
