// Why a cell has no result.
#pragma once

#include <filesystem>
#include <string>

#include "ptq/results/record.hpp"
#include "ptq/run/experiment.hpp"
#include "ptq/run/supervise.hpp"

namespace ptq {

// In words that name the method. error_json: where the cell's process may have said it itself;
// note: its last line of progress; method: its label.
Record::Failure failure_of(const ChildEnd& end, const std::filesystem::path& error_json,
                           const std::string& note, const std::string& method,
                           const Limits& limits);

}  // namespace ptq
