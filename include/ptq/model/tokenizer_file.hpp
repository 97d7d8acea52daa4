// Reading tokenizer.json, the file format of the Hugging Face tokenizers library, for the parts
// that byte pair tokenizers of the Llama, Qwen2 and Mistral families use.
//
// A part that is not implemented is an error with its JSON path: a tokenizer that ignores a step
// gives ids that look right and are not.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "ptq/core/json.hpp"
#include "ptq/model/bpe.hpp"
#include "ptq/model/unicode.hpp"

namespace ptq {

struct NormalizerStep {
  enum class Kind { nfc, prepend, replace } kind;
  std::string pattern, content;  // replace: pattern -> content; prepend: content
};

// "Metaspace": spaces become a visible character, which may also be put in front.
struct Metaspace {
  enum class Prepend { always, first, never } prepend = Prepend::always;
  std::string replacement;  // one character
  bool split = true;        // each replacement character begins a word
};

struct PreTokenizer {
  int max_digits = 0;  // digits per word of the word pattern; 0: text is not split by a pattern
  bool byte_level = false;
  std::optional<Metaspace> metaspace;
};

struct DecoderStep {
  enum class Kind { byte_level, replace, byte_fallback, fuse, strip, metaspace } kind;
  std::string pattern{}, content{};  // replace: both; strip: content; metaspace: pattern
  size_t start = 0, stop = 0;        // strip: at most this many characters at either end
  bool drop_first = false;           // metaspace: no space at the beginning of the text
};

// A token that is found in the text before anything else.
struct AddedToken {
  int32_t id;
  std::string content;
  bool normalized;  // found in the normalized text, otherwise in the text as given
  bool special;     // control token: left out by decode(skip_special)
};

// Everything of a tokenizer.json.
struct TokenizerParts {
  std::vector<AddedToken> added;
  std::vector<NormalizerStep> normalizer;
  PreTokenizer pre_tokenizer;
  BpeModel model;
  std::vector<int32_t> prefix, suffix;  // ids the template puts around a text
  std::vector<DecoderStep> decoder;
  std::vector<std::string> spelling;  // id -> token as written in the file; empty: no such id
  std::string word_start;             // see find_word_boundaries()
  std::unordered_set<std::string> joins_word_start;
};

// The byte-level alphabet of GPT-2: every byte has a printable character. Bytes that are printable
// in Latin-1 stand for themselves, the other 68 are U+0100, U+0101, ... in increasing order.
inline const std::array<uint32_t, 256>& byte_alphabet() {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> t{};
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
      t[b] = printable ? b : next++;
    }
    return t;
  }();
  return table;
}

// The bytes a token of the byte-level alphabet stands for; false if it has another character.
inline bool byte_level_decode(std::string_view token, std::string& bytes) {
  static const std::array<int16_t, 0x144> byte_of = [] {
    std::array<int16_t, 0x144> t;
    t.fill(-1);
    for (int b = 0; b < 256; ++b)
      t[byte_alphabet()[static_cast<size_t>(b)]] = static_cast<int16_t>(b);
    return t;
  }();
  bytes.clear();
  for (size_t i = 0; i < token.size();) {
    const uint32_t c = next_code_point(token, i);
    if (c >= byte_of.size() || byte_of[c] < 0) return false;
    bytes += static_cast<char>(byte_of[c]);
  }
  return true;
}

namespace tokenizer_detail {

constexpr uint64_t kMaxFileBytes = uint64_t{256} << 20;
constexpr int64_t kMaxId = (1 << 22) - 1;
// Ids may have holes, but not so many that a small file asks for much memory.
constexpr int64_t largest_id(size_t tokens) {
  return std::min(kMaxId, 4 * static_cast<int64_t>(tokens) + (1 << 16));
}
constexpr size_t kLongestAddedToken = 1024;  // bytes; each place of a text may be compared with it
constexpr size_t kMaxMerges = 10'000'000;

inline void allow_keys(const JsonValue& node, std::initializer_list<std::string_view> keys) {
  node.for_each_member([&](std::string_view key, const JsonValue& value) {
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) {
      throw value.error("the key " + shown(key) + " is not supported");
    }
  });
}

[[noreturn]] inline void unsupported_type(const JsonValue& node, const std::string& kind,
                                          const std::vector<std::string>& known) {
  const std::string type(node.get("type").as_string());
  // No "did you mean": another step, however near its name is (NFKC, NFC), gives other ids.
  std::string list;
  for (const std::string& name : known) list += (list.empty() ? "" : ", ") + name;
  throw node.error("the " + kind + " " + shown(type) + " is not supported", "supported: " + list);
}

inline bool flag(const JsonValue& node, const char* key, bool absent) {
  const auto value = node.find(key);
  return value ? value->as_bool() : absent;
}

inline void refuse_flag(const JsonValue& node, const char* key) {
  if (flag(node, key, false)) throw node.get(key).error("only false is supported");
}

inline std::string one_character(const JsonValue& value) {
  const std::string text(value.as_string());
  size_t i = 0;
  if (!text.empty()) next_code_point(text, i);
  if (text.empty() || i != text.size()) throw value.error("one character is expected");
  return text;
}

inline std::string non_empty(const JsonValue& value) {
  if (value.as_string().empty()) throw value.error("the text is empty");
  return std::string(value.as_string());
}

// {"String": text}; regular expressions are not supported in replacements.
inline std::string literal_pattern(const JsonValue& pattern) {
  if (pattern.find("Regex")) {
    throw pattern.error("the regular expression " + shown(pattern.get("Regex").as_string()) +
                        " is not supported, only {\"String\": ...}");
  }
  allow_keys(pattern, {"String"});
  return non_empty(pattern.get("String"));
}

inline void read_normalizer(const JsonValue& node, std::vector<NormalizerStep>& steps) {
  const std::string_view type = node.get("type").as_string();
  if (type == "Sequence") {
    allow_keys(node, {"type", "normalizers"});
    node.get("normalizers").for_each_element([&](const JsonValue& child) {
      read_normalizer(child, steps);
    });
  } else if (type == "NFC") {
    allow_keys(node, {"type"});
    steps.push_back({NormalizerStep::Kind::nfc, {}, {}});
  } else if (type == "Prepend") {
    allow_keys(node, {"type", "prepend"});
    const std::string text(node.get("prepend").as_string());
    steps.push_back({NormalizerStep::Kind::prepend, {}, text});
  } else if (type == "Replace") {
    allow_keys(node, {"type", "pattern", "content"});
    steps.push_back({NormalizerStep::Kind::replace, literal_pattern(node.get("pattern")),
                     std::string(node.get("content").as_string())});
  } else {
    unsupported_type(node, "normalizer", {"NFC", "Sequence", "Prepend", "Replace"});
  }
}

inline Metaspace read_metaspace(const JsonValue& node) {
  allow_keys(node,
             {"type", "replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep"});
  Metaspace m;
  m.replacement = one_character(node.get("replacement"));
  m.split = flag(node, "split", true);
  if (const auto scheme = node.find("prepend_scheme")) {
    const std::string_view name = scheme->as_string();
    if (name == "first") {
      m.prepend = Metaspace::Prepend::first;
    } else if (name == "never") {
      m.prepend = Metaspace::Prepend::never;
    } else if (name != "always") {
      throw scheme->error("unknown scheme " + shown(name), "known: always, first, never");
    }
  }
  if (!flag(node, "add_prefix_space", true) && m.prepend != Metaspace::Prepend::never) {
    throw node.error("`add_prefix_space` contradicts `prepend_scheme`");
  }
  return m;
}

inline void read_split(const JsonValue& node, PreTokenizer& result) {
  static const std::string pattern_head =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})";
  static const std::string pattern_tail = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  allow_keys(node, {"type", "pattern", "behavior", "invert"});
  const JsonValue behavior = node.get("behavior");
  if (behavior.as_string() != "Isolated") {
    throw behavior.error("the behavior " + shown(behavior.as_string()) + " is not supported",
                         "supported: Isolated");
  }
  refuse_flag(node, "invert");
  const JsonValue pattern = node.get("pattern").get("Regex");
  if (pattern.as_string() == pattern_head + pattern_tail) {
    result.max_digits = 1;  // Qwen2
  } else if (pattern.as_string() == pattern_head + "{1,3}" + pattern_tail) {
    result.max_digits = 3;  // Llama 3
  } else {
    throw pattern.error("the word pattern is not supported: " + std::string(pattern.as_string()),
                        "supported are the patterns of Qwen2 and Llama 3");
  }
}

// Supported: at most one Split, then at most one ByteLevel; or Metaspace alone.
inline void read_pre_tokenizer(const JsonValue& node, PreTokenizer& result) {
  const std::string_view type = node.get("type").as_string();
  if (result.metaspace) throw node.error("nothing is supported behind Metaspace");
  if (type == "Sequence") {
    allow_keys(node, {"type", "pretokenizers"});
    node.get("pretokenizers").for_each_element([&](const JsonValue& child) {
      read_pre_tokenizer(child, result);
    });
  } else if (type == "Split") {
    if (result.max_digits > 0 || result.byte_level) {
      throw node.error("Split is supported only once and in front of ByteLevel");
    }
    read_split(node, result);
  } else if (type == "ByteLevel") {
    allow_keys(node, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
    if (result.byte_level) throw node.error("ByteLevel is supported only once");
    refuse_flag(node, "add_prefix_space");
    if (flag(node, "use_regex", true)) {
      throw node.error(
          "the built-in pattern of GPT-2 (`use_regex` true or absent) is not supported",
          "supported: a Split in front and `use_regex` false");
    }
    result.byte_level = true;
  } else if (type == "Metaspace") {
    if (result.max_digits > 0 || result.byte_level) {
      throw node.error("Metaspace is supported only alone");
    }
    result.metaspace = read_metaspace(node);
  } else {
    unsupported_type(node, "pre-tokenizer", {"Sequence", "Split", "ByteLevel", "Metaspace"});
  }
}

inline void read_decoder(const JsonValue& node, std::vector<DecoderStep>& steps) {
  using Kind = DecoderStep::Kind;
  const std::string_view type = node.get("type").as_string();
  if (type == "Sequence") {
    allow_keys(node, {"type", "decoders"});
    node.get("decoders").for_each_element([&](const JsonValue& child) {
      read_decoder(child, steps);
    });
  } else if (type == "ByteLevel") {
    allow_keys(node, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
    steps.push_back({.kind = Kind::byte_level});
  } else if (type == "Replace") {
    allow_keys(node, {"type", "pattern", "content"});
    steps.push_back({.kind = Kind::replace,
                     .pattern = literal_pattern(node.get("pattern")),
                     .content = std::string(node.get("content").as_string())});
  } else if (type == "ByteFallback") {
    allow_keys(node, {"type"});
    steps.push_back({.kind = Kind::byte_fallback});
  } else if (type == "Fuse") {
    allow_keys(node, {"type"});
    steps.push_back({.kind = Kind::fuse});
  } else if (type == "Strip") {
    allow_keys(node, {"type", "content", "start", "stop"});
    steps.push_back({.kind = Kind::strip,
                     .content = one_character(node.get("content")),
                     .start = static_cast<size_t>(node.get("start").as_integer(0, 1 << 20)),
                     .stop = static_cast<size_t>(node.get("stop").as_integer(0, 1 << 20))});
  } else if (type == "Metaspace") {
    const Metaspace m = read_metaspace(node);
    steps.push_back({.kind = Kind::metaspace,
                     .pattern = m.replacement,
                     .drop_first = m.prepend != Metaspace::Prepend::never});
  } else {
    unsupported_type(
        node, "decoder",
        {"Sequence", "ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"});
  }
}

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

inline void read_byte_tokens(const JsonValue& node, TokenizerParts& parts) {
  BpeModel& model = parts.model;
  model.byte_ids.fill(-1);
  int missing = 0;
  for (int b = 0; b < 256; ++b) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", b);
    const std::string spelling = model.byte_level ? std::string(1, static_cast<char>(b)) : name;
    const auto found = model.vocab.find(spelling);
    if (found != model.vocab.end()) {
      model.byte_ids[static_cast<size_t>(b)] = found->second;
    } else if (model.byte_level) {
      throw node.error(std::string("the byte ") + name + " has no token, it would be lost");
    } else {
      ++missing;
    }
  }
  if (!model.byte_level && model.unk_id < 0 && (missing > 0 || !model.byte_fallback)) {
    throw node.error("there is neither an unknown token nor a token for every byte",
                     "characters outside the vocabulary would be lost");
  }
}

inline void read_merges(const JsonValue& node, const TokenMap& ids, BpeModel& model) {
  if (node.size() > kMaxMerges) {
    throw node.error("more than " + std::to_string(kMaxMerges) + " merges");
  }
  model.merges = MergeTable(node.size());
  uint32_t rank = 0;
  std::string joined;
  node.for_each_element([&](const JsonValue& merge) {
    std::string_view left, right;
    if (merge.is_string()) {  // "left right", files before 2024
      const std::string_view text = merge.as_string();
      const size_t space = text.find(' ');
      if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
        throw merge.error("two tokens separated by one space are expected: " + shown(text));
      }
      left = text.substr(0, space);
      right = text.substr(space + 1);
    } else {  // ["left", "right"]
      std::vector<std::string_view> pair;
      merge.for_each_element([&](const JsonValue& part) { pair.push_back(part.as_string()); });
      if (pair.size() != 2) throw merge.error("two tokens are expected");
      left = pair[0];
      right = pair[1];
    }
    joined = left;
    joined += right;
    const auto id_of = [&](std::string_view token) {
      const auto found = ids.find(token);
      if (found == ids.end()) {
        throw merge.error("the token " + shown(token) + " is not in the vocabulary");
      }
      return found->second;
    };
    const int32_t left_id = id_of(left), right_id = id_of(right), joined_id = id_of(joined);
    if (!model.merges.insert(left_id, right_id, {rank++, joined_id})) {
      throw merge.error("the pair " + shown(left) + ", " + shown(right) + " appears twice");
    }
  });
}

// SentencePiece-style models take a whole text as one word. Where no merge can join the characters
// x and y, the text can be cut between them without changing any id, and short words make a cache
// useful. `word_start` (the visible space) is such a y for all x except those at the end of a left
// part whose right part begins with it; these are collected here. Models where byte or unknown
// tokens merge are left whole.
inline void find_word_boundaries(const JsonValue& merges, TokenizerParts& parts) {
  const std::string start = "\u2581";
  if (parts.model.byte_level || parts.model.ignore_merges || !parts.model.vocab.count(start))
    return;
  std::unordered_set<std::string> joins;
  bool cuttable = true;
  const auto add = [&](std::string_view left, std::string_view right) {
    for (const std::string_view part : {left, right}) {
      const int32_t id = parts.model.vocab.find(part)->second;
      const auto& bytes = parts.model.byte_ids;
      if (id == parts.model.unk_id || std::find(bytes.begin(), bytes.end(), id) != bytes.end()) {
        cuttable = false;
      }
    }
    if (!right.starts_with(start)) return;
    size_t last = left.size() - 1;
    while (last > 0 && (static_cast<uint8_t>(left[last]) & 0xC0) == 0x80) --last;
    joins.emplace(left.substr(last));
  };
  merges.for_each_element([&](const JsonValue& merge) {
    if (merge.is_string()) {
      const std::string_view text = merge.as_string();
      const size_t space = text.find(' ');
      add(text.substr(0, space), text.substr(space + 1));
    } else {
      std::vector<std::string_view> pair;
      merge.for_each_element([&](const JsonValue& part) { pair.push_back(part.as_string()); });
      add(pair[0], pair[1]);
    }
  });
  if (!cuttable) return;
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
  read_byte_tokens(node, parts);
  read_merges(node.get("merges"), ids, model);
  find_word_boundaries(node.get("merges"), parts);
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
  read_decoder(root.get("decoder"), parts.decoder);
  return parts;
}

}  // namespace ptq
