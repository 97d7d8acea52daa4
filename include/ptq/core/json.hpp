// Reading JSON files of unknown origin. Wraps simdjson's DOM so that every access that can fail
// raises ptq::Error with the file and the JSON path.
//
// simdjson checks the grammar, UTF-8 and the nesting depth but keeps repeated keys; a file with
// repeated keys means different things to different readers, so they are refused here.
#pragma once

#include <simdjson.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "ptq/core/error.hpp"
#include "ptq/core/mapped_file.hpp"

namespace ptq {

// Offset of the first byte that is not part of valid UTF-8 (RFC 3629: no surrogates, no overlong
// forms, at most U+10FFFF), or npos.
inline size_t utf8_error_offset(std::string_view text) {
  if (simdjson::validate_utf8(text.data(), text.size())) return std::string_view::npos;
  size_t i = 0;
  while (i < text.size()) {
    // The shortest prefix that is invalid ends in the bad sequence; a sequence has 1 to 4 bytes.
    size_t length = 1;
    while (length <= 4 && i + length <= text.size() &&
           !simdjson::validate_utf8(text.data() + i, length)) {
      ++length;
    }
    if (length > 4 || i + length > text.size()) return i;
    i += length;
  }
  return i;
}

// Foreign text for messages: shortened between two characters, and without control characters.
inline std::string printable(std::string_view text) {
  constexpr size_t kLongest = 80;
  size_t end = std::min(text.size(), kLongest);
  while (end > 0 && end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) {
    --end;
  }
  std::string out;
  for (const char c : text.substr(0, end)) out += static_cast<unsigned char>(c) < 32 ? '?' : c;
  return text.size() > kLongest ? out + "..." : out;
}
inline std::string shown(std::string_view text) { return "`" + printable(text) + "`"; }

// One value inside a JsonDocument; cheap to copy, valid as long as the document.
class JsonValue {
 public:
  JsonValue(simdjson::dom::element element, const std::string* file, std::string path)
      : element_(element), file_(file), path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  std::string where() const { return path_.empty() ? *file_ : *file_ + ": " + path_; }

  bool is_null() const { return element_.is_null(); }
  bool is_object() const { return element_.is_object(); }
  bool is_array() const { return element_.is_array(); }
  bool is_string() const { return element_.is_string(); }

  // An error about this value, for checks that only the caller can do.
  Error error(const std::string& message, const std::string& hint = {}) const {
    return environment_error(message, where(), hint);
  }

  std::string_view as_string() const { return get_as<std::string_view>("a string"); }
  bool as_bool() const { return get_as<bool>("true or false"); }
  // A JSON number without fraction and exponent; 1.0 and 1e3 are not integers.
  int64_t as_integer() const {
    using simdjson::dom::element_type;
    if (element_.type() == element_type::UINT64) {
      throw error("the integer is larger than 9223372036854775807");
    }
    return get_as<int64_t>("an integer");
  }
  int64_t as_integer(int64_t low, int64_t high) const {
    const int64_t value = as_integer();
    if (value < low || value > high) {
      throw error("the value " + std::to_string(value) + " is outside " + std::to_string(low) +
                  ".." + std::to_string(high));
    }
    return value;
  }
  double as_number() const { return get_as<double>("a number"); }

  // The member `key` of this object; find() gives nothing when it is absent or null.
  JsonValue get(std::string_view key) const {
    simdjson::dom::element child;
    if (object().at_key(key).get(child) != simdjson::SUCCESS) {
      throw error("the key `" + std::string(key) + "` is missing");
    }
    return JsonValue(child, file_, child_path(key));
  }
  std::optional<JsonValue> find(std::string_view key) const {
    simdjson::dom::element child;
    if (object().at_key(key).get(child) != simdjson::SUCCESS || child.is_null()) return {};
    return JsonValue(child, file_, child_path(key));
  }
  bool contains(std::string_view key) const {
    return object().at_key(key).error() == simdjson::SUCCESS;
  }

  // Members of an object or elements of an array; counts above 16,777,215 are reported as that.
  size_t size() const { return is_object() ? object().size() : array().size(); }

  // visit(key, value) for every member in file order.
  template <class Visit>
  void for_each_member(Visit visit) const {
    for (const auto& [key, child] : object()) visit(key, JsonValue(child, file_, child_path(key)));
  }
  // visit(value) for every array element.
  template <class Visit>
  void for_each_element(Visit visit) const {
    size_t i = 0;
    for (const simdjson::dom::element child : array()) {
      visit(JsonValue(child, file_, path_ + "[" + std::to_string(i++) + "]"));
    }
  }

  // Refuses repeated keys in this value and everything below it.
  void check_no_duplicate_keys() const {
    if (is_object()) {
      std::unordered_set<std::string_view> keys;
      for (const auto& [key, child] : object()) {
        if (!keys.insert(key).second) throw error("the key " + shown(key) + " appears twice");
        if (child.is_object() || child.is_array()) {
          JsonValue(child, file_, child_path(key)).check_no_duplicate_keys();
        }
      }
    } else if (is_array()) {
      size_t i = 0;
      for (const simdjson::dom::element child : array()) {
        if (child.is_object() || child.is_array()) {
          JsonValue(child, file_, path_ + "[" + std::to_string(i) + "]").check_no_duplicate_keys();
        }
        ++i;
      }
    }
  }

 private:
  simdjson::dom::object object() const { return get_as<simdjson::dom::object>("an object"); }
  simdjson::dom::array array() const { return get_as<simdjson::dom::array>("an array"); }

  template <class T>
  T get_as(const char* expected) const {
    T value;
    if (element_.get(value) != simdjson::SUCCESS) {
      throw error(std::string(expected) + " is expected here, found " + type_name());
    }
    return value;
  }
  std::string type_name() const {
    using simdjson::dom::element_type;
    switch (element_.type()) {
      case element_type::ARRAY: return "an array";
      case element_type::OBJECT: return "an object";
      case element_type::INT64:
      case element_type::UINT64: return "an integer";
      case element_type::DOUBLE: return "a number with a fraction or an exponent";
      case element_type::STRING: return "a string";
      case element_type::BOOL: return "a boolean";
      case element_type::NULL_VALUE: return "null";
    }
    return "an unknown type";
  }
  std::string child_path(std::string_view key) const {
    return path_.empty() ? printable(key) : path_ + "." + printable(key);
  }

  simdjson::dom::element element_;
  const std::string* file_;  // owned by the document
  std::string path_;         // such as model.merges[3], empty for the root
};

struct JsonLimits {
  uint64_t max_bytes = uint64_t{1} << 20;
  size_t max_depth = 16;  // nesting levels of objects and arrays
  bool allow_duplicate_keys = false;
};

// A parsed file; owns all memory its values point to.
class JsonDocument {
 public:
  // `name` is what error messages call the text.
  static JsonDocument parse(std::string_view text, const std::string& name,
                            const JsonLimits& limits = {}) {
    if (text.size() > limits.max_bytes) {
      throw environment_error("the JSON text has " + std::to_string(text.size()) +
                                  " bytes, more than the limit of " +
                                  std::to_string(limits.max_bytes),
                              name);
    }
    text = without_byte_order_mark(text);
    JsonDocument document;
    document.state_->name = name;
    // simdjson counts a scalar at the root as one level of its own.
    simdjson::error_code code =
        document.state_->parser.allocate(std::max<size_t>(text.size(), 64), limits.max_depth + 1);
    if (code == simdjson::SUCCESS) {
      code =
          document.state_->parser.parse(simdjson::padded_string(text)).get(document.state_->root);
    }
    if (code == simdjson::UTF8_ERROR) {
      throw environment_error(
          "the JSON text is not valid UTF-8 at byte " + std::to_string(utf8_error_offset(text)),
          name);
    }
    if (code == simdjson::DEPTH_ERROR) {
      throw environment_error(
          "the JSON text is nested deeper than " + std::to_string(limits.max_depth) + " levels",
          name);
    }
    if (code != simdjson::SUCCESS) {
      throw environment_error(std::string("not valid JSON: ") + simdjson::error_message(code),
                              name);
    }
    if (!limits.allow_duplicate_keys) document.root().check_no_duplicate_keys();
    return document;
  }

  static JsonDocument load(const std::filesystem::path& path, const JsonLimits& limits = {}) {
    return parse(read_text_file(path, limits.max_bytes), path.string(), limits);
  }

  JsonValue root() const { return JsonValue(state_->root, &state_->name, {}); }

 private:
  struct State {
    std::string name;
    simdjson::dom::parser parser;
    simdjson::dom::element root;
  };
  JsonDocument() : state_(std::make_unique<State>()) {}
  std::unique_ptr<State> state_;  // a stable address for the values
};

}  // namespace ptq
