// Reading the steps of a tokenizer.json that change or cut the text: normalizer, pre-tokenizer,
// decoder. Part of tokenizer_file.hpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/json.hpp"
#include "ptq/core/safe_text.hpp"
#include "ptq/model/pre_tokenizer.hpp"
#include "ptq/model/split_pattern.hpp"
#include "ptq/model/tokenizer_steps.hpp"
#include "ptq/model/unicode.hpp"

namespace ptq::tokenizer_detail {

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

}  // namespace ptq::tokenizer_detail
