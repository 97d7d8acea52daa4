// What decides a result, as short texts: two cells with equal ids may share one result, and a
// change of anything that matters gives another id.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>

#include "ptq/core/hash.hpp"
#include "ptq/core/json.hpp"
#include "ptq/core/mapped_file.hpp"

namespace ptq {

// The weight files of a model folder that are read, sorted: those of the index, or the single one.
inline std::set<std::string> weight_file_names(const std::filesystem::path& folder) {
  std::set<std::string> names;
  const std::filesystem::path index = folder / "model.safetensors.index.json";
  std::error_code ignored;
  if (std::filesystem::exists(index, ignored)) {
    const JsonDocument document = JsonDocument::load(index, {.max_bytes = 100'000'000});
    document.root().get("weight_map").for_each_member([&](std::string_view, const JsonValue& file) {
      names.insert(std::string(file.as_string()));
    });
  } else {
    names.insert("model.safetensors");
  }
  return names;
}

// Files up to this size are hashed whole; of larger ones the size and the safetensors header, which
// reads some kilobytes instead of the 15 gigabytes of a 7B model.
constexpr uint64_t kHashWholeBelow = uint64_t{64} << 20;

inline std::string weight_file_fingerprint(const std::filesystem::path& path) {
  const MappedFile file(path);
  if (file.size() < kHashWholeBelow) return sha256_hex(file.text());
  uint64_t header = 0;
  for (int i = 7; i >= 0; --i) header = header << 8 | file.data()[i];
  header = header > file.size() - 8 ? file.size() : header + 8;
  return std::to_string(file.size()) + " " + sha256_hex(file.text().substr(0, header));
}

// SHA-256 over configuration, tokenizer and weights, independent of where the folder lies. Random
// weights enter by their seed.
inline std::string model_fingerprint(const std::filesystem::path& folder,
                                     std::optional<uint64_t> random_seed = {}) {
  Sha256 hash;
  for (const char* name : {"config.json", "tokenizer.json"}) {
    std::error_code ignored;
    const bool exists = std::filesystem::exists(folder / name, ignored);
    hash.update(std::string(name) + " " + (exists ? sha256_file(folder / name) : "absent") + "\n");
  }
  if (random_seed) {
    hash.update("random weights 1, seed " + std::to_string(*random_seed) + "\n");
    return hash.hex();
  }
  for (const std::string& name : weight_file_names(folder)) {
    hash.update(name + " " + weight_file_fingerprint(folder / name) + "\n");
  }
  return hash.hex();
}

// The first 16 hex digits of the SHA-256 of the canonical JSON: keys sorted, no spaces.
inline std::string cell_id(const nlohmann::ordered_json& identity) {
  const nlohmann::json sorted = nlohmann::json::parse(identity.dump());
  return sha256_hex(sorted.dump()).substr(0, 16);
}

}  // namespace ptq
