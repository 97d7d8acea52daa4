// Which cells of an experiment have a result, and which results do not fit the experiment.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "analysis/read/records.hpp"

namespace ptq::report {

struct CellCheck {
  // inconsistent: figures that do not agree with each other or with the samples.
  enum class State { ok, missing, failed, invalid, inconsistent, conflict, extra };
  State state = State::ok;
  std::string model, method, evaluation;
  std::string detail;
};

// `experiment` is the TOML file that was run, or the experiment.json beside the results.
std::vector<CellCheck> check_cells(const std::filesystem::path& results,
                                   const std::string& experiment);

// A line for every cell that is not ok, and the counts.
std::string check_text(const std::vector<CellCheck>& checks);

}  // namespace ptq::report
