// A regular expression that a tokenizer searches in texts, with the matches of the reference, which
// uses Oniguruma. PCRE2 does the search, within bounds: a pattern that would take exponential time
// ends in an error.
#pragma once

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/json.hpp"
#include "ptq/model/newer_characters.hpp"
#include "ptq/model/pattern_syntax.hpp"

namespace ptq {

// A part of a text, in bytes: a match of a pattern or what lies between two.
struct TextSegment {
  size_t begin, end;
  bool match;
};

// Const member functions may be called from several threads at once.
class SplitPattern {
 public:
  // Throws an Error that names what is wrong with or unsupported in the pattern.
  explicit SplitPattern(std::string_view pattern) {
    if (pattern.size() > kLongestPattern) {
      throw usage_error("the regular expression has " + std::to_string(pattern.size()) +
                        " bytes, more than the limit of " + std::to_string(kLongestPattern));
    }
    code_ = compiled(PatternTranslator::translate(pattern, false));
    // Larger and slower, for the few texts that need it.
    newer_code_ = compiled(PatternTranslator::translate(pattern, true));
  }

  // The matches in a text of valid UTF-8, from left to right, and what lies between them. A match
  // may be empty, though not directly behind another one.
  std::vector<TextSegment> segments(std::string_view text) const {
    Search search(has_newer_characters(text) ? newer_code_.get() : code_.get(), text);
    std::vector<TextSegment> result;
    size_t covered = 0, from = 0, begin = 0, end = 0;
    bool matched = false;
    while (from <= text.size() && search.next(from, begin, end)) {
      if (begin == end && matched && end == covered) {
        if (from == text.size()) break;
        next_code_point(text, from);
        continue;
      }
      if (begin > covered) result.push_back({covered, begin, false});
      result.push_back({begin, end, true});
      covered = from = end;
      matched = true;
    }
    if (covered < text.size()) result.push_back({covered, text.size(), false});
    return result;
  }

 private:
  static constexpr size_t kLongestPattern = 1 << 14;

  struct Free {
    void operator()(pcre2_code* p) const { pcre2_code_free(p); }
    void operator()(pcre2_compile_context* p) const { pcre2_compile_context_free(p); }
    void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
    void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
  };

  using Code = std::unique_ptr<pcre2_code, Free>;

  static Code compiled(const std::string& pattern) {
    const std::unique_ptr<pcre2_compile_context, Free> context(
        pcre2_compile_context_create(nullptr));
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    const uint32_t options =
        PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C | PCRE2_USE_OFFSET_LIMIT;
    int error = 0;
    PCRE2_SIZE offset = 0;
    Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), options,
                            &error, &offset, context.get()));
    if (!code) {
      throw usage_error("the regular expression is not supported: " + message_of(error), {},
                        "PCRE2 stops at byte " + std::to_string(offset) + " of " + shown(pattern));
    }
    pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);  // without it the search is slower only
    return code;
  }

  static std::string message_of(int code) {
    PCRE2_UCHAR text[256] = {};
    pcre2_get_error_message(code, text, sizeof text);
    return reinterpret_cast<const char*>(text);
  }

  // One pass over a text. Steps are counted for each place where a match may begin, and the clock
  // is read after every few places.
  class Search {
   public:
    Search(const pcre2_code* code, std::string_view text)
        : code_(code),
          text_(text),
          context_(pcre2_match_context_create(nullptr)),
          data_(pcre2_match_data_create(1, nullptr)),
          deadline_(Clock::now() + std::chrono::seconds(4) +
                    std::chrono::microseconds(4 * text.size())) {
      pcre2_set_match_limit(context_.get(), static_cast<uint32_t>(std::min<size_t>(
                                                1'000'000 + 8 * text.size(), 4'000'000'000)));
      pcre2_set_heap_limit(context_.get(), 1 << 18);  // KiB
    }

    // The first match that begins at `from` or later.
    bool next(size_t from, size_t& begin, size_t& end) {
      constexpr size_t kPlaces = 256;  // bytes between two looks at the clock
      for (size_t last = 0;; from = last + 1) {
        last = std::min(text_.size(), from + kPlaces - 1);
        while (from < text_.size() && (static_cast<uint8_t>(text_[from]) & 0xC0) == 0x80) ++from;
        pcre2_set_offset_limit(context_.get(), last);
        const int rc = match(from);
        if (Clock::now() > deadline_) too_slow();
        if (rc >= 0) {
          const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(data_.get());
          begin = ends[0];
          end = ends[1];
          return true;
        }
        if (rc != PCRE2_ERROR_NOMATCH) {
          const bool limit = rc == PCRE2_ERROR_MATCHLIMIT || rc == PCRE2_ERROR_HEAPLIMIT ||
                             rc == PCRE2_ERROR_DEPTHLIMIT;
          if (limit) too_slow();
          throw usage_error("the search for a regular expression of tokenizer.json failed: " +
                            message_of(rc));
        }
        if (last == text_.size()) return false;
      }
    }

   private:
    using Clock = std::chrono::steady_clock;

    int match(size_t from) {
      const auto* subject = reinterpret_cast<PCRE2_SPTR>(text_.data());
      const int rc = pcre2_match(code_, subject, text_.size(), from, PCRE2_NO_UTF_CHECK,
                                 data_.get(), context_.get());
      if (rc != PCRE2_ERROR_JIT_STACKLIMIT) return rc;
      return pcre2_match(code_, subject, text_.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                         data_.get(), context_.get());
    }

    [[noreturn]] static void too_slow() {
      throw usage_error("a regular expression of tokenizer.json takes too many steps on this text",
                        {}, "the pattern tries the same characters again and again");
    }

    const pcre2_code* code_;
    std::string_view text_;
    std::unique_ptr<pcre2_match_context, Free> context_;
    std::unique_ptr<pcre2_match_data, Free> data_;
    Clock::time_point deadline_;
  };

  Code code_, newer_code_;
};

}  // namespace ptq
