// What an evaluation gets and gives. One header per kind implements it; kinds.hpp lists them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "ptq/core/own_json.hpp"
#include "ptq/core/token_score.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/model/tokenizer.hpp"

namespace ptq::eval {

class ScoreBook;

// What is measured, and against what.
struct Subject {
  Engine& engine;     // runs the method's weights
  KvMethod* kv;       // the method's cache; nullptr = full-precision cache
  Engine* reference;  // full-precision engine of the same model for KL divergence and agreement,
                      // run in lock step (may be &engine when only the cache differs);
                      // nullptr: the subject is itself the full-precision baseline
  const Tokenizer& tokenizer;
  LayerNoise noise = {};  // on the subject's hidden state, not on the reference's
  // Scores from before (score_book.hpp), of kinds that keep them; nullptr: none.
  ScoreBook *scores = nullptr, *reference_scores = nullptr;
};

// metrics: one flat or nested JSON object, null (never NaN) for what could not be computed, with a
// "why" beside it. samples: one object per window, prompt or text, for paired comparison. tokens:
// the scored ones, where an evaluation scores the tokens of texts.
struct Outcome {
  Json metrics;
  std::vector<Json> samples;
  TokenFile tokens;
};

// fraction in 0 .. 1 of this evaluation; note: the figure so far, e.g. "ppl 12.31".
using Progress = std::function<void(double fraction, const std::string& note)>;

// A model before it is loaded: what an evaluation can be checked against.
struct Unloaded {
  const Tokenizer& tokenizer;
  const std::string& name;  // for messages
  int64_t longest_context;  // tokens that it was made for
};

}  // namespace ptq::eval
