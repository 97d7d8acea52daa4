// The backward pass of engine/pass/transformer.hpp on the CPU, to be read beside it: the derivative
// of what is there.
//
// On the way up only the input of every layer and the output of its attention are kept; on the way
// down a layer computes the rest again (T. Chen et al., arXiv 1604.06174).
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/threads.hpp"
#include "ptq/encoding/dense.hpp"
#include "ptq/engine/backward.hpp"
#include "ptq/engine/cpu/attention_gradient.hpp"
#include "ptq/engine/cpu/blas_memory.hpp"
#include "ptq/engine/cpu/gradient_ops.hpp"
#include "ptq/engine/pass/rotary.hpp"
#include "ptq/engine/weights/loaded_model.hpp"
#include "ptq/model/anatomy.hpp"
#include "ptq/model/config.hpp"
#include "ptq/model/load_config.hpp"

namespace ptq::cpu {

// Keeps weights for the backward pass: matrices as they are stored, norms and biases as Real.
template <class Real>
struct BackwardPlace {
  LinearWeight weight(LinearWeight w) const { return w; }
  std::vector<Real> vector(const TensorInfo& stored) const {
    std::vector<float> single(static_cast<size_t>(stored.shape[0]));
    stored.rows().decode(0, stored.shape[0], single.data());
    return {single.begin(), single.end()};
  }
};

template <class Real>
class BackwardPass final : public Gradients<Real> {
  using Model = LoadedModel<LinearWeight, std::vector<Real>>;
  using Layer = typename Model::Layer;
  using Linear = typename Model::Linear;

 public:
  // As Transformer: a Hugging Face folder, or with `random` only its config.json.
  BackwardPass(const std::string& folder, int threads,
               std::shared_ptr<RandomWeights> random = nullptr)
      : pool_(std::make_unique<ThreadPool>(threads)),
        ops_(*pool_),
        config_(load_config(folder)),
        place_(),
        model_(folder, config_, place_, std::move(random)),
        rotary_(rope_of(config_)) {
    openblas_set_num_threads(1);
    require_blas_memory(pool_->size());
  }

  const ModelConfig& config() const override { return config_; }

  void forward(std::span<const int32_t> tokens, GradientVisitor<Real>& visitor) override {
    Pass pass = begin(tokens);
    std::vector<Real> x = embed(tokens), o;
    for (const Layer& layer : model_.layers) {
      if (layer.plan.attention()) {
        attention(layer, pass, x.data(), o);
        visitor.keys_values(
            int(&layer - model_.layers.data()),
            {pass.n, pass.keys.data(), pass.k.data(), pass.v.data(), nullptr, nullptr, nullptr});
      }
      mlp(layer, pass, x.data());
    }
  }

  double backward(std::span<const int32_t> tokens, GradientVisitor<Real>& visitor) override {
    Pass pass = begin(tokens);
    const std::vector<Layer>& all = model_.layers;
    const size_t layers = all.size();
    std::vector<std::vector<Real>> inputs(layers), outputs(layers);
    std::vector<Real> x = embed(tokens);
    for (size_t l = 0; l < layers; ++l) {
      inputs[l] = x;
      attention(all[l], pass, x.data(), outputs[l]);
      mlp(all[l], pass, x.data());
    }
    std::vector<Real> dx(x.size());
    const double loss = head(tokens, x.data(), visitor, dx.data());
    for (size_t l = layers; l-- > 0;) {
      if (all[l].plan.mlp())
        mlp_gradient(all[l], pass, inputs[l], outputs[l].data(), visitor, dx.data());
      if (all[l].plan.attention())
        attention_gradient(int(l), pass, inputs[l].data(), outputs[l].data(), visitor, dx.data());
      inputs[l] = {};
      outputs[l] = {};
    }
    return loss;
  }

  RemovalLosses removal_losses(std::span<const int32_t> tokens) override {
    Pass pass = begin(tokens);
    RemovalLosses losses;
    std::vector<Real> x = embed(tokens), o;
    // The loss when y enters the layers from `first` on.
    const auto loss_from = [&](size_t first, std::vector<Real> y) {
      for (size_t l = first; l < model_.layers.size(); ++l) {
        attention(model_.layers[l], pass, y.data(), o);
        mlp(model_.layers[l], pass, y.data());
      }
      return head_loss(tokens, y.data());
    };
    losses.whole = loss_from(0, x);
    for (size_t l = 0; l < model_.layers.size(); ++l) {
      const Layer& layer = model_.layers[l];
      losses.layer.push_back(loss_from(l + 1, x));
      std::vector<Real> only_mlp = x;
      mlp(layer, pass, only_mlp.data());
      losses.attention.push_back(loss_from(l + 1, std::move(only_mlp)));
      attention(layer, pass, x.data(), o);
      losses.mlp.push_back(loss_from(l + 1, x));
      mlp(layer, pass, x.data());
    }
    return losses;
  }

 private:
  // Buffers of one pass over n tokens, used again by every layer.
  struct Pass {
    Pass(const Anatomy& anatomy, int64_t tokens) : n(tokens), y(size_t(n * anatomy.hidden)) {}
    // Before the inputs of a layer's blocks are written.
    void fit(const Shape& s) {
      for (auto* x : {&q, &plain_q}) x->resize(size_t(n * s.q_width()));
      for (auto* x : {&keys, &k, &v, &plain_k}) x->resize(size_t(n * s.kv_width()));
      for (auto* x : {&gate, &up, &act}) x->resize(size_t(n * s.inner));
    }

    int64_t n;
    std::vector<Real> q, keys, k, v;     // q and k rotated, `keys` before
    std::vector<Real> plain_q, plain_k;  // before the norms of heads, where there are any
    std::vector<Real> y;                 // a normalised input or the output of a block
    std::vector<Real> gate, up, act;
  };

  Pass begin(std::span<const int32_t> tokens) {
    const int64_t n = int64_t(tokens.size());
    if (n < 2)
      throw usage_error("a sequence of " + std::to_string(n) + " tokens", {},
                        "a next token is needed: at least 2");
    if (n > config_.max_position_embeddings)
      throw usage_error("a sequence of " + std::to_string(n) + " tokens", {},
                        "this model allows " + std::to_string(config_.max_position_embeddings) +
                            " (max_position_embeddings)");
    for (int64_t i = 0; i < n; ++i)
      if (tokens[size_t(i)] < 0 || tokens[size_t(i)] >= config_.vocab_size)
        throw usage_error(
            "token id " + std::to_string(tokens[size_t(i)]) + " at position " + std::to_string(i),
            {}, "ids are 0 to " + std::to_string(config_.vocab_size - 1));
    rotary_.extend(n);
    return Pass(model_.anatomy, n);
  }

  SequenceShape shape_of(const Layer& layer, int64_t n) const {
    const Shape& s = layer.plan.shape;
    return {n, s.heads, s.kv_heads, s.head_dim, layer.plan.window};
  }

  std::vector<Real> embed(std::span<const int32_t> tokens) const {
    const StoredRows table = model_.embedding->rows();
    std::vector<Real> x;
    std::vector<float> row(static_cast<size_t>(table.columns));
    for (const int32_t id : tokens) {
      table.decode(id, id + 1, row.data());
      x.insert(x.end(), row.begin(), row.end());
    }
    return x;
  }

  // ---- forward: x [n, hidden] is the residual stream -------------------------------------------

  // y = norm(x); q, keys, k and v from it.
  void attention_inputs(const Layer& w, Pass& p, const Real* x) const {
    const Shape& s = w.plan.shape;
    p.fit(s);
    normalise(w.input_norm, x, p.n, p.y.data());
    linear(w.at(Role::q), p.y.data(), p.n, p.q.data());
    linear(w.at(Role::k), p.y.data(), p.n, p.keys.data());
    linear(w.at(Role::v), p.y.data(), p.n, p.v.data());
    if (w.plan.q_norm) {
      std::swap(p.q, p.plain_q);
      std::swap(p.keys, p.plain_k);
      ops_.rms_norm(p.plain_q.data(), w.q_norm.data(), eps(), p.n * s.heads, s.head_dim,
                    p.q.data());
      ops_.rms_norm(p.plain_k.data(), w.k_norm.data(), eps(), p.n * s.kv_heads, s.head_dim,
                    p.keys.data());
    }
    p.k = p.keys;
    rope(p.q.data(), p.n, s.heads, s.head_dim, 1);
    rope(p.k.data(), p.n, s.kv_heads, s.head_dim, 1);
  }
  // The attention block; o [n, q_width]: what its heads give. Blocks that are not there add
  // nothing.
  void attention(const Layer& w, Pass& p, Real* x, std::vector<Real>& o) const {
    if (!w.plan.attention()) return;
    o.resize(size_t(p.n * w.plan.shape.q_width()));
    attention_inputs(w, p, x);
    sequence_attention(*pool_, shape_of(w, p.n), p.q.data(), p.k.data(), p.v.data(), o.data());
    attention_output(w, p, o.data(), x);
  }
  // x += o_proj(o).
  void attention_output(const Layer& w, Pass& p, const Real* o, Real* x) const {
    if (!w.plan.attention()) return;
    linear(w.at(Role::o), o, p.n, p.y.data());
    ops_.add(x, p.y.data(), p.n, config_.hidden_size);
  }
  // y = norm(x); gate and up from it.
  void mlp_inputs(const Layer& w, Pass& p, const Real* x) const {
    p.fit(w.plan.shape);
    normalise(w.post_norm, x, p.n, p.y.data());
    linear(w.at(Role::gate), p.y.data(), p.n, p.gate.data());
    linear(w.at(Role::up), p.y.data(), p.n, p.up.data());
  }
  void mlp(const Layer& w, Pass& p, Real* x) const {
    if (!w.plan.mlp()) return;
    mlp_inputs(w, p, x);
    ops_.swiglu(p.gate.data(), p.up.data(), p.n, w.plan.shape.inner, p.act.data());
    linear(w.at(Role::down), p.act.data(), p.n, p.y.data());
    ops_.add(x, p.y.data(), p.n, config_.hidden_size);
  }

  // ---- backward: dx [n, hidden] is the gradient with respect to the residual stream ------------

  // The loss, and dx with respect to the last layer's output. Some rows of logits at a time.
  double head(std::span<const int32_t> tokens, const Real* x, GradientVisitor<Real>& visitor,
              Real* dx) const {
    constexpr int64_t kRows = 256;
    const int64_t n = int64_t(tokens.size()), h = config_.hidden_size, vocab = config_.vocab_size,
                  targets = n - 1;
    const std::string name = model_.anatomy.head + ".weight",
                      norm_name = weight_name(model_.anatomy.final_norm);
    const bool want_head = !config_.tie_word_embeddings && visitor.wants(name),
               want_norm = visitor.wants(norm_name);
    std::vector<Real> y(size_t(kRows * h)), dy(y.size()), z(size_t(kRows * vocab)),
        d_head(want_head ? size_t(vocab * h) : 0), d_norm(want_norm ? size_t(h) : 0);
    std::fill(dx, dx + n * h, Real(0));
    double loss = 0;
    for (int64_t row = 0; row < targets; row += kRows) {
      const int64_t count = std::min(kRows, targets - row);
      normalise(model_.final_norm, x + row * h, count, y.data());
      ops_.linear(model_.head, nullptr, y.data(), count, z.data());
      loss += ops_.cross_entropy(z.data(), tokens.data() + row + 1, count, vocab, targets);
      ops_.linear_input_gradient(model_.head, z.data(), count, false, dy.data());
      normalise_gradient(model_.final_norm, x + row * h, dy.data(), count, dx + row * h);
      if (want_head)
        ops_.linear_weight_gradient(z.data(), y.data(), count, vocab, h, row > 0, d_head.data());
      if (want_norm)
        ops_.rms_norm_weight_gradient(x + row * h, eps(), dy.data(), count, h, row > 0,
                                      d_norm.data());
    }
    if (want_head) visitor.gradient(name, d_head.data(), vocab, h);
    if (want_norm) visitor.gradient(norm_name, d_norm.data(), 1, h);
    return loss / double(targets);
  }

  // The loss alone.
  double head_loss(std::span<const int32_t> tokens, const Real* x) const {
    constexpr int64_t kRows = 256;
    const int64_t targets = int64_t(tokens.size()) - 1, vocab = config_.vocab_size;
    std::vector<Real> y(size_t(kRows * config_.hidden_size)), z(size_t(kRows * vocab));
    double loss = 0;
    for (int64_t row = 0; row < targets; row += kRows) {
      const int64_t count = std::min(kRows, targets - row);
      normalise(model_.final_norm, x + row * config_.hidden_size, count, y.data());
      ops_.linear(model_.head, nullptr, y.data(), count, z.data());
      loss += ops_.cross_entropy(z.data(), tokens.data() + row + 1, count, vocab, targets);
    }
    return loss / double(targets);
  }

  // dx: with respect to the layer's output, becomes that with respect to the MLP block's input.
  // input, o: of the layer and of its attention, from which that block's input is made again.
  void mlp_gradient(const Layer& w, Pass& p, const std::vector<Real>& input, const Real* o,
                    GradientVisitor<Real>& visitor, Real* dx) const {
    const int64_t f = w.plan.shape.inner;
    const Linear &gate = w.at(Role::gate), &up = w.at(Role::up), &down = w.at(Role::down);
    std::vector<Real> x = input, dy(x.size()), d_act(size_t(p.n * f));
    attention_output(w, p, o, x.data());
    mlp_inputs(w, p, x.data());
    if (visitor.wants(weight_name(down))) {
      ops_.swiglu(p.gate.data(), p.up.data(), p.n, f, p.act.data());
      linear_gradient(down, dx, p.act.data(), p.n, visitor);
    }
    ops_.linear_input_gradient(down.weight, dx, p.n, false, d_act.data());
    ops_.swiglu_gradient(d_act.data(), p.n, f, p.gate.data(), p.up.data());
    linear_gradient(gate, p.gate.data(), p.y.data(), p.n, visitor);
    linear_gradient(up, p.up.data(), p.y.data(), p.n, visitor);
    ops_.linear_input_gradient(gate.weight, p.gate.data(), p.n, false, dy.data());
    ops_.linear_input_gradient(up.weight, p.up.data(), p.n, true, dy.data());
    norm_gradient(w.plan.post_norm, x.data(), dy.data(), p.n, visitor);
    normalise_gradient(w.post_norm, x.data(), dy.data(), p.n, dx);
  }

  // dx: with respect to the MLP block's input, becomes that with respect to the layer's input x.
  void attention_gradient(int l, Pass& p, const Real* x, const Real* o,
                          GradientVisitor<Real>& visitor, Real* dx) const {
    const Layer& w = model_.layers[size_t(l)];
    const Shape& s = w.plan.shape;
    const Linear &q = w.at(Role::q), &k = w.at(Role::k), &v = w.at(Role::v), &out = w.at(Role::o);
    const size_t q_size = size_t(p.n * s.q_width()), kv_size = size_t(p.n * s.kv_width());
    std::vector<Real> d_o(q_size), dq(q_size), dk(kv_size), dv(kv_size);
    linear_gradient(out, dx, o, p.n, visitor);
    ops_.linear_input_gradient(out.weight, dx, p.n, false, d_o.data());
    attention_inputs(w, p, x);
    sequence_attention_gradient(*pool_, shape_of(w, p.n), p.q.data(), p.k.data(), p.v.data(), o,
                                d_o.data(), dq.data(), dk.data(), dv.data());
    const std::vector<Real> d_rotated = dk;
    rope(dq.data(), p.n, s.heads, s.head_dim, -1);
    rope(dk.data(), p.n, s.kv_heads, s.head_dim, -1);
    visitor.keys_values(
        l, {p.n, p.keys.data(), p.k.data(), p.v.data(), dk.data(), d_rotated.data(), dv.data()});
    if (w.plan.q_norm) {
      head_norm_gradient(*w.plan.q_norm, w.q_norm, p.plain_q, p.n * s.heads, visitor, dq);
      head_norm_gradient(*w.plan.k_norm, w.k_norm, p.plain_k, p.n * s.kv_heads, visitor, dk);
    }
    linear_gradient(q, dq.data(), p.y.data(), p.n, visitor);
    linear_gradient(k, dk.data(), p.y.data(), p.n, visitor);
    linear_gradient(v, dv.data(), p.y.data(), p.n, visitor);
    if (l == 0 && !visitor.wants(weight_name(w.plan.input_norm))) return;  // nobody asks for more
    std::vector<Real> dy(p.y.size());
    ops_.linear_input_gradient(q.weight, dq.data(), p.n, false, dy.data());
    ops_.linear_input_gradient(k.weight, dk.data(), p.n, true, dy.data());
    ops_.linear_input_gradient(v.weight, dv.data(), p.n, true, dy.data());
    norm_gradient(w.plan.input_norm, x, dy.data(), p.n, visitor);
    normalise_gradient(w.input_norm, x, dy.data(), p.n, dx);
  }

  // ---- weights ---------------------------------------------------------------------------------

  static std::string weight_name(const Linear& w) { return w.weight.name() + ".weight"; }
  static std::string weight_name(const NormPlan& norm) { return norm.name + ".weight"; }
  Real eps() const { return Real(config_.rms_norm_eps); }

  void linear(const Linear& w, const Real* x, int64_t n, Real* y) const {
    ops_.linear(w.weight, w.bias.empty() ? nullptr : w.bias.data(), x, n, y);
  }
  void rope(Real* x, int64_t n, int64_t heads, int64_t dim, int direction) const {
    ops_.rope(x, n, heads, dim, rotary_.cosine(0), rotary_.sine(0), direction);
  }
  void normalise(const std::vector<Real>& norm, const Real* x, int64_t n, Real* y) const {
    ops_.rms_norm(x, norm.data(), eps(), n, config_.hidden_size, y);
  }
  void normalise_gradient(const std::vector<Real>& norm, const Real* x, const Real* dy, int64_t n,
                          Real* dx) const {
    ops_.rms_norm_gradient(x, norm.data(), eps(), dy, n, config_.hidden_size, dx);
  }
  void norm_gradient(const NormPlan& norm, const Real* x, const Real* dy, int64_t n,
                     GradientVisitor<Real>& visitor) const {
    if (!visitor.wants(weight_name(norm))) return;
    std::vector<Real> d(size_t(config_.hidden_size));
    ops_.rms_norm_weight_gradient(x, eps(), dy, n, config_.hidden_size, false, d.data());
    visitor.gradient(weight_name(norm), d.data(), 1, config_.hidden_size);
  }
  // d [heads, head_dim]: with respect to normed heads, becomes that with respect to the heads x.
  void head_norm_gradient(const NormPlan& plan, const std::vector<Real>& norm,
                          const std::vector<Real>& x, int64_t heads, GradientVisitor<Real>& visitor,
                          std::vector<Real>& d) const {
    const int64_t dim = config_.head_dim;
    if (visitor.wants(weight_name(plan))) {
      std::vector<Real> dw(static_cast<size_t>(dim));
      ops_.rms_norm_weight_gradient(x.data(), eps(), d.data(), heads, dim, false, dw.data());
      visitor.gradient(weight_name(plan), dw.data(), 1, dim);
    }
    std::vector<Real> dx(d.size());
    ops_.rms_norm_gradient(x.data(), norm.data(), eps(), d.data(), heads, dim, dx.data());
    d = std::move(dx);
  }
  // Of weight and bias.
  void linear_gradient(const Linear& w, const Real* dy, const Real* x, int64_t n,
                       GradientVisitor<Real>& visitor) const {
    const int64_t out = w.weight.out(), in = w.weight.in();
    if (visitor.wants(weight_name(w))) {
      std::vector<Real> d(size_t(out * in));
      ops_.linear_weight_gradient(dy, x, n, out, in, false, d.data());
      visitor.gradient(weight_name(w), d.data(), out, in);
    }
    const std::string bias = w.weight.name() + ".bias";
    if (!w.bias.empty() && visitor.wants(bias)) {
      std::vector<Real> d(static_cast<size_t>(out));
      ops_.bias_gradient(dy, n, out, d.data());
      visitor.gradient(bias, d.data(), 1, out);
    }
  }

  std::unique_ptr<ThreadPool> pool_;
  GradientOps<Real> ops_;
  ModelConfig config_;
  BackwardPlace<Real> place_;
  Model model_;
  RotaryTable<Real> rotary_;
};

}  // namespace ptq::cpu
