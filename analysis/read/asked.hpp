// What the experiments of a results folder ask for now: ptq-host writes it beside the records, as
// experiments/<name>.json for each experiment and as experiment.json for the last one.
#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

namespace ptq::report {

struct Asked {
  std::string name;      // of the experiment
  std::string baseline;  // label of the method that everything is compared with; empty: not said
  std::set<std::string> models, methods;
  std::vector<std::string> evaluations;  // in its order
  std::set<std::string> cells;           // ids; empty: not said
};

// A file that cannot be read asks for nothing, so that nothing is marked for it.
std::vector<Asked> read_asked(const std::filesystem::path& folder);

}  // namespace ptq::report
