// Which groups of a model stay: chosen by a score, and what the model is afterwards.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/model/anatomy.hpp"
#include "ptq/prune/groups.hpp"

namespace ptq::prune {

// What leaves together.
enum class Unit : int { groups = 0, layers = 1 };

// How much is removed.
struct Amount {
  double ratio = 0.2;         // of all parameters, embeddings included, at most
  double collapse_below = 0;  // a layer of which a smaller share is left goes as a whole; 0: none
  int64_t round_mlp_to = 1;   // the channels left of an MLP are a multiple of it, or all
  Unit unit = Unit::groups;
};

// What is left of a layer: indices in the unpruned one, ascending.
struct KeptLayer {
  std::vector<int64_t> heads, channels;  // key/value heads with their query heads; of the MLP
  bool operator==(const KeptLayer&) const = default;
};
using Plan = std::vector<KeptLayer>;  // [layers]

namespace plan_detail {

// Removed groups by layer, in the order of their scores; the last ones were worth most.
struct Removed {
  std::vector<int64_t> heads, channels;
};

inline void check_scores(const std::vector<Group>& groups, std::span<const double> score) {
  for (size_t i = 0; i < groups.size(); ++i) {
    const Group& g = groups[i];
    if (!std::isnan(score[i]) && score[i] != -HUGE_VAL) continue;
    throw Error(ExitCode::cells_failed,
                "the score of a group is " + std::to_string(score[i]) + " and has no place",
                "layer " + std::to_string(g.layer) +
                    (g.block == Block::attention ? ", key/value head " : ", MLP channel ") +
                    std::to_string(g.index),
                "a gradient that overflows does this; infinity means: never remove it");
  }
}

// The order in which things leave: by score, ties by their place. Infinite scores never do.
inline std::vector<size_t> order_of(std::span<const double> score) {
  std::vector<size_t> order(score.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return score[a] < score[b]; });
  order.erase(
      std::find_if(order.begin(), order.end(), [&](size_t i) { return std::isinf(score[i]); }),
      order.end());
  return order;
}

// The longest prefix of the order whose cost stays within the budget, at least one.
inline std::vector<size_t> cheapest(std::span<const double> score, const std::vector<int64_t>& cost,
                                    double budget) {
  std::vector<size_t> order = order_of(score);
  int64_t sum = 0;
  size_t n = 0;
  while (n < order.size() && double(sum + cost[order[n]]) <= budget) sum += cost[order[n++]];
  order.resize(std::min(order.size(), std::max<size_t>(n, 1)));
  return order;
}

inline std::vector<int64_t> without(int64_t n, std::vector<int64_t> removed) {
  std::sort(removed.begin(), removed.end());
  std::vector<int64_t> kept;
  for (int64_t i = 0; i < n; ++i)
    if (!std::binary_search(removed.begin(), removed.end(), i)) kept.push_back(i);
  return kept;
}

inline KeptLayer kept_of(const Shape& shape, Removed removed, const Amount& amount) {
  KeptLayer kept;
  kept.heads = without(shape.kv_heads, removed.heads);
  const int64_t left = shape.inner - int64_t(removed.channels.size());
  if (left <= 1 && shape.inner > left) return kept;  // one channel is no MLP
  const int64_t multiple = std::max<int64_t>(amount.round_mlp_to, 1);
  const int64_t wanted = std::min(shape.inner, (left + multiple - 1) / multiple * multiple);
  removed.channels.resize(size_t(shape.inner - wanted));  // those that are worth most come back
  kept.channels = without(shape.inner, std::move(removed.channels));
  return kept;
}

inline double share_left(const Shape& shape, const KeptLayer& kept) {
  double sum = 0;
  int blocks = 0;
  const auto add = [&](size_t left, int64_t of) {
    if (of == 0) return;
    sum += double(left) / double(of);
    ++blocks;
  };
  add(kept.heads.size(), shape.kv_heads);
  add(kept.channels.size(), shape.inner);
  return blocks > 0 ? sum / blocks : 1;
}

}  // namespace plan_detail

// Everything.
inline Plan keep_all(const Anatomy& anatomy) {
  Plan plan;
  for (const LayerPlan& layer : anatomy.layers)
    plan.push_back({plan_detail::without(layer.shape.kv_heads, {}),
                    plan_detail::without(layer.shape.inner, {})});
  return plan;
}

// Removes the groups of the lowest scores: all groups of all layers in one order, ties by (layer,
// block, index), the longest prefix that costs at most ratio * parameters, and at least one unless
// the ratio is 0. score: of each of groups_of(anatomy); infinity: never. With Unit::layers a layer
// has the mean of its groups' scores. An MLP of which at most one channel would be left goes.
// Errors: a score that is NaN or minus infinity.
inline Plan choose(const Anatomy& anatomy, std::span<const double> score, int64_t parameters,
                   const Amount& amount) {
  using namespace plan_detail;
  const std::vector<Group> groups = groups_of(anatomy);
  check_scores(groups, score);
  if (amount.ratio <= 0) return keep_all(anatomy);
  const double budget = amount.ratio * double(parameters);
  const size_t layers = anatomy.layers.size();
  std::vector<Removed> removed(layers);
  const auto remove = [&](const Group& g) {
    Removed& from = removed[size_t(g.layer)];
    (g.block == Block::attention ? from.heads : from.channels).push_back(g.index);
  };
  if (amount.unit == Unit::groups) {
    std::vector<int64_t> cost;
    for (const Group& g : groups) cost.push_back(g.cost);
    for (const size_t i : cheapest(score, cost, budget)) remove(groups[i]);
  } else {
    std::vector<double> mean(layers);
    std::vector<int64_t> cost(layers), count(layers);
    for (size_t i = 0; i < groups.size(); ++i) {
      const size_t l = size_t(groups[i].layer);
      mean[l] += score[i];
      cost[l] += groups[i].cost;
      ++count[l];
    }
    for (size_t l = 0; l < layers; ++l)
      mean[l] = count[l] > 0 ? mean[l] / double(count[l]) : HUGE_VAL;
    std::vector<bool> leaves(layers);
    for (const size_t l : cheapest(mean, cost, budget)) leaves[l] = true;
    for (const Group& g : groups)
      if (leaves[size_t(g.layer)]) remove(g);
  }
  Plan plan;
  for (size_t l = 0; l < layers; ++l) {
    const Shape& shape = anatomy.layers[l].shape;
    KeptLayer kept = kept_of(shape, std::move(removed[l]), amount);
    if (share_left(shape, kept) < amount.collapse_below) kept = {};
    plan.push_back(std::move(kept));
  }
  return plan;
}

// The configuration of the pruned model; config.json says the same in `layer_sizes`.
inline ModelConfig pruned_config(ModelConfig config, const Plan& plan) {
  std::vector<LayerSize> sizes;
  bool any = false;
  for (size_t l = 0; l < plan.size(); ++l) {
    const LayerSize before = config.size_of_layer(int64_t(l));
    const int64_t heads = int64_t(plan[l].heads.size());
    const int64_t per =
        before.key_value_heads > 0 ? before.attention_heads / before.key_value_heads : 0;
    sizes.push_back({heads * per, heads, int64_t(plan[l].channels.size())});
    any = any || !(sizes.back() == before);
  }
  if (any) config.layer_sizes = std::move(sizes);
  return config;
}

// Share of each layer's MLP weights that is gone.
inline std::vector<double> mlp_removed(const Anatomy& anatomy, const Plan& plan) {
  std::vector<double> shares;
  for (size_t l = 0; l < plan.size(); ++l) {
    const int64_t before = anatomy.layers[l].shape.inner;
    shares.push_back(before > 0 ? 1 - double(plan[l].channels.size()) / double(before) : 0.0);
  }
  return shares;
}

// The layers that lost more than half of their MLP weights.
inline int64_t extreme_layers(const Anatomy& anatomy, const Plan& plan) {
  const std::vector<double> shares = mlp_removed(anatomy, plan);
  return std::count_if(shares.begin(), shares.end(), [](double share) { return share > 0.5; });
}

}  // namespace ptq::prune
