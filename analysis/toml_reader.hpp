// TOML files as JSON values, with the guards that toml++ 3.3.0 needs (see CMakeLists.txt).
#pragma once

#include <string>

#include "ptq/results/record.hpp"

namespace ptq::report {

// Members in the order of the file. Throws a usage error that names line and column.
Json read_toml(const std::string& text, const std::string& where);
Json read_toml_file(const std::string& file);

}  // namespace ptq::report
