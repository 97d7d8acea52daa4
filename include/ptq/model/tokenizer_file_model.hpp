// Reading the vocabulary and the merges of a tokenizer.json. Part of tokenizer_file.hpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "ptq/core/json.hpp"
#include "ptq/core/safe_text.hpp"
#include "ptq/model/bpe.hpp"
#include "ptq/model/tokenizer_file_steps.hpp"
#include "ptq/model/tokenizer_steps.hpp"

namespace ptq::tokenizer_detail {

constexpr int64_t kMaxId = (1 << 22) - 1;
// Ids may have holes, but not so many that a small file asks for much memory.
constexpr int64_t largest_id(size_t tokens) {
  return std::min(kMaxId, 4 * static_cast<int64_t>(tokens) + (1 << 16));
}
constexpr size_t kMaxMerges = 10'000'000;

// Enters a token under its id; the id must be free or carry the same spelling.
inline void set_spelling(std::vector<std::string>& spelling, int32_t id, std::string_view token,
                         const JsonValue& where) {
  if (static_cast<size_t>(id) >= spelling.size()) spelling.resize(static_cast<size_t>(id) + 1);
  std::string& entry = spelling[static_cast<size_t>(id)];
  if (!entry.empty() && entry != token) {
    throw where.error("the id " + std::to_string(id) + " belongs to both " + shown(entry) +
                      " and " + shown(token));
  }
  entry = token;
}

inline void read_vocab(const JsonValue& node, const TokenMap& added, TokenizerParts& parts,
                       TokenMap& ids) {
  std::string bytes;
  const int64_t largest = largest_id(node.size() + added.size());
  ids.reserve(node.size());
  parts.model.vocab.reserve(node.size());
  node.for_each_member([&](std::string_view token, const JsonValue& value) {
    const int32_t id = static_cast<int32_t>(value.as_integer(0, largest));
    if (token.empty()) throw value.error("the token is empty");
    set_spelling(parts.spelling, id, token, value);
    ids.emplace(token, id);
    if (!parts.model.byte_level) return;
    if (byte_level_decode(token, bytes)) {
      parts.model.vocab.emplace(bytes, id);
    } else if (added.find(token) == added.end()) {
      throw value.error("the token has a character outside the byte-level alphabet");
    }
  });
  if (!parts.model.byte_level) parts.model.vocab = ids;
}

// The token of each byte. Where a byte has none, a text that needs it gets the unknown token or, if
// there is none either, loses the byte: so does the reference. `fail(message, hint)` makes the
// error for what is refused.
template <class Fail>
void find_byte_tokens(BpeModel& model, Fail fail) {
  model.byte_ids.fill(-1);
  int missing = 0;
  for (int b = 0; b < 256; ++b) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", b);
    const std::string spelling = model.byte_level ? std::string(1, static_cast<char>(b)) : name;
    const auto found = model.vocab.find(spelling);
    if (found != model.vocab.end()) {
      model.byte_ids[static_cast<size_t>(b)] = found->second;
    } else {
      ++missing;
    }
  }
  if (model.byte_level && missing == 256) {
    throw fail("no byte has a token", "every text would be lost");
  }
  if (model.byte_level && missing > 0 && model.byte_fallback) {
    throw fail("`byte_fallback` is not supported for bytes of ByteLevel without a token", "");
  }
  if (!model.byte_level && model.unk_id < 0 && (missing > 0 || !model.byte_fallback)) {
    throw fail("there is neither an unknown token nor a token for every byte",
               "characters outside the vocabulary would be lost");
  }
}

struct MergePair {
  std::string_view left, right;
};

// "left right"; false if there is not exactly one space.
inline bool split_merge(std::string_view text, MergePair& pair) {
  const size_t space = text.find(' ');
  if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
    return false;
  }
  pair = {text.substr(0, space), text.substr(space + 1)};
  return true;
}

// `fail(i, message)` makes the error about the pair i; ids: by the spelling of the file.
template <class Fail>
void build_merges(const std::vector<MergePair>& pairs, const TokenMap& ids, BpeModel& model,
                  Fail fail) {
  model.merges = MergeTable(pairs.size());
  std::string joined;
  for (size_t i = 0; i < pairs.size(); ++i) {
    const auto id_of = [&](std::string_view token) {
      const auto found = ids.find(token);
      if (found == ids.end()) {
        throw fail(i, "the token " + shown(token) + " is not in the vocabulary");
      }
      return found->second;
    };
    const auto& [left, right] = pairs[i];
    joined = left;
    joined += right;
    const int32_t left_id = id_of(left), right_id = id_of(right), joined_id = id_of(joined);
    if (!model.merges.insert(left_id, right_id, {static_cast<uint32_t>(i), joined_id})) {
      throw fail(i, "the pair " + shown(left) + ", " + shown(right) + " appears twice");
    }
  }
}

inline JsonValue element(const JsonValue& list, size_t wanted) {
  std::optional<JsonValue> found;
  size_t i = 0;
  list.for_each_element([&](const JsonValue& value) {
    if (i++ == wanted) found = value;
  });
  return *found;
}

inline std::vector<MergePair> read_merges(const JsonValue& node, const TokenMap& ids,
                                          BpeModel& model) {
  if (node.size() > kMaxMerges) {
    throw node.error("more than " + std::to_string(kMaxMerges) + " merges");
  }
  std::vector<MergePair> pairs;
  pairs.reserve(node.size());
  node.for_each_element([&](const JsonValue& merge) {
    MergePair pair;
    if (merge.is_string()) {  // "left right", files before 2024
      if (!split_merge(merge.as_string(), pair)) {
        throw merge.error("two tokens separated by one space are expected: " +
                          shown(merge.as_string()));
      }
    } else {  // ["left", "right"]
      std::vector<std::string_view> parts;
      merge.for_each_element([&](const JsonValue& part) { parts.push_back(part.as_string()); });
      if (parts.size() != 2) throw merge.error("two tokens are expected");
      pair = {parts[0], parts[1]};
    }
    pairs.push_back(pair);
  });
  build_merges(pairs, ids, model, [&](size_t i, const std::string& message) {
    return element(node, i).error(message);
  });
  return pairs;
}

// SentencePiece-style models take a whole text as one word. Where no merge can join the characters
// x and y, the text can be cut between them without changing any id, and short words make a cache
// useful. `word_start` (the visible space) is such a y for all x except those at the end of a left
// part whose right part begins with it; these are collected here. Models where byte or unknown
// tokens merge are left whole.
inline void find_word_boundaries(const std::vector<MergePair>& merges, TokenizerParts& parts) {
  const std::string start = "\u2581";
  if (parts.model.byte_level || parts.model.ignore_merges || !parts.model.vocab.count(start))
    return;
  std::unordered_set<std::string> joins;
  for (const auto& [left, right] : merges) {
    for (const std::string_view part : {left, right}) {
      const int32_t id = parts.model.vocab.find(part)->second;
      const auto& bytes = parts.model.byte_ids;
      if (id == parts.model.unk_id || std::find(bytes.begin(), bytes.end(), id) != bytes.end()) {
        return;
      }
    }
    if (!right.starts_with(start)) continue;
    size_t last = left.size() - 1;
    while (last > 0 && (static_cast<uint8_t>(left[last]) & 0xC0) == 0x80) --last;
    joins.emplace(left.substr(last));
  }
  parts.word_start = start;
  parts.joins_word_start = std::move(joins);
}

inline void read_model(const JsonValue& node, const TokenMap& added, TokenizerParts& parts) {
  if (const auto type = node.find("type"); type && type->as_string() != "BPE") {
    unsupported_type(node, "model", {"BPE"});
  }
  if (const auto dropout = node.find("dropout"); dropout && dropout->as_number() != 0) {
    throw dropout->error("dropout would make the ids random and is not supported");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const auto value = node.find(key);
    if (value && !value->as_string().empty()) {
      throw value->error("the text " + shown(value->as_string()) + " is not supported here");
    }
  }
  BpeModel& model = parts.model;
  model.byte_level = parts.pre_tokenizer.byte_level;
  model.ignore_merges = flag(node, "ignore_merges", false);
  model.fuse_unk = flag(node, "fuse_unk", false);
  model.byte_fallback = flag(node, "byte_fallback", false);
  TokenMap ids;  // by the spelling of the file
  read_vocab(node.get("vocab"), added, parts, ids);
  if (const auto unk = node.find("unk_token")) {
    const auto found = ids.find(unk->as_string());
    if (found == ids.end()) throw unk->error("the token is not in the vocabulary");
    model.unk_id = found->second;
  }
  find_byte_tokens(model, [&](const std::string& message, const std::string& hint) {
    return node.error(message, hint);
  });
  find_word_boundaries(read_merges(node.get("merges"), ids, model), parts);
}

}  // namespace ptq::tokenizer_detail
