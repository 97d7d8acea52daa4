// A pruning method as the host sees it: it measures what each group is worth, linear by linear, and
// makes a score of it. run/ makes one from a plugin.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "ptq/model/anatomy.hpp"
#include "ptq/prune/groups.hpp"
#include "ptq/prune/plan.hpp"

namespace ptq::prune {

struct Wants {
  bool gradients = false, squares = false;  // of the weights; squares include gradients
  bool inputs = false;                      // what enters the linears
  bool removal = false;                     // losses without a layer or a block
  bool influence = false;                   // how much a layer turns the hidden state
  bool text() const { return gradients || squares || inputs || removal || influence; }
};

struct Settings {
  Amount amount;
  Wants wants;
  int64_t sequences = 128, length = 128;  // of the calibration text, for all that is measured on it
  int64_t batch = 4;                      // sequences of one gradient
  int64_t removal_sequences = 0;          // the first so many; 0: a fifth of them, at least 1
  // What the measured numbers depend on, of the method's options: equal texts of one plugin share
  // them. Empty: they are never shared.
  std::string shares;
};

// A linear that is measured; spans that were not asked for are empty.
struct MeasuredLinear {
  int layer;
  const LinearPlan& plan;
  Share share;                                           // of each group
  const float* weight;                                   // [rows, columns]
  std::span<const float> gradient, gradient_square;      // [rows, columns]: means over batches
  std::span<const float> input_mean, input_mean_square;  // [columns]: over the tokens
};

// All groups, as groups_of() lists them. Figures of layers that were not asked for are empty.
struct MeasuredGroups {
  std::span<const Group> groups;
  int64_t layers, parameters;          // of the model
  std::span<const double> importance;  // of each group: the sum of what measure() gave
  // [layers]: by how much the mean loss grows, in nats, when the layer or one block adds nothing.
  std::span<const double> layer_loss, attention_loss, mlp_loss;
  std::span<const double> influence;  // [layers]: 1 - mean cosine of what enters and what leaves
};

class Method {
 public:
  virtual ~Method() = default;
  virtual Settings settings() const = 0;
  // importance: of the groups of the linear's block, zeros to be added to.
  virtual void measure(const MeasuredLinear& linear, std::span<double> importance) = 0;
  // The lowest leave first.
  virtual void score(const MeasuredGroups& groups, std::span<double> score) = 0;
};

}  // namespace ptq::prune
