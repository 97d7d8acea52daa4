// Exact bytes of the resident weights.
#pragma once

#include "ptq/engine/counts.hpp"

namespace ptq {

// as_integers(w): is a linear layer multiplied as integers?
template <class Model, class AsIntegers>
WeightBytes weight_bytes(const Model& model, const AsIntegers& as_integers) {
  WeightBytes sum;
  const auto count = [&](const auto& w) {
    (w.encoded() ? sum.encoded : sum.dense) += w.bytes();
    (w.encoded() ? sum.encoded_scalars : sum.dense_scalars) += w.scalars();
  };
  for (const auto& layer : model.layers)
    for (const auto& linear : layer.plan.linears) count(layer.at(linear.role).weight);
  if (!model.anatomy.tied) count(model.head);
  for (const auto& layer : model.layers)
    for (const auto& linear : layer.plan.linears)
      if (const auto& w = layer.at(linear.role).weight; as_integers(w))
        sum.integer_scalars += w.scalars();
  if (as_integers(model.head)) sum.integer_scalars += model.head.scalars();
  sum.dense += model.embedding->bytes + model.small_bytes;
  sum.dense_scalars += model.anatomy.vocab * model.anatomy.hidden + model.small_scalars;
  return sum;
}

}  // namespace ptq
