// GPTQ: rounds the weights of a layer column by column and lets the columns that are still to come
// make up for each error, by the inverse of the inputs' second moments (arXiv 2210.17323).
//
// After IST-DASLab/gptq (gptq.py, quant.py, llama.py). H = 2 XtX over the calibration set, dampened
// by percdamp times the mean of its diagonal; U upper triangular with H^-1 = Ut U. For column j:
//   q = rounded w_j, e = (w_j - q) / U_jj, w_k -= e U_jk for all k > j
// Blocks come in order, each with inputs through the encoded blocks before it.
//
// Differences: where H cannot be factorised, percdamp grows by 0.0015 up to 0.1 (GPTQModel does so)
// before the layer is rounded to nearest, with a warning; a group that begins inside a run of 128
// columns takes its range from the columns as they are by then (fresh_group_scale; the original
// takes it from the columns before the run). gptaq adds what the inputs' own error costs: every
// column also takes up (w_j P)_k, arXiv 2504.02692.
#include <algorithm>
#include <cmath>
#include <numeric>

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

constexpr int64_t kRun = 128;  // columns between two updates of all later columns
constexpr int64_t kRows = 64;  // that are solved together

class Gptq {
 public:
  static constexpr About about = {"gptq", "1.0.0",
                                  "weights: second-order rounding, column by column",
                                  "GPTQ (arXiv 2210.17323)"};

  explicit Gptq(Options& o) {
    o.integer("bits", bits_, "bits per weight").between(2, 8);
    o.integer("group_size", group_size_, "weights along `in` that share a scale; 0 = a whole row")
        .between(0, 65536);
    o.word("grid", grid_, "asym_gptq or sym_gptq",
           {{"asym_gptq", Grid::asym_gptq}, {"sym_gptq", Grid::sym_gptq}});
    o.number("percdamp", percdamp_, "damping, as a share of the mean of the diagonal")
        .between(0, 1);
    o.flag("act_order", act_order_, "columns of large inputs first");
    o.flag("static_groups", static_groups_, "ranges of groups from the original weights");
    o.flag("true_sequential", true_sequential_, "inputs through the encoded linears of the block");
    o.flag("mse", mse_, "ranges of groups that lose least instead of the whole range");
    o.flag("fresh_group_scale", fresh_, "ranges from the columns as they are by then");
    o.flag("gptaq", gptaq_, "correct the error of the inputs too (GPTAQ, arXiv 2504.02692)");
    if (gptaq_ && true_sequential_)
      throw ptq::plugin::Invalid(
          "gptaq compares with the original block and cannot be combined "
          "with true_sequential");
  }

  ptq_inputs_wanted encode_wants() const {
    return {PTQ_INPUTS_GRAM | (gptaq_ ? PTQ_INPUTS_CROSS : 0u),
            true_sequential_ ? PTQ_ORDER_GROUPS : PTQ_ORDER_BLOCKS, 0};
  }

  void encode(const Call& call, const ptq_linear& linear, ptq_encoding* out) {
    if (linear.layer < 0) return;
    const Matrix w = ptq::plugin::matrix_of(linear);
    const ptq_inputs& inputs = ptq::plugin::inputs_of(linear, about.name);
    if (inputs.id != factor_.id) factor(call, inputs, w.columns);
    AffineAnswer answer(w.rows, w.columns, bits_, grid_, group_size_);
    if (factor_.u.empty()) {
      call.log(2, std::string(linear.name) +
                      ": the second moments of its inputs cannot be factorised, with any damping "
                      "up to 0.1; it is rounded to nearest");
      call.affine(*linear.weight, bits_, int(grid_), 1, group_size_, out);
      return;
    }
    const int64_t tasks = (w.rows + kRows - 1) / kRows;
    call.parallel(tasks, [&](int64_t t) {
      solve(call, w, t * kRows, std::min(w.rows, (t + 1) * kRows), answer);
      call.progress(double(t + 1) / double(tasks));
    });
    const bool permuted = act_order_ && !static_groups_;
    answer.give(call, permuted ? factor_.order.data() : nullptr, out);
  }

 private:
  // Of the inputs that several linears share.
  struct Factor {
    uint64_t id = 0;
    std::vector<int32_t> order;  // column j of u is column order[j] of the layer
    std::vector<float> u;        // [in, in], upper triangular; empty: cannot be factorised
    std::vector<float> p;        // gptaq: [in, in], strictly upper
    std::vector<uint8_t> dead;   // columns that no input ever used
  };

  void factor(const Call& call, const ptq_inputs& inputs, int64_t n) {
    const float* gram = numbers(inputs.gram, "XtX");
    factor_ = {inputs.id, std::vector<int32_t>(size_t(n)), {}, {}, std::vector<uint8_t>(size_t(n))};
    double mean = 0;
    std::vector<float> diagonal(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      factor_.dead[size_t(i)] = gram[i * n + i] == 0;
      diagonal[size_t(i)] = factor_.dead[size_t(i)] ? 1.0f : gram[i * n + i];
      mean += diagonal[size_t(i)] / double(n);
    }
    std::iota(factor_.order.begin(), factor_.order.end(), 0);
    if (act_order_)
      std::stable_sort(factor_.order.begin(), factor_.order.end(), [&](int32_t a, int32_t b) {
        return diagonal[size_t(a)] > diagonal[size_t(b)];
      });
    std::vector<float> h(size_t(n * n));
    for (double damp = percdamp_; damp <= std::max(0.1, percdamp_); damp += 0.0015) {
      if (call.cancelled()) throw ptq::plugin::Cancelled{};
      // Rows and columns backwards: the Cholesky factor of that, backwards again, is upper
      // triangular with H = M Mt, and U = M^-1.
      for (int64_t r = 0; r < n; ++r) {
        const int64_t from = factor_.order[size_t(n - 1 - r)];
        for (int64_t c = 0; c < n; ++c) h[size_t(r * n + c)] = gram[from * n + column(n, c)];
        h[size_t(r * n + r)] = float(diagonal[size_t(from)] + damp * mean);
      }
      if (call.math().cholesky(call.raw(), n, h.data()) != 0 ||
          call.math().invert_lower(call.raw(), n, h.data()) != 0)
        continue;
      if (!std::all_of(h.begin(), h.end(), [](float x) { return std::isfinite(x); })) continue;
      std::reverse(h.begin(), h.end());
      factor_.u = std::move(h);
      break;
    }
    if (gptaq_ && !factor_.u.empty()) residual(call, inputs, n);
  }
  int64_t column(int64_t n, int64_t c) const { return factor_.order[size_t(n - 1 - c)]; }

  // GPTAQ's P: the strictly upper part of (dX)tX Ut, times U.
  void residual(const Call& call, const ptq_inputs& inputs, int64_t n) {
    const float* cross = numbers(inputs.cross, "(X_full - X)tX");
    std::vector<float> d(size_t(n * n)), middle(size_t(n * n));
    for (int64_t r = 0; r < n; ++r)
      for (int64_t c = 0; c < n; ++c)
        d[size_t(r * n + c)] = cross[factor_.order[size_t(r)] * n + factor_.order[size_t(c)]];
    const ptq_math& math = call.math();
    math.gemm(call.raw(), 0, 1, n, n, n, 1, d.data(), n, factor_.u.data(), n, 0, middle.data(), n);
    for (int64_t r = 0; r < n; ++r)
      std::fill(middle.begin() + r * n, middle.begin() + r * n + r + 1, 0.0f);
    factor_.p.resize(size_t(n * n));
    math.gemm(call.raw(), 0, 0, n, n, n, kGptaqShare, middle.data(), n, factor_.u.data(), n, 0,
              factor_.p.data(), n);
  }
  static constexpr float kGptaqShare = 0.25f;  // of the correction, as in GPTAQ's code

  AffineParams range(const float* x, int64_t n, int64_t stride) const {
    return ptq::plugin::search_params(x, n, stride, nullptr, bits_, grid_, mse_ ? 80 : 1, 2.4f);
  }

  // Rows [begin, end) of the layer. w is kept by columns, in the order of the factor.
  void solve(const Call& call, const Matrix& weight, int64_t begin, int64_t end,
             AffineAnswer& answer) const {
    const int64_t n = weight.columns, rows = end - begin, group = answer.group();
    const bool by_order = act_order_ && static_groups_;  // groups lie in the original order
    std::vector<float> w(size_t(n * rows)), error(size_t(kRun * rows)), before;
    std::vector<float> original(gptaq_ ? size_t(kRun * rows) : 0);
    std::vector<AffineParams> params(size_t(answer.groups() * rows));
    for (int64_t j = 0; j < n; ++j)
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t from = factor_.order[size_t(j)];
        w[size_t(j * rows + r)] = factor_.dead[size_t(from)] ? 0.0f : weight.row(begin + r)[from];
      }
    if (static_groups_) {
      std::vector<float> row(static_cast<size_t>(n));  // in the original order
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t j = 0; j < n; ++j)
          row[size_t(factor_.order[size_t(j)])] = w[size_t(j * rows + r)];
        for (int64_t g = 0; g < answer.groups(); ++g)
          params[size_t(g * rows + r)] =
              range(row.data() + g * group, std::min(group, n - g * group), 1);
      }
    }

    for (int64_t a = 0; a < n; a += kRun) {
      if (call.cancelled()) throw ptq::plugin::Cancelled{};
      const int64_t b = std::min(a + kRun, n);
      if (!fresh_ && !static_groups_) before.assign(w.begin() + a * rows, w.begin() + b * rows);
      for (int64_t j = a; j < b; ++j) {
        const int64_t g = (by_order ? int64_t(factor_.order[size_t(j)]) : j) / group;
        if (!static_groups_ && j % group == 0) new_group(w, before, a, b, j, rows, group, params);
        float* column = w.data() + j * rows;
        float* e = error.data() + (j - a) * rows;
        if (gptaq_) std::copy_n(column, rows, original.data() + (j - a) * rows);
        const float inverse = 1.0f / factor_.u[size_t(j * n + j)];
        const int64_t place = act_order_ && !static_groups_ ? j : factor_.order[size_t(j)];
        for (int64_t r = 0; r < rows; ++r) {
          const AffineParams p = params[size_t(g * rows + r)];
          const float code = ptq::affine_code(column[r], p, bits_, grid_);
          answer.code(begin + r, place, code);
          e[r] = (column[r] - ptq::plugin::affine_value(code, p, grid_)) * inverse;
        }
        for (int64_t k = j + 1; k < b; ++k) {
          const float u = factor_.u[size_t(j * n + k)];
          float* later = w.data() + k * rows;
          for (int64_t r = 0; r < rows; ++r) later[r] -= e[r] * u;
          if (!gptaq_) continue;
          const float p = factor_.p[size_t(j * n + k)];
          const float* was = original.data() + (j - a) * rows;
          for (int64_t r = 0; r < rows; ++r) later[r] += was[r] * p;
        }
      }
      if (b == n) break;
      const ptq_math& math = call.math();
      math.gemm(call.raw(), 1, 0, n - b, rows, b - a, -1, factor_.u.data() + a * n + b, n,
                error.data(), rows, 1, w.data() + b * rows, rows);
      if (gptaq_)
        math.gemm(call.raw(), 1, 0, n - b, rows, b - a, 1, factor_.p.data() + a * n + b, n,
                  original.data(), rows, 1, w.data() + b * rows, rows);
    }
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t g = 0; g < answer.groups(); ++g)
        answer.params(begin + r, g, params[size_t(g * rows + r)]);
  }

  // Ranges of the group that begins at column j. Columns of this run that the original has not
  // updated yet are those of `before`.
  void new_group(const std::vector<float>& w, const std::vector<float>& before, int64_t a,
                 int64_t b, int64_t j, int64_t rows, int64_t group,
                 std::vector<AffineParams>& params) const {
    const int64_t n = int64_t(w.size()) / rows, last = std::min(j + group, n);
    std::vector<float> x(size_t(last - j));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t k = j; k < last; ++k)
        x[size_t(k - j)] =
            before.empty() || k >= b ? w[size_t(k * rows + r)] : before[size_t((k - a) * rows + r)];
      params[size_t(j / group * rows + r)] = range(x.data(), last - j, 1);
    }
  }

  int bits_ = 4;
  Grid grid_ = Grid::asym_gptq;
  int64_t group_size_ = 128;
  double percdamp_ = 0.01;
  bool act_order_ = false, static_groups_ = false, true_sequential_ = false, mse_ = false;
  bool fresh_ = true, gptaq_ = false;
  Factor factor_;
};

}  // namespace

PTQ_PLUGIN("gptq", "Apache-2.0", Gptq)
