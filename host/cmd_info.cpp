// ptq-host info: what a model folder holds and how much memory it needs.
#include <fmt/format.h>

#include <map>

#include "arguments.hpp"
#include "commands.hpp"
#include "ptq/model/safetensors.hpp"
#include "ptq/results/record.hpp"
#include "ptq/run/fingerprint.hpp"
#include "ptq/run/lookup.hpp"

namespace ptq {
namespace {

constexpr const char* kHelp =
    R"(Shows architecture, sizes and memory of a model folder.

  ptq-host info --model models/tiny-qwen2
  ptq-host info --model Qwen/Qwen2.5-7B --json

usage: ptq-host info --model DIR [--json]

  --model DIR  a Hugging Face folder, or the id of a model that was downloaded
  --json       one JSON object
)";

Json model_json(const std::filesystem::path& folder) {
  const ModelConfig c = load_config(folder);
  WeightFiles weights(folder);
  weights.check_tensors(c);
  std::map<std::string, int64_t> dtypes;
  uint64_t bytes = 0;
  int64_t tensors = 0;
  for (const std::string& name : weight_file_names(folder)) {
    const SafetensorsFile file(folder / name);
    for (const TensorInfo& tensor : file.tensors()) {
      ++dtypes[std::string(dtype_name(tensor.dtype))];
      bytes += tensor.bytes;
      ++tensors;
    }
  }
  return {{"folder", folder.string()},
          {"architecture", std::string(architecture_name(c.architecture))},
          {"parameters", parameter_count(c)},
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
          {"fingerprint", model_fingerprint(folder)},
          {"warnings", weights.warnings()}};
}

}  // namespace

int info_command(const std::vector<std::string>& args) {
  if (wants_help(args, kHelp)) return 0;
  namespace po = boost::program_options;
  Options options;
  options.add_options()("model", po::value<std::string>())("json", po::bool_switch());
  const Arguments arguments = parse_arguments(args, options, "model");
  if (arguments.count("model") == 0) {
    throw usage_error("no model is given", "", "ptq-host info --model models/tiny-qwen2");
  }
  const std::string reference = text_of(arguments, "model");
  const Json json =
      model_json(find_model(reference, {std::filesystem::current_path()}, "--model").folder);
  if (arguments["json"].as<bool>()) {
    fmt::print("{}\n", json_text(json, 2));
    return 0;
  }
  for (const auto& [key, value] : json.items()) {
    fmt::print("{:24} {}\n", key, value.is_string() ? value.get<std::string>() : json_text(value));
  }
  return 0;
}

}  // namespace ptq
