// Results in the forms that others read. A form of one checkpoint takes a subject (a model with a
// method); a table takes the report.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/page/report.hpp"

namespace ptq::report {

// A model with a method on it, and what was measured of it.
struct Subject {
  const Board* board = nullptr;
  const BoardStatistics* statistics = nullptr;
  const Row* row = nullptr;

  // "tiny-llama__kivi-2bit": of its file. Signs that are no letters, digits, '.', '-' or '_' become
  // dashes.
  std::string file_name() const;
};

// Every row with a result of the models and methods of these names (empty: of all).
std::vector<Subject> subjects_of(const Report& report, std::string_view model,
                                 std::string_view method);

// Every Eval Ever 0.3.0 (every_eval_ever/schemas/eval.schema.json): one JSON document. The headline
// of each evaluation, the KL divergence from full precision, and the perplexity's ratio to the
// baseline, each with its 95 % interval where it is known. Perplexities beyond a double are left
// out: the form has no infinity. `organization`: who measured; times are the records'.
std::string every_eval_ever(const Subject& subject, const std::string& organization);

// Hugging Face .eval_results/*.yaml (huggingface_hub, EvalResultEntry). Our evaluations are no
// datasets of the Hub, which a comment in the file says.
std::string hugging_face(const Subject& subject);

// The results file of lm-evaluation-harness 0.4 (keys of lm_eval/result_schema.py). Metrics have
// our own names where the definition is ours: token_perplexity, kl_mean, top1_agreement.
// Multiple-choice tasks have the harness's own names, groups and errors.
std::string lm_eval(const Subject& subject);

// The answers to its tasks, a file for each: "samples_<task>" to JSON Lines with the keys of the
// harness. A record has the rows' numbers; their texts (`doc`, `arguments`) are there where the
// data's files still are where the experiment named them, seen from the working folder, and are the
// same. notes: of tasks without texts.
std::map<std::string, std::string> lm_eval_samples(const Subject& subject,
                                                   std::vector<std::string>& notes);

// A booktabs table per experiment: damage and paired change with 95 % intervals for each model.
std::string latex(const Report& report);

// Does the cell have a task's entries of the harness?
bool asks_task(const Cell& cell);

// --- shared by the forms ---------------------------------------------------------------------

// A figure of a cell with what is known of its uncertainty.
struct Measure {
  std::string key, title, unit;
  double value = 0;
  bool higher = false;  // is better
  double most = 0;      // the largest value there is; infinity: none
  Interval interval;
  std::string how;  // the interval was made
  std::optional<double> samples;
};

// The figures of a cell that the forms carry, the headline first; none that is not finite.
std::vector<Measure> measures_of(const Subject& subject, const Cell& cell);

// "kivi bits=2 group_size=32", of all parts.
std::string method_in_words(const Cell& cell);

// The text or texts that a cell was measured on, the name of the evaluation else.
std::string dataset_of(const Cell& cell);

// Seconds since 1970 of "2026-01-02T03:04:05Z"; 0 for another text.
int64_t epoch_of(const std::string& iso8601);

}  // namespace ptq::report
