// What stands where in a model: its layers, their shapes, the tensors and what each is for.
// Loading, checking, counting and every pass are loops over it, so an architecture is described
// here and in config.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "ptq/model/config.hpp"

namespace ptq {

// The linear layers of a decoder layer.
enum class Role { q, k, v, o, gate, up, down };
inline constexpr int kRoles = 7;

// The places of a forward pass, in its order; each is a matrix [tokens, columns].
enum class Point {
  embedding,      // the rows of the embedding, the residual stream in front of layer 0
  attention_in,   // after the first norm: the input of q, k and v
  query,          // out of q, bias included, before the rotary embedding
  key,            // out of k
  value,          // out of v
  normed_query,   // after the norm of each head; only where the architecture has it
  normed_key,     // the same: what a cache of keys before rotation is given
  rotated_query,  // after the rotary embedding
  rotated_key,
  heads_out,      // what attention gives, the heads side by side: the input of o
  attention_out,  // out of o
  mlp_in,         // after the second norm: the input of gate and up
  gate,           // out of gate
  up,             // out of up
  mlp_inner,      // silu(gate) * up: the input of down
  mlp_out,        // out of down
  layer_out,      // the residual stream behind the layer
  final_norm,     // after the last norm: the input of the head
  logits,         // out of the head
};
inline constexpr int kPoints = 19;

// Sizes of one layer; those of pruned models differ from layer to layer. heads 0: it has no
// attention, inner 0: no MLP.
struct Shape {
  int64_t hidden = 0;  // width of the residual stream, the same everywhere
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t inner = 0;  // width of the gated MLP
  int64_t q_width() const { return heads * head_dim; }
  int64_t kv_width() const { return kv_heads * head_dim; }
};

// W [rows, columns], rows = outputs; y = x W^T + b.
struct LinearPlan {
  Role role;
  std::string name;  // "model.layers.3.mlp.up_proj"; its tensors are NAME.weight and NAME.bias
  int64_t rows, columns;
  bool bias;
  Point input, output;
  // Where several linears are stored as one matrix, below each other: its module, its rows, and the
  // first that is of this one. Without bias.
  std::string fused = {};
  int64_t fused_rows = 0, fused_first = 0;
};

// An RMSNorm: one tensor, [hidden] or [head_dim], and the place that it feeds.
struct NormPlan {
  std::string name;  // of the module; its tensor is NAME.weight
  Point output;
};

struct LayerPlan {
  Shape shape;
  int64_t window;                  // keys visible to a query, itself included; 0: all before it
  NormPlan input_norm, post_norm;  // of its attention and of its MLP
  std::optional<NormPlan> q_norm, k_norm;  // of each head, before the rotary embedding
  std::vector<LinearPlan> linears;         // those of its blocks, in the order of Role

  bool attention() const { return shape.heads > 0; }
  bool mlp() const { return shape.inner > 0; }
  // Of a block that the layer has.
  const LinearPlan& at(Role role) const { return linears[place(role)]; }
  LinearPlan& at(Role role) { return linears[place(role)]; }

 private:
  size_t place(Role role) const { return size_t(role) - (attention() ? 0 : size_t(Role::gate)); }
};

// A tensor that the model's folder must have.
struct ExpectedTensor {
  std::string name;
  std::vector<int64_t> shape;  // linear weights are [out, in]
};

struct Anatomy {
  int64_t hidden = 0, vocab = 0;
  std::string embedding;  // module names, as those of linears
  std::vector<LayerPlan> layers;
  NormPlan final_norm;
  std::string head;
  bool tied = false;  // the head is the embedding's matrix

  // Of the folder, in the order of the pass.
  std::vector<ExpectedTensor> tensors() const {
    static const std::optional<NormPlan> kNone;
    std::vector<ExpectedTensor> list = {{embedding + ".weight", {vocab, hidden}}};
    for (const LayerPlan& layer : layers) {
      if (layer.attention()) list.push_back({layer.input_norm.name + ".weight", {hidden}});
      for (const LinearPlan& linear : layer.linears) {
        if (linear.input == Point::mlp_in && linear.role == Role::gate)
          list.push_back({layer.post_norm.name + ".weight", {hidden}});
        if (linear.fused.empty())
          list.push_back({linear.name + ".weight", {linear.rows, linear.columns}});
        else if (linear.fused_first == 0)
          list.push_back({linear.fused + ".weight", {linear.fused_rows, linear.columns}});
        if (linear.bias) list.push_back({linear.name + ".bias", {linear.rows}});
        const auto& norm = linear.role == Role::q   ? layer.q_norm
                           : linear.role == Role::k ? layer.k_norm
                                                    : kNone;
        if (norm) list.push_back({norm->name + ".weight", {layer.shape.head_dim}});
      }
    }
    list.push_back({final_norm.name + ".weight", {hidden}});
    if (!tied) list.push_back({head + ".weight", {vocab, hidden}});
    return list;
  }

  // The widest layer in each respect: for buffers that all layers use.
  Shape widest() const {
    Shape most;
    for (const LayerPlan& layer : layers) {
      const Shape& s = layer.shape;
      most = {hidden, std::max(most.heads, s.heads), std::max(most.kv_heads, s.kv_heads),
              s.head_dim, std::max(most.inner, s.inner)};
    }
    return most;
  }

  // Layers that read and fill a cache.
  int64_t attention_layers() const {
    return std::count_if(layers.begin(), layers.end(),
                         [](const LayerPlan& layer) { return layer.attention(); });
  }

  // What the module that gives a point is called in the folder and in Hugging Face transformers;
  // ".input" marks what a module is given, and the rotated queries and keys, which no module has
  // there, stand under names of their own.
  std::string point_name(int layer, Point point) const {
    const std::string base =
        layer < 0 ? std::string() : "model.layers." + std::to_string(layer) + ".";
    const auto linear = [&](Role role) { return layers[size_t(layer)].at(role).name; };
    switch (point) {
      case Point::embedding: return embedding;
      case Point::attention_in: return layers[size_t(layer)].input_norm.name;
      case Point::query: return linear(Role::q);
      case Point::key: return linear(Role::k);
      case Point::value: return linear(Role::v);
      case Point::normed_query: return layers[size_t(layer)].q_norm->name;
      case Point::normed_key: return layers[size_t(layer)].k_norm->name;
      case Point::rotated_query: return linear(Role::q) + ".rotated";
      case Point::rotated_key: return linear(Role::k) + ".rotated";
      case Point::heads_out: return linear(Role::o) + ".input";
      case Point::attention_out: return linear(Role::o);
      case Point::mlp_in: return layers[size_t(layer)].post_norm.name;
      case Point::gate: return linear(Role::gate);
      case Point::up: return linear(Role::up);
      case Point::mlp_inner: return linear(Role::down) + ".input";
      case Point::mlp_out: return linear(Role::down);
      case Point::layer_out: return base.substr(0, base.size() - 1);
      case Point::final_norm: return final_norm.name;
      case Point::logits: return head;
    }
    return "?";
  }
};

// Makes linears of a layer the parts of one stored matrix, in the order given.
inline void fuse(LayerPlan& layer, std::initializer_list<Role> roles, const std::string& module) {
  int64_t rows = 0;
  for (const Role role : roles) {
    layer.at(role).fused_first = rows;
    rows += layer.at(role).rows;
  }
  for (const Role role : roles) {
    layer.at(role).fused = module;
    layer.at(role).fused_rows = rows;
  }
}

// Llama, Qwen2, Qwen3, Mistral and Phi-3: one skeleton, told apart by biases, norms of heads,
// windows and sizes, and by how its matrices are stored.
inline Anatomy anatomy_of(const ModelConfig& c) {
  Anatomy a;
  a.hidden = c.hidden_size;
  a.vocab = c.vocab_size;
  a.embedding = "model.embed_tokens";
  a.final_norm = {"model.norm", Point::final_norm};
  a.head = "lm_head";
  a.tied = c.tie_word_embeddings;
  for (int64_t l = 0; l < c.num_hidden_layers; ++l) {
    const LayerSize size = c.size_of_layer(l);
    LayerPlan layer;
    layer.shape = {c.hidden_size, size.attention_heads, size.key_value_heads, c.head_dim,
                   size.intermediate_size};
    layer.window = c.window_of_layer(l);
    const std::string base = "model.layers." + std::to_string(l) + ".",
                      attention = base + "self_attn.", mlp = base + "mlp.";
    layer.input_norm = {base + "input_layernorm", Point::attention_in};
    layer.post_norm = {base + "post_attention_layernorm", Point::mlp_in};
    const int64_t h = c.hidden_size, q = layer.shape.q_width(), kv = layer.shape.kv_width(),
                  m = layer.shape.inner;
    if (layer.attention())
      layer.linears = {
          {Role::q, attention + "q_proj", q, h, c.qkv_bias, Point::attention_in, Point::query},
          {Role::k, attention + "k_proj", kv, h, c.qkv_bias, Point::attention_in, Point::key},
          {Role::v, attention + "v_proj", kv, h, c.qkv_bias, Point::attention_in, Point::value},
          {Role::o, attention + "o_proj", h, q, c.o_bias, Point::heads_out, Point::attention_out}};
    if (layer.mlp())
      layer.linears.insert(
          layer.linears.end(),
          {{Role::gate, mlp + "gate_proj", m, h, false, Point::mlp_in, Point::gate},
           {Role::up, mlp + "up_proj", m, h, false, Point::mlp_in, Point::up},
           {Role::down, mlp + "down_proj", h, m, false, Point::mlp_inner, Point::mlp_out}});
    if (c.head_norms && layer.attention()) {
      layer.q_norm = {attention + "q_norm", Point::normed_query};
      layer.k_norm = {attention + "k_norm", Point::normed_key};
    }
    if (c.fused) {
      if (layer.attention()) fuse(layer, {Role::q, Role::k, Role::v}, attention + "qkv_proj");
      if (layer.mlp()) fuse(layer, {Role::gate, Role::up}, mlp + "gate_up_proj");
    }
    a.layers.push_back(std::move(layer));
  }
  return a;
}

// ---- counts ------------------------------------------------------------------------------------

// Number of stored weights; a tied output head counts once.
inline int64_t parameter_count(const ModelConfig& c) {
  int64_t sum = 0;
  for (const ExpectedTensor& tensor : anatomy_of(c).tensors()) {
    int64_t n = 1;
    for (const int64_t size : tensor.shape) n *= size;
    sum += n;
  }
  return sum;
}

// Weights of the linear layers inside the decoder (q, k, v, o, gate, up, down): what is quantized.
inline int64_t linear_parameter_count(const ModelConfig& c) {
  int64_t sum = 0;
  for (const LayerPlan& layer : anatomy_of(c).layers)
    for (const LinearPlan& linear : layer.linears) sum += linear.rows * linear.columns;
  return sum;
}

// Bytes of the weights when those layers have `bits`-bit codes with one 16-bit scale per group of
// `group_size` numbers along a row, and everything else 16 bits.
inline uint64_t quantized_weight_bytes(const ModelConfig& c, int64_t bits, int64_t group_size) {
  int64_t scales = 0;
  for (const LayerPlan& layer : anatomy_of(c).layers)
    for (const LinearPlan& linear : layer.linears)
      scales += linear.rows * ((linear.columns + group_size - 1) / group_size);
  const int64_t linear = linear_parameter_count(c);
  return static_cast<uint64_t>((linear * bits + 7) / 8 + 2 * scales +
                               2 * (parameter_count(c) - linear));
}

// Keys and values of one token in all layers, stored as fp16.
inline uint64_t kv_bytes_per_token_fp16(const ModelConfig& c) {
  uint64_t sum = 0;
  for (const LayerPlan& layer : anatomy_of(c).layers)
    sum += uint64_t(2 * layer.shape.kv_width()) * 2;
  return sum;
}

}  // namespace ptq
