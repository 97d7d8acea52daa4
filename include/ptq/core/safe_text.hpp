// Text of others (a plugin, a label, a file name) in a form that a terminal, a page and a record
// can take.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace ptq {

constexpr size_t kLongestText = 4096;  // bytes of a sentence that are kept

namespace safe_text_detail {

// The bytes of the UTF-8 sequence at the front of `text` with its code point; 0: there is none.
inline size_t sequence(std::string_view text, uint32_t& code) {
  const auto byte = [&](size_t i) { return uint8_t(text[i]); };
  const size_t n = byte(0) < 0x80   ? 1
                   : byte(0) < 0xC2 ? 0
                   : byte(0) < 0xE0 ? 2
                   : byte(0) < 0xF0 ? 3
                   : byte(0) < 0xF5 ? 4
                                    : 0;
  if (n == 0 || n > text.size()) return 0;
  code = n == 1 ? byte(0) : byte(0) & (0x7Fu >> n);
  for (size_t i = 1; i < n; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
    code = code << 6 | (byte(i) & 0x3F);
  }
  constexpr uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xD800 && code < 0xE000;
  return code < least[n] || code > 0x10FFFF || surrogate ? 0 : n;
}

// C0, DEL, C1, line and paragraph separators.
inline bool is_control(uint32_t code) {
  return code < 0x20 || (code >= 0x7F && code < 0xA0) || code == 0x2028 || code == 0x2029;
}
// Marks that turn the direction of writing, and so reorder what is shown.
inline bool turns_direction(uint32_t code) {
  return code == 0x061C || code == 0x200E || code == 0x200F || (code >= 0x202A && code <= 0x202E) ||
         (code >= 0x2066 && code <= 0x2069);
}

}  // namespace safe_text_detail

// One line of valid UTF-8 without control characters: white space becomes a space, everything else
// that a terminal would act on, or that is no UTF-8, is spelled out (\x1b, \u202e). At most about
// `limit` bytes are kept, with a note of how many there were.
inline std::string safe_text(std::string_view text, size_t limit = kLongestText) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    if (out.size() >= limit) return out + "... (" + std::to_string(text.size()) + " bytes in all)";
    uint32_t code = 0;
    const size_t n = safe_text_detail::sequence(text.substr(i, 4), code);
    char spelled[16];
    if (n == 0 || (n == 1 && safe_text_detail::is_control(code) && (code < 9 || code > 13))) {
      std::snprintf(spelled, sizeof spelled, "\\x%02x", unsigned(uint8_t(text[i])));
      out += spelled;
    } else if (n == 1 && code < 0x20) {
      out += ' ';
    } else if (safe_text_detail::is_control(code) || safe_text_detail::turns_direction(code)) {
      std::snprintf(spelled, sizeof spelled, "\\u%04x", unsigned(code));
      out += spelled;
    } else {
      out += text.substr(i, n);
    }
    i += n == 0 ? 1 : n;
  }
  return out;
}

// One line to be shown: control characters become a space, marks that turn the direction of writing
// are left out, and a byte that is not UTF-8 becomes U+FFFD.
inline std::string one_line(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    uint32_t code = 0;
    const size_t n = safe_text_detail::sequence(text.substr(i, 4), code);
    if (n == 0) {
      out += "\xEF\xBF\xBD";
    } else if (safe_text_detail::is_control(code)) {
      if (!out.empty() && out.back() != ' ') out += ' ';
    } else if (!safe_text_detail::turns_direction(code)) {
      out += text.substr(i, n);
    }
    i += n == 0 ? 1 : n;
  }
  return out;
}

// The same for each line of a text; line ends and indentation stay.
inline std::string one_line_each(std::string_view text) {
  std::string out;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = text.substr(at, end - at);
    const size_t indent = std::min(line.find_first_not_of(' '), line.size());
    out += (at > 0 ? "\n" : "") + std::string(indent, ' ') + one_line(line.substr(indent));
    at = end + 1;
  }
  return out;
}

}  // namespace ptq
