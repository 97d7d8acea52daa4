// What of a written answer counts: where it ends, what is taken out of it and how it is compared.
// Source: EleutherAI/lm-evaluation-harness 0.4.11, lm_eval/filters/extraction.py (regex,
// take_first), lm_eval/api/metrics.py (exact_match). Patterns are Python's; PCRE2 searches them.
#pragma once

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/tasks/text.hpp"

namespace ptq::tasks {

// A regular expression in texts of valid UTF-8.
class AnswerPattern {
 public:
  // Errors: no pattern; `where`: for messages.
  AnswerPattern(const std::string& pattern, const std::string& where) : where_(where) {
    constexpr size_t kLongest = 1 << 14;
    if (pattern.size() > kLongest)
      throw usage_error("the pattern has " + std::to_string(pattern.size()) +
                            " bytes, more than the limit of " + std::to_string(kLongest),
                        where);
    // \C would match a part of a character.
    constexpr uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
    int error = 0;
    PCRE2_SIZE offset = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                              kOptions, &error, &offset, nullptr),
                pcre2_code_free);
    if (code_) return;
    PCRE2_UCHAR message[160] = {};
    pcre2_get_error_message(error, message, sizeof message);
    throw usage_error("the pattern `" + pattern + "` is wrong at character " +
                          std::to_string(offset) + ": " + reinterpret_cast<const char*>(message),
                      where);
  }

  // What the groups of each match hold, or the match itself where the pattern has no groups.
  std::vector<std::vector<std::string>> matches(std::string_view text) const {
    std::vector<std::vector<std::string>> out;
    search(text, [&](const PCRE2_SIZE* places, uint32_t count) {
      out.emplace_back();
      for (uint32_t group = count > 1 ? 1 : 0; group < count; ++group) {
        const PCRE2_SIZE begin = places[2 * group], end = places[2 * group + 1];
        out.back().emplace_back(begin == PCRE2_UNSET ? "" : text.substr(begin, end - begin));
      }
    });
    return out;
  }

  // The text without all matches.
  std::string removed_from(std::string_view text) const {
    std::string out;
    size_t kept = 0;
    search(text, [&](const PCRE2_SIZE* places, uint32_t) {
      out.append(text.substr(kept, places[0] - kept));
      kept = places[1];
    });
    return out.append(text.substr(kept));
  }

 private:
  // found(places of the groups, number of groups and the match itself), from left to right.
  template <class Found>
  void search(std::string_view text, const Found& found) const {
    const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
        pcre2_match_data_create_from_pattern(code_.get(), nullptr), pcre2_match_data_free);
    // A pattern that tries the same characters again and again ends in an error.
    const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> limits(
        pcre2_match_context_create(nullptr), pcre2_match_context_free);
    if (!data || !limits) throw std::bad_alloc();
    pcre2_set_match_limit(limits.get(), 1'000'000);
    pcre2_set_heap_limit(limits.get(), 1 << 18);  // KiB
    uint32_t groups = 0;
    pcre2_pattern_info(code_.get(), PCRE2_INFO_CAPTURECOUNT, &groups);
    uint32_t options = 0;  // behind an empty match another one must not be empty
    for (size_t from = 0; from <= text.size();) {
      const int count = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()),
                                    text.size(), from, options, data.get(), limits.get());
      if (count == PCRE2_ERROR_NOMATCH && options == 0) return;
      if (count == PCRE2_ERROR_NOMATCH) {
        if (from == text.size()) return;
        next_code_point(text, from);
        options = 0;
        continue;
      }
      if (count < 0) throw usage_error("a pattern takes too long in an answer", where_);
      const PCRE2_SIZE* places = pcre2_get_ovector_pointer(data.get());
      found(places, groups + 1);
      from = places[1];
      options = places[0] == places[1] ? PCRE2_NOTEMPTY_ATSTART | PCRE2_ANCHORED : 0;
    }
  }

  std::string where_;
  std::shared_ptr<pcre2_code> code_;
};

// Takes the part of an answer that is compared, under a name that the results have.
struct AnswerFilter {
  std::string name = "none";
  std::vector<AnswerPattern> pattern;  // one, or none: all of the answer
  bool last = false;                   // of several matches the last one, not the first

  std::string apply(const std::string& text) const {
    if (pattern.empty()) return text;
    const auto found = pattern[0].matches(text);
    if (found.empty()) return "[invalid]";
    const std::vector<std::string>& groups = last ? found.back() : found.front();
    const auto first = std::find_if(groups.begin(), groups.end(),
                                    [](const std::string& group) { return !group.empty(); });
    if (groups.size() > 1 && first == groups.end()) return "[invalid]";
    return stripped_text(groups.size() > 1 ? *first : groups[0]);
  }
};

// How a task reads written answers.
struct AnswerRules {
  std::vector<std::string> stop;  // an answer ends in front of the first of them
  int64_t max_new_tokens = 256;
  std::vector<AnswerFilter> filters;  // at least one; the first ranks
  std::vector<AnswerPattern> ignore;  // does not count on either side
  bool ignore_case = false, ignore_punctuation = false;

  // The text in front of all stops.
  std::string cut(std::string text) const {
    for (const std::string& word : stop) text = text.substr(0, text.find(word));
    return text;
  }
  bool ended(const std::string& text) const {
    return std::any_of(stop.begin(), stop.end(),
                       [&](const std::string& word) { return text.find(word) != text.npos; });
  }
  // Is an answer, filtered, the right one?
  bool equal(const std::string& answer, const std::string& right) const {
    return plain(answer) == plain(right);
  }

 private:
  std::string plain(std::string text) const {
    for (const AnswerPattern& pattern : ignore) text = pattern.removed_from(text);
    if (ignore_case) text = text_detail::lower_text(text, false);
    if (ignore_punctuation)
      std::erase_if(text, [](char c) {
        return std::string_view("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~").find(c) !=
               std::string_view::npos;
      });
    return text;
  }
};

}  // namespace ptq::tasks
