// The backward pass of the Llama, Qwen2 and Mistral architectures on the CPU, to be read beside
// engine/pass/transformer.hpp, whose forward pass it takes the derivative of.
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
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/threads.hpp"
#include "ptq/encoding/dense.hpp"
#include "ptq/engine/backward.hpp"
#include "ptq/engine/cpu/attention_gradient.hpp"
#include "ptq/engine/cpu/blas_memory.hpp"
#include "ptq/engine/cpu/gradient_ops.hpp"
#include "ptq/engine/weights/linear.hpp"
#include "ptq/model/config.hpp"
#include "ptq/model/random_weights.hpp"
#include "ptq/model/safetensors.hpp"

namespace ptq::cpu {

template <class Real>
class BackwardPass final : public Gradients<Real> {
 public:
  // As Transformer: a Hugging Face folder, or with `random` only its config.json.
  BackwardPass(const std::string& folder, int threads,
               std::shared_ptr<RandomWeights> random = nullptr)
      : pool_(std::make_unique<ThreadPool>(threads)),
        ops_(*pool_),
        config_(load_config(folder)),
        random_(std::move(random)) {
    openblas_set_num_threads(1);
    require_blas_memory(pool_->size());
    if (!random_) files_.emplace(folder).check_tensors(config_);
    const ModelConfig& c = config_;
    const int64_t h = c.hidden_size, q = c.num_attention_heads * c.head_dim,
                  kv = c.num_key_value_heads * c.head_dim, f = c.intermediate_size;
    embedding_ = &tensor("model.embed_tokens.weight", {c.vocab_size, h});
    for (int64_t l = 0; l < c.num_hidden_layers; ++l) {
      const std::string base = "model.layers." + std::to_string(l) + ".",
                        attention = base + "self_attn.", mlp = base + "mlp.";
      Layer layer;
      layer.input_norm = norm(base + "input_layernorm", h);
      layer.q = linear(attention + "q_proj", q, h, c.qkv_bias);
      layer.k = linear(attention + "k_proj", kv, h, c.qkv_bias);
      layer.v = linear(attention + "v_proj", kv, h, c.qkv_bias);
      layer.o = linear(attention + "o_proj", h, q, c.o_bias);
      layer.post_norm = norm(base + "post_attention_layernorm", h);
      layer.gate = linear(mlp + "gate_proj", f, h, false);
      layer.up = linear(mlp + "up_proj", f, h, false);
      layer.down = linear(mlp + "down_proj", h, f, false);
      layers_.push_back(std::move(layer));
    }
    final_norm_ = norm("model.norm", h);
    head_.weight = c.tie_word_embeddings ? LinearWeight("lm_head", *embedding_)
                                         : linear("lm_head", c.vocab_size, h, false).weight;
    rope_ = rope_of(c);
  }

  const ModelConfig& config() const override { return config_; }

  void forward(std::span<const int32_t> tokens, GradientVisitor<Real>& visitor) override {
    Pass pass = begin(tokens);
    std::vector<Real> x = embed(tokens), o(pass.heads_size());
    for (const Layer& layer : layers_) {
      attention_inputs(layer, pass, x.data());
      visitor.keys_values(int(&layer - layers_.data()), {pass.n, pass.keys.data(), pass.k.data(),
                                                         pass.v.data(), nullptr, nullptr, nullptr});
      sequence_attention(*pool_, shape_of(layer, pass.n), pass.q.data(), pass.k.data(),
                         pass.v.data(), o.data());
      attention_output(layer, pass, o.data(), x.data());
      mlp(layer, pass, x.data());
    }
  }

  double backward(std::span<const int32_t> tokens, GradientVisitor<Real>& visitor) override {
    Pass pass = begin(tokens);
    const size_t layers = layers_.size();
    std::vector<std::vector<Real>> inputs(layers), outputs(layers);
    std::vector<Real> x = embed(tokens);
    for (size_t l = 0; l < layers; ++l) {
      inputs[l] = x;
      outputs[l].resize(pass.heads_size());
      attention_inputs(layers_[l], pass, x.data());
      sequence_attention(*pool_, shape_of(layers_[l], pass.n), pass.q.data(), pass.k.data(),
                         pass.v.data(), outputs[l].data());
      attention_output(layers_[l], pass, outputs[l].data(), x.data());
      mlp(layers_[l], pass, x.data());
    }
    std::vector<Real> dx(x.size());
    const double loss = head(tokens, x.data(), visitor, dx.data());
    for (size_t l = layers; l-- > 0;) {
      mlp_gradient(layers_[l], pass, inputs[l], outputs[l].data(), visitor, dx.data());
      attention_gradient(int(l), pass, inputs[l].data(), outputs[l].data(), visitor, dx.data());
      inputs[l] = {};
      outputs[l] = {};
    }
    return loss;
  }

 private:
  struct Norm {
    std::string name;
    std::vector<Real> weight;
  };
  struct Linear {
    LinearWeight weight;     // [out, in]
    std::vector<Real> bias;  // empty when there is none
    const Real* b() const { return bias.empty() ? nullptr : bias.data(); }
  };
  struct Layer {
    Norm input_norm, post_norm;
    Linear q, k, v, o, gate, up, down;
  };

  // Buffers of one pass over n tokens, used again by every layer.
  struct Pass {
    Pass(const ModelConfig& c, int64_t tokens)
        : n(tokens),
          q(size_t(n * c.num_attention_heads * c.head_dim)),
          keys(size_t(n * c.num_key_value_heads * c.head_dim)),
          k(keys.size()),
          v(keys.size()),
          y(size_t(n * c.hidden_size)),
          gate(size_t(n * c.intermediate_size)),
          up(gate.size()),
          act(gate.size()) {}
    size_t heads_size() const { return q.size(); }

    int64_t n;
    std::vector<Real> cosine, sine;   // [n, head_dim / 2]
    std::vector<Real> q, keys, k, v;  // q and k rotated, `keys` before
    std::vector<Real> y;              // a normalised input or the output of a block
    std::vector<Real> gate, up, act;
  };

  Pass begin(std::span<const int32_t> tokens) const {
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
    Pass pass(config_, n);
    // The angle is the float32 product of position and frequency, as the reference computes it.
    for (int64_t i = 0; i < n; ++i)
      for (const float frequency : rope_.inv_freq) {
        const Real angle = float(i) * frequency;
        pass.cosine.push_back(std::cos(angle) * rope_.attention_factor);
        pass.sine.push_back(std::sin(angle) * rope_.attention_factor);
      }
    return pass;
  }

  SequenceShape shape_of(const Layer& layer, int64_t n) const {
    return {n, config_.num_attention_heads, config_.num_key_value_heads, config_.head_dim,
            config_.window_of_layer(&layer - layers_.data())};
  }

  std::vector<Real> embed(std::span<const int32_t> tokens) const {
    const int64_t h = config_.hidden_size, bytes = h * dtype_bytes(embedding_->dtype);
    std::vector<Real> x;
    std::vector<float> row(static_cast<size_t>(h));
    for (const int32_t id : tokens) {
      to_float(embedding_->dtype, embedding_->data + id * bytes, h, row.data());
      x.insert(x.end(), row.begin(), row.end());
    }
    return x;
  }

  // ---- forward: x [n, hidden] is the residual stream -------------------------------------------

  // y = norm(x); q, keys, k and v from it.
  void attention_inputs(const Layer& w, Pass& p, const Real* x) const {
    const ModelConfig& c = config_;
    normalise(w.input_norm, x, p.n, p.y.data());
    ops_.linear(w.q.weight, w.q.b(), p.y.data(), p.n, p.q.data());
    ops_.linear(w.k.weight, w.k.b(), p.y.data(), p.n, p.keys.data());
    ops_.linear(w.v.weight, w.v.b(), p.y.data(), p.n, p.v.data());
    p.k = p.keys;
    ops_.rope(p.q.data(), p.n, c.num_attention_heads, c.head_dim, p.cosine.data(), p.sine.data(),
              1);
    ops_.rope(p.k.data(), p.n, c.num_key_value_heads, c.head_dim, p.cosine.data(), p.sine.data(),
              1);
  }
  // x += o_proj(o).
  void attention_output(const Layer& w, Pass& p, const Real* o, Real* x) const {
    ops_.linear(w.o.weight, w.o.b(), o, p.n, p.y.data());
    ops_.add(x, p.y.data(), p.n, config_.hidden_size);
  }
  // y = norm(x); gate and up from it.
  void mlp_inputs(const Layer& w, Pass& p, const Real* x) const {
    normalise(w.post_norm, x, p.n, p.y.data());
    ops_.linear(w.gate.weight, nullptr, p.y.data(), p.n, p.gate.data());
    ops_.linear(w.up.weight, nullptr, p.y.data(), p.n, p.up.data());
  }
  void mlp(const Layer& w, Pass& p, Real* x) const {
    mlp_inputs(w, p, x);
    ops_.swiglu(p.gate.data(), p.up.data(), p.n, config_.intermediate_size, p.act.data());
    ops_.linear(w.down.weight, nullptr, p.act.data(), p.n, p.y.data());
    ops_.add(x, p.y.data(), p.n, config_.hidden_size);
  }

  // ---- backward: dx [n, hidden] is the gradient with respect to the residual stream ------------

  // The loss, and dx with respect to the last layer's output. Some rows of logits at a time.
  double head(std::span<const int32_t> tokens, const Real* x, GradientVisitor<Real>& visitor,
              Real* dx) const {
    constexpr int64_t kRows = 256;
    const int64_t n = int64_t(tokens.size()), h = config_.hidden_size, vocab = config_.vocab_size,
                  targets = n - 1;
    const std::string name = "lm_head.weight", norm_name = final_norm_.name;
    const bool want_head = !config_.tie_word_embeddings && visitor.wants(name),
               want_norm = visitor.wants(norm_name);
    std::vector<Real> y(size_t(kRows * h)), dy(y.size()), z(size_t(kRows * vocab)),
        d_head(want_head ? size_t(vocab * h) : 0), d_norm(want_norm ? size_t(h) : 0);
    std::fill(dx, dx + n * h, Real(0));
    double loss = 0;
    for (int64_t row = 0; row < targets; row += kRows) {
      const int64_t count = std::min(kRows, targets - row);
      normalise(final_norm_, x + row * h, count, y.data());
      ops_.linear(head_.weight, nullptr, y.data(), count, z.data());
      loss += ops_.cross_entropy(z.data(), tokens.data() + row + 1, count, vocab, targets);
      ops_.linear_input_gradient(head_.weight, z.data(), count, false, dy.data());
      normalise_gradient(final_norm_, x + row * h, dy.data(), count, dx + row * h);
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

  // dx: with respect to the layer's output, becomes that with respect to the MLP block's input.
  // input, o: of the layer and of its attention, from which that block's input is made again.
  void mlp_gradient(const Layer& w, Pass& p, const std::vector<Real>& input, const Real* o,
                    GradientVisitor<Real>& visitor, Real* dx) const {
    const int64_t f = config_.intermediate_size;
    std::vector<Real> x = input, dy(x.size()), d_act(p.act.size());
    attention_output(w, p, o, x.data());
    mlp_inputs(w, p, x.data());
    if (visitor.wants(weight_name(w.down))) {
      ops_.swiglu(p.gate.data(), p.up.data(), p.n, f, p.act.data());
      linear_gradient(w.down, dx, p.act.data(), p.n, visitor);
    }
    ops_.linear_input_gradient(w.down.weight, dx, p.n, false, d_act.data());
    ops_.swiglu_gradient(d_act.data(), p.n, f, p.gate.data(), p.up.data());
    linear_gradient(w.gate, p.gate.data(), p.y.data(), p.n, visitor);
    linear_gradient(w.up, p.up.data(), p.y.data(), p.n, visitor);
    ops_.linear_input_gradient(w.gate.weight, p.gate.data(), p.n, false, dy.data());
    ops_.linear_input_gradient(w.up.weight, p.up.data(), p.n, true, dy.data());
    norm_gradient(w.post_norm, x.data(), dy.data(), p.n, visitor);
    normalise_gradient(w.post_norm, x.data(), dy.data(), p.n, dx);
  }

  // dx: with respect to the MLP block's input, becomes that with respect to the layer's input x.
  void attention_gradient(int l, Pass& p, const Real* x, const Real* o,
                          GradientVisitor<Real>& visitor, Real* dx) const {
    const Layer& w = layers_[size_t(l)];
    const ModelConfig& c = config_;
    std::vector<Real> d_o(p.q.size()), dq(p.q.size()), dk(p.k.size()), dv(p.v.size());
    linear_gradient(w.o, dx, o, p.n, visitor);
    ops_.linear_input_gradient(w.o.weight, dx, p.n, false, d_o.data());
    attention_inputs(w, p, x);
    sequence_attention_gradient(*pool_, shape_of(w, p.n), p.q.data(), p.k.data(), p.v.data(), o,
                                d_o.data(), dq.data(), dk.data(), dv.data());
    const std::vector<Real> d_rotated = dk;
    ops_.rope(dq.data(), p.n, c.num_attention_heads, c.head_dim, p.cosine.data(), p.sine.data(),
              -1);
    ops_.rope(dk.data(), p.n, c.num_key_value_heads, c.head_dim, p.cosine.data(), p.sine.data(),
              -1);
    visitor.keys_values(
        l, {p.n, p.keys.data(), p.k.data(), p.v.data(), dk.data(), d_rotated.data(), dv.data()});
    linear_gradient(w.q, dq.data(), p.y.data(), p.n, visitor);
    linear_gradient(w.k, dk.data(), p.y.data(), p.n, visitor);
    linear_gradient(w.v, dv.data(), p.y.data(), p.n, visitor);
    if (l == 0 && !visitor.wants(w.input_norm.name)) return;  // nobody asks for more
    std::vector<Real> dy(p.y.size());
    ops_.linear_input_gradient(w.q.weight, dq.data(), p.n, false, dy.data());
    ops_.linear_input_gradient(w.k.weight, dk.data(), p.n, true, dy.data());
    ops_.linear_input_gradient(w.v.weight, dv.data(), p.n, true, dy.data());
    norm_gradient(w.input_norm, x, dy.data(), p.n, visitor);
    normalise_gradient(w.input_norm, x, dy.data(), p.n, dx);
  }

  // ---- weights ---------------------------------------------------------------------------------

  static std::string weight_name(const Linear& w) { return w.weight.name() + ".weight"; }
  Real eps() const { return Real(config_.rms_norm_eps); }

  void normalise(const Norm& norm, const Real* x, int64_t n, Real* y) const {
    ops_.rms_norm(x, norm.weight.data(), eps(), n, config_.hidden_size, y);
  }
  void normalise_gradient(const Norm& norm, const Real* x, const Real* dy, int64_t n,
                          Real* dx) const {
    ops_.rms_norm_gradient(x, norm.weight.data(), eps(), dy, n, config_.hidden_size, dx);
  }
  void norm_gradient(const Norm& norm, const Real* x, const Real* dy, int64_t n,
                     GradientVisitor<Real>& visitor) const {
    if (!visitor.wants(norm.name)) return;
    std::vector<Real> d(norm.weight.size());
    ops_.rms_norm_weight_gradient(x, eps(), dy, n, config_.hidden_size, false, d.data());
    visitor.gradient(norm.name, d.data(), 1, config_.hidden_size);
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

  const TensorInfo& tensor(const std::string& name, const std::vector<int64_t>& shape) {
    return random_ ? random_->get(name, shape) : files_->get(name, shape);
  }
  std::vector<Real> vector(const std::string& name, int64_t n) {
    const TensorInfo& stored = tensor(name, {n});
    std::vector<float> single(static_cast<size_t>(n));
    to_float(stored.dtype, stored.data, n, single.data());
    return {single.begin(), single.end()};
  }
  Norm norm(const std::string& name, int64_t n) {
    return {name + ".weight", vector(name + ".weight", n)};
  }
  Linear linear(const std::string& name, int64_t out, int64_t in, bool bias) {
    return {LinearWeight(name, tensor(name + ".weight", {out, in})),
            bias ? vector(name + ".bias", out) : std::vector<Real>{}};
  }

  std::unique_ptr<ThreadPool> pool_;
  GradientOps<Real> ops_;
  ModelConfig config_;
  // One of the two; the weights are views into it.
  std::optional<WeightFiles> files_;  // memory-mapped
  std::shared_ptr<RandomWeights> random_;
  const TensorInfo* embedding_ = nullptr;
  std::vector<Layer> layers_;
  Norm final_norm_;
  Linear head_;
  Rope rope_;
};

}  // namespace ptq::cpu
