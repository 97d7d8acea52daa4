// A tokenizer from lists instead of a tokenizer.json: what the metadata of a GGUF file holds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ptq/model/tokenizer.hpp"

namespace ptq {

// The field behind each name is the key of the metadata.
struct TokenizerLists {
  // Kinds of tokens, in the numbers of the file.
  enum Type : int32_t {
    normal = 1,
    unknown = 2,
    control = 3,
    user_defined = 4,
    unused = 5,
    byte = 6
  };

  std::string model;                // tokenizer.ggml.model: "gpt2" or "llama"
  std::string pre;                  // tokenizer.ggml.pre; "" if absent
  std::vector<std::string> tokens;  // tokenizer.ggml.tokens; the id is the index
  std::vector<int32_t> types;       // tokenizer.ggml.token_type; empty: all are `normal`
  std::vector<float> scores;        // tokenizer.ggml.scores; empty if absent
  std::vector<std::string> merges;  // tokenizer.ggml.merges, "left right"; empty if absent
  int32_t bos = -1;                 // tokenizer.ggml.bos_token_id; -1 if absent
  int32_t eos = -1;                 // tokenizer.ggml.eos_token_id
  int32_t unk = -1;                 // tokenizer.ggml.unknown_token_id
  int8_t add_bos = -1;              // tokenizer.ggml.add_bos_token: 0, 1; -1 if absent
  int8_t add_eos = -1;              // tokenizer.ggml.add_eos_token
  int8_t add_space_prefix = -1;     // tokenizer.ggml.add_space_prefix
};

// Throws ptq::Error that names the key of the metadata; `name` is what messages call the file.
inline Tokenizer tokenizer_from_lists(const TokenizerLists& lists, const std::string& name) {
  throw usage_error("the tokenizer " + shown(lists.model) + " is not supported yet", name);
}

}  // namespace ptq
