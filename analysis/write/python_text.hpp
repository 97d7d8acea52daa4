// Text as Python writes it. The original study's pages were printed by Python programs, so equal
// bytes need its rules for numbers, JSON and padding.
#pragma once

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstddef>
#include <string>
#include <string_view>

#include "ptq/core/own_json.hpp"

namespace ptq::report::python {

// repr(float): the shortest digits that read back the same; an exponent below 1e-4 and from 1e16.
inline std::string repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  std::string_view text(buffer, size_t(end - buffer));
  std::string sign, digits;
  if (text[0] == '-') {
    sign = "-";
    text.remove_prefix(1);
  }
  const size_t e = text.find('e');
  int exponent = 0;
  const std::string_view power = text.substr(e + (text[e + 1] == '+' ? 2 : 1));
  std::from_chars(power.data(), power.data() + power.size(), exponent);
  for (const char c : text.substr(0, e)) {
    if (c != '.') digits += c;
  }
  if (exponent < -4 || exponent >= 16) {
    if (digits.size() > 1) digits.insert(1, ".");
    return fmt::format("{}{}e{}{:02}", sign, digits, exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) return sign + "0." + std::string(size_t(-exponent - 1), '0') + digits;
  const size_t whole = size_t(exponent) + 1;
  if (digits.size() <= whole) return sign + digits + std::string(whole - digits.size(), '0') + ".0";
  return sign + digits.substr(0, whole) + "." + digits.substr(whole);
}

// f"{value:.4f}", also for the values that C++ and Python spell differently.
inline std::string fixed(double value, int decimals) {
  return std::isfinite(value) ? fmt::format("{:.{}f}", value, decimals) : repr(value);
}

namespace detail {

inline std::string json_string(const std::string& text) {
  return json_text(Json(text));  // the same escapes as json.dumps(..., ensure_ascii=False)
}

inline std::string single_quoted(const std::string& text) {
  const char quote = text.find('\'') != text.npos && text.find('"') == text.npos ? '"' : '\'';
  std::string out(1, quote);
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
    } else {
      if (c == quote || c == '\\') out += '\\';
      out += c;
    }
  }
  return out + quote;
}

}  // namespace detail

// json.dumps(value, ensure_ascii=False): one line, ", " and ": " between.
inline std::string dumps(const Json& value) {
  if (value.is_null()) return "null";
  if (value.is_boolean()) return value.get<bool>() ? "true" : "false";
  if (value.is_number_float()) return repr(value.get<double>());
  if (value.is_string()) return detail::json_string(value.get<std::string>());
  if (!value.is_structured()) return value.dump();
  std::string out;
  for (const auto& [key, child] : value.items()) {
    if (!out.empty()) out += ", ";
    if (value.is_object()) out += detail::json_string(key) + ": ";
    out += dumps(child);
  }
  return value.is_object() ? "{" + out + "}" : "[" + out + "]";
}

// repr(value) of what json.loads made of it.
inline std::string repr(const Json& value) {
  if (value.is_null()) return "None";
  if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
  if (value.is_number_float()) return repr(value.get<double>());
  if (value.is_string()) return detail::single_quoted(value.get<std::string>());
  if (!value.is_structured()) return value.dump();
  std::string out;
  for (const auto& [key, child] : value.items()) {
    if (!out.empty()) out += ", ";
    if (value.is_object()) out += detail::single_quoted(key) + ": ";
    out += repr(child);
  }
  return value.is_object() ? "{" + out + "}" : "[" + out + "]";
}

// str(value): as repr, but a text is itself.
inline std::string str(const Json& value) {
  return value.is_string() ? value.get<std::string>() : repr(value);
}

// Code points of UTF-8 text; Python pads by them, not by columns on the screen.
inline size_t length(std::string_view text) {
  size_t points = 0;
  for (const char c : text) points += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return points;
}

inline std::string ljust(const std::string& text, size_t width) {
  const size_t used = length(text);
  return text + std::string(width > used ? width - used : 0, ' ');
}

inline std::string rjust(const std::string& text, size_t width) {
  const size_t used = length(text);
  return std::string(width > used ? width - used : 0, ' ') + text;
}

// A group of three digits: f"{value:,.0f}".
inline std::string thousands(double value) {
  std::string digits = fmt::format("{:.0f}", value);
  const size_t first = digits[0] == '-' ? 1 : 0;
  for (size_t at = digits.size(); at > first + 3;) digits.insert(at -= 3, ",");
  return digits;
}

}  // namespace ptq::report::python
