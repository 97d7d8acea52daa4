// Text of others (labels, plugins, records) made harmless on a terminal or a page.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

namespace ptq {

// One line: control characters (C0, DEL, C1, line and paragraph separators) become a space, marks
// that turn the direction of writing are left out, and a byte that is not UTF-8 becomes U+FFFD.
inline std::string one_line(std::string_view text) {
  std::string out;
  const auto space = [&] {
    if (!out.empty() && out.back() != ' ') out += ' ';
  };
  for (size_t i = 0; i < text.size();) {
    const auto byte = [&](size_t k) -> uint32_t {
      return i + k < text.size() ? static_cast<unsigned char>(text[i + k]) : 0u;
    };
    const uint32_t lead = byte(0);
    const size_t length = lead < 0x80                    ? 1
                          : lead >= 0xC2 && lead <= 0xDF ? 2
                          : (lead & 0xF0) == 0xE0        ? 3
                          : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                         : 0;
    uint32_t point = length < 2 ? lead : lead & (0x7Fu >> length);
    bool valid = length > 0;
    for (size_t k = 1; k < length; ++k) {
      valid = valid && (byte(k) & 0xC0) == 0x80;
      point = point << 6 | (byte(k) & 0x3F);
    }
    constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
    valid = valid && point >= kSmallest[length] && point <= 0x10FFFF &&
            !(point >= 0xD800 && point <= 0xDFFF);
    if (!valid) {
      out += "\xEF\xBF\xBD";
      ++i;
      continue;
    }
    const bool control =
        point < 0x20 || (point >= 0x7F && point < 0xA0) || point == 0x2028 || point == 0x2029;
    const bool direction = point == 0x061C || point == 0x200E || point == 0x200F ||
                           (point >= 0x202A && point <= 0x202E) ||
                           (point >= 0x2066 && point <= 0x2069);
    if (control) {
      space();
    } else if (!direction) {
      out += text.substr(i, length);
    }
    i += length;
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
