// The prompts of the passkey test: a number hidden in filler sentences, asked for at the end.
//
// Wording, order and every integer division as in huthvincent/ptq-bench src/evaluator.py, so that
// prompts of that study can be repeated token for token.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/mt19937.hpp"
#include "ptq/model/tokenizer.hpp"

namespace ptq::eval {

struct PasskeyPrompt {
  int64_t key = 0;
  double depth = 0;  // place of the needle, share of the filler in front of it
  std::string text;
  std::vector<int32_t> ids;
  int64_t question_begin = 0;  // index of the first token that belongs to the question
};

// The keys of a run: random.seed(seed), then randint(10000, 99999) per key.
inline std::vector<int64_t> passkey_keys(uint32_t seed, int64_t count) {
  PythonRandom random(seed);
  std::vector<int64_t> keys;
  for (int64_t i = 0; i < count; ++i) keys.push_back(random.randint(10000, 99999));
  return keys;
}

// Tokens that two lists share from the front.
inline int64_t common_prefix(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  const auto end = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return end.first - a.begin();
}

inline std::string passkey_needle(int64_t key) {
  return "\nThe passkey to remember is " + std::to_string(key) + ". Remember it.\n";
}

// context_length: tokens asked for. The prompt is a little shorter because only whole filler units
// are used, or, at depths near 0 and 1, up to a unit longer because each side has at least one. Two
// things differ from the original, which its own settings never reach: it would cut a longer
// prompt, and with it the question; and it puts 512 tokens of filler where needle and question do
// not fit.
inline PasskeyPrompt make_passkey_prompt(const Tokenizer& tokenizer, int64_t key, double depth,
                                         int64_t context_length) {
  const std::string unit =
      "The grass is green. The sky is blue. The sun is yellow. Today is a beautiful day. ";
  const std::string needle = passkey_needle(key);
  const std::string question = "\nWhat is the passkey? The passkey is ";
  const auto tokens = [&](const std::string& text) {
    return int64_t(tokenizer.encode(text, false).size());
  };
  const int64_t filler = context_length - tokens(question) - tokens(needle);
  if (filler <= 0) {
    throw usage_error("context_length is " + std::to_string(context_length) +
                          ", the needle and the question alone need " +
                          std::to_string(context_length - filler) + " tokens",
                      "passkey", "use a larger `context_length`");
  }
  const int64_t per_unit = std::max<int64_t>(1, tokens(unit));
  const int64_t before = int64_t(double(filler) * depth), after = filler - before;
  const auto repeat = [&](std::string& text, int64_t times) {
    for (int64_t i = 0; i < std::max<int64_t>(1, times); ++i) text += unit;
  };

  PasskeyPrompt prompt;
  prompt.key = key;
  prompt.depth = depth;
  repeat(prompt.text, before / per_unit);
  prompt.text += needle;
  repeat(prompt.text, after / per_unit);
  const std::vector<int32_t> context = tokenizer.encode(prompt.text);
  prompt.text += question;
  prompt.ids = tokenizer.encode(prompt.text);
  // A merge across the border may make the last context tokens differ: those belong to the
  // question.
  prompt.question_begin =
      std::min(common_prefix(context, prompt.ids), int64_t(prompt.ids.size()) - 1);
  return prompt;
}

// Tokens of the longest prompt. Prompts whose needles have equally many tokens are equally long, so
// one of each length is made for each depth. Errors: as of make_passkey_prompt.
inline int64_t longest_passkey_prompt(const Tokenizer& tokenizer, const std::vector<int64_t>& keys,
                                      const std::vector<double>& depths, int64_t context_length) {
  std::map<int64_t, int64_t> key_of;  // by the tokens of its needle
  for (const int64_t key : keys) {
    key_of.emplace(int64_t(tokenizer.encode(passkey_needle(key), false).size()), key);
  }
  int64_t longest = 0;
  for (const auto& [tokens, key] : key_of) {
    for (const double depth : depths) {
      const PasskeyPrompt prompt = make_passkey_prompt(tokenizer, key, depth, context_length);
      longest = std::max(longest, int64_t(prompt.ids.size()));
    }
  }
  return longest;
}

}  // namespace ptq::eval
