// ptq-host info: what a model holds and how much memory it needs.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "host/arguments.hpp"
#include "host/bytes_text.hpp"
#include "host/commands/commands.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/model/anatomy.hpp"
#include "ptq/model/gguf.hpp"
#include "ptq/model/weight_files.hpp"
#include "ptq/run/fingerprint.hpp"
#include "ptq/run/locate.hpp"
#include "ptq/run/random_model.hpp"

namespace ptq {
namespace {

constexpr const char* kInfoHelp =
    R"(Shows architecture, sizes and memory of a model. Without weights, config.json is enough.

  ptq-host info --model models/tiny-qwen2
  ptq-host info --model models/configs/Qwen2.5-7B
  ptq-host info --model Qwen/Qwen2.5-7B --json
  ptq-host info --model SmolLM2-135M-Instruct.Q4_1.gguf

usage: ptq-host info --model DIR [--json]

  --model DIR  a Hugging Face folder, a GGUF file, or the id of a model that was downloaded
  --json       one JSON object
)";

constexpr int64_t kGroup = 128;  // of the 4-bit weights in the memory plan

// Bytes of weights and cache for planning: the lengths that the model allows, or its longest one.
Json memory_json(const ModelConfig& c) {
  Json cache = Json::object();
  for (const int64_t tokens : {int64_t{2048}, int64_t{32768}}) {
    const int64_t length = std::min(tokens, c.max_position_embeddings);
    cache[std::to_string(length)] = uint64_t(length) * kv_bytes_per_token_fp16(c);
  }
  return {{"weights_16bit", 2 * uint64_t(parameter_count(c))},
          {"weights_4bit_g128", quantized_weight_bytes(c, 4, kGroup)},
          {"cache_16bit_at_tokens", cache}};
}

Json model_json(const std::filesystem::path& folder) {  // or a GGUF file
  const ModelConfig c = load_config(folder);
  const auto random_seed = random_weights_seed(folder, false, 0);
  const ModelFingerprint fingerprint = model_fingerprint(folder, random_seed);
  std::map<std::string, int64_t> dtypes;
  std::vector<std::string> warnings;
  uint64_t bytes = 0;
  int64_t tensors = 0;
  if (const auto note = class_defaults_note(c)) warnings.push_back(*note);
  if (random_seed) {
    tensors = int64_t(anatomy_of(c).tensors().size());
    bytes = 2 * uint64_t(parameter_count(c));
    warnings.push_back(
        "the folder has no weights: bytes are those of 16-bit ones, and a run uses " +
        random_weights_note(*random_seed));
  } else {
    WeightFiles weights(folder);
    weights.check_tensors(c);
    const auto& found = weights.warnings();
    warnings.insert(warnings.end(), found.begin(), found.end());
    weights.for_each([&](const TensorInfo& tensor) {
      ++dtypes[std::string(tensor.format())];
      bytes += tensor.bytes;
      ++tensors;
    });
  }
  return {{is_gguf(folder) ? "file" : "folder", folder.string()},
          {"architecture", std::string(architecture_name(c.architecture))},
          {"parameters", parameter_count(c)},
          {"linear_parameters", linear_parameter_count(c)},
          {"weight_bytes", bytes},
          {"tensors", tensors},
          {"dtypes", dtypes},
          {"layers", c.num_hidden_layers},
          {"hidden_size", c.hidden_size},
          {"intermediate_size", c.intermediate_size},
          {"attention_heads", c.num_attention_heads},
          {"key_value_heads", c.num_key_value_heads},
          {"head_dim", c.head_dim},
          {"vocab_size", c.vocab_size},
          {"max_position_embeddings", c.max_position_embeddings},
          {"sliding_window", c.sliding_window},
          {"rope_theta", c.rope_theta},
          {"rms_norm_eps", c.rms_norm_eps},
          {"qkv_bias", c.qkv_bias},
          {"tie_word_embeddings", c.tie_word_embeddings},
          {"kv_bytes_per_token_fp16", kv_bytes_per_token_fp16(c)},
          {"memory", memory_json(c)},
          {"fingerprint", fingerprint.hex},
          {"fingerprint_of", fingerprint.made_of},
          {"warnings", warnings}};
}

// The memory plan as a table: weights down, cache lengths across.
std::string memory_text(const Json& json) {
  const Json& memory = json["memory"];
  const Json& cache = memory["cache_16bit_at_tokens"];
  const auto line = [](const std::string& name, double weights, const Json& lengths) {
    std::string text = fmt::format("  {:34} {:>10}", name, bytes_text(weights, 3));
    for (const auto& [tokens, bytes] : lengths.items()) {
      text += fmt::format(" {:>20}", bytes_text(weights + bytes.get<double>(), 3));
    }
    return text + "\n";
  };
  std::string head = fmt::format("  {:34} {:>10}", "", "weights");
  for (const auto& [tokens, bytes] : cache.items()) {
    head += fmt::format(" {:>20}", "+ " + tokens + " tokens");
  }
  return fmt::format(
             "memory, weights alone and with a 16-bit cache of one sequence ({} per token)\n",
             bytes_text(json["kv_bytes_per_token_fp16"].get<double>(), 0)) +
         head + "\n" + line("the cache alone", 0, cache) +
         line("16 bit", memory["weights_16bit"].get<double>(), cache) +
         line(fmt::format("4 bit, groups of {}, the rest 16", kGroup),
              memory["weights_4bit_g128"].get<double>(), cache);
}

}  // namespace

int info_command(const std::vector<std::string>& args) {
  if (wants_help(args, kInfoHelp)) return 0;
  namespace po = boost::program_options;
  Options options;
  options.add_options()("model", po::value<std::string>())("json", po::bool_switch());
  const Arguments arguments = parse_arguments(args, options, "model");
  if (arguments.count("model") == 0) {
    throw usage_error("no model is given", "", "ptq-host info --model models/tiny-qwen2");
  }
  const std::string reference = text_of(arguments, "model");
  const Json json = model_json(find_model(reference, {working_folder()}, "--model").folder);
  if (arguments["json"].as<bool>()) {
    fmt::print("{}\n", json_text(json, 2));
    return 0;
  }
  for (const auto& [key, value] : json.items()) {
    if (key == "memory") continue;
    fmt::print("{:24} {}\n", key, value.is_string() ? value.get<std::string>() : json_text(value));
  }
  fmt::print("{}", memory_text(json));
  return 0;
}

}  // namespace ptq
