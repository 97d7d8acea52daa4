// The weights of a model where a pass wants them: one loop over the anatomy, for every device and
// for the backward pass.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ptq/engine/weights/linear.hpp"
#include "ptq/model/anatomy.hpp"
#include "ptq/model/random_weights.hpp"
#include "ptq/model/safetensors.hpp"
#include "ptq/model/weight_files.hpp"

namespace ptq {

// Where tensors come from: the files of a Hugging Face folder, checked as a whole, or random
// numbers. What it gives are views into it.
class TensorSource {
 public:
  TensorSource(const std::string& folder, const ModelConfig& config,
               std::shared_ptr<RandomWeights> random)
      : random_(std::move(random)), how_(config.packed) {
    if (!random_) files_.emplace(folder).check_tensors(config);
  }
  const TensorInfo& get(const std::string& name, const std::vector<int64_t>& shape) {
    return random_ ? random_->get(name, shape) : files_->get(name, shape);
  }
  // The weight of a linear module that another program packed; nothing where it is a plain tensor.
  std::optional<PackedMatrix> packed(const std::string& module, int64_t rows,
                                     int64_t columns) const {
    if (random_ || !how_) return {};
    return files_->packed(*how_, module, rows, columns);
  }

 private:
  std::optional<WeightFiles> files_;  // memory-mapped
  std::shared_ptr<RandomWeights> random_;
  std::optional<PackedWeights> how_;
};

// Matrix: a linear weight in any encoding; Vector: a norm or a bias, empty when there is none.
template <class Matrix, class Vector>
struct LoadedModel {
  struct Linear {
    Matrix weight;
    Vector bias;
  };
  struct Layer {
    LayerPlan plan;
    Vector input_norm, post_norm;  // empty where the layer has no such block, as its linears
    Vector q_norm, k_norm;         // empty where the architecture has none
    std::array<Linear, kRoles> linears;

    Linear& at(Role role) { return linears[size_t(role)]; }
    const Linear& at(Role role) const { return linears[size_t(role)]; }
  };

  TensorSource source;
  Anatomy anatomy;
  const TensorInfo* embedding = nullptr;
  std::vector<Layer> layers;
  Vector final_norm;
  Matrix head;
  // Norms and biases.
  uint64_t small_bytes = 0;
  int64_t small_scalars = 0;

  // `place` keeps what it is given: place.weight(LinearWeight) -> Matrix,
  // place.vector(TensorInfo) -> Vector. Throws on everything that is missing, damaged or
  // unsupported; with `random`, no weight file is read.
  template <class Place>
  LoadedModel(const std::string& folder, const ModelConfig& config, Place& place,
              std::shared_ptr<RandomWeights> random)
      : source(folder, config, std::move(random)), anatomy(anatomy_of(config)) {
    const auto vector = [&](const std::string& name, int64_t n) {
      const TensorInfo& stored = source.get(name, {n});
      small_bytes += stored.bytes;
      small_scalars += n;
      return place.vector(stored);
    };
    const auto matrix = [&](const std::string& name, int64_t rows, int64_t columns) {
      if (auto packed = source.packed(name, rows, columns))
        return place.weight(LinearWeight(name, std::move(*packed)));
      return place.weight(LinearWeight(name, source.get(name + ".weight", {rows, columns})));
    };
    const auto part = [&](const LinearPlan& l) {  // of a matrix that holds several linears
      const TensorInfo& all = source.get(l.fused + ".weight", {l.fused_rows, l.columns});
      return place.weight(LinearWeight(l.name, all.slice(l.fused_first, l.rows)));
    };
    const int64_t h = anatomy.hidden;
    embedding = &source.get(anatomy.embedding + ".weight", {anatomy.vocab, h});
    for (const LayerPlan& plan : anatomy.layers) {
      Layer layer;
      layer.plan = plan;
      if (plan.attention()) layer.input_norm = vector(plan.input_norm.name + ".weight", h);
      if (plan.mlp()) layer.post_norm = vector(plan.post_norm.name + ".weight", h);
      if (plan.q_norm) layer.q_norm = vector(plan.q_norm->name + ".weight", plan.shape.head_dim);
      if (plan.k_norm) layer.k_norm = vector(plan.k_norm->name + ".weight", plan.shape.head_dim);
      for (const LinearPlan& linear : plan.linears) {
        Linear& to = layer.at(linear.role);
        to.weight =
            linear.fused.empty() ? matrix(linear.name, linear.rows, linear.columns) : part(linear);
        if (linear.bias) to.bias = vector(linear.name + ".bias", linear.rows);
      }
      layers.push_back(std::move(layer));
    }
    final_norm = vector(anatomy.final_norm.name + ".weight", h);
    head = anatomy.tied ? place.weight(LinearWeight(anatomy.head, *embedding))
                        : matrix(anatomy.head, anatomy.vocab, h);
  }
};

}  // namespace ptq
