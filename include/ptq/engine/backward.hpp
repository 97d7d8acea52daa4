// Gradients of the loss: the small abstract interface through which calibration sees a backward
// pass, as engine.hpp is the one for the forward pass.
//
// The loss of a sequence is the mean cross-entropy of its next tokens, in nats. A pass always uses
// the weights of the model's folder, in float32 arithmetic, whatever a method did to the weights of
// an Engine and whatever its compute mode: what is asked for are the sensitivities of the model
// that is to be compressed.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ptq/engine/engine.hpp"
#include "ptq/model/config.hpp"

namespace ptq {

// Keys and values of one layer for the tokens of a pass, and the gradients of the loss with respect
// to them; each [tokens, kv_heads, head_dim], valid during the call only. The keys come before the
// rotary embedding (bias and norm of the head included) and after it. Gradients are null in a
// forward pass.
template <class Real>
struct KvGradients {
  int64_t tokens = 0;
  const Real *keys = nullptr, *rotated_keys = nullptr, *values = nullptr;
  const Real *d_keys = nullptr, *d_rotated_keys = nullptr, *d_values = nullptr;
};

// Receives what a pass computes. A forward pass visits the layers upwards, a backward pass
// downwards, one tensor at a time: nothing is kept for all layers.
template <class Real>
class GradientVisitor {
 public:
  virtual ~GradientVisitor() = default;
  virtual void keys_values(int layer, const KvGradients<Real>& kv) {
    (void)layer;
    (void)kv;
  }
  // Whether the gradient of a weight is asked for, by its name in the model's folder:
  // "model.layers.3.mlp.up_proj.weight" (also where it is a part of a stored matrix). Norms and
  // biases too; an embedding, and with it a tied
  // lm_head, never.
  virtual bool wants(const std::string& tensor) {
    (void)tensor;
    return false;
  }
  // The gradient of a wanted tensor, [rows, columns] as in the folder; rows is 1 for a vector.
  virtual void gradient(const std::string& tensor, const Real* d, int64_t rows, int64_t columns) {
    (void)tensor;
    (void)d;
    (void)rows;
    (void)columns;
  }
};

// The mean cross-entropy of a sequence's next tokens: of the whole model, and of the model in which
// the attention, the MLP or both of one layer add nothing. [layers] each.
struct RemovalLosses {
  double whole = 0;
  std::vector<double> attention, mlp, layer;
};

// Forward and backward passes over single sequences. float is what runs; engine/cpu/backward.hpp
// has double too, to hold the formulas against finite differences.
template <class Real>
class Gradients {
 public:
  virtual ~Gradients() = default;
  virtual const ModelConfig& config() const = 0;
  // Keys and values only. Errors of both: fewer than 2 tokens, id out of range, more tokens than
  // the model allows.
  virtual void forward(std::span<const int32_t> tokens, GradientVisitor<Real>& visitor) = 0;
  // Returns the loss. Keeps two activations per layer, [tokens, hidden] and [tokens, heads *
  // head_dim]; everything else is computed again on the way down.
  virtual double backward(std::span<const int32_t> tokens, GradientVisitor<Real>& visitor) = 0;
  // Runs the layers behind a removed block again for each: 3 layers^2 / 2 layers in all.
  virtual RemovalLosses removal_losses(std::span<const int32_t> tokens) = 0;
};

// Gradients on the CPU, for the same folders as make_cpu_engine; `options.compute` is not used.
// Defined in host/engine_cpu.cpp.
std::unique_ptr<Gradients<float>> make_cpu_gradients(const std::string& folder,
                                                     const EngineOptions& options);

}  // namespace ptq
