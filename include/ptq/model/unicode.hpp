// Unicode for tokenizers: code points, character classes, NFC, and the word splitting patterns of
// Qwen2 and Llama 3.
//
// The patterns are matched by hand: no regex library is needed, there is no backtracking, and the
// result was compared with the reference tokenizers on random strings.
#pragma once

#include <utf8proc.h>

#include <cstdint>
#include <cstdlib>
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

// The classes the patterns tell apart. Marks, punctuation, symbols and unassigned code points are
// `other`.
enum class CharClass : uint8_t { other, letter, number, space };

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
    for (const uint32_t c : {0x20, 0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}) {
      table[c] = CharClass::space;
    }
    for (uint32_t c = 0x09; c <= 0x0D; ++c) table[c] = CharClass::space;
    for (uint32_t c = 0x2000; c <= 0x200A; ++c) table[c] = CharClass::space;
    return table;
  }();
  return classes;
}

// Normalization form C (canonical composition). The reference has older Unicode tables than
// utf8proc: next to combining marks added since Unicode 13 the order of marks can differ.
inline std::string to_nfc(std::string_view text) {
  // All code points below U+0300, whose first byte is below 0xCC, are in form C already.
  bool changes = false;
  for (const char c : text) changes |= static_cast<uint8_t>(c) >= 0xCC;
  if (!changes) return std::string(text);
  utf8proc_uint8_t* composed = nullptr;
  const utf8proc_ssize_t length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &composed,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  if (length < 0) {
    throw usage_error(std::string("Unicode normalization failed: ") + utf8proc_errmsg(length));
  }
  std::string result(reinterpret_cast<const char*>(composed), static_cast<size_t>(length));
  std::free(composed);
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
