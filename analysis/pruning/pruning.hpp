// The pruning analysis: experiments over a grid of pruning method, calibration length and number of
// calibration samples, and what of them goes with the accuracy that is left.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "analysis/figures/gnuplot.hpp"
#include "analysis/read/records.hpp"
#include "analysis/write/document.hpp"
#include "analysis/write/language.hpp"
#include "ptq/results/record.hpp"

namespace ptq::report {

inline constexpr std::array<const char*, 7> kPruningTasks = {
    "boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"};
// Questions of each task: every accuracy must be a multiple of 1/n.
inline constexpr std::array<int64_t, 7> kPruningTaskSizes = {3270, 1838, 10042, 1267,
                                                             2376, 1172, 500};
inline constexpr std::array<const char*, 6> kGradientMetrics = {
    "grad_mean_ratio", "grad_norm_ratio", "grad_std_ratio",
    "grad_max_ratio",  "grad_mean_range", "grad_norm_range"};

struct PruningRun {
  std::string model, method;  // method: "taylor", "layerwise", "blockwise", ...
  std::optional<double> seq_len, num_samples, acc_mean, ppl, extreme_layers;
  std::array<std::optional<double>, 7> tasks;  // as kPruningTasks
  std::array<int64_t, 7> task_sizes = kPruningTaskSizes;
  std::array<std::optional<double>, 6> gradients;  // as kGradientMetrics; may be infinite
  std::string output_dir, success;
};

struct PruningModel {
  std::string name;
  std::vector<PruningRun> runs;  // in the order of the file: it decides between equals

  std::vector<const PruningRun*> valid() const;  // those with an accuracy
  const PruningRun* best() const;                // the highest accuracy, the first among equals
};

// A CSV file with a line of names, columns as in test/fixtures/report/pruning.csv
// (more are ignored), or a folder of such files or of our own records: those of one model and
// pruning method are a run (docs/report.md).
// In a folder a damaged file costs itself only and is named in `damaged`.
std::vector<PruningModel> read_pruning(const std::filesystem::path& path,
                                       std::vector<Damaged>& damaged);
// Does a record belong to a run?
bool is_pruning_record(const Record& record);
// Is it a CSV file whose first line names the column `pruning_method`?
bool is_pruning_csv(const std::filesystem::path& file);
std::vector<PruningModel> parse_pruning_csv(const std::string& text, const std::string& where);

// x and y of the runs that have both.
struct Pairs {
  std::vector<double> x, y;
  size_t size() const { return x.size(); }
};
Pairs gradient_pairs(const PruningModel& model, size_t metric);
Pairs extreme_pairs(const PruningModel& model);
Pairs perplexity_pairs(const PruningModel& model);

// Pearson as the study computes it: 0 for fewer than two pairs or no spread, NaN if any value is
// infinite.
double study_correlation(const Pairs& pairs);

// Groups in the order in which they first appear.
template <class Key>
using Groups = std::vector<std::pair<Key, std::vector<double>>>;
Groups<std::string> by_method(const PruningModel& model);
enum class PruningAxis { seq_len, num_samples, extreme_layers };
Groups<int64_t> by_axis(const PruningModel& model, PruningAxis axis);

// The study's document, every section; Chinese is the original.
std::string pruning_document(const std::vector<PruningModel>& models, Language language);

// cross_model_comparison.json. Where the study wrote a bare NaN this has null, and `nonfinite` says
// how many infinite inputs made it so.
Json cross_model_comparison(const std::vector<PruningModel>& models);

// Our page: the same questions with intervals, finite pairs, ranks and paired comparisons.
Document pruning_page(const std::vector<PruningModel>& models, Language language);

// Scatter and matrix of correlations of each model.
std::vector<Figure> pruning_figures(const std::vector<PruningModel>& models);

// One invariant of the study's pruning document for one model.
struct Check {
  enum class Verdict { holds, violated, not_applicable };
  std::string model, name, detail;
  Verdict verdict = Verdict::holds;
};

// What a document does not print and its checks need: questions of the tasks, and how many of the
// valid runs have a length and a number of samples; -1: all.
struct PruningFacts {
  std::array<int64_t, 7> task_sizes = kPruningTaskSizes;
  int64_t with_seq_len = -1, with_num_samples = -1;
};

// Checks a document of the study's form, from its printed numbers alone. facts: of each model in
// its order; empty: those of the study.
std::vector<Check> verify_pruning_document(const std::string& text,
                                           const std::vector<PruningFacts>& facts = {});
// Checks records: their own invariants, and those of the document that they give.
std::vector<Check> verify_pruning_records(const std::vector<PruningModel>& models);

}  // namespace ptq::report
