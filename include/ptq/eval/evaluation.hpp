// What an evaluation gets and gives. One header per measure implements it: perplexity.hpp,
// cached_decode.hpp, passkey.hpp, retrieval.hpp, generation.hpp.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "ptq/core/own_json.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/model/tokenizer.hpp"

namespace ptq::eval {

// What is measured, and against what.
struct Subject {
  Engine& engine;     // runs the method's weights
  KvMethod* kv;       // the method's cache; nullptr = full-precision cache
  Engine* reference;  // full-precision engine of the same model for KL divergence and agreement,
                      // run in lock step (may be &engine when only the cache differs);
                      // nullptr: the subject is itself the full-precision baseline
  const Tokenizer& tokenizer;
};

// metrics: one flat or nested JSON object, null (never NaN) for what could not be computed, with a
// "why" beside it. samples: one object per window, prompt or text, for paired comparison.
struct Outcome {
  Json metrics;
  std::vector<Json> samples;
};

// fraction in 0 .. 1 of this evaluation; note: the figure so far, e.g. "ppl 12.31".
using Progress = std::function<void(double fraction, const std::string& note)>;

// Token perplexity of a text (perplexity.hpp).
struct PerplexitySettings {
  std::string text;          // path of a UTF-8 file, tokenised once
  std::string join = "raw";  // "raw": the file as it is; "wikitext2": rows joined by "\n\n"
  std::string protocol = "disjoint";  // "disjoint" or "half_overlap"
  int64_t window = 2048;              // tokens
  int64_t max_windows = 0;            // 0 = all
  Regime regime = Regime::streaming;
};

// Passkey retrieval (passkey.hpp).
struct PasskeySettings {
  int64_t keys = 20;
  std::vector<double> depths = {0.1, 0.25, 0.5, 0.75};
  int64_t context_length = 2048;  // tokens asked for (passkey_prompt.hpp)
  int64_t max_new_tokens = 8;
  uint32_t seed = 42;
  Regime regime = Regime::prefill_exact;
  // "cached": the context is prefilled and encoded, the question and the answer are fed through the
  // cache, so that already the first answer token reads it. "prefilled": the question belongs to
  // the prompt, as the methods' own repositories do it.
  std::string question = "cached";
};

// The retrieval suite (retrieval.hpp): every task x haystack x length, at every depth.
struct RetrievalSettings {
  std::vector<std::string> tasks = {"single", "multikey-4"};  // retrieval_prompt.hpp has the names
  std::vector<std::string> haystacks = {"noise"};             // "noise", "prose", "needles"
  std::vector<int64_t> lengths = {4096};  // tokens of everything, the answer included
  std::vector<double> depths = {0, 0.1, 0.25, 0.5, 0.75, 0.9, 1};
  int64_t samples = 20;        // prompts of each cell
  int64_t max_new_tokens = 0;  // of an answer; 0: as much as the task needs
  uint32_t seed = 42;
  Regime regime = Regime::prefill_exact;
  // "context_only": the context is encoded before the question is seen. "question_aware": the
  // question belongs to the prompt.
  std::string question = "context_only";
  // Whether another needle is asked for afterwards, through the same cache (multikey).
  bool second_question = false;
};

// Perplexity of long documents, by the length of what a token can look back on (cached_decode.hpp).
struct CachedDecodeSettings {
  std::string texts;  // path of a JSON Lines file with a field "text"
  int64_t samples = 2;
  std::vector<int64_t> lengths = {4096, 8192, 16384, 32768};  // tokens
  Regime regime = Regime::streaming;
  int64_t chunk = 64;  // tokens per call under prefill_exact, which read each other in full
};

// Teacher-forced decoding through the cache (generation.hpp).
struct GenerationSettings {
  std::string texts;  // path of a JSON Lines file with a field "text"
  int64_t samples = 5;
  int64_t prompt_tokens = 1500;
  int64_t continuation_tokens = 512;
  Regime regime = Regime::prefill_exact;  // of the prompt; the continuation always streams
  int64_t batch = 1;                      // texts that are decoded side by side
};

}  // namespace ptq::eval
