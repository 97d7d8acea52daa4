// The command that computes one cell again.
#pragma once

#include <string>

#include "analysis/read/records.hpp"
#include "ptq/results/record_experiment.hpp"

namespace ptq::report {

// A small experiment file with this cell alone, and the command that runs it.
inline std::string reproduce_command(const Cell& cell) {
  const Json command = cell.environment.value("command", Json());
  if (command.is_string()) return command.get<std::string>();  // the study's
  Record record;
  record.experiment = cell.experiment;
  record.track = cell.track;
  record.seed = uint64_t(cell.seed);
  record.model.path = cell.model_path;
  record.method = {cell.method, false, cell.parts};
  record.evaluation = {cell.evaluation, cell.kind, cell.settings};
  record.environment = cell.environment;
  record.metrics = cell.metrics;
  const Json device = cell.environment.value("device", Json());
  const bool cuda = device.is_string() && device.get<std::string>().starts_with("cuda");
  return "cat > cell.toml <<'EOF'\n" + record_experiment(record) +
         "EOF\nptq-host cell.toml --out results/again" + (cuda ? " --device cuda" : "") + "\n";
}

}  // namespace ptq::report
