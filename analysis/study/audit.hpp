// What in a set of study runs must not be believed, found from the data alone. Each kind of finding
// has a number of its own, which stays the same from set to set.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "analysis/study/columns.hpp"

namespace ptq::report {

struct Finding {
  int number = 0;       // of the kind of finding
  std::string subject;  // run, row or table
  std::string text;     // one sentence

  std::string line() const { return "(" + std::to_string(number) + ") " + subject + ": " + text; }
};

// `later` are passkey results that the authors published afterwards (passkey_gradient_results.json
// in the same folder), an empty value where there are none.
std::vector<Finding> audit(const Layout& layout, const std::vector<Run>& runs, const Json& later);

// The later results of a folder, or null.
Json read_later_results(const std::filesystem::path& folder);

}  // namespace ptq::report
