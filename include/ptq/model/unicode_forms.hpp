// Normalization forms and lower case of a text, as the reference (tokenizers 0.23.3) has them.
#pragma once

#include <utf8proc.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/model/unicode.hpp"

namespace ptq {

// Code points that normalization leaves where and what they are, although Unicode 15 does not: the
// reference normalizes by Unicode 9, to which marks assigned later are plain characters. U+11A7, in
// front of the trailing consonants of Hangul, is here because utf8proc 2.8 takes it for one of them
// and drops it.
inline constexpr CodePointRange kNotNormalized[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},
    {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x11A7, 0x11A7},
    {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},
    {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50},
    {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E},
    {0x11839, 0x1183A}, {0x11935, 0x11935}, {0x11938, 0x11938}, {0x1193D, 0x1193E},
    {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47},
    {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97},
    {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136},
    {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}};

// Characters whose compatibility decompositions came after Unicode 9.
inline constexpr CodePointRange kNotCompatible[] = {
    {0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},   {0xAB69, 0xAB69},  {0x10781, 0x107BA},
    {0x1E030, 0x1E06D}, {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9}};

// Forms C and KC compose; KC and KD also replace characters by compatible ones.
enum class NormalForm { c, d, kc, kd };

inline bool is_normalized(uint32_t c, bool compatible) {
  if (c < kNotNormalized[0].first) return true;
  return !is_in(kNotNormalized, c) && !(compatible && is_in(kNotCompatible, c));
}

inline std::string normalized(std::string_view text, NormalForm form) {
  const bool compatible = form == NormalForm::kc || form == NormalForm::kd;
  // Form C: all code points below U+0300, whose first byte is below 0xCC, are as they should be.
  const uint8_t first_change = form == NormalForm::c ? 0xCC : 0x80;
  const bool changes = std::any_of(text.begin(), text.end(),
                                   [&](char c) { return static_cast<uint8_t>(c) >= first_change; });
  if (!changes) return std::string(text);
  // utf8proc_map() would order marks in quadratic time: minutes for a megabyte of marks.
  const auto option = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  const auto decompose = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
                                                        (compatible ? UTF8PROC_COMPAT : 0));
  const auto check = [](utf8proc_ssize_t length) {
    if (length < 0) {
      throw usage_error(std::string("Unicode normalization failed: ") + utf8proc_errmsg(length));
    }
    return static_cast<size_t>(length);
  };
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  size_t marks = 0;  // begin of the run of marks at the end of `points`
  const auto mark_class = [](utf8proc_int32_t c) {
    return utf8proc_get_property(c)->combining_class;
  };
  const auto sort_marks = [&] {
    if (points.size() - marks < 2) return;
    std::stable_sort(
        points.begin() + static_cast<std::ptrdiff_t>(marks), points.end(),
        [&](utf8proc_int32_t a, utf8proc_int32_t b) { return mark_class(a) < mark_class(b); });
  };
  for (size_t i = 0; i < text.size();) {
    const uint32_t c = next_code_point(text, i);
    const bool normalized = is_normalized(c, compatible);
    utf8proc_int32_t parts[32] = {static_cast<utf8proc_int32_t>(c)};  // at most 18 are needed
    const size_t n =
        normalized ? check(utf8proc_decompose_char(parts[0], parts, 32, decompose, nullptr)) : 1;
    for (size_t k = 0; k < n; ++k) {
      if (!normalized || mark_class(parts[k]) == 0) {
        sort_marks();
        marks = points.size() + 1;
      }
      points.push_back(parts[k]);
    }
  }
  sort_marks();
  std::string result;
  result.reserve(text.size());
  if (form == NormalForm::d || form == NormalForm::kd) {
    for (const utf8proc_int32_t c : points) append_utf8(result, static_cast<uint32_t>(c));
    return result;
  }
  // What is not normalized composes with nothing: the text is composed in front of it and behind
  // it.
  for (auto begin = points.begin(); begin != points.end();) {
    const auto end = std::find_if(begin, points.end(), [&](utf8proc_int32_t c) {
      return !is_normalized(static_cast<uint32_t>(c), compatible);
    });
    const size_t length = check(
        utf8proc_normalize_utf32(&*begin, static_cast<utf8proc_ssize_t>(end - begin), option));
    for (size_t k = 0; k < length; ++k) {
      append_utf8(result, static_cast<uint32_t>(begin[static_cast<std::ptrdiff_t>(k)]));
    }
    if (end == points.end()) break;
    append_utf8(result, static_cast<uint32_t>(*end));
    begin = end + 1;
  }
  return result;
}

inline std::string to_nfc(std::string_view text) { return normalized(text, NormalForm::c); }

// The lower case of Unicode 17, character by character: a final sigma stays an ordinary one.
inline uint32_t lower_case(uint32_t c) {
  switch (c) {  // not in the tables of utf8proc 2.8
    case 0xA7CB: return 0x264;
    case 0xA7DC: return 0x19B;
    case 0x1C89:
    case 0xA7CC:
    case 0xA7CE:
    case 0xA7D2:
    case 0xA7D4:
    case 0xA7DA: return c + 1;
    default: break;
  }
  if (c >= 0x10D50 && c <= 0x10D65) return c + 0x20;
  if (c >= 0x16EA0 && c <= 0x16EB8) return c + 0x1B;
  return static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}

inline std::string to_lower(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const uint32_t c = next_code_point(text, i);
    append_utf8(result, lower_case(c));
    if (c == 0x130) append_utf8(result, 0x307);  // the only one that becomes two characters
  }
  return result;
}

// The text without spaces at its ends.
inline std::string_view stripped(std::string_view text, bool left, bool right) {
  while (left && !text.empty()) {
    size_t i = 0;
    if (!is_space(next_code_point(text, i))) break;
    text.remove_prefix(i);
  }
  while (right && !text.empty()) {
    size_t last = text.size() - 1;
    while ((static_cast<uint8_t>(text[last]) & 0xC0) == 0x80) --last;
    size_t i = last;
    if (!is_space(next_code_point(text, i))) break;
    text.remove_suffix(text.size() - last);
  }
  return text;
}

}  // namespace ptq
