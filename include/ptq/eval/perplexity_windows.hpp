// Which tokens a perplexity feeds together and which of them it scores.
//
//   disjoint       windows side by side, all predictions inside a window count (IST-DASLab/gptq
//                  llama.py, mit-han-lab/llm-awq awq/entry.py; the figures of the papers)
//   half_overlap   windows advance by half; from the second on only the second half counts
//                  (huthvincent/ptq-bench src/evaluator.py)
//   sliding        windows advance by `stride`; a token counts once, in the first window that has
//                  it (but not as the first of one), and the last window is as short as it has to
//                  be (huggingface transformers, docs/source/en/perplexity.md)
//   llamacpp       windows side by side, their first token replaced by the tokenizer's begin-of-
//                  text token where it has one; of the predictions at positions n/2 to n - 2
//                  (ggml-org/llama.cpp tools/perplexity, llama-perplexity without --ppl-stride)
//   rolling_words  each text by itself behind the token that begins texts, all its tokens count; a
//                  window has one token of context, the last is filled up with more
//                  (EleutherAI/lm-evaluation-harness 0.4.11, loglikelihood_rolling)
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/data/text.hpp"
#include "ptq/eval/pair_tokenizer.hpp"
#include "ptq/eval/settings.hpp"
#include "ptq/tasks/wikitext.hpp"

namespace ptq::eval {

// One window of a token list. Its last token is a target.
struct Window {
  int64_t first_token = 0;   // index in the list
  int64_t first_target = 1;  // index in the window, >= 1
  int64_t length = 0;        // tokens
  size_t text = 0;           // index of the list
};

// The windows in one text of `tokens`; what they leave out at its end is not scored.
inline std::vector<Window> perplexity_windows(const std::string& protocol, int64_t tokens,
                                              int64_t length, int64_t stride = 0) {
  std::vector<Window> windows;
  if (protocol == "half_overlap") {
    // Strictly smaller, as in the original: a text of exactly one window has none.
    for (int64_t b = 0; b < tokens - length; b += length / 2)
      windows.push_back({b, b == 0 ? 1 : length / 2, length});
  } else if (protocol == "sliding") {
    for (int64_t b = 0, done = 1; done < tokens; b += stride) {
      const int64_t end = std::min(b + length, tokens);
      windows.push_back({b, std::max<int64_t>(done - b, 1), end - b});
      done = end;
    }
  } else if (protocol == "rolling_words") {
    // The first token is the one that begins the text: context only.
    for (int64_t done = 1; done < tokens;) {
      const int64_t end = std::min(done + length, tokens),
                    begin = std::max<int64_t>(end - length - 1, 0);
      windows.push_back({begin, done - begin, end - begin});
      done = end;
    }
  } else {
    const bool half = protocol == "llamacpp";
    if (half && tokens < 2 * length) return windows;  // as the original
    for (int64_t b = 0; b + length <= tokens; b += length)
      windows.push_back({b, half ? length / 2 + 1 : 1, length});
  }
  return windows;
}

// Do windows of a protocol differ in their number of targets by more than the first of them? Then
// figures are means over tokens, not over windows.
inline bool averages_tokens(const std::string& protocol) {
  return protocol == "sliding" || protocol == "rolling_words";
}

// A text that is scored by itself.
struct PerplexityText {
  std::vector<int32_t> tokens;
  int64_t words = 0, bytes = 0;  // of rolling_words: what the loss is divided by
};

// The whole file as one text; under rolling_words with `join` "pages" each page as one.
inline std::vector<PerplexityText> read_perplexity_texts(const PerplexitySettings& s,
                                                         const Tokenizer& tokenizer,
                                                         const ModelConfig& config) {
  const std::string text = read_joined_file(s.text, s.join);
  if (s.protocol != "rolling_words") return {{tokenizer.encode(text), 0, 0}};
  const bool pages = s.join == "pages";
  const PairTokenizer pairs(tokenizer, config, s.window);
  std::vector<PerplexityText> out;
  for (const std::string& page : pages ? tasks::wikitext_pages(text) : std::vector{text}) {
    PerplexityText one{{pairs.prefix(s.text)}, tasks::split_words(page), int64_t(page.size())};
    const auto tokens = pairs.encode_text(pages ? tasks::wikitext_detokenized(page) : page);
    one.tokens.insert(one.tokens.end(), tokens.begin(), tokens.end());
    out.push_back(std::move(one));
  }
  return out;
}

// Tokens of the shortest text that holds a window.
inline int64_t tokens_needed(const PerplexitySettings& s) {
  return s.protocol == "half_overlap" ? s.window + 1
         : s.protocol == "llamacpp"   ? 2 * s.window
         : s.protocol == "disjoint"   ? s.window
                                      : 2;
}

// Errors: texts that hold no window. `file`: for the message.
inline std::vector<Window> require_windows(const PerplexitySettings& s,
                                           const std::vector<PerplexityText>& texts,
                                           const std::string& file) {
  std::vector<Window> windows;
  int64_t found = 0;
  for (size_t t = 0; t < texts.size(); ++t) {
    const int64_t tokens = int64_t(texts[t].tokens.size());
    found += tokens;
    for (Window window : perplexity_windows(s.protocol, tokens, s.window, s.stride_used())) {
      window.text = t;
      windows.push_back(window);
    }
  }
  if (!windows.empty()) return windows;
  throw usage_error("the text is too short for one window: " + std::to_string(found) +
                        " tokens found, " + std::to_string(tokens_needed(s)) + " needed",
                    file, "use a longer text or a smaller `window`");
}

}  // namespace ptq::eval
