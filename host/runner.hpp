// Runs the cells of a plan, each in a child process, and keeps what they find.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "host/plan.hpp"
#include "ptq/results/store.hpp"

namespace ptq {

struct RunSettings {
  int jobs = 1;
  int threads = 0;     // of each cell; 0 = all cores, shared among the jobs
  bool fresh = false;  // compute finished cells again
  bool quiet = false;
  double max_seconds = 0;  // after which the run stops as if it were interrupted; 0 = never
};

struct RunSummary {
  size_t finished = 0, kept = 0, failed = 0, invalid = 0;  // invalid: among finished and kept
  // Among the kept: those that another experiment computed with the same settings, by its name.
  std::map<std::string, size_t> kept_of;
  size_t elsewhere = 0;  // among the kept: computed by other processes meanwhile
  bool interrupted = false;
};

RunSummary run_cells(const Plan& plan, const std::vector<Cell>& cells, const Store& store,
                     const RunSettings& settings);

}  // namespace ptq
