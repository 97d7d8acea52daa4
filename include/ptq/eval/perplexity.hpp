// Token perplexity of a text under two protocols, always with the protocol's name beside the
// number: the same model differs by 10 % between them.
//
//   disjoint      windows side by side, all predictions inside a window count (IST-DASLab/gptq
//                 llama.py, mit-han-lab/llm-awq awq/entry.py; the figures of the papers)
//   half_overlap  windows advance by half; from the second on only the second half counts
//                 (huthvincent/ptq-bench src/evaluator.py)
//
// Both tokenise the text once, start every window at position 0 and average the windows' mean
// losses without weights.
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
#include "ptq/core/suggest.hpp"
#include "ptq/data/text.hpp"
#include "ptq/eval/cache_report.hpp"
#include "ptq/eval/divergence.hpp"
#include "ptq/eval/evaluation.hpp"
#include "ptq/eval/lock_step.hpp"
#include "ptq/eval/statistics.hpp"

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
    for (int64_t b = 0; b + length <= tokens; b += length) windows.push_back({b, 1});
  }
  return windows;
}

// Errors: a text of `tokens` tokens that holds no window. `file`: for the message.
inline std::vector<Window> require_windows(const PerplexitySettings& s, int64_t tokens,
                                           const std::string& file) {
  std::vector<Window> windows = perplexity_windows(s.protocol, tokens, s.window);
  if (!windows.empty()) return windows;
  const int64_t needed = s.protocol == "half_overlap" ? s.window + 1 : s.window;
  throw usage_error("the text is too short for one window: " + std::to_string(tokens) +
                        " tokens found, " + std::to_string(needed) + " needed",
                    file, "use a longer text or a smaller `window`");
}

namespace perplexity_detail {

inline void check(const PerplexitySettings& s) {
  const auto known = [](const std::string& key, const std::string& value,
                        const std::vector<std::string>& names) {
    for (const std::string& name : names) {
      if (name == value) return;
    }
    throw usage_error(key + " = `" + value + "` is not known", "perplexity",
                      did_you_mean(value, names));
  };
  known("protocol", s.protocol, {"disjoint", "half_overlap"});
  known("join", s.join, {"raw", "wikitext2"});
  if (s.window < 2) throw usage_error("window must be at least 2 tokens", "perplexity");
  if (s.protocol == "half_overlap" && s.window % 2 != 0) {
    throw usage_error(
        "`window` is " + std::to_string(s.window) + ", half_overlap needs an even number",
        "perplexity", "window = " + std::to_string(s.window - 1));
  }
  if (s.max_windows < 0) throw usage_error("max_windows must not be negative", "perplexity");
}

// Bytes of the targets' text. The context in front is decoded with them and subtracted, so that
// what a decoder does to the first token of a text (a dropped blank, BOS) does not count. A
// character that is cut by the border of a window counts as U+FFFD, which is off by 2 bytes at
// most.
inline int64_t target_bytes(const Tokenizer& tokenizer, std::span<const int32_t> window,
                            int64_t first_target) {
  return int64_t(tokenizer.decode(window, true).size()) -
         int64_t(tokenizer.decode(window.first(size_t(first_target)), true).size());
}

}  // namespace perplexity_detail

// Errors: settings, unreadable text, a text shorter than one
// window, logits that are not finite.
inline Outcome perplexity(Subject& subject, const PerplexitySettings& settings,
                          const Progress& progress) {
  perplexity_detail::check(settings);
  std::string text = read_utf8_file(settings.text);
  if (settings.join == "wikitext2") text = join_wikitext2(text);
  const std::vector<int32_t> tokens = subject.tokenizer.encode(text);
  const int64_t found = int64_t(tokens.size()), length = settings.window;
  std::vector<Window> windows = require_windows(settings, found, settings.text);
  const int64_t available = int64_t(windows.size());
  if (settings.max_windows > 0 && settings.max_windows < available) {
    windows.resize(size_t(settings.max_windows));
  }

  Outcome outcome;
  std::vector<double> losses, reference_losses, differences;  // mean NLL per window, nats
  double token_loss = 0;
  int64_t targets = 0, bytes = 0;
  Divergence divergence;
  CacheReads reads;
  CacheMeans cache;
  double seconds = 0, reference_seconds = 0;

  for (size_t w = 0; w < windows.size(); ++w) {
    const Window& window = windows[w];
    const auto ids = std::span(tokens).subspan(size_t(window.first_token), size_t(length));
    const int64_t window_targets = length - window.first_target;
    double loss = 0, reference_loss = 0;
    Divergence in_window;
    LockStep run(subject);
    run.forward(ids, settings.regime, window.first_target - 1,
                [&](int64_t row, const LogitRow& method, const LogitRow* reference) {
                  if (row + 1 == length) return;  // predicts the token after the window
                  const int32_t target = ids[size_t(row + 1)];
                  loss += method.nll(target);
                  if (reference) {
                    reference_loss += reference->nll(target);
                    in_window.add(*reference, method, target);
                  }
                });
    token_loss += loss;
    targets += window_targets;
    losses.push_back(loss / double(window_targets));
    bytes += perplexity_detail::target_bytes(subject.tokenizer, ids, window.first_target);
    add_reads(reads, run.sequence().reads());
    cache.add(run.sequence().bytes());
    seconds += run.seconds();
    reference_seconds += run.reference_seconds();

    Json sample = {{"window", w},
                   {"first_token", window.first_token},
                   {"targets", window_targets},
                   {"nll", losses.back()}};
    if (subject.reference) {
      reference_losses.push_back(reference_loss / double(window_targets));
      differences.push_back(losses.back() - reference_losses.back());
      sample["nll_reference"] = reference_losses.back();
      in_window.write_short(sample);
      divergence.add(in_window);
    }
    outcome.samples.push_back(std::move(sample));
    if (progress) {
      char note[48];
      std::snprintf(note, sizeof note, "ppl %.2f", std::exp(mean(losses)));
      progress(double(w + 1) / double(windows.size()), note);
    }
  }

  const double nll = mean(losses), tokens_run = double(windows.size()) * double(length);
  const char* overflow = "the loss is too large for a perplexity in float64";
  Json& m = outcome.metrics;
  m["protocol"] = settings.protocol;
  m["join"] = settings.join;
  m["window"] = length;
  m["stride"] = settings.protocol == "half_overlap" ? length / 2 : length;
  m["windows"] = windows.size();
  m["windows_available"] = available;
  m["tokens_text"] = found;
  m["tokens_scored"] = targets;
  m["tokens_left_out"] = found - windows.back().first_token - length;  // behind the last window
  put_number(m, "nll", nll);
  put_number(m, "nll_se", standard_error(losses), "one window has no spread");
  put_number(m, "ppl", std::exp(nll), overflow);
  put_number(m, "ppl_tok", std::exp(token_loss / double(targets)), overflow);
  put_number(m, "bits_per_byte",
             bytes > 0 ? token_loss / (double(bytes) * std::numbers::ln2) : kUnknown,
             "the scored tokens decode to no text");
  if (subject.reference) {
    put_number(m, "nll_reference", mean(reference_losses));
    put_number(m, "ppl_reference", std::exp(mean(reference_losses)), overflow);
    put_number(m, "delta_nll", mean(differences));
    // Windows as units: tokens of one window are not independent.
    put_number(m, "delta_nll_se", standard_error(differences), "one window has no spread");
    divergence.write(m);
  }
  m["regime"] = regime_word(settings.regime);
  write_exposure(m, reads);
  m["cache"] = cache.json();  // at the end of the windows
  m["seconds"] = seconds;
  m["reference_seconds"] = reference_seconds;
  put_number(m, "tokens_per_second", seconds > 0 ? tokens_run / seconds : kUnknown,
             "too fast for the clock");
  return outcome;
}

}  // namespace ptq::eval
