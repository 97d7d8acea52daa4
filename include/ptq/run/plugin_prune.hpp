// The pruning side of a method of a plugin (ptq.prune/1).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/safe_text.hpp"
#include "ptq/plugin.h"
#include "ptq/prune/method.hpp"
#include "ptq/run/host_services.hpp"

namespace ptq {

// Float32 numbers on the CPU that a plugin may read.
inline ptq_tensor read_only_tensor(const float* x, std::initializer_list<int64_t> shape) {
  ptq_tensor t{};
  t.data = const_cast<float*>(x);
  t.dtype = {PTQ_FLOAT, 32, 1};
  t.ndim = int32_t(shape.size());
  t.device_type = PTQ_CPU;
  t.flags = PTQ_READ_ONLY;
  std::fill(t.shape, t.shape + 6, 1);
  std::copy(shape.begin(), shape.end(), t.shape);
  int64_t stride = 1;
  for (int i = 5; i >= 0; --i) {
    t.stride[i] = stride;
    stride *= t.shape[i];
  }
  return t;
}

class PluginPruner final : public prune::Method {
 public:
  // Errors: settings outside their ranges.
  PluginPruner(HostSide& host, void* method, const ptq_prune* table)
      : host_(host), method_(method), table_(table) {
    const ptq_prune& t = *table;
    const auto refuse = [&](const std::string& what) {
      throw host_.plugin_error("get", "ptq.prune/1 has " + what);
    };
    const uint32_t known = PTQ_PRUNE_GRADIENT | PTQ_PRUNE_GRADIENT_SQUARE | PTQ_PRUNE_INPUTS |
                           PTQ_PRUNE_LOSSES | PTQ_PRUNE_INFLUENCE;
    if ((t.wants & ~known) != 0) refuse("unknown wants " + std::to_string(t.wants & ~known));
    if (!t.score) refuse("no function score");
    if (!(t.ratio >= 0 && t.ratio <= 1) || !(t.collapse_below >= 0 && t.collapse_below <= 1))
      refuse("ratio " + std::to_string(t.ratio) + ", collapse_below " +
             std::to_string(t.collapse_below) + ": both are shares");
    if (t.unit != PTQ_PRUNE_GROUPS && t.unit != PTQ_PRUNE_LAYERS)
      refuse("the unknown unit " + std::to_string(t.unit));
    if (t.round_mlp_to < 1 || t.batch < 1 || t.loss_sequences < 0)
      refuse("round_mlp_to " + std::to_string(t.round_mlp_to) + ", batch " +
             std::to_string(t.batch) + ", loss_sequences " + std::to_string(t.loss_sequences));
    if (t.wants != 0 && (t.sequences < 1 || t.length < 2))
      refuse(std::to_string(t.sequences) + " sequences of " + std::to_string(t.length) +
             " tokens to measure on");
    const auto wants = [&](uint32_t bit) { return (t.wants & bit) != 0; };
    settings_ = {{t.ratio, t.collapse_below, t.round_mlp_to, prune::Unit(t.unit)},
                 {wants(PTQ_PRUNE_GRADIENT) || wants(PTQ_PRUNE_GRADIENT_SQUARE),
                  wants(PTQ_PRUNE_GRADIENT_SQUARE), wants(PTQ_PRUNE_INPUTS),
                  wants(PTQ_PRUNE_LOSSES), wants(PTQ_PRUNE_INFLUENCE)},
                 t.sequences,
                 t.length,
                 t.batch,
                 t.loss_sequences,
                 safe_text(t.shares ? t.shares : "")};
  }

  prune::Settings settings() const override { return settings_; }

  void measure(const prune::MeasuredLinear& l, std::span<double> importance) override {
    if (!table_->measure) return;
    const LinearPlan& plan = l.plan;
    const ptq_tensor weight = read_only_tensor(l.weight, {plan.rows, plan.columns});
    const std::string kind = plan.name.substr(plan.name.rfind('.') + 1);
    const ptq_linear linear{sizeof linear, l.layer, plan.name.c_str(),
                            kind.c_str(),  &weight, nullptr};
    ptq_tensor tensors[4];
    const auto view = [&](int at, std::span<const float> x,
                          std::initializer_list<int64_t> shape) -> const ptq_tensor* {
      if (x.empty()) return nullptr;
      tensors[at] = read_only_tensor(x.data(), shape);
      return &tensors[at];
    };
    const ptq_prune_linear shown{sizeof shown,
                                 l.share.axis,
                                 &linear,
                                 int64_t(importance.size()),
                                 l.share.size,
                                 view(0, l.gradient, {plan.rows, plan.columns}),
                                 view(1, l.gradient_square, {plan.rows, plan.columns}),
                                 view(2, l.input_mean, {plan.columns}),
                                 view(3, l.input_mean_square, {plan.columns})};
    host_.invoke(
        "measure",
        [&](const ptq_call* call) {
          return table_->measure(method_, call, &shown, importance.data());
        },
        [&] { return plan.name; });
  }

  void score(const prune::MeasuredGroups& g, std::span<double> score) override {
    std::vector<int32_t> layer, block;
    std::vector<int64_t> cost;
    for (const prune::Group& group : g.groups) {
      layer.push_back(group.layer);
      block.push_back(int32_t(group.block));
      cost.push_back(group.cost);
    }
    const auto array = [](std::span<const double> x) { return x.empty() ? nullptr : x.data(); };
    const ptq_prune_groups shown{sizeof shown,
                                 0,
                                 g.layers,
                                 int64_t(g.groups.size()),
                                 g.parameters,
                                 layer.data(),
                                 block.data(),
                                 cost.data(),
                                 g.importance.data(),
                                 array(g.layer_loss),
                                 array(g.attention_loss),
                                 array(g.mlp_loss),
                                 array(g.influence)};
    host_.invoke("score", [&](const ptq_call* call) {
      return table_->score(method_, call, &shown, score.data());
    });
  }

 private:
  HostSide& host_;
  void* method_;
  const ptq_prune* table_;
  prune::Settings settings_;
};

}  // namespace ptq
