// The word patterns of GPT-2, Qwen2 and Llama 3, matched by hand: there is no backtracking, and the
// result was compared with the reference tokenizers on random strings. Other patterns go through
// split_pattern.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "ptq/model/unicode.hpp"

namespace ptq {

// GPT-2:
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// Qwen2; Llama 3 has \p{N}{1,3}:
//   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|
//   \s*[\r\n]+|\s+(?!\S)|\s+
enum class WordPattern { gpt2, qwen2, llama3 };

// Splits text by one of them. Every character is matched by one of the alternatives, so words
// follow each other without gaps.
class WordSplitter {
 public:
  explicit WordSplitter(WordPattern pattern)
      : gpt2_(pattern == WordPattern::gpt2),
        max_digits_(pattern == WordPattern::llama3 ? 3 : 1),
        classes_(char_classes()) {}

  // End of the word that begins at text[begin]; text is valid UTF-8 and not empty from there.
  size_t word_end(std::string_view text, size_t begin) const {
    return gpt2_ ? gpt2_word_end(text, begin) : llama_word_end(text, begin);
  }

 private:
  size_t gpt2_word_end(std::string_view text, size_t begin) const {
    size_t i = begin;
    const uint32_t c = next_code_point(text, i);
    if (c == '\'') {
      for (const std::string_view ending : {"s", "t", "re", "ve", "m", "ll", "d"}) {
        if (text.substr(i).starts_with(ending)) return i + ending.size();
      }
    }
    CharClass wanted = classes_[c];
    if (c == ' ') wanted = class_at(text, i);
    if (wanted != CharClass::space) return run_end(text, i, wanted);
    //  \s+(?!\S)|\s+
    size_t last = begin;
    for (i = begin; i < text.size();) {
      size_t next = i;
      if (classes_[next_code_point(text, next)] != CharClass::space) break;
      last = i;
      i = next;
    }
    return i < text.size() && last > begin ? last : i;
  }

  size_t llama_word_end(std::string_view text, size_t begin) const {
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

  bool gpt2_;
  int max_digits_;
  const std::vector<CharClass>& classes_;
};

}  // namespace ptq
