// Token perplexity of a text under three protocols, always with the protocol's name beside the
// number: the same model differs by 10 % between them.
//
//   disjoint      windows side by side, all predictions inside a window count (IST-DASLab/gptq
//                 llama.py, mit-han-lab/llm-awq awq/entry.py; the figures of the papers)
//   half_overlap  windows advance by half; from the second on only the second half counts
//                 (huthvincent/ptq-bench src/evaluator.py)
//   llamacpp      windows side by side, their first token replaced by the tokenizer's begin-of-text
//                 token where it has one; of the predictions at positions n/2 to n - 2 (ggml-org/
//                 llama.cpp tools/perplexity, llama-perplexity without --ppl-stride)
//
// All tokenise the text once, start every window at position 0 and average the windows' mean
// losses without weights; under llamacpp that is the mean over all tokens.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <numbers>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/core/token_score.hpp"
#include "ptq/data/text.hpp"
#include "ptq/eval/decide.hpp"
#include "ptq/eval/divergence.hpp"
#include "ptq/eval/lock_step.hpp"
#include "ptq/eval/measured.hpp"
#include "ptq/eval/settings.hpp"
#include "ptq/eval/statistics.hpp"
#include "ptq/eval/subject.hpp"

namespace ptq::eval {

// One window of the token list and the first of its tokens that is a target (the last always is).
struct Window {
  int64_t first_token;   // index in the text
  int64_t first_target;  // index in the window, >= 1
};

// The windows of `length` tokens in a text of `tokens`; what does not fill a window is dropped.
inline std::vector<Window> perplexity_windows(const std::string& protocol, int64_t tokens,
                                              int64_t length) {
  std::vector<Window> windows;
  if (protocol == "half_overlap") {
    // Strictly smaller, as in the original: a text of exactly one window has none.
    for (int64_t b = 0; b < tokens - length; b += length / 2) {
      windows.push_back({b, b == 0 ? 1 : length / 2});
    }
  } else {
    const bool half = protocol == "llamacpp";
    if (half && tokens < 2 * length) return windows;  // as the original
    for (int64_t b = 0; b + length <= tokens; b += length)
      windows.push_back({b, half ? length / 2 + 1 : 1});
  }
  return windows;
}

// Tokens of the shortest text that holds a window.
inline int64_t tokens_needed(const PerplexitySettings& s) {
  return s.protocol == "half_overlap" ? s.window + 1
         : s.protocol == "llamacpp"   ? 2 * s.window
                                      : s.window;
}

// Errors: a text of `tokens` tokens that holds no window. `file`: for the message.
inline std::vector<Window> require_windows(const PerplexitySettings& s, int64_t tokens,
                                           const std::string& file) {
  std::vector<Window> windows = perplexity_windows(s.protocol, tokens, s.window);
  if (!windows.empty()) return windows;
  throw usage_error("the text is too short for one window: " + std::to_string(tokens) +
                        " tokens found, " + std::to_string(tokens_needed(s)) + " needed",
                    file, "use a longer text or a smaller `window`");
}

namespace perplexity_detail {

// Bytes of the targets' text. The context in front is decoded with them and subtracted, so that
// what a decoder does to the first token of a text (a dropped blank, BOS) does not count. A
// character that is cut by the border of a window counts as U+FFFD, which is off by 2 bytes at
// most.
inline int64_t target_bytes(const Tokenizer& tokenizer, std::span<const int32_t> window,
                            int64_t first_target) {
  return int64_t(tokenizer.decode(window, true).size()) -
         int64_t(tokenizer.decode(window.first(size_t(first_target)), true).size());
}

// The losses of the windows that are done.
struct Losses {
  std::vector<double> own, reference, differences;  // mean NLL per window, nats
  double tokens = 0, squares = 0;                   // sums over all targets
  int64_t targets = 0, void_targets = 0, bytes = 0;
  Divergence divergence;

  // What llama-perplexity prints behind its "+/-": tokens as units, as if they were independent.
  void write_error_of_tokens(Json& m) const {
    const double n = double(targets), nll = tokens / n;
    put_number(m, "ppl_error", std::exp(nll) * std::sqrt((squares / n - nll * nll) / (n - 1)),
               "too few tokens, or a loss too large");
  }

  void write(Json& m, bool with_reference) const {
    const char* overflow = "the loss is too large for a perplexity in float64";
    const double nll = mean(own);
    put_number(m, "nll", nll);
    put_number(m, "nll_se", standard_error(own), "one window has no spread");
    put_number(m, "ppl", std::exp(nll), overflow);
    put_number(m, "ppl_tok", std::exp(tokens / double(targets)), overflow);
    put_number(
        m, "bits_per_byte",
        bytes > 0 && void_targets == 0 ? tokens / (double(bytes) * std::numbers::ln2) : kUnknown,
        void_targets > 0 ? kVoidTokens : "the scored tokens decode to no text");
    if (!with_reference) return;
    put_number(m, "nll_reference", mean(reference));
    put_number(m, "ppl_reference", std::exp(mean(reference)), overflow);
    put_number(m, "delta_nll", mean(differences));
    // Windows as units: tokens of one window are not independent.
    put_number(m, "delta_nll_se", standard_error(differences), "one window has no spread");
    divergence.write(m);
  }
};

// Runs one window and adds its losses, which its sample gets too, and the scores of its tokens.
// Void tokens enter no loss, the reference's neither.
inline void score_window(LockStep& run, std::span<const int32_t> ids, int64_t first_target,
                         Regime regime, Losses& losses, Json& sample,
                         std::vector<TokenScore>& tokens) {
  const int64_t length = int64_t(ids.size());
  double loss = 0, reference_loss = 0;
  int64_t targets = 0, void_targets = 0;
  Divergence divergence;
  run.hand_over_not_finite();
  run.forward(ids, regime, first_target - 1,
              [&](int64_t row, const LogitRow& method, const LogitRow* reference) {
                if (row + 1 == length) return;  // predicts the token after the window
                const ScoredToken token = score_token(method, reference, ids[size_t(row + 1)]);
                tokens.push_back(token.packed());
                if (!token.finite) {
                  ++void_targets;
                  return;
                }
                ++targets;
                loss += token.nll;
                losses.squares += token.nll * token.nll;
                if (!reference) return;
                reference_loss += token.nll_reference;
                divergence.add(token);
              });
  losses.tokens += loss;
  losses.targets += targets;
  losses.void_targets += void_targets;
  sample["targets"] = targets;
  if (void_targets > 0) sample["nonfinite_tokens"] = void_targets;
  put_number(sample, "nll", targets > 0 ? loss / double(targets) : kUnknown, kVoidTokens);
  if (targets == 0) return;
  losses.own.push_back(loss / double(targets));
  if (divergence.count() == 0) return;  // no reference
  losses.reference.push_back(reference_loss / double(targets));
  losses.differences.push_back(losses.own.back() - losses.reference.back());
  losses.divergence.add(divergence);
  sample["nll_reference"] = losses.reference.back();
  divergence.write_short(sample);
}

}  // namespace perplexity_detail

// Errors: settings, unreadable text, a text shorter than one window, logits of the reference that
// are not finite. Those of the subject make their tokens void.
inline Outcome perplexity(Subject& subject, const PerplexitySettings& settings,
                          const Progress& progress) {
  check_settings(settings, "perplexity");
  const std::vector<int32_t> tokens =
      subject.tokenizer.encode(read_joined_file(settings.text, settings.join));
  const int64_t found = int64_t(tokens.size()), length = settings.window;
  std::vector<Window> windows = require_windows(settings, found, settings.text);
  const int64_t available = int64_t(windows.size());
  if (settings.max_windows > 0 && settings.max_windows < available) {
    windows.resize(size_t(settings.max_windows));
  }

  Outcome outcome;
  perplexity_detail::Losses losses;
  Measured measured;  // the caches at the end of the windows
  Decider decider(settings.decide, subject.reference != nullptr, windows.size());
  for (size_t w = 0; w < windows.size(); ++w) {
    const Window& window = windows[w];
    const auto begin = tokens.begin() + window.first_token;
    std::vector<int32_t> ids(begin, begin + length);
    if (settings.protocol == "llamacpp" && subject.tokenizer.bos_id() >= 0)
      ids[0] = subject.tokenizer.bos_id();
    LockStep run(subject);
    Json sample = {{"window", w}, {"first_token", window.first_token}};
    perplexity_detail::score_window(run, ids, window.first_target, settings.regime, losses, sample,
                                    outcome.tokens.tokens);
    outcome.tokens.runs.push_back(
        {uint32_t(w), uint32_t(window.first_target), uint32_t(length - window.first_target)});
    losses.bytes += perplexity_detail::target_bytes(subject.tokenizer, ids, window.first_target);
    measured.add(run);
    outcome.samples.push_back(std::move(sample));
    if (progress) {
      char note[48];
      std::snprintf(note, sizeof note, "ppl %.2f", std::exp(mean(losses.own)));
      progress(double(w + 1) / double(windows.size()), note);
    }
    if (decider.decided(outcome)) windows.resize(w + 1);
  }

  Json& m = outcome.metrics;
  m["protocol"] = settings.protocol;
  m["join"] = settings.join;
  m["window"] = length;
  m["stride"] = settings.protocol == "half_overlap" ? length / 2 : length;
  m["windows"] = windows.size();
  m["windows_available"] = available;
  m["tokens_text"] = found;
  m["tokens_scored"] = losses.targets;
  m["nonfinite_tokens"] = losses.void_targets;
  m["tokens_left_out"] = found - windows.back().first_token - length;  // behind the last window
  losses.write(m, subject.reference != nullptr);
  if (settings.protocol == "llamacpp") losses.write_error_of_tokens(m);
  decider.write(m);
  measured.write(m, settings.regime);
  put_rate(m, "tokens_per_second", double(windows.size()) * double(length), measured.seconds);
  return outcome;
}

inline void check_perplexity(const Unloaded& model, const PerplexitySettings& settings) {
  const std::string text = read_joined_file(settings.text, settings.join);
  if (clearly_long(text, tokens_needed(settings))) return;
  require_windows(settings, int64_t(model.tokenizer.encode(text).size()), settings.text);
}

}  // namespace ptq::eval
