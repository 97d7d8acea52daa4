// The architecture parameters of a model folder: reading config.json and what follows from it.
//
// Key names and defaults: Hugging Face transformers, configuration classes of Llama, Qwen2, Qwen3,
// Mistral and Phi-3 (4.x and 5.x spellings). Everything that would change the mathematics and is
// not implemented is refused by name; a wrong model that runs is worse than one that does not.
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "ptq/core/dtype.hpp"
#include "ptq/core/error.hpp"
#include "ptq/core/json.hpp"
#include "ptq/model/packed_weights.hpp"
#include "ptq/model/rope.hpp"

namespace ptq {

enum class Architecture { llama, qwen2, qwen3, mistral, phi3 };

constexpr std::string_view architecture_name(Architecture a) {
  switch (a) {
    case Architecture::llama: return "llama";
    case Architecture::qwen2: return "qwen2";
    case Architecture::qwen3: return "qwen3";
    case Architecture::mistral: return "mistral";
    case Architecture::phi3: return "phi3";
  }
  return "?";
}

// Sizes in which the layers of a pruned model differ. Without heads (both 0) the attention block of
// the layer is gone and adds nothing, with intermediate_size 0 its MLP; without both the layer
// hands on what it is given.
struct LayerSize {
  int64_t attention_heads = 0, key_value_heads = 0, intermediate_size = 0;
  bool operator==(const LayerSize&) const = default;
};

struct ModelConfig {
  Architecture architecture = Architecture::llama;
  int64_t hidden_size = 0;              // width of the residual stream
  int64_t num_hidden_layers = 0;        // decoder layers
  int64_t num_attention_heads = 0;      // query heads
  int64_t num_key_value_heads = 0;      // key and value heads; divides num_attention_heads
  int64_t head_dim = 0;                 // elements per head, even
  int64_t intermediate_size = 0;        // width of the gated MLP
  int64_t vocab_size = 0;               // rows of the embedding, padding rows included
  int64_t max_position_embeddings = 0;  // longest context the model was made for, tokens
  float rms_norm_eps = 0;               // added to the mean square in RMSNorm
  double rope_theta = 0;                // base of the rotary frequencies
  std::optional<RopeScaling> rope_scaling;
  int64_t sliding_window = 0;          // keys visible to a query, itself included; 0: all before it
  int64_t window_first_layer = 0;      // the window holds for this layer and those above it
  bool qkv_bias = false;               // q, k and v projections have a bias
  bool o_bias = false;                 // the attention output projection has a bias
  bool head_norms = false;             // RMSNorm of each query and key head before its rotation
  bool fused = false;                  // q, k, v are one stored matrix, and gate, up another
  bool tie_word_embeddings = false;    // the output head is the embedding matrix
  int64_t bos_token_id = -1;           // the tokenizer decides whether it is prepended; -1: none
  std::vector<int64_t> eos_token_ids;  // any of them ends a text; may be empty
  std::optional<DType> torch_dtype;    // informative, every stored tensor carries its own type
  std::vector<std::string> defaulted;  // keys the file leaves out: they are the class's defaults
  std::vector<LayerSize> layer_sizes;  // of each layer; empty: all have the sizes above
  std::optional<PackedWeights>
      packed;  // how linear layers are stored that another program quantized

  int64_t window_of_layer(int64_t layer) const {
    return layer >= window_first_layer ? sliding_window : 0;
  }
  LayerSize size_of_layer(int64_t layer) const {
    if (!layer_sizes.empty()) return layer_sizes[size_t(layer)];
    return {num_attention_heads, num_key_value_heads, intermediate_size};
  }
};

namespace config_detail {

// Limits far above any real model; they keep every later product inside 64 bits.
constexpr int64_t kMaxWidth = 1 << 20, kMaxLayers = 10'000, kMaxRows = 1 << 27,
                  kMaxTokens = 1 << 30;

// What a key means that a configuration leaves out: the defaults of the configuration classes
// (test/fixtures/config/make.py reads them from there). save_pretrained of some versions leaves
// such keys out.
struct ClassDefaults {
  int64_t vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads,
      num_key_value_heads;  // 0: as many as num_attention_heads
  int64_t max_position_embeddings;
  int64_t bos_token_id, eos_token_id;  // -1: none
  double rms_norm_eps = 1e-6, rope_theta = 10000;
  int64_t sliding_window = 4096, max_window_layers = 28;  // where the architecture has a window
  int64_t head_dim = 0;                                   // 0: hidden_size / num_attention_heads
};

inline const ClassDefaults& class_defaults(Architecture a) {
  static const ClassDefaults llama{32000, 4096, 11008, 32, 32, 0, 2048, 1, 2},
      mistral{32000, 4096, 14336, 32, 32, 8, 131072, 1, 2},
      qwen2{151936, 4096, 22016, 32, 32, 32, 32768, -1, -1},
      qwen3{151936, 4096, 22016, 32, 32, 32, 32768, -1, -1, 1e-6, 10000, 4096, 28, 128},
      phi3{32064, 3072, 8192, 32, 32, 0, 4096, 1, 32000, 1e-5, 10000, 0};
  switch (a) {
    case Architecture::llama: return llama;
    case Architecture::qwen2: return qwen2;
    case Architecture::qwen3: return qwen3;
    case Architecture::mistral: return mistral;
    case Architecture::phi3: return phi3;
  }
  return llama;
}

inline Architecture read_architecture(const JsonValue& root) {
  struct Known {
    Architecture value;
    const char *class_name, *model_type;
  };
  static const Known known[] = {{Architecture::llama, "LlamaForCausalLM", "llama"},
                                {Architecture::qwen2, "Qwen2ForCausalLM", "qwen2"},
                                {Architecture::qwen3, "Qwen3ForCausalLM", "qwen3"},
                                {Architecture::mistral, "MistralForCausalLM", "mistral"},
                                {Architecture::phi3, "Phi3ForCausalLM", "phi3"}};
  std::optional<Architecture> result;
  const auto match = [&](const JsonValue& value, const char* Known::*field) {
    const std::string name(value.as_string());
    std::string names;
    for (const Known& k : known) {
      names += (names.empty() ? "" : ", ") + std::string(k.*field);
      if (name != k.*field) continue;
      if (result && *result != k.value) {
        throw value.error("`architectures` and `model_type` contradict each other");
      }
      result = k.value;
      return;
    }
    // No "did you mean": another architecture, however near its name is, is another model.
    throw value.error("the architecture " + shown(name) + " is not supported",
                      "supported: " + names);
  };
  if (const auto list = root.find("architectures")) {
    list->for_each_element([&](const JsonValue& name) { match(name, &Known::class_name); });
  }
  if (const auto type = root.find("model_type")) match(*type, &Known::model_type);
  if (!result) throw root.error("neither `architectures` nor `model_type` names the architecture");
  return *result;
}

inline void read_rope(const JsonValue& root, ModelConfig& c) {
  const auto parameters = root.find("rope_parameters"), scaling = root.find("rope_scaling");
  std::optional<double> theta;
  for (const auto& node : {std::optional<JsonValue>(root), parameters, scaling}) {
    const auto value = node ? node->find("rope_theta") : std::nullopt;
    if (!value) continue;
    const double x = rope_detail::read_positive(*value);
    if (x < 1) throw value->error("the base of the rotary frequencies is below 1");
    if (theta && *theta != x) throw value->error("contradicts another `rope_theta` of the file");
    theta = x;
  }
  if (!theta) c.defaulted.push_back("rope_theta");
  c.rope_theta = theta.value_or(class_defaults(c.architecture).rope_theta);

  std::optional<int64_t> original;  // transformers prefers it to the one inside the object
  if (const auto value = root.find("original_max_position_embeddings")) {
    original = value->as_integer(1, kMaxTokens);
  }
  const auto read = [&](const JsonValue& node) {
    return read_rope_scaling(node, c.max_position_embeddings, original);
  };
  if (parameters) c.rope_scaling = read(*parameters);
  if (scaling) {
    const auto other = read(*scaling);
    const bool typed = parameters && (parameters->find("rope_type") || parameters->find("type"));
    if (typed && other != c.rope_scaling) {
      throw scaling->error("`rope_scaling` and `rope_parameters` contradict each other");
    }
    c.rope_scaling = other;
  }
  const Rope rope = make_rope(c.rope_theta, c.head_dim, c.rope_scaling);
  for (const float f : rope.inv_freq) {
    if (std::isfinite(f)) continue;
    throw(scaling      ? *scaling
          : parameters ? *parameters
                       : root)
        .error("the rotary frequencies of these settings are not finite");
  }
  for (const auto& node : {std::optional<JsonValue>(root), parameters}) {
    const auto partial = node ? node->find("partial_rotary_factor") : std::nullopt;
    if (partial && partial->as_number() != 1) {
      throw partial->error("partial rotary embedding is not supported");
    }
  }
}

inline void read_window(const JsonValue& root, ModelConfig& c) {
  const ClassDefaults& absent = class_defaults(c.architecture);
  const auto read = [&] {  // an absent key means a window, null means none
    if (!root.contains("sliding_window")) {
      c.defaulted.push_back("sliding_window");
      return absent.sliding_window;
    }
    const auto window = root.find("sliding_window");
    return window ? window->as_integer(1, kMaxTokens) : 0;
  };
  if (c.architecture == Architecture::mistral || c.architecture == Architecture::phi3) {
    c.sliding_window = read();
  } else if (c.architecture == Architecture::qwen2 || c.architecture == Architecture::qwen3) {
    const auto use = root.find("use_sliding_window");
    if (use && use->as_bool()) {
      c.sliding_window = read();
      const auto first = root.find("max_window_layers");
      c.window_first_layer = first ? first->as_integer(0, kMaxLayers) : absent.max_window_layers;
    }
  }
  if (const auto types = root.find("layer_types")) {
    int64_t layer = 0;
    types->for_each_element([&](const JsonValue& type) {
      const auto expected = c.window_of_layer(layer++) > 0 ? "sliding_attention" : "full_attention";
      if (type.as_string() != expected) {
        throw type.error("the layer type " + shown(type.as_string()) + " is not supported here, `" +
                         expected + "` is expected");
      }
    });
    if (layer != c.num_hidden_layers) {
      throw types->error("has " + std::to_string(layer) + " entries for " +
                         std::to_string(c.num_hidden_layers) + " layers");
    }
  }
}

// Our own key `layer_sizes`, a list with an object for each layer whose keys override those of the
// model: structured pruning leaves models behind whose layers differ, or lack a block (size 0).
// Other programs refuse such weights by their shapes.
inline void read_layer_sizes(const JsonValue& root, ModelConfig& c) {
  const auto list = root.find("layer_sizes");
  if (!list) return;
  std::vector<LayerSize> sizes;
  list->for_each_element([&](const JsonValue& node) {
    LayerSize size = c.size_of_layer(0);
    node.for_each_member([&](std::string_view key, const JsonValue& value) {
      if (key == "num_attention_heads") {
        size.attention_heads = value.as_integer(0, c.num_attention_heads);
      } else if (key == "num_key_value_heads") {
        size.key_value_heads = value.as_integer(0, c.num_key_value_heads);
      } else if (key == "intermediate_size") {
        size.intermediate_size = value.as_integer(0, c.intermediate_size);
      } else {
        throw value.error("the key " + shown(key) + " is not a size of a layer",
                          "known: num_attention_heads, num_key_value_heads, intermediate_size");
      }
    });
    const bool none = size.attention_heads == 0 && size.key_value_heads == 0;
    if (!none && (size.key_value_heads == 0 || size.attention_heads % size.key_value_heads != 0 ||
                  size.attention_heads == 0)) {
      throw node.error(
          "`num_key_value_heads` = " + std::to_string(size.key_value_heads) +
          " does not divide `num_attention_heads` = " + std::to_string(size.attention_heads));
    }
    sizes.push_back(size);
  });
  if (int64_t(sizes.size()) != c.num_hidden_layers) {
    throw list->error("has " + std::to_string(sizes.size()) + " entries for " +
                      std::to_string(c.num_hidden_layers) + " layers");
  }
  c.layer_sizes = std::move(sizes);
}

inline void refuse_unsupported(const JsonValue& root) {
  for (const char* key : {"final_logit_softcapping", "attn_logit_softcapping"}) {
    if (const auto value = root.find(key)) throw value->error("soft capping is not supported");
  }
  for (const char* key : {"logit_scale", "residual_multiplier", "pretraining_tp"}) {
    const auto value = root.find(key);
    if (value && value->as_number() != 1) throw value->error("only the value 1 is supported");
  }
  const auto mlp_bias = root.find("mlp_bias");
  if (mlp_bias && mlp_bias->as_bool()) throw mlp_bias->error("biases in the MLP are not supported");
  const auto activation = root.find("hidden_act");
  if (activation && activation->as_string() != "silu" && activation->as_string() != "swish") {
    throw activation->error(
        "the activation " + shown(activation->as_string()) + " is not supported",
        "supported: silu");
  }
}

inline std::optional<DType> read_torch_dtype(const JsonValue& root) {
  std::optional<DType> result;
  for (const char* key : {"torch_dtype", "dtype"}) {  // transformers 4.x and 5.x
    const auto value = root.find(key);
    if (!value) continue;
    const std::string_view name = value->as_string();
    DType type;
    if (name == "float32") {
      type = DType::f32;
    } else if (name == "float16") {
      type = DType::f16;
    } else if (name == "bfloat16") {
      type = DType::bf16;
    } else {
      throw value->error("the number format " + shown(name) + " is not supported",
                         "supported: float32, float16, bfloat16");
    }
    if (result && *result != type) {
      throw value->error("`torch_dtype` and `dtype` contradict each other");
    }
    result = type;
  }
  return result;
}

// Ids outside the vocabulary stand in real folders (a token was added and the embedding not
// resized; -1 for none). No row has such an id, so it never begins or ends a text.
inline std::vector<int64_t> read_token_ids(const JsonValue& root, const char* key, int64_t absent,
                                           int64_t vocab_size) {
  std::vector<int64_t> ids;
  const auto add = [&](int64_t id) {
    if (id >= 0 && id < vocab_size) ids.push_back(id);
  };
  const auto value = root.find(key);
  if (!root.contains(key)) {
    add(absent);
  } else if (value && value->is_array()) {
    value->for_each_element([&](const JsonValue& id) { add(id.as_integer()); });
  } else if (value) {
    add(value->as_integer());
  }
  return ids;
}

}  // namespace config_detail

// Reads the text of a config.json; `name` is what error messages call it.
inline ModelConfig parse_config(std::string_view json, const std::string& name) {
  using namespace config_detail;
  const JsonDocument document = JsonDocument::parse(json, name);
  const JsonValue root = document.root();
  ModelConfig c;
  c.architecture = read_architecture(root);
  refuse_unsupported(root);

  const ClassDefaults& absent = class_defaults(c.architecture);
  const auto size = [&](const char* key, int64_t limit, int64_t otherwise) {
    if (root.contains(key)) return root.get(key).as_integer(1, limit);
    c.defaulted.push_back(key);
    return otherwise;
  };
  c.hidden_size = size("hidden_size", kMaxWidth, absent.hidden_size);
  c.num_hidden_layers = size("num_hidden_layers", kMaxLayers, absent.num_hidden_layers);
  c.num_attention_heads = size("num_attention_heads", kMaxWidth, absent.num_attention_heads);
  c.intermediate_size = size("intermediate_size", kMaxWidth, absent.intermediate_size);
  c.vocab_size = size("vocab_size", kMaxRows, absent.vocab_size);
  c.max_position_embeddings =
      size("max_position_embeddings", kMaxTokens, absent.max_position_embeddings);

  // null, and no key in Llama: as many as query heads.
  const bool all = root.contains("num_key_value_heads") ? !root.find("num_key_value_heads")
                                                        : absent.num_key_value_heads == 0;
  c.num_key_value_heads = all ? c.num_attention_heads
                              : size("num_key_value_heads", kMaxWidth, absent.num_key_value_heads);
  if (c.num_attention_heads % c.num_key_value_heads != 0) {
    throw root.error(
        "`num_key_value_heads` = " + std::to_string(c.num_key_value_heads) +
        " does not divide `num_attention_heads` = " + std::to_string(c.num_attention_heads));
  }
  if (const auto head_dim = root.find("head_dim")) {
    c.head_dim = head_dim->as_integer(1, kMaxWidth);
  } else if (absent.head_dim > 0 && !root.contains("head_dim")) {
    c.head_dim = absent.head_dim;
    c.defaulted.push_back("head_dim");
  } else if (c.hidden_size % c.num_attention_heads == 0) {
    c.head_dim = c.hidden_size / c.num_attention_heads;
  } else {
    throw root.error(
        "`num_attention_heads` does not divide `hidden_size` and `head_dim` is absent");
  }
  if (c.head_dim % 2 != 0) {
    throw root.error("the head dimension " + std::to_string(c.head_dim) +
                     " is odd, rotary embedding needs pairs");
  }
  if (c.num_attention_heads * c.head_dim > kMaxWidth) {
    throw root.error("`num_attention_heads` x `head_dim` is above " + std::to_string(kMaxWidth));
  }
  if (!root.contains("rms_norm_eps")) c.defaulted.push_back("rms_norm_eps");
  c.rms_norm_eps = static_cast<float>(root.contains("rms_norm_eps")
                                          ? rope_detail::read_positive(root.get("rms_norm_eps"))
                                          : absent.rms_norm_eps);

  read_layer_sizes(root, c);
  read_rope(root, c);
  read_window(root, c);

  // Qwen2 has these biases hard-coded and no key for them; Llama and Qwen3 have a key for all four.
  c.qkv_bias = c.architecture == Architecture::qwen2;
  if (const auto bias = root.find("attention_bias"); bias && bias->as_bool()) {
    if (c.architecture == Architecture::mistral || c.architecture == Architecture::phi3) {
      throw bias->error("attention biases do not exist in this architecture");
    }
    if (c.architecture != Architecture::qwen2) c.qkv_bias = c.o_bias = true;
  }
  c.head_norms = c.architecture == Architecture::qwen3;
  c.fused = c.architecture == Architecture::phi3;
  if (const auto q = root.find("quantization_config")) {
    c.packed = read_packed_weights(*q);
    if (c.fused) throw q->error("packed checkpoints of this architecture are not supported");
  }
  if (const auto tie = root.find("tie_word_embeddings")) c.tie_word_embeddings = tie->as_bool();
  const auto bos = read_token_ids(root, "bos_token_id", absent.bos_token_id, c.vocab_size);
  if (!bos.empty()) c.bos_token_id = bos.front();
  c.eos_token_ids = read_token_ids(root, "eos_token_id", absent.eos_token_id, c.vocab_size);
  c.torch_dtype = read_torch_dtype(root);
  return c;
}

// A sentence about the keys that the file leaves out; nothing where it has all.
inline std::optional<std::string> class_defaults_note(const ModelConfig& c) {
  if (c.defaulted.empty()) return {};
  std::string keys;
  for (const std::string& key : c.defaulted) keys += (keys.empty() ? "" : ", ") + key;
  return "config.json leaves out " + keys + "; the defaults of the " +
         std::string(architecture_name(c.architecture)) + " class are used";
}

inline Rope rope_of(const ModelConfig& c) {
  return make_rope(c.rope_theta, c.head_dim, c.rope_scaling);
}

}  // namespace ptq
