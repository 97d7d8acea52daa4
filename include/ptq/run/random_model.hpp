// Models without weights: when a folder stands for one, and what else it then needs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <system_error>

#include "ptq/core/own_json.hpp"
#include "ptq/model/load_tokenizer.hpp"
#include "ptq/model/random_weights.hpp"
#include "ptq/model/tokenizer.hpp"

namespace ptq {

// The seed of a model's random weights; nothing where its weight files are read. Random by wish, or
// because the folder has only a configuration.
inline std::optional<uint64_t> random_weights_seed(const std::filesystem::path& folder, bool wanted,
                                                   uint64_t seed) {
  if (wanted && is_gguf(folder)) {
    throw usage_error(
        "random weights are made for a folder with a config.json, not for a GGUF file",
        folder.string());
  }
  if (wanted || only_configuration(folder)) return seed;
  return {};
}

// What EngineOptions::random takes.
inline std::shared_ptr<RandomWeights> make_random_weights(std::optional<uint64_t> seed,
                                                          int threads) {
  return seed ? std::make_shared<RandomWeights>(*seed, threads) : nullptr;
}

// A byte-level tokenizer with the 256 bytes and no merges, for folders without tokenizer.json: with
// random weights it does not matter which ids a text has.
constexpr int64_t kByteTokens = 256;
inline Tokenizer byte_tokenizer() {
  Json vocab;  // spelling of a byte in the file -> id
  for (uint32_t byte = 0; byte < kByteTokens; ++byte) {
    std::string spelling;
    append_utf8(spelling, byte_alphabet()[byte]);
    vocab[spelling] = byte;
  }
  return Tokenizer::parse(R"({"added_tokens": [], "normalizer": null,
      "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
         "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
         "use_regex": false}]},
      "post_processor": {"type": "ByteLevel"}, "decoder": {"type": "ByteLevel"},
      "model": {"type": "BPE", "vocab": )" +
                              vocab.dump() + R"(, "merges": []}})",
                          "byte tokenizer");
}

inline Tokenizer load_tokenizer(const std::filesystem::path& folder, bool random_weights) {
  std::error_code ignored;
  if (random_weights && !std::filesystem::exists(folder / "tokenizer.json", ignored)) {
    return byte_tokenizer();
  }
  return load_tokenizer(folder);
}

}  // namespace ptq
