// Unicode for tokenizers: code points, character classes, NFC, and the word splitting patterns of
// Qwen2 and Llama 3.
//
// The patterns are matched by hand: no regex library is needed, there is no backtracking, and the
// result was compared with the reference tokenizers on random strings.
#pragma once

#include <utf8proc.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "ptq/core/error.hpp"

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

inline bool is_normalized(uint32_t c) {
  if (c < kNotNormalized[0].first) return true;
  const auto range =
      std::upper_bound(std::begin(kNotNormalized), std::end(kNotNormalized), c,
                       [](uint32_t point, const CodePointRange& r) { return point < r.first; });
  return c > std::prev(range)->last;
}

// Normalization form C (canonical composition) as the reference does it, see above.
inline std::string to_nfc(std::string_view text) {
  // All code points below U+0300, whose first byte is below 0xCC, are in form C already.
  bool changes = false;
  for (const char c : text) changes |= static_cast<uint8_t>(c) >= 0xCC;
  if (!changes) return std::string(text);
  // utf8proc_map() would order marks in quadratic time: minutes for a megabyte of marks.
  const auto option = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  const auto decompose = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
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
    const bool normalized = is_normalized(c);
    utf8proc_int32_t parts[8] = {static_cast<utf8proc_int32_t>(c)};
    const size_t n =
        normalized ? check(utf8proc_decompose_char(parts[0], parts, 8, decompose, nullptr)) : 1;
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
  // What is not normalized composes with nothing: the text is composed in front of it and behind
  // it.
  for (auto begin = points.begin(); begin != points.end();) {
    const auto end = std::find_if(begin, points.end(), [](utf8proc_int32_t c) {
      return !is_normalized(static_cast<uint32_t>(c));
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

// Splits text the way of the pattern below; Qwen2 has \p{N}, Llama 3 \p{N}{1,3}:
//   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|
//   \s*[\r\n]+|\s+(?!\S)|\s+
class WordSplitter {
 public:
  explicit WordSplitter(int max_digits) : max_digits_(max_digits), classes_(char_classes()) {}

  // End of the word that begins at text[begin]; text is valid UTF-8 and not empty from there. Every
  // character is matched by one of the alternatives, so words follow each other without gaps.
  size_t word_end(std::string_view text, size_t begin) const {
    size_t i = begin;
    const uint32_t c = next_code_point(text, i);
    const CharClass first = classes_[c];

    if (c == '\'') {
      if (const size_t end = contraction_end(text, i); end > 0) return end;
    }
    // [^\r\n\p{L}\p{N}]?\p{L}+
    if (first == CharClass::letter) return run_end(text, i, CharClass::letter);
    if (first == CharClass::number) return number_end(text, i);
    if (c != '\r' && c != '\n' && class_at(text, i) == CharClass::letter) {
      return run_end(text, i, CharClass::letter);
    }
    //  ?[^\s\p{L}\p{N}]+[\r\n]*
    if (first == CharClass::other || (c == ' ' && class_at(text, i) == CharClass::other)) {
      i = run_end(text, i, CharClass::other);
      while (i < text.size() && (text[i] == '\r' || text[i] == '\n')) ++i;
      return i;
    }
    return space_end(text, begin);
  }

 private:
  // At the end of the text there is no character, which belongs to no class that is asked for.
  CharClass class_at(std::string_view text, size_t i) const {
    return i < text.size() ? classes_[next_code_point(text, i)] : CharClass::space;
  }

  size_t run_end(std::string_view text, size_t i, CharClass wanted) const {
    while (i < text.size()) {
      size_t next = i;
      if (classes_[next_code_point(text, next)] != wanted) break;
      i = next;
    }
    return i;
  }

  size_t number_end(std::string_view text, size_t i) const {
    for (int digits = 1; digits < max_digits_ && i < text.size(); ++digits) {
      size_t next = i;
      if (classes_[next_code_point(text, next)] != CharClass::number) break;
      i = next;
    }
    return i;
  }

  // End of s, t, re, ve, m, ll or d in any case at text[i], or 0. U+017F folds to s.
  static size_t contraction_end(std::string_view text, size_t i) {
    const auto lower = [&](size_t k) {
      if (k >= text.size()) return '\0';
      return text[k] >= 'A' && text[k] <= 'Z' ? static_cast<char>(text[k] + 32) : text[k];
    };
    if (text.substr(i, 2) == "\u017F") return i + 2;
    const char a = lower(i), b = lower(i + 1);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return i + 1;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return i + 2;
    return 0;
  }

  // \s*[\r\n]+|\s+(?!\S)|\s+
  size_t space_end(std::string_view text, size_t begin) const {
    size_t i = begin, last = begin, after_newline = 0;
    while (i < text.size()) {
      size_t next = i;
      const uint32_t c = next_code_point(text, next);
      if (classes_[c] != CharClass::space) break;
      last = i;
      i = next;
      if (c == '\r' || c == '\n') after_newline = i;
    }
    if (after_newline > 0) return after_newline;
    // The last space of a longer run is left to the word behind it.
    return i < text.size() && last > begin ? last : i;
  }

  int max_digits_;
  const std::vector<CharClass>& classes_;
};

}  // namespace ptq
