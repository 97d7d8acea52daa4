// What structured pruning removes together. A group of attention is a key/value head with the query
// heads that read it, so the number of query heads per key/value head stays what it was; a group of
// an MLP is one channel. The width of the residual stream is never pruned.
//
//   group            rows removed                                    columns removed
//   attention, k     q: of heads k g .. k g + g - 1, k and v: of     o: of the g heads
//                    head k (and of their biases)
//   MLP, c           gate and up: row c                              down: column c
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ptq/model/anatomy.hpp"

namespace ptq::prune {

enum class Block : int { attention = 0, mlp = 1 };

struct Group {
  int layer;
  Block block;
  int64_t index;  // of the key/value head, or of the channel
  int64_t cost;   // weights of its matrices; biases are not counted
};

// Rows (axis 0) or columns (axis 1) of a linear that belong to one group, side by side: group i has
// those from i * size on.
struct Share {
  int axis;
  int64_t size;
};
inline Share share_of(const Shape& shape, Role role) {
  const int64_t queries = shape.heads / std::max<int64_t>(shape.kv_heads, 1) * shape.head_dim;
  switch (role) {
    case Role::q: return {0, queries};
    case Role::k:
    case Role::v: return {0, shape.head_dim};
    case Role::o: return {1, queries};
    case Role::gate:
    case Role::up: return {0, 1};
    case Role::down: return {1, 1};
  }
  return {0, 1};
}
inline Block block_of(Role role) { return role < Role::gate ? Block::attention : Block::mlp; }

// Groups of one block of a layer, and the weights of each.
inline int64_t groups_of(const Shape& shape, Block block) {
  return block == Block::attention ? shape.kv_heads : shape.inner;
}
inline int64_t cost_of(const LayerPlan& layer, Block block) {
  int64_t cost = 0;
  for (const LinearPlan& linear : layer.linears) {
    if (block_of(linear.role) != block) continue;
    const Share share = share_of(layer.shape, linear.role);
    cost += share.size * (share.axis == 0 ? linear.columns : linear.rows);
  }
  return cost;
}

// All groups of a model, in order of (layer, block, index).
inline std::vector<Group> groups_of(const Anatomy& anatomy) {
  std::vector<Group> groups;
  for (size_t l = 0; l < anatomy.layers.size(); ++l)
    for (const Block block : {Block::attention, Block::mlp}) {
      const LayerPlan& layer = anatomy.layers[l];
      const int64_t cost = cost_of(layer, block);
      for (int64_t i = 0; i < groups_of(layer.shape, block); ++i)
        groups.push_back({int(l), block, i, cost});
    }
  return groups;
}

}  // namespace ptq::prune
