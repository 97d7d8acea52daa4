// Reading tokenizer.json, the file format of the Hugging Face tokenizers library, for byte pair
// tokenizers.
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
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "ptq/core/json.hpp"
#include "ptq/model/bpe.hpp"
#include "ptq/model/pre_tokenizer.hpp"
#include "ptq/model/split_pattern.hpp"
#include "ptq/model/unicode.hpp"

namespace ptq {

struct NormalizerStep {
  enum class Kind { nfc, nfd, nfkc, nfkd, lowercase, strip, prepend, replace, replace_regex } kind;
  std::string pattern{}, content{};             // replace: pattern -> content; prepend: content
  std::shared_ptr<const SplitPattern> regex{};  // replace_regex: its matches -> content
  bool left = false, right = false;             // strip: at which ends
};

struct DecoderStep {
  enum class Kind { byte_level, replace, byte_fallback, fuse, strip, metaspace, spaces } kind;
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
constexpr size_t kMaxSteps = 32;  // of a pre-tokenizer

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

// {"String": text}
inline std::string literal_pattern(const JsonValue& pattern) {
  if (pattern.find("Regex")) {
    throw pattern.error("the regular expression " + shown(pattern.get("Regex").as_string()) +
                        " is not supported, only {\"String\": ...}");
  }
  allow_keys(pattern, {"String"});
  return non_empty(pattern.get("String"));
}

// make(expression) of {"Regex": expression}; what is wrong with it is said with its place.
template <class Make>
auto with_regex(const JsonValue& pattern, Make make) {
  allow_keys(pattern, {"Regex"});
  const JsonValue regex = pattern.get("Regex");
  try {
    return make(regex.as_string());
  } catch (const Error& error) {
    throw regex.error(error.message(), error.hint());
  }
}

inline void read_normalizer(const JsonValue& node, std::vector<NormalizerStep>& steps) {
  using Kind = NormalizerStep::Kind;
  static constexpr std::pair<std::string_view, Kind> kPlain[] = {{"NFC", Kind::nfc},
                                                                 {"NFD", Kind::nfd},
                                                                 {"NFKC", Kind::nfkc},
                                                                 {"NFKD", Kind::nfkd},
                                                                 {"Lowercase", Kind::lowercase}};
  const std::string_view type = node.get("type").as_string();
  for (const auto& [name, kind] : kPlain) {
    if (type != name) continue;
    allow_keys(node, {"type"});
    steps.push_back({.kind = kind});
    return;
  }
  if (type == "Sequence") {
    allow_keys(node, {"type", "normalizers"});
    node.get("normalizers").for_each_element([&](const JsonValue& child) {
      read_normalizer(child, steps);
    });
  } else if (type == "Strip") {
    allow_keys(node, {"type", "strip_left", "strip_right"});
    steps.push_back({.kind = Kind::strip,
                     .left = node.get("strip_left").as_bool(),
                     .right = node.get("strip_right").as_bool()});
  } else if (type == "Prepend") {
    allow_keys(node, {"type", "prepend"});
    steps.push_back(
        {.kind = Kind::prepend, .content = std::string(node.get("prepend").as_string())});
  } else if (type == "Replace") {
    allow_keys(node, {"type", "pattern", "content"});
    const JsonValue pattern = node.get("pattern");
    NormalizerStep step{.kind = Kind::replace,
                        .content = std::string(node.get("content").as_string())};
    if (pattern.find("Regex")) {
      step.kind = Kind::replace_regex;
      step.regex = with_regex(pattern, [](std::string_view regex) {
        return std::make_shared<const SplitPattern>(regex);
      });
    } else {
      step.pattern = literal_pattern(pattern);
    }
    steps.push_back(std::move(step));
  } else {
    unsupported_type(
        node, "normalizer",
        {"Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "Prepend", "Replace"});
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

inline SplitBehavior read_behavior(const JsonValue& node) {
  const std::string_view name = node.as_string();
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  throw node.error("the behavior " + shown(name) + " is not supported",
                   "supported: Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous");
}

// The pattern that is matched by hand, if it is one.
inline std::optional<WordPattern> known_pattern(std::string_view regex) {
  static const std::string head = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})";
  static const std::string tail = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  if (regex == head + tail) return WordPattern::qwen2;
  if (regex == head + "{1,3}" + tail) return WordPattern::llama3;
  if (regex == R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)") {
    return WordPattern::gpt2;
  }
  return {};
}

// A step that cuts at the matches of a pattern; one that is known is matched by hand if the step
// keeps matches only or all: the known patterns leave nothing between their matches.
inline PreTokenizerStep pattern_step(std::string_view regex,
                                     SplitBehavior behavior = SplitBehavior::isolated,
                                     bool invert = false) {
  using Kind = PreTokenizerStep::Kind;
  const auto known = known_pattern(regex);
  if (known &&
      (behavior == SplitBehavior::isolated || (behavior == SplitBehavior::removed && invert))) {
    return {.kind = Kind::words, .words = WordSplitter(*known)};
  }
  return {.kind = Kind::pattern,
          .behavior = behavior,
          .invert = invert,
          .pattern = std::make_shared<const SplitPattern>(regex)};
}

inline PreTokenizerStep read_split(const JsonValue& node) {
  allow_keys(node, {"type", "pattern", "behavior", "invert"});
  const SplitBehavior behavior = read_behavior(node.get("behavior"));
  const bool invert = flag(node, "invert", false);
  const JsonValue pattern = node.get("pattern");
  if (const auto text = pattern.find("String")) {
    allow_keys(pattern, {"String"});
    return {.kind = PreTokenizerStep::Kind::text,
            .behavior = behavior,
            .invert = invert,
            .text = non_empty(*text)};
  }
  return with_regex(pattern,
                    [&](std::string_view regex) { return pattern_step(regex, behavior, invert); });
}

// Words of letters, marks, digits and connectors, and runs of anything else but spaces.
inline PreTokenizerStep whitespace_step() {
  static const auto pattern =
      std::make_shared<const SplitPattern>(R"([\x{200C}\x{200D}\w]+|[^\x{200C}\x{200D}\w\s]+)");
  return {.kind = PreTokenizerStep::Kind::pattern,
          .behavior = SplitBehavior::removed,
          .invert = true,
          .pattern = pattern};
}

inline void read_pre_tokenizer(const JsonValue& node, PreTokenizer& result) {
  using Kind = PreTokenizerStep::Kind;
  const std::string_view type = node.get("type").as_string();
  if (type == "Sequence") {
    allow_keys(node, {"type", "pretokenizers"});
    node.get("pretokenizers").for_each_element([&](const JsonValue& child) {
      read_pre_tokenizer(child, result);
    });
    return;
  }
  if (result.byte_level) throw node.error("nothing is supported behind ByteLevel");
  if (result.steps.size() >= kMaxSteps) {
    throw node.error("more than " + std::to_string(kMaxSteps) + " steps are not supported");
  }
  if (type == "Split") {
    result.steps.push_back(read_split(node));
  } else if (type == "ByteLevel") {
    allow_keys(node, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
    if (flag(node, "add_prefix_space", false)) result.steps.push_back({.kind = Kind::prefix_space});
    if (flag(node, "use_regex", true)) {
      result.steps.push_back({.kind = Kind::words, .words = WordSplitter(WordPattern::gpt2)});
    }
    result.byte_level = true;
  } else if (type == "Metaspace") {
    result.steps.push_back({.kind = Kind::metaspace, .metaspace = read_metaspace(node)});
  } else if (type == "Digits") {
    allow_keys(node, {"type", "individual_digits"});
    result.steps.push_back({.kind = Kind::numeric,
                            .behavior = flag(node, "individual_digits", false)
                                            ? SplitBehavior::isolated
                                            : SplitBehavior::contiguous});
  } else if (type == "Punctuation") {
    allow_keys(node, {"type", "behavior"});
    const auto behavior = node.find("behavior");
    result.steps.push_back(
        {.kind = Kind::punctuation,
         .behavior = behavior ? read_behavior(*behavior) : SplitBehavior::isolated});
  } else if (type == "Whitespace") {
    allow_keys(node, {"type"});
    result.steps.push_back(whitespace_step());
  } else if (type == "WhitespaceSplit") {
    allow_keys(node, {"type"});
    result.steps.push_back({.kind = Kind::space, .behavior = SplitBehavior::removed});
  } else {
    unsupported_type(node, "pre-tokenizer",
                     {"Sequence", "Split", "ByteLevel", "Metaspace", "Digits", "Punctuation",
                      "Whitespace", "WhitespaceSplit"});
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
