// A model folder with seeded random weights, for tests that need a shape and not a trained model.
#pragma once

#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <system_error>
#include <vector>

#include "ptq/model/anatomy.hpp"
#include "ptq/model/load_config.hpp"
#include "ptq/model/safetensors_write.hpp"

namespace ptq::test {

struct RandomModel {
  std::string architecture = "LlamaForCausalLM", model_type = "llama";
  int64_t hidden = 48, layers = 2, heads = 6, kv_heads = 2, head_dim = 16, intermediate = 80,
          vocab = 96, max_positions = 1024, sliding_window = 0;
  bool tied = true;
  uint32_t seed = 1;
  std::string layer_sizes;  // JSON, for models whose layers differ
};

// Folders that are removed when the program ends, where nobody removed them before.
class FoldersToRemove {
 public:
  void add(const std::filesystem::path& folder) { folders_.push_back(folder); }
  ~FoldersToRemove() {
    std::error_code ignored;
    for (const auto& folder : folders_) std::filesystem::remove_all(folder, ignored);
  }

 private:
  std::vector<std::filesystem::path> folders_;
};

// Writes the folder (config.json, model.safetensors in float32) and returns its path. It is there
// until the program ends.
inline std::string write_random_model(const RandomModel& m, const std::string& name) {
  const auto folder = std::filesystem::temp_directory_path() /
                      ("ptq-test-" + name + "-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  static FoldersToRemove written;
  written.add(folder);
  std::ofstream(folder / "config.json")
      << "{\"architectures\": [\"" << m.architecture << "\"], \"model_type\": \"" << m.model_type
      << "\", \"hidden_size\": " << m.hidden << ", \"num_hidden_layers\": " << m.layers
      << ", \"num_attention_heads\": " << m.heads << ", \"num_key_value_heads\": " << m.kv_heads
      << ", \"head_dim\": " << m.head_dim << ", \"intermediate_size\": " << m.intermediate
      << ", \"vocab_size\": " << m.vocab << ", \"max_position_embeddings\": " << m.max_positions
      << ", \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"hidden_act\": \"silu\""
      << ", \"sliding_window\": " << (m.sliding_window ? std::to_string(m.sliding_window) : "null")
      << ", \"tie_word_embeddings\": " << (m.tied ? "true" : "false")
      << (m.layer_sizes.empty() ? "" : ", \"layer_sizes\": " + m.layer_sizes)
      << ", \"torch_dtype\": \"float32\", \"bos_token_id\": 0, \"eos_token_id\": 1}";

  std::mt19937 random(m.seed);
  std::vector<std::vector<float>> data;
  std::vector<ptq::TensorToWrite> tensors;
  const ptq::ModelConfig config = ptq::load_config(folder.string());
  for (const ptq::ExpectedTensor& e : ptq::anatomy_of(config).tensors()) {
    int64_t n = 1;
    for (const int64_t s : e.shape) n *= s;
    std::vector<float> x(static_cast<size_t>(n));
    const bool norm = e.name.find("norm") != std::string::npos;
    const float scale = e.shape.size() == 2 ? 1.0f / std::sqrt(float(e.shape[1])) : 0.2f;
    for (float& v : x) {
      // Sum of three uniforms: near enough to a normal, and the same on every machine.
      float u = -1.5f;
      for (int i = 0; i < 3; ++i) u += float(random() >> 8) / float(1 << 24);
      v = norm ? 1.0f + 0.2f * u : 2.0f * scale * u;
    }
    data.push_back(std::move(x));
    tensors.push_back({e.name, ptq::DType::f32, e.shape, nullptr});
  }
  for (size_t i = 0; i < data.size(); ++i) tensors[i].data = data[i].data();
  ptq::write_safetensors(folder / "model.safetensors", tensors);
  return folder.string();
}

}  // namespace ptq::test
