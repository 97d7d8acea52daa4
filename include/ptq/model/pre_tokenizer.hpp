// Cutting a text into the pieces that byte pair encoding may not merge across: the steps of
// `pre_tokenizer` in tokenizer.json.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ptq/model/split_pattern.hpp"
#include "ptq/model/unicode.hpp"
#include "ptq/model/word_patterns.hpp"

namespace ptq {

// What becomes of the matches of a step: left out, pieces of their own, parts of a neighbour, or
// one piece for each run of matches.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

// "Metaspace": spaces become a visible character, which may also be put in front.
struct Metaspace {
  enum class Prepend { always, first, never } prepend = Prepend::always;
  std::string replacement;  // one character
  bool split = true;        // each replacement character begins a word
};

struct PreTokenizerStep {
  enum class Kind {
    words,         // one of the word patterns
    pattern,       // matches of a regular expression
    text,          // occurrences of a text
    numeric,       // characters that are numbers
    punctuation,   // or punctuation
    space,         // or spaces
    prefix_space,  // a space in front, unless there is one
    metaspace
  } kind;
  SplitBehavior behavior = SplitBehavior::isolated;
  bool invert = false;  // what lies between the matches is taken for the matches
  std::optional<WordSplitter> words{};
  std::shared_ptr<const SplitPattern> pattern{};
  std::string text{};
  Metaspace metaspace{};
};

struct PreTokenizer {
  std::vector<PreTokenizerStep> steps;
  bool byte_level = false;  // the pieces are then spelled in the byte-level alphabet
};

namespace pre_tokenizer_detail {

template <class Wanted>
std::vector<TextSegment> character_segments(std::string_view text, Wanted wanted) {
  std::vector<TextSegment> result;
  size_t covered = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    if (!wanted(next_code_point(text, i))) continue;
    if (begin > covered) result.push_back({covered, begin, false});
    result.push_back({begin, i, true});
    covered = i;
  }
  if (covered < text.size()) result.push_back({covered, text.size(), false});
  return result;
}

inline std::vector<TextSegment> text_segments(std::string_view text, std::string_view wanted) {
  std::vector<TextSegment> result;
  size_t covered = 0;
  for (size_t at; (at = text.find(wanted, covered)) != std::string_view::npos;) {
    if (at > covered) result.push_back({covered, at, false});
    covered = at + wanted.size();
    result.push_back({at, covered, true});
  }
  if (covered < text.size()) result.push_back({covered, text.size(), false});
  return result;
}

inline std::vector<TextSegment> segments(const PreTokenizerStep& step, std::string_view text) {
  using Kind = PreTokenizerStep::Kind;
  switch (step.kind) {
    case Kind::pattern: return step.pattern->segments(text);
    case Kind::text: return text_segments(text, step.text);
    case Kind::numeric: return character_segments(text, is_numeric);
    case Kind::punctuation: return character_segments(text, is_punctuation);
    default: return character_segments(text, is_space);
  }
}

// The pieces of a text, empty ones included.
inline std::vector<TextSegment> pieces(const std::vector<TextSegment>& found,
                                       const PreTokenizerStep& step) {
  std::vector<TextSegment> result;
  bool before = false;  // was the neighbour a match?
  const auto add = [&](const TextSegment& segment, bool join) {
    if (join && !result.empty()) {
      result.back().begin = std::min(result.back().begin, segment.begin);
      result.back().end = std::max(result.back().end, segment.end);
    } else {
      result.push_back(segment);
    }
  };
  const auto is_match = [&](const TextSegment& segment) { return segment.match != step.invert; };
  switch (step.behavior) {
    case SplitBehavior::isolated: return found;
    case SplitBehavior::removed:
      for (const TextSegment& segment : found) {
        if (!is_match(segment)) result.push_back(segment);
      }
      return result;
    case SplitBehavior::contiguous:
      for (const TextSegment& segment : found) {
        add(segment, is_match(segment) == before);
        before = is_match(segment);
      }
      return result;
    case SplitBehavior::merged_with_previous:
      for (const TextSegment& segment : found) {
        add(segment, is_match(segment) && !before);
        before = is_match(segment);
      }
      return result;
    case SplitBehavior::merged_with_next:
      for (auto segment = found.rbegin(); segment != found.rend(); ++segment) {
        add(*segment, is_match(*segment) && !before);
        before = is_match(*segment);
      }
      std::reverse(result.begin(), result.end());
      return result;
  }
  return result;
}

// The text of a Metaspace step with visible spaces.
inline std::string with_visible_spaces(const Metaspace& m, std::string_view text, bool at_start) {
  std::string result;
  result.reserve(text.size() + text.size() / 2 + m.replacement.size());
  for (const char c : text) {
    if (c == ' ') {
      result += m.replacement;
    } else {
      result += c;
    }
  }
  const bool wanted = m.prepend == Metaspace::Prepend::always ||
                      (m.prepend == Metaspace::Prepend::first && at_start);
  if (wanted && !result.starts_with(m.replacement)) result.insert(0, m.replacement);
  return result;
}

// visit(piece) for each piece of `text` after the steps from `step` on; `at_start` if it begins the
// whole text.
template <class Visit>
void pre_tokenize(const std::vector<PreTokenizerStep>& steps, size_t step, std::string_view text,
                  bool at_start, Visit& visit) {
  if (text.empty()) return;
  if (step == steps.size()) return visit(text);
  const auto rest = [&](std::string_view piece, bool first) {
    pre_tokenize(steps, step + 1, piece, at_start && first, visit);
  };
  const PreTokenizerStep& s = steps[step];
  switch (s.kind) {
    case PreTokenizerStep::Kind::words:
      for (size_t begin = 0; begin < text.size();) {
        const size_t end = s.words->word_end(text, begin);
        rest(text.substr(begin, end - begin), begin == 0);
        begin = end;
      }
      return;
    case PreTokenizerStep::Kind::prefix_space:
      if (text.starts_with(' ')) return rest(text, true);
      return rest(" " + std::string(text), true);
    case PreTokenizerStep::Kind::metaspace: {
      const std::string visible = with_visible_spaces(s.metaspace, text, at_start);
      if (!s.metaspace.split) return rest(visible, true);
      for (size_t begin = 0; begin < visible.size();) {
        const size_t end =
            std::min(visible.size(), visible.find(s.metaspace.replacement, begin + 1));
        rest(std::string_view(visible).substr(begin, end - begin), begin == 0);
        begin = end;
      }
      return;
    }
    default:
      for (const TextSegment& piece : pieces(segments(s, text), s)) {
        rest(text.substr(piece.begin, piece.end - piece.begin), piece.begin == 0);
      }
      return;
  }
}

}  // namespace pre_tokenizer_detail

// visit(piece) for each piece of a text, from left to right; `at_start` if it begins the whole
// text.
template <class Visit>
void pre_tokenize(const PreTokenizer& pre_tokenizer, std::string_view text, bool at_start,
                  Visit visit) {
  pre_tokenizer_detail::pre_tokenize(pre_tokenizer.steps, 0, text, at_start, visit);
}

}  // namespace ptq
