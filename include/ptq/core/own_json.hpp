// JSON that this program writes itself, and reads back: an ordered object, numbers that say why
// they are missing, text for people. Files of unknown origin are read with json.hpp.
#pragma once

#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "ptq/core/error.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/core/safe_text.hpp"

namespace ptq {

using Json = nlohmann::ordered_json;

// object[key] = value. A number that could not be computed (NaN, infinity) becomes null, and
// object[key + "_why"] says why: no null without a reason.
inline void put_number(Json& object, const std::string& key, double value,
                       const std::string& why = "not a finite number") {
  if (std::isfinite(value)) {
    object[key] = value;
  } else {
    object[key] = nullptr;
    object[key + "_why"] = why;
  }
}

// The text of a JSON value; strings that are not valid UTF-8 (a tokenizer can cut a character) get
// U+FFFD in place of the bad bytes. indent -1 = one line.
inline std::string json_text(const Json& value, int indent = -1) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

// Reads JSON of a file that anyone may have written. Nesting is bounded because copies, comparisons
// and text of a value recurse into it.
inline Json parse_json(std::string_view text, const std::string& where) {
  constexpr int kDeepest = 128;
  text = without_byte_order_mark(text);
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted && c == '\\') {
      ++i;
    } else if (c == '"') {
      quoted = !quoted;
    } else if (!quoted && (c == '[' || c == '{') && ++depth > kDeepest) {
      throw environment_error(
          "the JSON text is nested deeper than " + std::to_string(kDeepest) + " levels", where);
    } else if (!quoted && (c == ']' || c == '}')) {
      --depth;
    }
  }
  try {
    return Json::parse(text);
  } catch (const Json::exception& error) {
    // It quotes the text as it is, which may be no UTF-8.
    throw environment_error("not valid JSON: " + one_line(error.what()), where);
  }
}

// "integer", "number", ... as a TOML user calls the type of a value.
inline std::string value_type_name(const Json& value) {
  if (value.is_number_integer()) return "integer";
  if (value.is_number()) return "number";
  if (value.is_boolean()) return "boolean";
  if (value.is_string()) return "string";
  if (value.is_array()) return "array";
  if (value.is_object()) return "table";
  return "nothing";
}

// A number without trailing zeros: 17, 0.01.
inline std::string number_text(double x) {
  if (x == std::floor(x) && std::abs(x) < 1e15) return std::to_string(int64_t(x));
  return Json(x).dump();
}

}  // namespace ptq
