// The token sequences that methods calibrate on: pieces of a text at random places.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/hash.hpp"
#include "ptq/core/mt19937.hpp"
#include "ptq/data/text.hpp"
#include "ptq/model/tokenizer.hpp"

namespace ptq::calibrate {

// Of an experiment, for every method that asks for calibration.
struct CalibrationSettings {
  std::string text;          // a UTF-8 file, not the one that is evaluated on; empty: none
  std::string join = "raw";  // as for perplexity: "raw", "wikitext2"
  int64_t sequences = 16;
  int64_t length = 2048;      // tokens of a sequence; at most what the model allows
  double memory_gib = 4;      // of what is kept for methods; fewer sequences are used beyond it
  bool layer_errors = false;  // measure what the output of every encoded linear loses on the set
};

// The fields, as visit_settings of eval/settings.hpp lists those of evaluations.
template <class Visitor>
void visit_settings(CalibrationSettings& s, Visitor& v) {
  v.file("text", s.text, "calibrate on");
  v.choice("join", s.join, join_words());
  v.integer("sequences", s.sequences, 1, 4096);
  v.integer("length", s.length, 2, kLongestContext);
  v.number("memory_gib", s.memory_gib, 0, 65536);
  v.boolean("layer_errors", s.layer_errors);
}

// Settings whose text was found.
struct CalibrationSource {
  CalibrationSettings settings;  // the file name as the user wrote it
  std::string file, sha256;      // where it was found; of its content
};

// Random pieces of `length` tokens, each to be read from position 0. The places are those that
// random.randint(0, tokens - length - 1) of Python gives after random.seed(seed), as in
// IST-DASLab/gptq datautils.py, whose loader the later methods use too: pieces may overlap.
inline std::vector<std::vector<int32_t>> random_sequences(const std::vector<int32_t>& tokens,
                                                          int64_t sequences, int64_t length,
                                                          uint64_t seed) {
  PythonRandom random(seed);
  std::vector<std::vector<int32_t>> result;
  for (int64_t i = 0; i < sequences; ++i) {
    const auto first = tokens.begin() + random.randint(0, int64_t(tokens.size()) - length - 1);
    result.emplace_back(first, first + length);
  }
  return result;
}

// What tells two sets of sequences apart.
inline std::string tokens_sha256(const std::vector<std::vector<int32_t>>& sequences) {
  Sha256 tokens;
  for (const auto& sequence : sequences)
    tokens.update({reinterpret_cast<const char*>(sequence.data()), 4 * sequence.size()});
  return tokens.hex();
}

// `file`: where settings.text was found. `longest`: tokens that the model allows. Errors: a text
// that cannot be read or is too short.
inline std::vector<std::vector<int32_t>> read_sequences(const Tokenizer& tokenizer,
                                                        const std::string& file,
                                                        const CalibrationSettings& settings,
                                                        int64_t longest, uint64_t seed) {
  const std::vector<int32_t> tokens = tokenizer.encode(read_joined_file(file, settings.join));
  const int64_t length = std::min(settings.length, longest), found = int64_t(tokens.size());
  if (found <= length)
    throw usage_error("the calibration text is too short: " + std::to_string(found) +
                          " tokens found, more than " + std::to_string(length) + " needed",
                      file, "use a longer text or a smaller calibration.length");
  return random_sequences(tokens, settings.sequences, length, seed);
}

}  // namespace ptq::calibrate
