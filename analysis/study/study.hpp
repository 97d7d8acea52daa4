// The original study's JSON form: one file per run (a model under a method), with every evaluation
// in it. Our own records, one per evaluation, are brought into the same form, so that one set of
// pages serves both.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "analysis/read/records.hpp"

namespace ptq::report {

// Where a run has its passkey results, a path for Run::at().
inline constexpr const char* kPasskey = "results/kv_stress_test/passkey_retrieval/";

struct Run {
  std::string file;  // where it was read, relative to the folder; for messages
  std::string id;    // meta.filename
  Json json;         // keys meta, config, results, env, warnings

  // The member at a path such as "results/ppl/wikitext2/ppl", or null.
  const Json& at(const std::string& path) const;
  std::optional<double> number(const std::string& path) const;
  std::string text(const std::string& path) const;  // "" when absent

  std::string model() const { return text("meta/model"); }
  std::string method() const { return text("meta/method"); }
  std::string track() const { return text("meta/track"); }
  // The mean over all entries of the results that have an accuracy, as the study forms it: a group,
  // its fields and its subjects each count.
  std::optional<double> average_accuracy() const;
  // Accuracies of one harness task; a task has them under keys such as "acc,none".
  std::optional<double> accuracy(const std::string& task, const std::string& metric) const;
};

// Is this JSON a run of the study (and not a record of ours)?
bool is_study_run(const Json& json);

// Python's JSON may hold a bare NaN or Infinity, which is no JSON; they are read as null.
Json parse_python_json(std::string_view text, const std::string& where);
Json read_python_json(const std::filesystem::path& file);

// A file as a run: of the study, or a record.json of ours (with samples.jsonl beside it).
Run read_run(const std::filesystem::path& file);

// The study's run files of a folder. A file that cannot be read goes to `damaged`, or is an error
// where that is null.
std::vector<Run> read_study_runs(const std::filesystem::path& folder,
                                 std::vector<Damaged>* damaged);

// Every run of a folder: the study's *.json, or our records grouped by model and method.
// A damaged file is named in `damaged` and costs itself only.
std::vector<Run> read_runs(const std::filesystem::path& folder, std::vector<Damaged>& damaged);

// The study's runs of a folder, if there are any, as cells, with what was found wrong in them.
void add_study_cells(const std::filesystem::path& folder, Results& results);

// Our records of one model and method in the study's form.
Run run_of_cells(const std::vector<Cell>& cells);

}  // namespace ptq::report
