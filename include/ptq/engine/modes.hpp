// How a pass computes and what it may read, with the words of experiment files for both.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/suggest.hpp"

namespace ptq {

// The number format of activations.
enum class Compute {
  fp32,  // float32 throughout
  bf16,  // rounded to bfloat16 at every place where the reference implementation rounds, float32
         // inside matrix products, norms and softmax; the dense rows of a cache are bfloat16
  int8,  // float32, but the inputs of linear layers whose weights are stored as integers become
         // integers, too, 8 bits with a scale for each 32 of them, as llama.cpp computes on a CPU
};

// What a query may read of its past. Why: docs/decisions.md, "Evaluation at prefill speed".
enum class Regime {
  // Every query, the prompt's too, reads what the cache holds at its moment: rows below the
  // boundary E(t) from their encoding, the rest dense (as float16).
  streaming,
  // The tokens of this call read each other dense; rows of earlier calls as the cache holds them.
  // Afterwards the cache holds them as the policy says.
  prefill_exact,
  // Every query of this call reads the rows as the cache holds them after the call: also early
  // queries read encodings whose statistics include later tokens, which no deployed cache can know.
  // So ran the study that kivi_study, kvquant_study and forge_study reproduce.
  prefill_encoded,
  // One fresh pass in float32 without any cache: the reference, marked "cache not read".
  independent,
};

// The words of a mode, in the order of its enum.
inline const std::vector<std::string>& compute_words() {
  static const std::vector<std::string> words = {"fp32", "bf16", "int8"};
  return words;
}
inline const std::vector<std::string>& regime_words() {
  static const std::vector<std::string> words = {"streaming", "prefill-exact", "prefill-encoded",
                                                 "independent"};
  return words;
}

inline std::string compute_word(Compute compute) { return compute_words()[size_t(compute)]; }
inline std::string regime_word(Regime regime) { return regime_words()[size_t(regime)]; }

namespace modes_detail {

inline size_t index_of_word(const std::vector<std::string>& words, const std::string& word,
                            const char* what, const std::string& where) {
  const auto found = std::find(words.begin(), words.end(), word);
  if (found == words.end()) {
    throw usage_error(std::string("unknown ") + what + " `" + word + "`", where,
                      did_you_mean(word, words));
  }
  return size_t(found - words.begin());
}

}  // namespace modes_detail

// `where`: for the message, the place of the word.
inline Compute compute_from_word(const std::string& word, const std::string& where) {
  return Compute(modes_detail::index_of_word(compute_words(), word, "compute mode", where));
}
inline Regime regime_from_word(const std::string& word, const std::string& where) {
  return Regime(modes_detail::index_of_word(regime_words(), word, "regime", where));
}

}  // namespace ptq
