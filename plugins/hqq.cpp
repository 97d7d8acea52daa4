// HQQ: half-quadratic quantization, a zero point per group found from the weights alone.
//
// After mobiusml/hqq (core/optimize.py, quantize.py), groups along `in`: s = (2^b-1)/(max-min),
// z = -min s, then up to 20 times
//   q = round(w s + z), r = (q - z) / s, e = shrink(w - r), z = mean(q - (w - e) s)
//   shrink(x) = sign(x) max(|x| - |x|^(p-1) / beta, 0), p = 0.7, beta = 10 * 1.01^i
// until the mean of |w - r| over the matrix no longer falls. The zero point is a real number, which
// the grid `min` stores: w = q / s - z / s.
#include <algorithm>
#include <cmath>

#include "ptq/plugin.hpp"
#include "ptq/plugin_math.hpp"
#include "ptq/plugin_weights.hpp"

namespace {

using ptq::plugin::About;
using ptq::plugin::Call;
using ptq::plugin::Matrix;
using ptq::plugin::Options;

class Hqq {
 public:
  static constexpr About about = {"hqq", "1.0.0",
                                  "weights: half-quadratic zero points, no "
                                  "calibration",
                                  "HQQ (mobiusml.github.io/hqq_blog, 2023)"};

  explicit Hqq(Options& o) {
    o.integer("bits", bits_, "bits per weight").between(2, 8);
    o.integer("group_size", group_size_, "weights along `in` that share a scale; 0 = a whole row")
        .between(0, 65536);
    o.integer("steps", steps_, "of the search for zero points; 0 = none").between(0, 1000);
  }

  void encode(const Call& call, const ptq_linear& linear, ptq_encoding* out) const {
    if (linear.layer < 0) return;
    const Matrix w = ptq::plugin::matrix_of(linear);
    ptq::plugin::AffineAnswer answer(w.rows, w.columns, bits_, ptq::Grid::min, group_size_);
    const int64_t group = answer.group(), groups = answer.groups();
    std::vector<float> scale(size_t(w.rows * groups)), zero(scale.size()), best;
    const float n = float((1 << bits_) - 1);
    for (int64_t i = 0; i < int64_t(scale.size()); ++i) {
      const float* x = w.row(i / groups) + i % groups * group;
      const auto [lo, hi] = std::minmax_element(x, x + width(w, group, i % groups));
      const float range = *hi - *lo;
      scale[size_t(i)] = range <= 1e-4f ? 1.0f : std::min(n / range, 2e4f);
      zero[size_t(i)] = -*lo * scale[size_t(i)];
    }
    best = zero;
    double least = INFINITY;
    float beta = 10;
    for (int step = 0; step <= steps_; ++step, beta *= 1.01f) {
      if (call.cancelled()) throw ptq::plugin::Cancelled{};
      std::vector<float> next = zero;
      const double error = improve(w, group, groups, scale, zero, beta, next);
      if (!(error < least)) break;
      least = error;
      best = zero;
      zero = std::move(next);
    }
    for (int64_t r = 0; r < w.rows; ++r)
      for (int64_t g = 0; g < groups; ++g) {
        const size_t i = size_t(r * groups + g);
        answer.params(r, g, {ptq::round_f16(1.0f / scale[i]), ptq::round_f16(-best[i] / scale[i])});
        for (int64_t c = 0; c < width(w, group, g); ++c)
          answer.code(r, g * group + c, code(w.row(r)[g * group + c], scale[i], best[i]));
      }
    answer.give(call, nullptr, out);
  }

 private:
  static int64_t width(const Matrix& w, int64_t group, int64_t g) {
    return std::min(group, w.columns - g * group);
  }
  float code(float x, float s, float z) const {
    return std::clamp(std::rint(x * s + z), 0.0f, float((1 << bits_) - 1));
  }

  // Mean |w - r| with `zero`; next: the zero points of the next step.
  double improve(const Matrix& w, int64_t group, int64_t groups, const std::vector<float>& scale,
                 const std::vector<float>& zero, float beta, std::vector<float>& next) const {
    double error = 0;
    for (int64_t r = 0; r < w.rows; ++r)
      for (int64_t g = 0; g < groups; ++g) {
        const size_t i = size_t(r * groups + g);
        const float s = scale[i], z = zero[i];
        double sum = 0;
        for (int64_t c = 0; c < width(w, group, g); ++c) {
          const float x = w.row(r)[g * group + c], q = code(x, s, z), d = x - (q - z) / s;
          const float size = std::fabs(d);
          error += double(size);
          const float kept = size > 0 ? std::max(size - std::pow(size, -0.3f) / beta, 0.0f) : 0.0f;
          sum += double(q - (x - (d < 0 ? -kept : kept)) * s);
        }
        next[i] = float(sum / double(width(w, group, g)));
      }
    return error / double(w.rows * w.columns);
  }

  int bits_ = 4, steps_ = 20;
  int64_t group_size_ = 64;
};

}  // namespace

PTQ_PLUGIN("hqq", "Apache-2.0", Hqq)
