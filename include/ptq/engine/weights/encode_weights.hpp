// Offers the linear layers of a loaded model to a weight method, one after the other.
#pragma once

#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/engine/counts.hpp"
#include "ptq/engine/method.hpp"
#include "ptq/engine/weights/linear.hpp"
#include "ptq/engine/weights/loaded_model.hpp"

namespace ptq {

// In the order of the pass, the head last unless it is tied; a layer that the method leaves stays
// as it is. progress(done, total) may be empty. Errors: a weight that is not finite.
template <class Device, class Model>
void encode_weights(Device& device, Model& model, WeightMethod& method,
                    const std::function<void(int, int)>& progress) {
  std::vector<std::pair<int, typename Device::Linear*>> all;
  for (size_t l = 0; l < model.layers.size(); ++l)
    for (auto& linear : model.layers[l].linears) all.emplace_back(int(l), &linear.weight);
  if (!model.anatomy.tied) all.emplace_back(-1, &model.head);
  std::vector<float> w;
  for (size_t i = 0; i < all.size(); ++i) {
    LinearWeight& linear = device.host(*all[i].second);
    w.resize(size_t(linear.scalars()));
    linear.decode(0, linear.out(), w.data());
    for (size_t e = 0; e < w.size(); ++e)
      if (!std::isfinite(w[e]))
        throw environment_error("a weight is not finite",
                                linear.name() + ".weight, row " +
                                    std::to_string(int64_t(e) / linear.in()) + ", column " +
                                    std::to_string(int64_t(e) % linear.in()),
                                "the file is damaged; download it again");
    const std::string kind = linear.name().substr(linear.name().rfind('.') + 1);
    method.encode(all[i].first, linear.name(), kind, w.data(), linear.out(), linear.in(), linear);
    device.encoded(*all[i].second);
    if (progress) progress(int(i) + 1, int(all.size()));
  }
}

// Exact bytes of the resident weights.
template <class Model>
WeightBytes weight_bytes(const Model& model) {
  WeightBytes sum;
  const auto count = [&](const auto& w) {
    (w.encoded() ? sum.encoded : sum.dense) += w.bytes();
    (w.encoded() ? sum.encoded_scalars : sum.dense_scalars) += w.scalars();
  };
  for (const auto& layer : model.layers)
    for (const auto& linear : layer.linears) count(linear.weight);
  if (!model.anatomy.tied) count(model.head);
  sum.dense += model.embedding->bytes + model.small_bytes;
  sum.dense_scalars += model.anatomy.vocab * model.anatomy.hidden + model.small_scalars;
  return sum;
}

}  // namespace ptq
