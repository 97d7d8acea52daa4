// The tokenizer of a model, a folder or a GGUF file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <system_error>

#include "ptq/core/error.hpp"
#include "ptq/model/gguf.hpp"
#include "ptq/model/tokenizer.hpp"
#include "ptq/model/tokenizer_parts.hpp"

namespace ptq {

// What the metadata of a GGUF file say about its tokenizer.
inline TokenizerLists gguf_tokenizer(const GgufContent& file) {
  const std::string prefix = "tokenizer.ggml.";
  const auto id = [&](const char* key) {
    return int32_t(file.integer(prefix + key, -1, INT32_MAX).value_or(-1));
  };
  const auto flag = [&](const char* key) {
    const auto value = file.boolean(prefix + key);
    return int8_t(value ? int(*value) : -1);
  };
  const auto model = file.text(prefix + "model");
  if (!model) throw file.error(prefix + "model", "the file has no tokenizer");
  TokenizerLists lists;
  lists.model = *model;
  lists.pre = file.text(prefix + "pre").value_or("");
  lists.tokens = file.texts(prefix + "tokens");
  lists.types = file.integers(prefix + "token_type");
  lists.scores = file.floats(prefix + "scores");
  lists.merges = file.texts(prefix + "merges");
  lists.bos = id("bos_token_id");
  lists.eos = id("eos_token_id");
  lists.unk = id("unknown_token_id");
  lists.add_bos = flag("add_bos_token");
  lists.add_eos = flag("add_eos_token");
  lists.add_space_prefix = flag("add_space_prefix");
  return lists;
}

// Of a GGUF file: the one of its metadata; where there is none that can be read, the tokenizer.json
// beside it.
inline Tokenizer load_tokenizer(const std::filesystem::path& model) {
  if (!is_gguf(model)) return Tokenizer::load(model);
  const GgufFile file(model);
  try {
    return tokenizer_from_lists(gguf_tokenizer(file.content()), model.string());
  } catch (const Error& error) {
    const std::filesystem::path folder = absolute(model).parent_path();
    std::error_code ignored;
    if (std::filesystem::exists(folder / "tokenizer.json", ignored)) return Tokenizer::load(folder);
    throw environment_error(error.message(), error.where(),
                            "put the tokenizer.json of the same model beside the file");
  }
}

}  // namespace ptq
