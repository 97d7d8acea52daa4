// The configuration of a model wherever it is written: config.json of a folder, or a GGUF file.
#pragma once

#include <filesystem>
#include <system_error>

#include "ptq/model/config.hpp"
#include "ptq/model/gguf_model.hpp"

namespace ptq {

// Fails with a description of what a model is unless `folder` is one that exists.
inline void require_model_folder(const std::filesystem::path& folder) {
  std::error_code ignored;
  if (std::filesystem::is_directory(folder, ignored)) return;
  const bool exists = std::filesystem::exists(folder, ignored);
  throw environment_error(
      exists ? "the model path is not a folder" : "the model folder does not exist",
      folder.string(),
      "a model is a GGUF file or a folder with config.json, tokenizer.json and *.safetensors, as "
      "downloaded from Hugging Face");
}

// The first GGUF file of a folder; an empty path where there is none.
inline std::filesystem::path gguf_in(const std::filesystem::path& folder) {
  std::filesystem::path first;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    if (entry.path().extension() == ".gguf" && (first.empty() || entry.path() < first))
      first = entry.path();
  }
  return first;
}

// model: a folder or a GGUF file.
inline ModelConfig load_config(const std::filesystem::path& model) {
  if (is_gguf(model)) return gguf_config(GgufFile(model).content());
  require_model_folder(model);
  const std::filesystem::path file = model / "config.json";
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) {
    const std::filesystem::path gguf = gguf_in(model);
    throw environment_error(
        "the model folder has no config.json", model.string(),
        gguf.empty() ? "a model folder holds config.json, tokenizer.json and *.safetensors"
                     : "name the GGUF file itself: " + gguf.string());
  }
  return parse_config(read_text_file(file, JsonLimits{}.max_bytes), file.string());
}

}  // namespace ptq
