// Prompts of the retrieval suite: needles in a haystack, one question, the answer that is right.
// Tasks and mechanics follow NVIDIA/RULER (scripts/data/synthetic/niah.py, variable_tracking.py);
// words and wording are our own. docs/retrieval.md describes every draw and every division, and
// test/fixtures/retrieval/make.py makes the same prompts from that description.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/suggest.hpp"
#include "ptq/data/retrieval_words.hpp"
#include "ptq/model/tokenizer.hpp"

namespace ptq::retrieval {

enum class Family : int { single = 0, multikey = 1, multivalue = 2, multiquery = 3, hop = 4 };

struct Task {
  Family family = Family::single;
  int64_t count = 1;   // keys, values, queries or hops
  int64_t chains = 1;  // hop only

  // The asked needle stands at the depth that is asked for; in the other tasks all stand anywhere.
  bool has_depth() const { return family == Family::single || family == Family::multikey; }
  // Tokens of room for an answer.
  int64_t max_new_tokens() const { return has_depth() ? 24 : 24 * (count + 1); }
};

inline constexpr const char* kTaskNames =
    "single, multikey-K (K 2 to 255), multivalue-K (2 to 8), multiquery-K (2 to 16), hop-H and "
    "hop-HxC (H and C 1 to 16)";

// The task of one of these names.
inline std::optional<Task> find_task(const std::string& name) {
  const auto number = [](const std::string& text, int64_t low, int64_t high) -> int64_t {
    if (text.empty() || text.size() > 3 ||
        text.find_first_not_of("0123456789") != std::string::npos) {
      return 0;
    }
    const int64_t value = std::stoll(text);
    return value >= low && value <= high && text[0] != '0' ? value : 0;
  };
  if (name == "single") return Task{};
  const size_t dash = name.find('-');
  if (dash == std::string::npos) return {};
  const std::string family = name.substr(0, dash);
  std::string count = name.substr(dash + 1);
  Task task;
  if (family == "hop") {
    task.family = Family::hop;
    if (const size_t x = count.find('x'); x != std::string::npos) {
      task.chains = number(count.substr(x + 1), 1, 16);
      count.resize(x);
    }
    task.count = number(count, 1, 16);
  } else if (family == "multikey") {
    task.family = Family::multikey;
    task.count = number(count, 2, 255);
  } else if (family == "multivalue") {
    task.family = Family::multivalue;
    task.count = number(count, 2, int64_t(kOrdinals.size()));
  } else if (family == "multiquery") {
    task.family = Family::multiquery;
    task.count = number(count, 2, 16);
  } else {
    return {};
  }
  if (task.count == 0 || task.chains == 0) return {};
  return task;
}

inline Task parse_task(const std::string& name) {
  if (const auto task = find_task(name)) return *task;
  throw usage_error("the task `" + name + "` is not known", "retrieval",
                    std::string("known: ") + kTaskNames);
}

inline Haystack parse_haystack(const std::string& name) {
  for (size_t i = 0; i < kHaystackNames.size(); ++i) {
    if (name == kHaystackNames[i]) return Haystack(int(i));
  }
  throw usage_error("the haystack `" + name + "` is not known", "retrieval",
                    did_you_mean(name, {kHaystackNames.begin(), kHaystackNames.end()}));
}

// One question and its right answer, a whole line: question + answer ends in a period.
struct Question {
  std::string text;                     // ends in the words before the first value
  std::string answer;                   // begins with a blank
  std::vector<std::string> references;  // what the answer has to hold, in order
};

struct Prompt {
  std::string context;                   // no newline at its end
  Question question;                     // asked on a line of its own after the context
  std::optional<Question> second;        // about another needle of the same context
  std::vector<std::string> distractors;  // values in the context that are no reference
  int64_t tokens = 0;                    // of context + "\n" + question
};

struct PromptRequest {
  Task task;
  Haystack haystack = Haystack::noise;
  int64_t length = 4096;       // tokens of everything: prompt, answer and 8 to spare
  double depth = 0.5;          // of the asked needle, 0 .. 1 of the haystack's tokens
  int64_t max_new_tokens = 0;  // room for the answer; 0: the task's own
  uint32_t seed = 42;
  int64_t index = 0;  // of the sample
};

inline constexpr int64_t kSpare = 8;  // tokens that a length leaves free behind prompt and answer

namespace detail {

inline constexpr const char* kHopExample =
    "The number 111 is in the paper crown. The number in the paper crown is also in the iron "
    "bucket.\n"
    "Which 2 things hold the number 111? The number 111 is in the paper crown. The number in the "
    "paper crown is also in the iron bucket.\n";

// What is drawn before the filler.
struct Parts {
  std::vector<std::string> needles;
  std::vector<int64_t> places;  // of each, 10000ths of the haystack; -1: the depth asked for
  Question question;
  std::optional<Question> second;
  std::vector<std::string> distractors;
};

inline std::string passkey_stem(const std::string& name) {
  return "The passkey of the " + name + " is";
}
inline std::string passkey_needle(const std::string& stem, const std::string& value) {
  return stem + " " + value + ". Remember it.";
}
inline Question passkey_question(const std::string& name, const std::string& value) {
  return {
      "What is the passkey of the " + name + "? " + passkey_stem(name), " " + value + ".", {value}};
}

// " 11111. The second ... is 22222. ...": the stems after the first are part of the answer.
inline std::string list_answer(const std::vector<std::string>& stems,
                               const std::vector<std::string>& values) {
  std::string answer = " " + values[0] + ".";
  for (size_t i = 1; i < values.size(); ++i) answer += " " + stems[i] + " " + values[i] + ".";
  return answer;
}

inline Parts draw_keys(Draws& draws, int64_t count) {
  Parts parts;
  std::vector<std::string> names, values;
  for (int64_t i = 0; i < count; ++i) {
    names.push_back(draws.name());
    values.push_back(draws.number());
    parts.needles.push_back(passkey_needle(passkey_stem(names.back()), values.back()));
  }
  parts.places.push_back(-1);
  for (int64_t i = 1; i < count; ++i) parts.places.push_back(draws.integer(0, 9999));
  parts.question = passkey_question(names[0], values[0]);
  if (count > 1) parts.second = passkey_question(names[1], values[1]);
  parts.distractors.assign(values.begin() + 1, values.end());
  return parts;
}

inline Parts draw_values(Draws& draws, int64_t count) {
  Parts parts;
  const std::string name = draws.name();
  std::vector<std::string> stems, values;
  for (int64_t i = 0; i < count; ++i) {
    values.push_back(draws.number());
    stems.push_back("The " + std::string(kOrdinals[size_t(i)]) + " passkey of the " + name + " is");
    parts.needles.push_back(passkey_needle(stems.back(), values.back()));
  }
  for (int64_t i = 0; i < count; ++i) parts.places.push_back(draws.integer(0, 9999));
  parts.question = {
      "What are the " + std::to_string(count) + " passkeys of the " + name + "? " + stems[0],
      list_answer(stems, values), values};
  return parts;
}

inline Parts draw_queries(Draws& draws, int64_t count) {
  Parts parts;
  std::vector<std::string> stems, values;
  std::string asked;
  for (int64_t i = 0; i < count; ++i) {
    const std::string name = draws.name();
    values.push_back(draws.number());
    stems.push_back(passkey_stem(name));
    parts.needles.push_back(passkey_needle(stems.back(), values.back()));
    asked += (i == 0 ? "" : i + 1 == count ? " and " : ", ") + ("the " + name);
  }
  for (int64_t i = 0; i < count; ++i) parts.places.push_back(draws.integer(0, 9999));
  parts.question = {"What are the passkeys of " + asked + "? " + stems[0],
                    list_answer(stems, values), values};
  return parts;
}

inline Parts draw_hops(Draws& draws, int64_t hops, int64_t chains) {
  Parts parts;
  for (int64_t c = 0; c < chains; ++c) {
    const std::string number = draws.number();
    std::vector<std::string> things, steps;
    for (int64_t i = 0; i <= hops; ++i) things.push_back(draws.name());
    const std::string begin = "The number " + number + " is in the";
    steps.push_back(begin + " " + things[0] + ".");
    for (int64_t i = 1; i <= hops; ++i) {
      steps.push_back("The number in the " + things[size_t(i - 1)] + " is also in the " +
                      things[size_t(i)] + ".");
    }
    std::vector<int64_t> places;  // of a chain, in its order
    for (size_t i = 0; i < steps.size(); ++i) places.push_back(draws.integer(0, 9999));
    std::sort(places.begin(), places.end());
    parts.needles.insert(parts.needles.end(), steps.begin(), steps.end());
    parts.places.insert(parts.places.end(), places.begin(), places.end());
    if (c == 0) {
      std::string answer = " " + things[0] + ".";
      for (size_t i = 1; i < steps.size(); ++i) answer += " " + steps[i];
      parts.question = {
          "Which " + std::to_string(hops + 1) + " things hold the number " + number + "? " + begin,
          answer, things};
    } else {
      parts.distractors.insert(parts.distractors.end(), things.begin(), things.end());
    }
  }
  return parts;
}

inline Parts draw_parts(Draws& draws, const Task& task) {
  switch (task.family) {
    case Family::single:
    case Family::multikey: return draw_keys(draws, task.count);
    case Family::multivalue: return draw_values(draws, task.count);
    case Family::multiquery: return draw_queries(draws, task.count);
    case Family::hop: return draw_hops(draws, task.count, task.chains);
  }
  throw Error(ExitCode::internal, "unknown retrieval task");
}

// The next filler line; values that it brings into the context go to `distractors`.
inline std::string filler_line(Draws& draws, Family family, Haystack haystack,
                               std::vector<std::string>& distractors) {
  if (haystack == Haystack::noise) return std::string(kNoise);
  if (haystack == Haystack::prose) {
    const std::string first = prose_sentence(draws);
    return first + " " + prose_sentence(draws);
  }
  if (draws.names_left() < 2) {
    throw usage_error("the haystack `needles` has no more names for so long a context", "retrieval",
                      "use a shorter length");
  }
  const std::string name = draws.name();
  distractors.push_back(family == Family::hop ? draws.name() : draws.number());
  return family == Family::hop
             ? "The number in the " + name + " is also in the " + distractors.back() + "."
             : passkey_needle(passkey_stem(name), distractors.back());
}

// Words that lengthen the last filler line to the exact number of tokens.
inline std::string padding(int64_t words) {
  constexpr const char* kWords[] = {" and", " so", " on"};
  std::string text;
  for (int64_t i = 0; i < words; ++i) text += kWords[i % 3];
  return text;
}

// Needles between the filler lines: each before the first line whose start is nearest to its place,
// counted in tokens of the filler. `pad` is appended to the last filler line.
inline std::string compose(const Parts& parts, const std::vector<std::string>& lines,
                           const std::vector<int64_t>& line_tokens, double depth,
                           const std::string& pad) {
  std::vector<int64_t> starts = {0};  // tokens of filler before each border
  for (const int64_t tokens : line_tokens) starts.push_back(starts.back() + tokens);
  std::vector<size_t> border;  // of each needle
  for (const int64_t place : parts.places) {
    const double want = (place < 0 ? depth : double(place) / 10000) * double(starts.back());
    size_t nearest = 0;
    for (size_t i = 1; i < starts.size(); ++i) {
      if (std::abs(double(starts[i]) - want) < std::abs(double(starts[nearest]) - want)) {
        nearest = i;
      }
    }
    border.push_back(nearest);
  }
  std::string text;
  const auto add = [&](const std::string& line) {
    if (!text.empty()) text += '\n';
    text += line;
  };
  for (size_t i = 0; i < starts.size(); ++i) {
    for (size_t k = 0; k < border.size(); ++k) {
      if (border[k] == i) add(parts.needles[k]);
    }
    if (i < lines.size()) add(i + 1 == lines.size() ? lines[i] + pad : lines[i]);
  }
  return text;
}

}  // namespace detail

namespace detail {

// What of a prompt is there before any filler.
struct Frame {
  Parts parts;
  std::string head;
  int64_t special = 0;  // tokens that the tokenizer puts around a text
  int64_t room = 0;     // tokens for the answer
  int64_t fixed = 0;    // tokens without filler
};

inline Draws draws_of(const PromptRequest& request) {
  const Task& task = request.task;
  return Draws({request.seed,
                uint32_t(task.family) << 24 | uint32_t(request.haystack) << 16 |
                    uint32_t(task.count) << 8 | uint32_t(task.chains),
                uint32_t(request.length), uint32_t(request.index + 1)});
}

inline Frame make_frame(const Tokenizer& tokenizer, const PromptRequest& request, Draws& draws) {
  const Task& task = request.task;
  const auto tokens = [&](const std::string& text) {
    return int64_t(tokenizer.encode(text, false).size());
  };
  Frame frame;
  frame.parts = draw_parts(draws, task);
  frame.head = task.family == Family::hop ? kHopExample : "";
  frame.special = int64_t(tokenizer.encode("").size());
  frame.room = request.max_new_tokens > 0 ? request.max_new_tokens : task.max_new_tokens();
  frame.fixed = frame.special + tokens(frame.head) + tokens(frame.parts.question.text);
  for (const std::string& needle : frame.parts.needles) frame.fixed += tokens(needle + "\n");
  return frame;
}

inline Error too_short(const PromptRequest& request, const Frame& frame) {
  return usage_error("length is " + std::to_string(request.length) +
                         ", the needles, the question and the answer alone need " +
                         std::to_string(frame.fixed + frame.room + kSpare) +
                         " tokens and a line of filler",
                     "retrieval", "use larger `lengths` or smaller tasks");
}

}  // namespace detail

// A prompt of length - 8 - max_new_tokens tokens (a few less where the tokenizer joins the padding
// words). Errors: a length that holds no filler.
inline Prompt make_prompt(const Tokenizer& tokenizer, const PromptRequest& request) {
  const Task& task = request.task;
  Draws draws = detail::draws_of(request);
  detail::Frame frame = detail::make_frame(tokenizer, request, draws);
  detail::Parts& parts = frame.parts;
  const auto tokens = [&](const std::string& text) {
    return int64_t(tokenizer.encode(text, false).size());
  };
  const int64_t target = request.length - kSpare - frame.room;

  // Lines until the next one would not fit; counted one by one, which is nearly additive.
  std::vector<std::string> lines;
  std::vector<int64_t> line_tokens;
  std::vector<std::string> filler_values;
  int64_t used = 0, noise_tokens = 0;
  for (;;) {
    std::string line = detail::filler_line(draws, task.family, request.haystack, filler_values);
    int64_t n = noise_tokens;
    if (n == 0) n = tokens(line + "\n");
    if (request.haystack == Haystack::noise) noise_tokens = n;
    if (used + n > target - frame.fixed) break;
    used += n;
    lines.push_back(std::move(line));
    line_tokens.push_back(n);
  }

  Prompt prompt;
  const auto build = [&](int64_t pad_words) {
    prompt.context = frame.head + detail::compose(parts, lines, line_tokens, request.depth,
                                                  detail::padding(pad_words));
    prompt.tokens = frame.special + tokens(prompt.context + "\n" + parts.question.text);
    return prompt.tokens;
  };
  while (!lines.empty() && build(0) > target) {
    lines.pop_back();
    line_tokens.pop_back();
  }
  if (lines.empty()) {
    throw detail::too_short(request, frame);
  }
  // One word is one token for most tokenizers; where it is not, the difference is tried next.
  int64_t words = target - prompt.tokens, best = 0, last = -1;
  std::vector<int64_t> tried;
  while (words > 0 && std::find(tried.begin(), tried.end(), words) == tried.end()) {
    tried.push_back(words);
    last = words;
    const int64_t n = build(words);
    if (n <= target) best = std::max(best, words);
    words += target - n;
  }
  if (last >= 0 && last != best) build(best);

  filler_values.resize(request.haystack == Haystack::needles ? lines.size() : 0);
  prompt.distractors = std::move(parts.distractors);
  prompt.distractors.insert(prompt.distractors.end(), filler_values.begin(), filler_values.end());
  prompt.question = std::move(parts.question);
  prompt.second = std::move(parts.second);
  return prompt;
}

// Throws what make_prompt would throw; quick, since the filler of a prompt that clearly holds some
// is not made.
inline void require_prompt(const Tokenizer& tokenizer, const PromptRequest& request) {
  Draws draws = detail::draws_of(request);
  const detail::Frame frame = detail::make_frame(tokenizer, request, draws);
  constexpr int64_t kClearly = 512;  // tokens: many lines of any haystack
  // The haystack of needles runs out of names, of which a line takes one, or two in chains.
  constexpr int64_t kLineTokens = 12;  // of such a line, at least
  const int64_t lines = int64_t(draws.names_left()) / (request.task.family == Family::hop ? 2 : 1);
  const bool names_last =
      request.haystack != Haystack::needles || request.length < lines * kLineTokens;
  if (frame.fixed + frame.room + kSpare + kClearly <= request.length && names_last) return;
  make_prompt(tokenizer, request);
}

}  // namespace ptq::retrieval
