// Unicode for tokenizers: code points and their classes as the reference (tokenizers 0.23.3) has
// them, which follows another version of Unicode in every part of its own. utf8proc 2.8 has the
// tables of Unicode 15.0; the lists below are the differences.
#pragma once

#include <utf8proc.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ptq {

// Reads the code point at text[i] and moves i behind it. The text must be valid UTF-8.
inline uint32_t next_code_point(std::string_view text, size_t& i) {
  const auto byte = [&](size_t k) { return static_cast<uint32_t>(static_cast<uint8_t>(text[k])); };
  const uint32_t first = byte(i);
  if (first < 0x80) {
    i += 1;
    return first;
  }
  if (first < 0xE0) {
    i += 2;
    return (first & 0x1F) << 6 | (byte(i - 1) & 0x3F);
  }
  if (first < 0xF0) {
    i += 3;
    return (first & 0x0F) << 12 | (byte(i - 2) & 0x3F) << 6 | (byte(i - 1) & 0x3F);
  }
  i += 4;
  return (first & 0x07) << 18 | (byte(i - 3) & 0x3F) << 12 | (byte(i - 2) & 0x3F) << 6 |
         (byte(i - 1) & 0x3F);
}

inline void append_utf8(std::string& text, uint32_t c) {
  if (c < 0x80) {
    text += static_cast<char>(c);
  } else if (c < 0x800) {
    text += {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
  } else if (c < 0x10000) {
    text += {static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 0x3F)),
             static_cast<char>(0x80 | (c & 0x3F))};
  } else {
    text += {static_cast<char>(0xF0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 0x3F)),
             static_cast<char>(0x80 | (c >> 6 & 0x3F)), static_cast<char>(0x80 | (c & 0x3F))};
  }
}

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

struct CodePointRange {
  uint32_t first, last;
};

// The classes the patterns tell apart. Marks, punctuation, symbols and unassigned code points are
// `other`.
enum class CharClass : uint8_t { other, letter, number, space };

// Letters and numbers that Unicode 15.1 and 16 added: the reference (tokenizers 0.23) knows them,
// utf8proc 2.8 has the tables of Unicode 15.0.
inline constexpr CodePointRange kNewLetters[] = {
    {0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3},
    {0x10D4A, 0x10D65}, {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4}, {0x11380, 0x11389},
    {0x1138B, 0x1138B}, {0x1138E, 0x1138E}, {0x11390, 0x113B5}, {0x113B7, 0x113B7},
    {0x113D1, 0x113D1}, {0x113D3, 0x113D3}, {0x11BC0, 0x11BE0}, {0x13460, 0x143FA},
    {0x16100, 0x1611D}, {0x16D40, 0x16D6C}, {0x18CFF, 0x18CFF}, {0x1E5D0, 0x1E5ED},
    {0x1E5F0, 0x1E5F0}, {0x2EBF0, 0x2EE5D}};
inline constexpr CodePointRange kNewNumbers[] = {
    {0x10D40, 0x10D49}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9}, {0x16130, 0x16139},
    {0x16D70, 0x16D79}, {0x1CCF0, 0x1CCF9}, {0x1E5F1, 0x1E5FA}};

// One class per code point. Letters and numbers are the general categories L* and N*, spaces the 25
// code points with the property White_Space (\s of the reference engine; U+180E is not one).
inline const std::vector<CharClass>& char_classes() {
  static const std::vector<CharClass> classes = [] {
    std::vector<CharClass> table(0x110000, CharClass::other);
    for (size_t c = 0; c < table.size(); ++c) {
      switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
        case UTF8PROC_CATEGORY_LU:
        case UTF8PROC_CATEGORY_LL:
        case UTF8PROC_CATEGORY_LT:
        case UTF8PROC_CATEGORY_LM:
        case UTF8PROC_CATEGORY_LO: table[c] = CharClass::letter; break;
        case UTF8PROC_CATEGORY_ND:
        case UTF8PROC_CATEGORY_NL:
        case UTF8PROC_CATEGORY_NO: table[c] = CharClass::number; break;
        default: break;
      }
    }
    const auto set = [&](const CodePointRange& range, CharClass value) {
      for (uint32_t c = range.first; c <= range.last; ++c) table[c] = value;
    };
    for (const CodePointRange& range : kNewLetters) set(range, CharClass::letter);
    for (const CodePointRange& range : kNewNumbers) set(range, CharClass::number);
    for (const uint32_t c : {0x20, 0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}) {
      table[c] = CharClass::space;
    }
    for (uint32_t c = 0x09; c <= 0x0D; ++c) table[c] = CharClass::space;
    for (uint32_t c = 0x2000; c <= 0x200A; ++c) table[c] = CharClass::space;
    return table;
  }();
  return classes;
}

inline bool is_space(uint32_t c) { return char_classes()[c] == CharClass::space; }

inline bool is_in(std::span<const CodePointRange> ranges, uint32_t c) {
  const auto range =
      std::upper_bound(ranges.begin(), ranges.end(), c,
                       [](uint32_t point, const CodePointRange& r) { return point < r.first; });
  return range != ranges.begin() && c <= std::prev(range)->last;
}

// The pre-tokenizer Digits of the reference knows numbers of Unicode 17.
inline bool is_numeric(uint32_t c) {
  return char_classes()[c] == CharClass::number || (c >= 0x11DE0 && c <= 0x11DE9) ||
         (c >= 0x16FF4 && c <= 0x16FF6);
}

// Punctuation that the pre-tokenizer Punctuation of the reference (Unicode 7) does not know.
inline constexpr CodePointRange kNotPunctuation[] = {
    {0x61D, 0x61D},     {0x9FD, 0x9FD},     {0xA76, 0xA76},     {0xC77, 0xC77},
    {0xC84, 0xC84},     {0x1B7D, 0x1B7E},   {0x2E43, 0x2E4F},   {0x2E52, 0x2E5D},
    {0x10EAD, 0x10EAD}, {0x10F55, 0x10F59}, {0x10F86, 0x10F89}, {0x1144B, 0x1144F},
    {0x1145A, 0x1145B}, {0x1145D, 0x1145D}, {0x11660, 0x1166C}, {0x116B9, 0x116B9},
    {0x1183B, 0x1183B}, {0x11944, 0x11946}, {0x119E2, 0x119E2}, {0x11A3F, 0x11A46},
    {0x11A9A, 0x11A9C}, {0x11A9E, 0x11AA2}, {0x11B00, 0x11B09}, {0x11C41, 0x11C45},
    {0x11C70, 0x11C71}, {0x11EF7, 0x11EF8}, {0x11F43, 0x11F4F}, {0x11FFF, 0x11FFF},
    {0x12FF1, 0x12FF2}, {0x16E97, 0x16E9A}, {0x16FE2, 0x16FE2}, {0x1E95E, 0x1E95F}};

// All categories P*, and the symbols of ASCII.
inline bool is_punctuation(uint32_t c) {
  if (c < 0x80) {
    return c > 0x20 && c < 0x7F && !(c >= '0' && c <= '9') &&
           !((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
  }
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO: return !is_in(kNotPunctuation, c);
    default: return c == 0x166D || c == 0x111C9;  // were punctuation in Unicode 7
  }
}

}  // namespace ptq
