// Reading tokenizer.json, the file format of the Hugging Face tokenizers library, for byte pair
// tokenizers.
//
// A part that is not implemented is an error with its JSON path: a tokenizer that ignores a step
// gives ids that look right and are not.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "ptq/core/json.hpp"
#include "ptq/core/safe_text.hpp"
#include "ptq/model/bpe.hpp"
#include "ptq/model/tokenizer_file_model.hpp"
#include "ptq/model/tokenizer_file_steps.hpp"
#include "ptq/model/tokenizer_steps.hpp"

namespace ptq {
namespace tokenizer_detail {

constexpr uint64_t kMaxFileBytes = uint64_t{256} << 20;
constexpr size_t kLongestAddedToken = 1024;  // bytes; each place of a text may be compared with it

inline std::vector<AddedToken> read_added_tokens(const JsonValue& root) {
  std::vector<AddedToken> tokens;
  const auto list = root.find("added_tokens");
  if (!list) return tokens;
  std::unordered_set<std::string> contents;
  list->for_each_element([&](const JsonValue& node) {
    allow_keys(node, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    for (const char* key : {"single_word", "lstrip", "rstrip"}) refuse_flag(node, key);
    AddedToken token;
    token.id = static_cast<int32_t>(node.get("id").as_integer(0, kMaxId));
    token.content = non_empty(node.get("content"));
    if (token.content.size() > kLongestAddedToken) {
      throw node.error("the added token has " + std::to_string(token.content.size()) +
                       " bytes, more than the limit of " + std::to_string(kLongestAddedToken));
    }
    token.special = flag(node, "special", false);
    token.normalized = flag(node, "normalized", !token.special);
    if (!contents.insert(token.content).second) {
      throw node.error("the added token " + shown(token.content) + " appears twice");
    }
    tokens.push_back(std::move(token));
  });
  return tokens;
}

// TemplateProcessing for single texts: tokens, the text, tokens.
inline void read_template(const JsonValue& node, TokenizerParts& parts) {
  allow_keys(node, {"type", "single", "pair", "special_tokens"});
  const JsonValue specials = node.get("special_tokens");
  bool text_seen = false;
  node.get("single").for_each_element([&](const JsonValue& piece) {
    if (const auto sequence = piece.find("Sequence")) {
      if (sequence->get("id").as_string() != "A" || text_seen) {
        throw sequence->error("the sequence A must appear exactly once and no other");
      }
      text_seen = true;
      return;
    }
    const JsonValue name = piece.get("SpecialToken").get("id");
    if (!specials.contains(name.as_string())) {
      throw name.error("the special token " + shown(name.as_string()) +
                       " is not in `special_tokens` of the template");
    }
    const JsonValue special = specials.get(name.as_string());
    std::vector<int32_t> ids;
    special.get("ids").for_each_element([&](const JsonValue& id) {
      ids.push_back(static_cast<int32_t>(id.as_integer(0, kMaxId)));
    });
    size_t i = 0;
    special.get("tokens").for_each_element([&](const JsonValue& token) {
      const bool known = i < ids.size() && static_cast<size_t>(ids[i]) < parts.spelling.size() &&
                         parts.spelling[static_cast<size_t>(ids[i])] == token.as_string();
      if (!known) {
        throw token.error("the token " + shown(token.as_string()) +
                          " does not have the id given in `ids`");
      }
      ++i;
    });
    if (i != ids.size()) throw special.error("`ids` and `tokens` differ in length");
    auto& list = text_seen ? parts.suffix : parts.prefix;
    list.insert(list.end(), ids.begin(), ids.end());
  });
  if (!text_seen) throw node.get("single").error("the sequence A is missing");
}

inline void read_post_processor(const JsonValue& node, TokenizerParts& parts, bool& has_template) {
  const std::string_view type = node.get("type").as_string();
  if (type == "Sequence") {
    allow_keys(node, {"type", "processors"});
    node.get("processors").for_each_element([&](const JsonValue& child) {
      read_post_processor(child, parts, has_template);
    });
  } else if (type == "ByteLevel") {  // moves offsets only, which are not kept here
    allow_keys(node, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
  } else if (type == "TemplateProcessing") {
    if (has_template) throw node.error("a second TemplateProcessing is not supported");
    has_template = true;
    read_template(node, parts);
  } else {
    unsupported_type(node, "post-processor", {"Sequence", "ByteLevel", "TemplateProcessing"});
  }
}

}  // namespace tokenizer_detail

inline TokenizerParts read_tokenizer_parts(const JsonValue& root) {
  using namespace tokenizer_detail;
  allow_keys(root, {"version", "truncation", "padding", "added_tokens", "normalizer",
                    "pre_tokenizer", "post_processor", "decoder", "model"});
  if (const auto version = root.find("version"); version && version->as_string() != "1.0") {
    throw version->error("the version " + shown(version->as_string()) + " is not supported");
  }
  for (const char* key : {"truncation", "padding"}) {
    if (const auto value = root.find(key)) {
      throw value->error("this would silently change texts and is not supported",
                         "set it to null in the file");
    }
  }
  TokenizerParts parts;
  parts.added = read_added_tokens(root);
  TokenMap added;
  for (const AddedToken& token : parts.added) added.emplace(token.content, token.id);
  if (const auto node = root.find("normalizer")) read_normalizer(*node, parts.normalizer);
  if (const auto node = root.find("pre_tokenizer")) read_pre_tokenizer(*node, parts.pre_tokenizer);
  read_model(root.get("model"), added, parts);
  // An added token either repeats an entry of the vocabulary or brings its own id.
  const int64_t largest = largest_id(parts.model.vocab.size() + parts.added.size());
  for (const AddedToken& token : parts.added) {
    if (token.id > largest) {
      throw root.get("added_tokens")
          .error("the id " + std::to_string(token.id) + " of " + shown(token.content) +
                 " is far above the number of tokens");
    }
    set_spelling(parts.spelling, token.id, token.content, root.get("added_tokens"));
  }
  std::unordered_set<std::string_view> spellings;
  spellings.reserve(parts.spelling.size());
  for (const std::string& token : parts.spelling) {
    if (!token.empty() && !spellings.insert(token).second) {
      throw root.get("added_tokens").error("the token " + shown(token) + " has two ids");
    }
  }
  bool has_template = false;
  if (const auto node = root.find("post_processor")) {
    read_post_processor(*node, parts, has_template);
  }
  if (const auto node = root.find("decoder")) {
    read_decoder(*node, parts.decoder);
  } else {
    parts.decoder.push_back({.kind = DecoderStep::Kind::spaces});  // what the reference does
  }
  return parts;
}

}  // namespace ptq
