// An experiment worked out: what is to run, what is there already, what is missing.
#pragma once

#include <filesystem>
#include <regex>
#include <string>
#include <vector>

#include "ptq/results/store.hpp"
#include "ptq/run/grid.hpp"

namespace ptq {

struct PlanRequest {
  std::filesystem::path file;
  std::vector<std::string> settings;  // --set
  std::vector<std::string> plugins;   // --plugins
  std::string device = "auto";
};

struct Plan {
  Experiment experiment;
  std::vector<std::filesystem::path> bases;  // where relative paths are looked up
  std::vector<std::string> plugin_notes;     // files that were skipped, and why
  ExperimentGrid grid;
  std::string device;  // "cpu" or "cuda:N"
  Problems missing;    // of the environment: models, data files
};

// Reads and checks everything. Mistakes in the experiment are thrown, all at once; missing models
// and files are left in plan.missing, and the grid has no cells then.
Plan make_plan(const PlanRequest& request);

// The grid, the memory it needs and what is missing, for people.
std::string plan_text(const Plan& plan, const Store& store, const std::vector<Cell>& cells);

}  // namespace ptq
