// Before toml++ sees a text: a key of thousands of parts makes tables as deep as that, and toml++
// and every walk through its tree recurse into them. TOML_MAX_NESTED_VALUES bounds arrays and
// inline tables only.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace ptq {

constexpr size_t kLongestTomlKey = 64;  // parts

// The line (from 1) of the first dotted key of more parts than that; nothing if there is none.
inline std::optional<size_t> line_of_deep_toml_key(std::string_view text) {
  size_t line = 1, parts = 1;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\n') {
      ++line;
      parts = 1;
    } else if (c == '#') {
      while (i + 1 < text.size() && text[i + 1] != '\n') ++i;
    } else if (c == '"' || c == '\'') {
      // A string ends with what it began with; only those of double quotes have escapes.
      const std::string_view triple = c == '"' ? "\"\"\"" : "\'\'\'";
      const std::string_view quote =
          text.substr(i).starts_with(triple) ? triple : triple.substr(0, 1);
      for (i += quote.size(); i < text.size() && !text.substr(i).starts_with(quote); ++i) {
        if (text[i] == '\n') {
          ++line;
          if (quote.size() == 1) break;  // not closed: the parser says so
        }
        if (c == '"' && text[i] == '\\') ++i;
      }
      i += quote.size() - 1;
    } else if (c == '.') {
      if (++parts > kLongestTomlKey) return line;
    } else if (c == '=' || c == ',' || c == '[' || c == '{') {
      parts = 1;
    }
  }
  return {};
}

}  // namespace ptq
