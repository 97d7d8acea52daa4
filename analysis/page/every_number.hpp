// Every number of a report, for a spreadsheet and for a program.
#pragma once

#include <string>

#include "analysis/page/report.hpp"

namespace ptq::report {

std::string csv_page(const Report& report);  // a line per number
std::string json_page(const Report& report);

}  // namespace ptq::report
