// Structured pruning without gradients: by the weights alone, by weights and inputs, by how much
// inputs vary, and by whole layers.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "ptq/plugin.hpp"
#include "ptq/plugin_prune.hpp"

namespace {

using ptq::plugin::About;
using ptq::plugin::Call;
using ptq::plugin::measured;
using ptq::plugin::Options;
using ptq::plugin::PruneMatrix;

void per_parameter(const ptq_prune_groups& g, double* score) {
  for (int64_t i = 0; i < g.groups; ++i) score[i] = g.importance[i] / double(g.cost[i]);
}

class Magnitude {
 public:
  static constexpr About about = {"magnitude", "1.0.0",
                                  "pruning: heads and MLP channels of the smallest weights", ""};
  explicit Magnitude(Options& o) { amount_.declare(o); }

  void pruning(ptq_prune& table) const { amount_.fill(table); }
  void measure(const Call&, const ptq_prune_linear& linear, double* importance) const {
    const PruneMatrix m(linear);
    m.add_sums([&](int64_t i) { return std::fabs(m.weight[i]); }, importance);
  }
  void score(const Call&, const ptq_prune_groups& g, double* score) const {
    per_parameter(g, score);
  }

 private:
  ptq::plugin::PruneAmount amount_;
};

// What methods have in common that look at the inputs of linears: their options, what they want.
class ByInputs {
 protected:
  explicit ByInputs(Options& o) {
    amount_.declare(o);
    text_.declare(o);
  }
  // shares: the name under which methods with one importance share it.
  void fill(ptq_prune& table, const char* shares) const {
    amount_.fill(table);
    text_.fill(table);
    table.wants = PTQ_PRUNE_INPUTS;
    table.shares = shares;
  }

 private:
  ptq::plugin::PruneAmount amount_;
  ptq::plugin::PruneText text_;
};

// |w| ||x||_2 of the input's channel (arXiv 2306.11695, equation 1), summed over a group.
class Wanda : ByInputs {
 public:
  static constexpr About about = {"wanda", "1.0.0",
                                  "pruning: heads and MLP channels of the least |weight| x input",
                                  "Wanda, arXiv 2306.11695"};
  explicit Wanda(Options& o) : ByInputs(o) {}

  void pruning(ptq_prune& table) const { fill(table, "wanda"); }
  void measure(const Call&, const ptq_prune_linear& linear, double* importance) const {
    const PruneMatrix m(linear);
    const float* square = measured(linear.input_mean_square, "the inputs");
    m.add_sums([&](int64_t i) { return std::fabs(m.weight[i]) * std::sqrt(square[i % m.columns]); },
               importance);
  }
  void score(const Call&, const ptq_prune_groups& g, double* score) const {
    per_parameter(g, score);
  }
};

// Fluctuation of what o and down read: the variance of an input times the squared norm of the
// column that reads it, standardised in each layer, attention and MLP apart (arXiv 2312.11983,
// equations 4 and 6). The mean output of what leaves is not added as a bias, as the paper does:
// these architectures have no place for one.
class Flap : ByInputs {
 public:
  static constexpr About about = {
      "flap", "1.0.0", "pruning: heads and MLP channels whose inputs vary least; no bias is added",
      "FLAP, arXiv 2312.11983"};
  explicit Flap(Options& o) : ByInputs(o) {}

  void pruning(ptq_prune& table) const { fill(table, "flap"); }
  void measure(const Call&, const ptq_prune_linear& linear, double* importance) const {
    if (linear.axis == 0) return;
    const PruneMatrix m(linear);
    const float* mean = measured(linear.input_mean, "the inputs");
    const float* square = measured(linear.input_mean_square, "the inputs");
    m.add_sums(
        [&](int64_t i) {
          const int64_t c = i % m.columns;
          const double variance = double(square[c]) - double(mean[c]) * double(mean[c]);
          return std::max(variance, 0.0) * double(m.weight[i]) * double(m.weight[i]);
        },
        importance);
  }
  void score(const Call&, const ptq_prune_groups& g, double* score) const {
    for (int64_t begin = 0; begin < g.groups;) {
      int64_t end = begin;
      while (end < g.groups && g.layer[end] == g.layer[begin] && g.block[end] == g.block[begin])
        ++end;
      standardise(g.importance + begin, end - begin, score + begin);
      begin = end;
    }
  }

 private:
  static void standardise(const double* x, int64_t n, double* out) {
    double mean = 0, squares = 0;
    for (int64_t i = 0; i < n; ++i) mean += x[i] / double(n);
    for (int64_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
    const double deviation = n > 1 ? std::sqrt(squares / double(n - 1)) : 0;
    for (int64_t i = 0; i < n; ++i) out[i] = deviation > 0 ? (x[i] - mean) / deviation : 0;
  }
};

// Whole layers, those that turn the hidden state least.
class ShortGpt {
 public:
  static constexpr About about = {"shortgpt", "1.0.0",
                                  "pruning: whole layers that change the hidden state least",
                                  "ShortGPT, arXiv 2403.03853"};
  explicit ShortGpt(Options& o) {
    o.number("ratio", ratio_, "share of all parameters to remove, at most; one layer at least")
        .between(0, 1);
    text_.declare(o);
  }

  void pruning(ptq_prune& table) const {
    text_.fill(table);
    table.ratio = ratio_;
    table.unit = PTQ_PRUNE_LAYERS;
    table.wants = PTQ_PRUNE_INFLUENCE;
  }
  void score(const Call&, const ptq_prune_groups& g, double* score) const {
    if (!g.influence) throw ptq::plugin::Invalid("the host has not measured the layers' influence");
    for (int64_t i = 0; i < g.groups; ++i) score[i] = g.influence[g.layer[i]];
  }

 private:
  double ratio_ = 0.2;
  ptq::plugin::PruneText text_;
};

}  // namespace

PTQ_PLUGIN("activation_pruning", "Apache-2.0", Magnitude, Wanda, Flap, ShortGpt)
