// What can be known of the evaluations before a model is loaded: texts that are empty, no UTF-8 or
// too short, prompts that do not fit. Each is a mistake of the experiment, with its place there.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "ptq/calibrate/sequences.hpp"
#include "ptq/core/problems.hpp"
#include "ptq/data/text.hpp"
#include "ptq/eval/kinds.hpp"
#include "ptq/model/tokenizer.hpp"
#include "ptq/run/experiment.hpp"
#include "ptq/run/grid.hpp"
#include "ptq/run/model_source.hpp"

namespace ptq {
namespace preflight_detail {

// A mistake of the experiment at `where`, whatever kind of error it was below.
template <class Check>
void check_at(const std::string& where, Problems& problems, const Check& check) {
  try {
    check();
  } catch (const Error& error) {
    std::string place = where;
    if (!error.where().empty()) place += ": " + error.where();
    problems.add(usage_error(error.message(), place, error.hint()));
  }
}

}  // namespace preflight_detail

// Whether all evaluations that were found can be run with all models, and the calibration text be
// read. One problem for each evaluation is enough, so the first model that has one stands for all.
inline void check_inputs(const ExperimentGrid& grid, const Experiment& experiment,
                         Problems& problems) {
  using namespace preflight_detail;
  std::vector<std::pair<const GridModel*, Tokenizer>> models;
  for (const GridModel& model : grid.models) {
    problems.collect([&] { models.emplace_back(&model, load_tokenizer(model.source)); });
  }
  for (const GridEvaluation& evaluation : grid.evaluations) {
    const auto written =
        std::find_if(experiment.evaluations.begin(), experiment.evaluations.end(),
                     [&](const Evaluation& e) { return e.name == evaluation.name; });
    check_at(written->where, problems, [&] {
      for (const auto& [model, tokenizer] : models) {
        eval::check_unloaded({tokenizer, model->record.name, model->config.max_position_embeddings},
                             eval::with_files(evaluation.settings, evaluation.files));
      }
    });
  }
  if (!grid.calibration || grid.calibration->file.empty()) return;
  check_at(experiment.calibration_where, problems, [&] {
    const calibrate::CalibrationSettings& s = grid.calibration->settings;
    if (clearly_long(read_utf8_file(grid.calibration->file), s.length)) return;
    for (const auto& [model, tokenizer] : models) {
      calibrate::read_sequences(tokenizer, grid.calibration->file, s,
                                model->config.max_position_embeddings, experiment.seed);
    }
  });
}

}  // namespace ptq
