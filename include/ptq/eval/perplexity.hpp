// Token perplexity of texts under the protocols of perplexity_windows.hpp, always with the
// protocol's name beside the number: the same model differs by 10 % between them.
//
// Windows start at position 0. disjoint, half_overlap and llamacpp average the windows' mean losses
// without weights, which under llamacpp is the mean over all tokens; sliding and rolling_words
// average over tokens.
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
#include "ptq/eval/decide.hpp"
#include "ptq/eval/divergence.hpp"
#include "ptq/eval/lock_step.hpp"
#include "ptq/eval/measured.hpp"
#include "ptq/eval/perplexity_windows.hpp"
#include "ptq/eval/settings.hpp"
#include "ptq/eval/statistics.hpp"
#include "ptq/eval/subject.hpp"

namespace ptq::eval {

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
  std::vector<double> weights;                      // of the windows in the means
  double tokens = 0, squares = 0;                   // sums over all targets
  int64_t targets = 0, void_targets = 0;
  Divergence divergence;

  // Of what the loss of all targets is divided by besides their number.
  void write_bits_per_byte(Json& m, int64_t of_bytes, const char* why_none) const {
    put_number(m, "bits_per_byte",
               of_bytes > 0 && void_targets == 0 ? tokens / (double(of_bytes) * std::numbers::ln2)
                                                 : kUnknown,
               void_targets > 0 ? kVoidTokens : why_none);
  }
  void write_words(Json& m, int64_t words, int64_t of_bytes) const {
    const char* why = void_targets > 0 ? kVoidTokens : "no text was scored to its end";
    const auto per = [&](const char* key, int64_t count) {
      const double loss = count > 0 && void_targets == 0 ? tokens / double(count) : kUnknown;
      put_number(m, key, std::exp(loss), why);
    };
    m["words"] = words;
    m["bytes"] = of_bytes;
    per("word_perplexity", words);
    per("byte_perplexity", of_bytes);
    write_bits_per_byte(m, of_bytes, why);
  }

  // What llama-perplexity prints behind its "+/-": tokens as units, as if they were independent.
  void write_error_of_tokens(Json& m) const {
    const double n = double(targets), nll = tokens / n;
    put_number(m, "ppl_error", std::exp(nll) * std::sqrt((squares / n - nll * nll) / (n - 1)),
               "too few tokens, or a loss too large");
  }

  void write(Json& m, bool with_reference) const {
    const char* overflow = "the loss is too large for a perplexity in float64";
    const double nll = weighted_mean(own, weights);
    put_number(m, "nll", nll);
    put_number(m, "nll_se", weighted_error(own, weights), "one window has no spread");
    put_number(m, "ppl", std::exp(nll), overflow);
    put_number(m, "ppl_tok", std::exp(tokens / double(targets)), overflow);
    if (!with_reference) return;
    const double nll_reference = weighted_mean(reference, weights);
    put_number(m, "nll_reference", nll_reference);
    put_number(m, "ppl_reference", std::exp(nll_reference), overflow);
    put_number(m, "delta_nll", weighted_mean(differences, weights));
    // Windows as units: tokens of one window are not independent.
    put_number(m, "delta_nll_se", weighted_error(differences, weights), "one window has no spread");
    divergence.write(m);
  }
};

// Runs one window and adds its losses, which its sample gets too, and the scores of its tokens.
// Void tokens enter no loss, the reference's neither.
inline void score_window(LockStep& run, std::span<const int32_t> ids, int64_t first_target,
                         const PerplexitySettings& settings, Losses& losses, Json& sample,
                         std::vector<TokenScore>& tokens) {
  const int64_t length = int64_t(ids.size());
  // The harness feeds no token whose prediction it does not need.
  const auto fed = settings.protocol == "rolling_words" ? ids.first(ids.size() - 1) : ids;
  double loss = 0, reference_loss = 0;
  int64_t targets = 0, void_targets = 0;
  Divergence divergence;
  run.hand_over_not_finite();
  run.forward(fed, settings.regime, first_target - 1,
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
  losses.weights.push_back(averages_tokens(settings.protocol) ? double(targets) : 1);
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
  const std::vector<PerplexityText> texts =
      read_perplexity_texts(settings, subject.tokenizer, subject.engine.config());
  int64_t found = 0;
  for (const PerplexityText& text : texts) found += int64_t(text.tokens.size());
  std::vector<Window> windows = require_windows(settings, texts, settings.text);
  const int64_t available = int64_t(windows.size());
  if (settings.max_windows > 0 && settings.max_windows < available) {
    windows.resize(size_t(settings.max_windows));
  }
  const bool rolling = settings.protocol == "rolling_words";

  Outcome outcome;
  perplexity_detail::Losses losses;
  Measured measured;  // the caches at the end of the windows
  int64_t fed = 0, words = 0, bytes = 0;
  int64_t behind = found;  // tokens that no window so far has reached
  bool whole = true;       // does the last of them end with its text?
  Decider decider(settings.decide, subject.reference != nullptr, windows.size());
  for (size_t w = 0; w < windows.size(); ++w) {
    const Window& window = windows[w];
    const PerplexityText& text = texts[window.text];
    const auto begin = text.tokens.begin() + window.first_token;
    std::vector<int32_t> ids(begin, begin + window.length);
    if (settings.protocol == "llamacpp" && subject.tokenizer.bos_id() >= 0)
      ids[0] = subject.tokenizer.bos_id();
    LockStep run(subject);
    Json sample = {{"window", w}, {"first_token", window.first_token}};
    if (rolling) sample["text"] = window.text;
    perplexity_detail::score_window(run, ids, window.first_target, settings, losses, sample,
                                    outcome.tokens.tokens);
    outcome.tokens.runs.push_back({uint32_t(w), uint32_t(window.first_target),
                                   uint32_t(window.length - window.first_target)});
    const int64_t end = window.first_token + window.length;
    whole = end == int64_t(text.tokens.size());
    if (!rolling) {
      bytes += perplexity_detail::target_bytes(subject.tokenizer, ids, window.first_target);
    } else if (whole) {
      words += text.words;
      bytes += text.bytes;
    }
    behind = found - end;
    for (size_t t = 0; t < window.text; ++t) behind -= int64_t(texts[t].tokens.size());
    fed += window.length - (rolling ? 1 : 0);
    measured.add(run);
    outcome.samples.push_back(std::move(sample));
    if (progress) {
      char note[48];
      std::snprintf(note, sizeof note, "ppl %.2f",
                    std::exp(weighted_mean(losses.own, losses.weights)));
      progress(double(w + 1) / double(windows.size()), note);
    }
    if (decider.decided(outcome)) windows.resize(w + 1);
  }

  Json& m = outcome.metrics;
  m["protocol"] = settings.protocol;
  m["join"] = settings.join;
  m["window"] = settings.window;
  m["stride"] = settings.stride_used();
  m["windows"] = windows.size();
  m["windows_available"] = available;
  m["tokens_text"] = found;
  m["tokens_scored"] = losses.targets;
  m["nonfinite_tokens"] = losses.void_targets;
  m["tokens_left_out"] = behind;
  losses.write(m, subject.reference != nullptr);
  if (rolling) {
    m["texts"] = texts.size();
    losses.write_words(m, whole ? words : 0, whole ? bytes : 0);
  } else {
    losses.write_bits_per_byte(m, bytes, "the scored tokens decode to no text");
  }
  if (settings.protocol == "llamacpp") losses.write_error_of_tokens(m);
  decider.write(m);
  measured.write(m, settings.regime);
  put_rate(m, "tokens_per_second", double(fed), measured.seconds);
  return outcome;
}

inline void check_perplexity(const Unloaded& model, const PerplexitySettings& settings) {
  const std::string text = read_joined_file(settings.text, settings.join);
  if (clearly_long(text, tokens_needed(settings))) return;
  require_windows(settings, {{model.tokenizer.encode(text), 0, 0}}, settings.text);
}

}  // namespace ptq::eval
