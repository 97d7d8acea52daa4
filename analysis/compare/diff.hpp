// What changed between two folders of results, cell by cell.
#pragma once

#include <string>

#include "analysis/read/records.hpp"

namespace ptq::report {

struct Difference {
  std::string text;  // the page
  bool any = false;  // does anything but time differ?
};

// A is the earlier one. Cells are matched by experiment, model, method and evaluation, and where an
// experiment has another name in B by the other three. Every figure is compared but times, memory
// and speed; where both have samples the change is judged on the same samples.
Difference diff_results(const Results& a, const Results& b);

}  // namespace ptq::report
