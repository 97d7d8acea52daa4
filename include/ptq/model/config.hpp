// The architecture parameters of a model folder: reading config.json and what follows from it.
//
// Key names and defaults: Hugging Face transformers, configuration classes of Llama, Qwen2 and
// Mistral (4.x and 5.x spellings). Everything that would change the mathematics and is not
// implemented is refused by name; a wrong model that runs is worse than one that does not.
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
#include "ptq/core/suggest.hpp"

namespace ptq {

enum class Architecture { llama, qwen2, mistral };

constexpr std::string_view architecture_name(Architecture a) {
  switch (a) {
    case Architecture::llama: return "llama";
    case Architecture::qwen2: return "qwen2";
    case Architecture::mistral: return "mistral";
  }
  return "?";
}

// Frequency scaling of Llama 3.1 (rope_type "llama3"), see rope_inv_freq().
struct Llama3RopeScaling {
  double factor = 1;            // division of the low frequencies
  double low_freq_factor = 1;   // wavelengths above original / this are divided by factor
  double high_freq_factor = 4;  // wavelengths below original / this stay as they are
  int64_t original_max_position_embeddings = 0;  // context length before scaling, tokens

  bool operator==(const Llama3RopeScaling&) const = default;
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
  std::optional<Llama3RopeScaling> rope_scaling;
  int64_t sliding_window = 0;          // keys visible to a query, itself included; 0: all before it
  int64_t window_first_layer = 0;      // the window holds for this layer and those above it
  bool qkv_bias = false;               // q, k and v projections have a bias
  bool o_bias = false;                 // the attention output projection has a bias
  bool tie_word_embeddings = false;    // the output head is the embedding matrix
  int64_t bos_token_id = -1;           // as written; the tokenizer decides whether it is prepended
  std::vector<int64_t> eos_token_ids;  // any of them ends a text; may be empty
  std::optional<DType> torch_dtype;    // informative, every stored tensor carries its own type

  int64_t window_of_layer(int64_t layer) const {
    return layer >= window_first_layer ? sliding_window : 0;
  }
};

namespace config_detail {

// Limits far above any real model; they keep every later product inside 64 bits.
constexpr int64_t kMaxWidth = 1 << 20, kMaxLayers = 10'000, kMaxRows = 1 << 27,
                  kMaxTokens = 1 << 30;

inline Architecture read_architecture(const JsonValue& root) {
  struct Known {
    Architecture value;
    const char *class_name, *model_type;
  };
  static const Known known[] = {{Architecture::llama, "LlamaForCausalLM", "llama"},
                                {Architecture::qwen2, "Qwen2ForCausalLM", "qwen2"},
                                {Architecture::mistral, "MistralForCausalLM", "mistral"}};
  std::optional<Architecture> result;
  const auto match = [&](const JsonValue& value, const char* Known::*field) {
    const std::string name(value.as_string());
    std::vector<std::string> names;
    for (const Known& k : known) {
      names.push_back(k.*field);
      if (name != k.*field) continue;
      if (result && *result != k.value) {
        throw value.error("`architectures` and `model_type` contradict each other");
      }
      result = k.value;
      return;
    }
    throw value.error("the architecture " + shown(name) + " is not supported",
                      did_you_mean(name, names));
  };
  if (const auto list = root.find("architectures")) {
    list->for_each_element([&](const JsonValue& name) { match(name, &Known::class_name); });
  }
  if (const auto type = root.find("model_type")) match(*type, &Known::model_type);
  if (!result) throw root.error("neither `architectures` nor `model_type` names the architecture");
  return *result;
}

// The numbers are used in fp32, where they must still be finite and above 0.
inline double read_positive(const JsonValue& value) {
  const double x = value.as_number();
  const float used = static_cast<float>(x);
  if (!(used > 0) || !std::isfinite(used)) {
    throw value.error("a finite number above 0 is expected");
  }
  return x;
}

// The rotary settings of one object, `rope_scaling` (4.x) or `rope_parameters` (5.x).
inline std::optional<Llama3RopeScaling> read_rope_scaling(const JsonValue& node,
                                                          int64_t max_positions) {
  auto type = node.find("rope_type");
  const auto old_type = node.find("type");  // the spelling before 4.43
  if (type && old_type && type->as_string() != old_type->as_string()) {
    throw old_type->error("`type` and `rope_type` contradict each other");
  }
  if (!type) type = old_type;
  if (!type) throw node.error("the key `rope_type` is missing");
  if (type->as_string() == "default") return {};
  if (type->as_string() != "llama3") {
    throw type->error("the rotary scaling " + shown(type->as_string()) + " is not supported",
                      "supported: default, llama3; for contexts up to max_position_embeddings "
                      "the block can be removed");
  }
  Llama3RopeScaling s;
  s.factor = read_positive(node.get("factor"));
  s.low_freq_factor = read_positive(node.get("low_freq_factor"));
  s.high_freq_factor = read_positive(node.get("high_freq_factor"));
  s.original_max_position_embeddings =
      node.get("original_max_position_embeddings").as_integer(1, kMaxTokens);
  if (s.factor < 1) throw node.error("`factor` is below 1");
  if (static_cast<float>(s.high_freq_factor) <= static_cast<float>(s.low_freq_factor)) {
    throw node.error("`high_freq_factor` is not above `low_freq_factor`");
  }
  if (s.original_max_position_embeddings >= max_positions) {
    throw node.error("`original_max_position_embeddings` is not below `max_position_embeddings`");
  }
  return s;
}

inline void read_rope(const JsonValue& root, ModelConfig& c) {
  const auto parameters = root.find("rope_parameters"), scaling = root.find("rope_scaling");
  std::optional<double> theta;
  for (const auto& node : {std::optional<JsonValue>(root), parameters, scaling}) {
    const auto value = node ? node->find("rope_theta") : std::nullopt;
    if (!value) continue;
    const double x = read_positive(*value);
    if (x < 1) throw value->error("the base of the rotary frequencies is below 1");
    if (theta && *theta != x) throw value->error("contradicts another `rope_theta` of the file");
    theta = x;
  }
  if (!theta) {
    throw root.error("the key `rope_theta` is missing",
                     "transformers would use 10000.0; write it into the file if that is right");
  }
  c.rope_theta = *theta;

  if (parameters) c.rope_scaling = read_rope_scaling(*parameters, c.max_position_embeddings);
  if (scaling) {
    const auto other = read_rope_scaling(*scaling, c.max_position_embeddings);
    if (parameters && other != c.rope_scaling) {
      throw scaling->error("`rope_scaling` and `rope_parameters` contradict each other");
    }
    c.rope_scaling = other;
  }
  for (const auto& node : {std::optional<JsonValue>(root), parameters}) {
    const auto partial = node ? node->find("partial_rotary_factor") : std::nullopt;
    if (partial && partial->as_number() != 1) {
      throw partial->error("partial rotary embedding is not supported");
    }
  }
}

inline void read_window(const JsonValue& root, ModelConfig& c) {
  if (c.architecture == Architecture::mistral) {
    // The class default is 4096: an absent key means a window, null means none.
    c.sliding_window = 4096;
    if (root.contains("sliding_window")) {
      const auto window = root.find("sliding_window");
      c.sliding_window = window ? window->as_integer(1, kMaxTokens) : 0;
    }
  } else if (c.architecture == Architecture::qwen2) {
    const auto use = root.find("use_sliding_window");
    if (use && use->as_bool()) {
      const auto window = root.find("sliding_window");
      c.sliding_window = window ? window->as_integer(1, kMaxTokens) : 0;
      c.window_first_layer = root.get("max_window_layers").as_integer(0, kMaxLayers);
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

inline void refuse_unsupported(const JsonValue& root) {
  if (const auto q = root.find("quantization_config")) {
    throw q->error("this is an already quantized checkpoint, which cannot be read",
                   "use the folder of the original 16-bit model");
  }
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

}  // namespace config_detail

// Reads the text of a config.json; `name` is what error messages call it.
inline ModelConfig parse_config(std::string_view json, const std::string& name) {
  using namespace config_detail;
  const JsonDocument document = JsonDocument::parse(json, name);
  const JsonValue root = document.root();
  ModelConfig c;
  c.architecture = read_architecture(root);
  refuse_unsupported(root);

  const auto size = [&](const char* key, int64_t limit) {
    return root.get(key).as_integer(1, limit);
  };
  c.hidden_size = size("hidden_size", kMaxWidth);
  c.num_hidden_layers = size("num_hidden_layers", kMaxLayers);
  c.num_attention_heads = size("num_attention_heads", kMaxWidth);
  c.intermediate_size = size("intermediate_size", kMaxWidth);
  c.vocab_size = size("vocab_size", kMaxRows);
  c.max_position_embeddings = size("max_position_embeddings", kMaxTokens);

  c.num_key_value_heads = c.num_attention_heads;
  if (const auto heads = root.find("num_key_value_heads")) {
    c.num_key_value_heads = heads->as_integer(1, kMaxWidth);
    if (c.num_attention_heads % c.num_key_value_heads != 0) {
      throw heads->error("does not divide `num_attention_heads` = " +
                         std::to_string(c.num_attention_heads));
    }
  }
  if (const auto head_dim = root.find("head_dim")) {
    c.head_dim = head_dim->as_integer(1, kMaxWidth);
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
  c.rms_norm_eps = static_cast<float>(read_positive(root.get("rms_norm_eps")));

  read_rope(root, c);
  read_window(root, c);

  // Qwen2 has these biases hard-coded and no key for them; Llama has a key for all four.
  c.qkv_bias = c.architecture == Architecture::qwen2;
  if (const auto bias = root.find("attention_bias"); bias && bias->as_bool()) {
    if (c.architecture == Architecture::mistral) {
      throw bias->error("attention biases do not exist in this architecture");
    }
    if (c.architecture == Architecture::llama) c.qkv_bias = c.o_bias = true;
  }
  if (const auto tie = root.find("tie_word_embeddings")) c.tie_word_embeddings = tie->as_bool();
  if (const auto bos = root.find("bos_token_id")) {
    c.bos_token_id = bos->as_integer(0, c.vocab_size - 1);
  }
  if (const auto eos = root.find("eos_token_id")) {
    const auto add = [&](const JsonValue& id) {
      c.eos_token_ids.push_back(id.as_integer(0, c.vocab_size - 1));
    };
    if (eos->is_array()) {
      eos->for_each_element(add);
    } else {
      add(*eos);
    }
  }
  c.torch_dtype = read_torch_dtype(root);
  return c;
}

// Fails with a description of a model folder unless `folder` is one that exists.
inline void require_model_folder(const std::filesystem::path& folder) {
  std::error_code ignored;
  if (std::filesystem::is_directory(folder, ignored)) return;
  const bool exists = std::filesystem::exists(folder, ignored);
  throw environment_error(
      exists ? "the model path is not a folder" : "the model folder does not exist",
      folder.string(),
      "a model folder holds config.json, tokenizer.json and *.safetensors, as downloaded from "
      "Hugging Face");
}

inline ModelConfig load_config(const std::filesystem::path& folder) {
  require_model_folder(folder);
  const std::filesystem::path file = folder / "config.json";
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) {
    throw environment_error("the model folder has no config.json", folder.string(),
                            "a model folder holds config.json, tokenizer.json and *.safetensors");
  }
  return parse_config(read_text_file(file, JsonLimits{}.max_bytes), file.string());
}

// Number of stored weights; a tied output head counts once.
inline int64_t parameter_count(const ModelConfig& c) {
  const int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  int64_t layer = c.hidden_size * (2 * q + 2 * kv)           // q, k, v, o
                  + 3 * c.hidden_size * c.intermediate_size  // gate, up, down
                  + 2 * c.hidden_size;                       // two norms
  if (c.qkv_bias) layer += q + 2 * kv;
  if (c.o_bias) layer += c.hidden_size;
  const int64_t embedding = c.vocab_size * c.hidden_size;
  return (c.tie_word_embeddings ? 1 : 2) * embedding + c.num_hidden_layers * layer + c.hidden_size;
}

// Weights of the linear layers inside the decoder (q, k, v, o, gate, up, down): what is quantized.
inline int64_t linear_parameter_count(const ModelConfig& c) {
  const int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  return c.num_hidden_layers *
         (c.hidden_size * (2 * q + 2 * kv) + 3 * c.hidden_size * c.intermediate_size);
}

// Bytes of the weights when those layers have `bits`-bit codes with one 16-bit scale per group of
// `group_size` numbers along a row, and everything else 16 bits.
inline uint64_t quantized_weight_bytes(const ModelConfig& c, int64_t bits, int64_t group_size) {
  const int64_t h = c.hidden_size, q = c.num_attention_heads * c.head_dim,
                kv = c.num_key_value_heads * c.head_dim, m = c.intermediate_size;
  const auto groups = [&](int64_t out, int64_t in) {
    return out * ((in + group_size - 1) / group_size);
  };
  const int64_t scales = c.num_hidden_layers *
                         (groups(q + 2 * kv, h) + groups(h, q) + groups(2 * m, h) + groups(h, m));
  const int64_t linear = linear_parameter_count(c);
  return static_cast<uint64_t>((linear * bits + 7) / 8 + 2 * scales +
                               2 * (parameter_count(c) - linear));
}

// Rotary frequencies, head_dim / 2 values in radians per position. Computed in fp32 in the order of
// the reference implementation, because cos and sin of large positions depend on the last bit.
inline std::vector<float> rope_inv_freq(const ModelConfig& c) {
  const float theta = static_cast<float>(c.rope_theta), dim = static_cast<float>(c.head_dim);
  std::vector<float> freq(static_cast<size_t>(c.head_dim / 2));
  for (size_t i = 0; i < freq.size(); ++i) {
    freq[i] = 1.0f / std::pow(theta, static_cast<float>(2 * i) / dim);
  }
  if (!c.rope_scaling) return freq;

  const Llama3RopeScaling& s = *c.rope_scaling;
  const float factor = static_cast<float>(s.factor);
  const float low = static_cast<float>(s.low_freq_factor);
  const float high = static_cast<float>(s.high_freq_factor);
  const float original = static_cast<float>(s.original_max_position_embeddings);
  constexpr float kTwoPi = 6.283185307179586f;
  for (float& f : freq) {
    const float wavelength = kTwoPi / f;  // positions per turn
    if (wavelength < original / high) continue;
    if (wavelength > original / low) {
      f /= factor;
    } else {
      const float smooth = (original / wavelength - low) / (high - low);
      f = (1.0f - smooth) * f / factor + smooth * f;
    }
  }
  return freq;
}

// Keys and values of one token in all layers, stored as fp16.
inline uint64_t kv_bytes_per_token_fp16(const ModelConfig& c) {
  return uint64_t(2) * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * 2;
}

}  // namespace ptq
