// The tokenizer of a model, a folder or a GGUF file.
#pragma once

#include <filesystem>
#include <string>
#include <system_error>

#include "ptq/core/error.hpp"
#include "ptq/model/gguf.hpp"
#include "ptq/model/tokenizer.hpp"

namespace ptq {

// Of a GGUF file: the tokenizer.json beside it.
inline Tokenizer load_tokenizer(const std::filesystem::path& model) {
  if (!is_gguf(model)) return Tokenizer::load(model);
  const std::filesystem::path folder = absolute(model).parent_path();
  std::error_code ignored;
  if (std::filesystem::exists(folder / "tokenizer.json", ignored)) return Tokenizer::load(folder);
  throw environment_error("the tokenizer of a GGUF file is not read from its metadata",
                          model.string(),
                          "put the tokenizer.json of the same model beside it, or give ids");
}

}  // namespace ptq
