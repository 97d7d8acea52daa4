// Taylor importance, alone and weighted by how much the loss grows without a layer or a block: the
// three methods of hybrid global structural pruning (song17122328/llama-pruning), which are one
// algorithm with other parameters.
//
// First order: the loss changes by about w dL/dw when a weight w becomes zero; a group is worth the
// sum of |w dL/dw| over its weights, per parameter that it costs. The rules `param_*` and
// `vectorize` are those of LLM-Pruner (arXiv 2305.11627, section 3.2; TaylorImportance of its
// hf_llama_pruner.py), with query heads grouped by the key/value head that they read. With a
// temperature T the score is multiplied by B^T, B = ln(1 + max(growth of the loss, 0)): that of the
// layer where it is below tau, else that of the group's own block.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "ptq/plugin.hpp"
#include "ptq/plugin_prune.hpp"

namespace {

using ptq::plugin::About;
using ptq::plugin::Call;
using ptq::plugin::measured;
using ptq::plugin::Options;

enum class Rule { first, second, mix, sum, vectorize };

class Taylor {
 public:
  static constexpr About about = {
      "taylor", "1.0.0", "pruning: heads and MLP channels of the least |weight x gradient|",
      "LLM-Pruner, arXiv 2305.11627"};

  explicit Taylor(Options& o) : Taylor(o, 0, 0) {}

  void pruning(ptq_prune& table) const {
    amount_.fill(table);
    text_.fill(table);
    table.batch = int32_t(batch_);
    table.loss_sequences = loss_samples_;
    table.wants = PTQ_PRUNE_GRADIENT;
    if (rule_ == Rule::second || rule_ == Rule::mix || rule_ == Rule::sum)
      table.wants |= PTQ_PRUNE_GRADIENT_SQUARE;
    if (temperature_ != 0) table.wants |= PTQ_PRUNE_LOSSES;
    static constexpr const char* kNames[] = {"first", "second", "mix", "sum", "vectorize"};
    table.shares = kNames[int(rule_)];
  }

  void measure(const Call&, const ptq_prune_linear& linear, double* importance) const {
    const ptq::plugin::PruneMatrix m(linear);
    const float* w = m.weight;
    const float* g = measured(linear.gradient, "the gradient");
    if (rule_ == Rule::vectorize)
      return m.add_line_sums([&](int64_t i) { return w[i] * g[i]; }, importance);
    if (rule_ == Rule::first)
      return m.add_sums([&](int64_t i) { return std::fabs(w[i] * g[i]); }, importance);
    const float* h = measured(linear.gradient_square, "the squared gradient");
    m.add_sums(
        [&](int64_t i) {
          const float second = w[i] * w[i] * h[i];
          if (rule_ == Rule::second) return std::fabs(second);
          if (rule_ == Rule::mix) return std::fabs(w[i] * g[i] - 0.5f * second);
          return std::fabs(w[i] * g[i]) + 0.5f * std::fabs(second);
        },
        importance);
  }

  void score(const Call&, const ptq_prune_groups& g, double* score) const {
    for (int64_t i = 0; i < g.groups; ++i) score[i] = g.importance[i] / double(g.cost[i]);
    if (temperature_ == 0) return;
    if (!g.layer_loss || !g.attention_loss || !g.mlp_loss)
      throw ptq::plugin::Invalid("the host has not measured the losses without layers");
    const double tau = tau_of(g);
    for (int64_t i = 0; i < g.groups; ++i) {
      const int32_t l = g.layer[i];
      const double* block = g.block[i] == PTQ_PRUNE_ATTENTION ? g.attention_loss : g.mlp_loss;
      const double growth = g.layer_loss[l] < tau ? g.layer_loss[l] : block[l];
      score[i] *= std::pow(std::log1p(std::max(growth, 0.0)), temperature_);
    }
  }

 protected:
  Taylor(Options& o, double temperature, double tau) : temperature_(temperature), tau_(tau) {
    amount_.declare(o);
    text_.declare(o);
    o.integer("batch", batch_, "samples whose mean loss is one gradient").between(1, 4096);
    o.word("importance", rule_,
           "param_first |wg|, param_second |w2h|, param_mix |wg - w2h/2|, first_and_second "
           "|wg| + |w2h|/2 or vectorize |sum of wg of a row or column|",
           {{"param_first", Rule::first},
            {"param_second", Rule::second},
            {"param_mix", Rule::mix},
            {"first_and_second", Rule::sum},
            {"vectorize", Rule::vectorize}});
    o.number("temperature", temperature_, "exponent of the factor of a layer or block; 0: none")
        .between(0, 100);
    o.number("tau", tau_,
             "layers whose removal costs less take the factor of the layer, others "
             "that of the block")
        .between(-1e9, 1e9);
    o.number("tau_percentile", tau_percentile_,
             "tau is this percentile of the layers; below 0: tau")
        .between(-1, 100);
    o.integer("loss_samples", loss_samples_, "samples for the removal of layers; 0: a fifth")
        .between(0, 65536);
  }

 private:
  // Percentiles between neighbours are interpolated, as numpy's default does.
  double tau_of(const ptq_prune_groups& g) const {
    if (tau_percentile_ < 0) return tau_;
    std::vector<double> losses(g.layer_loss, g.layer_loss + g.layers);
    std::sort(losses.begin(), losses.end());
    const double at = tau_percentile_ / 100 * double(g.layers - 1);
    const auto below = size_t(at);
    const double above = losses[std::min(below + 1, losses.size() - 1)];
    return losses[below] + (at - double(below)) * (above - losses[below]);
  }

  ptq::plugin::PruneAmount amount_;
  ptq::plugin::PruneText text_;
  int64_t batch_ = 4, loss_samples_ = 0;
  Rule rule_ = Rule::first;
  double temperature_, tau_, tau_percentile_ = -1;
};

// Every layer takes the factor of the group's block.
class Blockwise : public Taylor {
 public:
  static constexpr About about = {
      "blockwise", "1.0.0", "pruning: taylor x growth of the loss without the group's block", ""};
  explicit Blockwise(Options& o) : Taylor(o, 1, -100) {}
};

// Every layer takes its own factor.
class Layerwise : public Taylor {
 public:
  static constexpr About about = {
      "layerwise", "1.0.0", "pruning: taylor x growth of the loss without the group's layer", ""};
  explicit Layerwise(Options& o) : Taylor(o, 1, 1e9) {}
};

}  // namespace

PTQ_PLUGIN("taylor", "Apache-2.0", Taylor, Blockwise, Layerwise)
