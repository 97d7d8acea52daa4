// The parts of a run that are no pass of the model.
#pragma once

#include <string>

#include "bench/limits.hpp"
#include "ptq/run/model_source.hpp"

namespace ptq::bench {

class Sheet;

struct PartsSettings {
  ModelSource model;
  std::string device;  // that opens it
  std::string text;    // file that is tokenised
  int threads = 0;
};

// Opening the model until it could run, with the files in the page cache; tokenising a text that
// the tokenizer has not seen, on one thread; the score of one row of logits, on one thread.
void measure_parts(Sheet& sheet, const Limits& limits, const PartsSettings& settings);

}  // namespace ptq::bench
