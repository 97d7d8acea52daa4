// The one figure that an evaluation is judged by: where it stands in the metrics, what it is called
// and which is better. Records say so themselves since schema 2, so that a new kind of evaluation
// needs no line here.
#pragma once

#include <optional>
#include <string>

#include "ptq/results/record.hpp"

namespace ptq::report {

struct Headline {
  std::string key;      // path into the metrics: "ppl", "answers.accuracy"
  std::string title;    // "perplexity"; empty where the name of the evaluation says it
  bool higher = false;  // is better
  bool share = false;   // of right answers: written as k/n, compared in points
};

// What the record says; where it says nothing that of `frozen_headline`.
Headline headline_of(const Record& record);

// For records of schema 1 and for the runs of the earlier study.
Headline frozen_headline(const std::string& kind, const std::string& evaluation,
                         const Json& metrics);

// The figure; nothing where it is not there. Infinity where a perplexity was measured that is
// beyond a double: records write null then.
std::optional<double> figure_at(const Json& metrics, const Headline& headline);

}  // namespace ptq::report
