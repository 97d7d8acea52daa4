// AWQ: gives the channels that inputs use most finer steps, by moving a scale from what feeds a
// linear into its columns before they are rounded, then clips ranges (arXiv 2306.00978).
//
// After mit-han-lab/llm-awq (auto_scale.py, auto_clip.py) and casper-hansen/AutoAWQ (duo_scaling).
// Of a place of a block, with x = mean |x_j| of its inputs, for r = 0, 1/20 .. 19/20:
//   s_j = x_j^r, or with duo_scaling x_j^r / (w_j^(1-r) + 1e-4), w_j = mean |w| / (group's max|w|);
//   s / sqrt(max s min s); the s of least error of the linears' outputs is kept.
// Clipping: per row and group, of the factors 1, 0.95 .. 0.55 of max|w| the one of least error of
// the group's part of the output; not for q and k.
//
// Differences: errors are those of the linears themselves over the whole calibration set, from XtX,
// where the original runs the attention or the MLP on a part of it; an s that makes one of the
// linears worse than it is without is passed over. Channels that no input uses keep s = 1.
#include <algorithm>
#include <cmath>
#include <string>

#include "ptq/plugin.hpp"
#include "ptq/plugin_weights.hpp"

namespace {

using ptq::AffineParams;
using ptq::Grid;
using ptq::plugin::About;
using ptq::plugin::AffineAnswer;
using ptq::plugin::Call;
using ptq::plugin::Matrix;
using ptq::plugin::numbers;
using ptq::plugin::Options;

constexpr int kShares = 20, kClips = 10;
constexpr int64_t kRows = 64;  // per task

class Awq {
 public:
  static constexpr About about = {"awq", "1.0.0",
                                  "weights: scales of channels by their inputs, clipped ranges",
                                  "AWQ (arXiv 2306.00978)"};

  explicit Awq(Options& o) {
    o.integer("bits", bits_, "bits per weight").between(2, 8);
    o.integer("group_size", group_size_, "weights along `in` that share a scale; 0 = a whole row")
        .between(0, 65536);
    o.word("grid", grid_, "asym_awq, asym_gptq or sym_full",
           {{"asym_awq", Grid::asym_awq},
            {"asym_gptq", Grid::asym_gptq},
            {"sym_full", Grid::sym_full}});
    o.flag("scale", scale_, "search scales of channels");
    o.flag("duo_scaling", duo_, "divide by the weights' own size, as AutoAWQ does");
    o.flag("clip", clip_, "search the range of every group");
  }

  bool scales() const { return scale_; }
  ptq_inputs_wanted scale_wants() const {
    return {PTQ_INPUTS_COLUMNS | PTQ_INPUTS_GRAM, PTQ_ORDER_FULL, 0};
  }
  ptq_inputs_wanted encode_wants() const {
    return {clip_ ? PTQ_INPUTS_GRAM : 0u, PTQ_ORDER_FULL, 0};
  }

  void scale(const Call& call, const ptq_site& site, float* factor) {
    const ptq_inputs& inputs = ptq::plugin::inputs_of(*site.linears[0], about.name);
    const float* x = numbers(inputs.mean_abs, "mean |x|");
    const float* gram = numbers(inputs.gram, "XtX");
    std::vector<Matrix> weights;
    for (uint32_t i = 0; i < site.n_linears; ++i)
      weights.push_back(ptq::plugin::matrix_of(*site.linears[i]));
    const int64_t n = weights[0].columns;
    const std::vector<float> size = duo_ ? mean_size(weights) : std::vector<float>();
    std::vector<double> unscaled;
    double least = INFINITY;
    std::vector<float> s(static_cast<size_t>(n));
    for (int i = 0; i < kShares; ++i) {
      call.progress(double(i) / kShares);
      if (!candidate(x, size, float(i) / kShares, s)) continue;
      std::vector<double> errors;
      for (const Matrix& w : weights) errors.push_back(error_with(call, w, gram, s));
      double total = 0;
      bool worse = false;
      if (i == 0) unscaled = errors_without(call, weights, gram);
      for (size_t k = 0; k < errors.size(); ++k) {
        total += errors[k];
        worse |= errors[k] > unscaled[k];
      }
      if (worse || !(total < least)) continue;
      least = total;
      std::copy(s.begin(), s.end(), factor);
    }
  }

  void encode(const Call& call, const ptq_linear& linear, ptq_encoding* out) {
    if (linear.layer < 0) return;
    const std::string kind = linear.kind;
    if (!clip_ || kind == "q_proj" || kind == "k_proj")
      return call.affine(*linear.weight, bits_, int(grid_), 1, group_size_, out);
    const Matrix w = ptq::plugin::matrix_of(linear);
    const float* gram = numbers(ptq::plugin::inputs_of(linear, about.name).gram, "XtX");
    AffineAnswer answer(w.rows, w.columns, bits_, grid_, group_size_);
    const int64_t tasks = (w.rows + kRows - 1) / kRows;
    call.parallel(tasks, [&](int64_t t) {
      clip_rows(call, w, t * kRows, std::min(w.rows, (t + 1) * kRows), gram, answer);
      call.progress(double(t + 1) / double(tasks));
    });
    answer.give(call, nullptr, out);
  }

 private:
  // w_j of duo_scaling, over the rows of all matrices.
  std::vector<float> mean_size(const std::vector<Matrix>& weights) const {
    const int64_t n = weights[0].columns, group = group_size_ > 0 ? group_size_ : n;
    std::vector<double> sum(static_cast<size_t>(n));
    int64_t rows = 0;
    for (const Matrix& w : weights) {
      rows += w.rows;
      for (int64_t r = 0; r < w.rows; ++r)
        for (int64_t g = 0; g < n; g += group) {
          const int64_t end = std::min(g + group, n);
          float largest = 0;
          for (int64_t c = g; c < end; ++c) largest = std::max(largest, std::fabs(w.row(r)[c]));
          for (int64_t c = g; c < end; ++c)
            sum[size_t(c)] += double(std::fabs(w.row(r)[c]) / (largest + 1e-6f));
        }
    }
    std::vector<float> mean;
    for (const double s : sum) mean.push_back(float(s / double(rows)));
    return mean;
  }

  // The scales of a share r; false: none, where a number is not finite.
  bool candidate(const float* x, const std::vector<float>& size, float r,
                 std::vector<float>& s) const {
    float low = INFINITY, high = 0;
    for (size_t j = 0; j < s.size(); ++j) {
      s[j] = std::pow(x[j], r);
      if (duo_) s[j] /= std::pow(size[j], 1 - r) + 1e-4f;
      s[j] = x[j] == 0 ? 1.0f : std::max(s[j], 1e-4f);
      if (!std::isfinite(s[j])) return false;
      low = std::min(low, s[j]);
      high = std::max(high, s[j]);
    }
    const float middle = std::sqrt(high * low);
    for (size_t j = 0; j < s.size(); ++j) s[j] = x[j] == 0 ? 1.0f : s[j] / middle;
    return true;
  }

  std::vector<double> errors_without(const Call& call, const std::vector<Matrix>& weights,
                                     const float* gram) const {
    std::vector<double> errors;
    for (const Matrix& w : weights)
      errors.push_back(error_with(call, w, gram, std::vector<float>(size_t(w.columns), 1.0f)));
    return errors;
  }

  // Mean squared error of the outputs when columns are multiplied by s, rounded and divided again:
  // the sum over rows of d G dt.
  double error_with(const Call& call, const Matrix& w, const float* gram,
                    const std::vector<float>& s) const {
    const int64_t n = w.columns, tasks = (w.rows + kRows - 1) / kRows;
    const int64_t group = group_size_ > 0 ? std::min(group_size_, n) : n;
    std::vector<double> parts(static_cast<size_t>(tasks));
    call.parallel(tasks, [&](int64_t t) {
      const int64_t begin = t * kRows, rows = std::min(w.rows - begin, kRows);
      std::vector<float> d(size_t(rows * n)), product(d.size()), scaled(static_cast<size_t>(n));
      for (int64_t r = 0; r < rows; ++r) {
        const float* row = w.row(begin + r);
        for (int64_t c = 0; c < n; ++c) scaled[size_t(c)] = row[c] * s[size_t(c)];
        for (int64_t g = 0; g < n; g += group) {
          const int64_t end = std::min(g + group, n);
          const auto [lo, hi] = std::minmax_element(scaled.begin() + g, scaled.begin() + end);
          const AffineParams p = ptq::affine_params(*lo, *hi, bits_, grid_);
          for (int64_t c = g; c < end; ++c)
            d[size_t(r * n + c)] =
                ptq::plugin::affine_rounded(scaled[size_t(c)], p, bits_, grid_) / s[size_t(c)] -
                row[c];
        }
      }
      call.math().gemm(call.raw(), 0, 0, rows, n, n, 1, d.data(), n, gram, n, 0, product.data(), n);
      for (size_t i = 0; i < d.size(); ++i) parts[size_t(t)] += double(d[i]) * double(product[i]);
    });
    double sum = 0;
    for (const double part : parts) sum += part;
    return sum;
  }

  // The best range of every group of some rows.
  void clip_rows(const Call& call, const Matrix& w, int64_t begin, int64_t end, const float* gram,
                 AffineAnswer& answer) const {
    const int64_t n = w.columns, group = answer.group(), rows = end - begin;
    std::vector<float> clamped(size_t(rows * n));
    for (int64_t g = 0; g < answer.groups(); ++g) {
      const int64_t first = g * group, width = std::min(group, n - first);
      std::vector<float> d(size_t(rows * width)), product(size_t(rows * width));
      std::vector<double> least(size_t(rows), INFINITY);
      for (int i = 0; i < kClips; ++i) {
        std::vector<AffineParams> tried(static_cast<size_t>(rows));
        std::vector<float> most(static_cast<size_t>(rows));
        for (int64_t r = 0; r < rows; ++r) {
          const float* x = w.row(begin + r) + first;
          float largest = 0, lo = INFINITY, hi = -INFINITY;
          for (int64_t c = 0; c < width; ++c) largest = std::max(largest, std::fabs(x[c]));
          const float m = most[size_t(r)] = largest * (1.0f - float(i) / 20.0f);
          for (int64_t c = 0; c < width; ++c) {
            lo = std::min(lo, std::clamp(x[c], -m, m));
            hi = std::max(hi, std::clamp(x[c], -m, m));
          }
          const AffineParams p = tried[size_t(r)] = ptq::affine_params(lo, hi, bits_, grid_);
          for (int64_t c = 0; c < width; ++c)
            d[size_t(r * width + c)] =
                ptq::plugin::affine_rounded(std::clamp(x[c], -m, m), p, bits_, grid_) - x[c];
        }
        call.math().gemm(call.raw(), 0, 0, rows, width, width, 1, d.data(), width,
                         gram + first * n + first, n, 0, product.data(), width);
        for (int64_t r = 0; r < rows; ++r) {
          double error = 0;
          for (int64_t c = 0; c < width; ++c)
            error += double(d[size_t(r * width + c)]) * double(product[size_t(r * width + c)]);
          if (!(error < least[size_t(r)])) continue;
          least[size_t(r)] = error;
          answer.params(begin + r, g, tried[size_t(r)]);
          const float m = most[size_t(r)];
          for (int64_t c = 0; c < width; ++c)
            clamped[size_t(r * n + first + c)] = std::clamp(w.row(begin + r)[first + c], -m, m);
        }
      }
    }
    for (int64_t r = 0; r < rows; ++r) answer.round_row(begin + r, clamped.data() + r * n);
  }

  int bits_ = 4;
  Grid grid_ = Grid::asym_awq;
  int64_t group_size_ = 128;
  bool scale_ = true, duo_ = true, clip_ = true;
};

}  // namespace

PTQ_PLUGIN("awq", "Apache-2.0", Awq)
