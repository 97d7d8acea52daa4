// Exact bytes of the resident weights.
#pragma once

#include "ptq/engine/counts.hpp"

namespace ptq {

template <class Model>
WeightBytes weight_bytes(const Model& model) {
  WeightBytes sum;
  const auto count = [&](const auto& w) {
    (w.encoded() ? sum.encoded : sum.dense) += w.bytes();
    (w.encoded() ? sum.encoded_scalars : sum.dense_scalars) += w.scalars();
  };
  for (const auto& layer : model.layers)
    for (const auto& linear : layer.plan.linears) count(layer.at(linear.role).weight);
  if (!model.anatomy.tied) count(model.head);
  sum.dense += model.embedding->bytes + model.small_bytes;
  sum.dense_scalars += model.anatomy.vocab * model.anatomy.hidden + model.small_scalars;
  return sum;
}

}  // namespace ptq
