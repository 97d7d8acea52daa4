// A GGUF file as a model: the configuration that its metadata describe, and its tensors under the
// names of Hugging Face folders.
//
// Keys and names: gguf-py/gguf/constants.py and tensor_mapping.py of llama.cpp. As in config.hpp,
// what would change the mathematics and is not implemented is refused by name.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ptq/model/config.hpp"
#include "ptq/model/gguf.hpp"

namespace ptq {

namespace gguf_detail {

// A divisor of each rotary frequency: how files of Llama 3.1 and later carry their scaling.
inline constexpr const char* kRopeDivisors = "rope_freqs.weight";

inline double positive(const GgufContent& file, const std::string& key, double x) {
  const float used = float(x);
  if (!(used > 0) || !std::isfinite(used))
    throw file.error(key, "a finite number above 0 is expected");
  return x;
}

inline Architecture read_architecture(const GgufContent& file) {
  const auto name = file.text("general.architecture");
  if (!name) {
    throw environment_error("the metadata have no `general.architecture`", file.name(),
                            "is this the file of a language model?");
  }
  if (*name == "llama") return Architecture::llama;
  if (*name == "qwen2") return Architecture::qwen2;
  if (*name == "qwen3") return Architecture::qwen3;
  throw file.error("general.architecture",
                   "the architecture " + foreign(*name) + " is not supported",
                   "supported: llama, qwen2, qwen3");
}

inline void refuse_unsupported(const GgufContent& file, const std::string& prefix) {
  for (const char* key :
       {"expert_count", "expert_used_count", "attention.sliding_window", "attention.max_alibi_bias",
        "attention.clamp_kqv", "logit_scale", "embedding_scale", "residual_scale",
        "attention.scale", "attn_logit_softcapping", "final_logit_softcapping"}) {
    const auto value = file.number(prefix + key);
    if (value && *value != 0)
      throw file.error(prefix + key, "is not supported, and would change the results");
  }
  if (const auto causal = file.boolean(prefix + "attention.causal"); causal && !*causal)
    throw file.error(prefix + "attention.causal", "only causal attention is supported");
  const auto parts = file.integer("split.count", 0, INT64_MAX);
  if (parts && *parts > 1) {
    throw file.error("split.count", "the model is split into several files",
                     "join them first: llama-gguf-split --merge FIRST.gguf ONE.gguf");
  }
}

inline std::optional<RopeScaling> read_rope_scaling(const GgufContent& file,
                                                    const std::string& prefix,
                                                    const ModelConfig& c) {
  const std::string rope = prefix + "rope.";
  RopeScaling s;
  const TensorInfo* divisors = file.tensor(kRopeDivisors);
  const std::string type(file.text(rope + "scaling.type").value_or("none"));
  const auto old_factor = file.number(rope + "scale_linear");
  const bool scaled = type != "none" || (old_factor && *old_factor != 1);
  if (divisors) {
    if (scaled) throw file.error(kRopeDivisors, "stands beside another rotary scaling");
    if (divisors->blocks || divisors->shape != std::vector<int64_t>{c.head_dim / 2})
      throw file.error(kRopeDivisors, "needs " + std::to_string(c.head_dim / 2) + " plain numbers");
    s.type = RopeScaling::Type::divisors;
    s.divisors.resize(size_t(c.head_dim / 2));
    divisors->rows().decode(0, c.head_dim / 2, s.divisors.data());
    for (const float d : s.divisors) positive(file, kRopeDivisors, d);
    return s;
  }
  if (!scaled) return {};
  const std::string factor_key = rope + (type == "none" ? "scale_linear" : "scaling.factor");
  const auto factor = file.number(factor_key);
  if (!factor) throw file.error(factor_key, "is missing");
  s.factor = positive(file, factor_key, *factor);
  if (type == "none" || type == "linear") return s;
  if (type != "yarn") {
    throw file.error(rope + "scaling.type",
                     "the rotary scaling " + foreign(type) + " is not supported",
                     "supported: none, linear, yarn");
  }
  for (const char* key : {"scaling.attn_factor", "scaling.yarn_log_multiplier",
                          "scaling.yarn_ext_factor", "scaling.yarn_attn_factor"}) {
    if (file.contains(rope + key)) throw file.error(rope + key, "is not supported");
  }
  s.type = RopeScaling::Type::yarn;
  s.original_max_position_embeddings =
      file.integer(rope + "scaling.original_context_length", 1, config_detail::kMaxTokens)
          .value_or(c.max_position_embeddings);
  for (const auto& [key, field] : {std::pair{"scaling.yarn_beta_fast", &RopeScaling::beta_fast},
                                   std::pair{"scaling.yarn_beta_slow", &RopeScaling::beta_slow}}) {
    if (const auto x = file.number(rope + key)) s.*field = positive(file, rope + key, *x);
  }
  s.attention_factor = rope_detail::yarn_attention_factor(s.factor, 0, 0);
  return s;
}

// Sizes, which later products rely on.
inline void read_sizes(const GgufContent& file, const std::string& prefix, ModelConfig& c) {
  using namespace config_detail;
  const auto size = [&](const std::string& key, int64_t limit) {
    const auto value = file.integer(prefix + key, 1, limit);
    if (!value) throw environment_error("the metadata have no `" + prefix + key + "`", file.name());
    return *value;
  };
  c.hidden_size = size("embedding_length", kMaxWidth);
  c.num_hidden_layers = size("block_count", kMaxLayers);
  c.num_attention_heads = size("attention.head_count", kMaxWidth);
  c.intermediate_size = size("feed_forward_length", kMaxWidth);
  c.max_position_embeddings = size("context_length", kMaxTokens);
  c.num_key_value_heads = file.integer(prefix + "attention.head_count_kv", 1, kMaxWidth)
                              .value_or(c.num_attention_heads);
  if (c.num_attention_heads % c.num_key_value_heads != 0) {
    throw file.error(prefix + "attention.head_count_kv",
                     std::to_string(c.num_key_value_heads) + " does not divide the " +
                         std::to_string(c.num_attention_heads) + " query heads");
  }
  if (const auto dim = file.integer(prefix + "attention.key_length", 1, kMaxWidth)) {
    c.head_dim = *dim;
  } else if (c.hidden_size % c.num_attention_heads == 0) {
    c.head_dim = c.hidden_size / c.num_attention_heads;
  } else {
    throw file.error(prefix + "attention.head_count", "does not divide the embedding length");
  }
  if (c.head_dim % 2 != 0 || c.num_attention_heads * c.head_dim > kMaxWidth) {
    throw environment_error("heads of " + std::to_string(c.head_dim) +
                                " numbers are not supported: an odd or far too large number",
                            file.name());
  }
  for (const char* key : {"attention.value_length", "rope.dimension_count"}) {
    const auto other = file.integer(prefix + key, 0, kMaxWidth);
    if (other && *other != c.head_dim) {
      throw file.error(prefix + key, std::to_string(*other) + " is not the length of a key, " +
                                         std::to_string(c.head_dim) + ", which is not supported");
    }
  }
  const TensorInfo* embedding = file.tensor("token_embd.weight");
  if (!embedding || embedding->shape.size() != 2 || embedding->shape[0] > kMaxRows)
    throw environment_error("the file has no matrix `token_embd.weight`", file.name());
  c.vocab_size = embedding->shape[0];
}

}  // namespace gguf_detail

// The configuration of a language model from the metadata.
inline ModelConfig gguf_config(const GgufContent& file) {
  using namespace gguf_detail;
  ModelConfig c;
  c.architecture = gguf_detail::read_architecture(file);
  const std::string prefix = std::string(architecture_name(c.architecture)) + ".";
  gguf_detail::refuse_unsupported(file, prefix);
  read_sizes(file, prefix, c);

  const std::string eps = prefix + "attention.layer_norm_rms_epsilon";
  const auto epsilon = file.number(eps);
  if (!epsilon) throw environment_error("the metadata have no `" + eps + "`", file.name());
  c.rms_norm_eps = float(positive(file, eps, *epsilon));
  const std::string base = prefix + "rope.freq_base";
  c.rope_theta = positive(file, base, file.number(base).value_or(10000));
  if (c.rope_theta < 1) throw file.error(base, "the base of the rotary frequencies is below 1");
  c.rope_scaling = gguf_detail::read_rope_scaling(file, prefix, c);
  for (const float f : rope_of(c).inv_freq) {
    if (!std::isfinite(f))
      throw file.error(base, "the rotary frequencies of these settings are not finite");
  }

  c.qkv_bias = file.tensor("blk.0.attn_q.bias") != nullptr;
  c.o_bias = file.tensor("blk.0.attn_output.bias") != nullptr;
  c.head_norms = c.architecture == Architecture::qwen3;
  c.tie_word_embeddings = file.tensor("output.weight") == nullptr;
  const auto id = [&](const char* key) {
    const auto x = file.integer(std::string("tokenizer.ggml.") + key, INT64_MIN, INT64_MAX);
    return x && *x >= 0 && *x < c.vocab_size ? *x : -1;
  };
  c.bos_token_id = id("bos_token_id");
  for (const char* key : {"eos_token_id", "eot_token_id"}) {
    const int64_t end = id(key);
    if (end >= 0 && (c.eos_token_ids.empty() || c.eos_token_ids[0] != end))
      c.eos_token_ids.push_back(end);
  }
  return c;
}

// The name of a tensor in a Hugging Face folder; one that has none stays as it is.
inline std::string hugging_face_name(const std::string& name) {
  static const std::pair<std::string_view, std::string_view> top[] = {
      {"token_embd.weight", "model.embed_tokens.weight"},
      {"output_norm.weight", "model.norm.weight"},
      {"output.weight", "lm_head.weight"}};
  static const std::pair<std::string_view, std::string_view> of_layer[] = {
      {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
      {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
      {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
      {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
      {"ffn_down", "mlp.down_proj"},       {"attn_q_norm", "self_attn.q_norm"},
      {"attn_k_norm", "self_attn.k_norm"}};
  for (const auto& [from, to] : top)
    if (name == from) return std::string(to);
  // blk.NUMBER.MODULE.weight
  const size_t number = 4, module = name.find('.', number) + 1, kind = name.rfind('.');
  if (!name.starts_with("blk.") || module == 0 || kind < module) return name;
  for (const auto& [from, to] : of_layer)
    if (name.compare(module, kind - module, from) == 0)
      return "model.layers." + name.substr(number, module - number) + std::string(to) +
             name.substr(kind);
  return name;
}

// The weights of the model under those names. llama.cpp's converter reorders the rows of q and k of
// the architecture `llama`, so that the pairs of the rotary embedding lie side by side.
inline std::vector<TensorInfo> gguf_weights(const GgufContent& file, const ModelConfig& config) {
  std::vector<TensorInfo> list;
  for (const TensorInfo& stored : file.tensors()) {
    if (stored.name == gguf_detail::kRopeDivisors) continue;
    TensorInfo tensor = stored;
    tensor.name = hugging_face_name(stored.name);
    const bool rotated = tensor.name.find(".q_proj.") != std::string::npos ||
                         tensor.name.find(".k_proj.") != std::string::npos;
    // A matrix with other rows is refused for its shape.
    if (config.architecture == Architecture::llama && rotated &&
        tensor.shape[0] % config.head_dim == 0) {
      tensor.paired = config.head_dim;
    }
    list.push_back(std::move(tensor));
  }
  return list;
}

}  // namespace ptq
