// What is wrong with a file that cannot be read.
#pragma once

#include <exception>
#include <new>
#include <optional>
#include <string>

#include "ptq/core/safe_text.hpp"

namespace ptq::report {

// Runs read(). The words of what it threw, in one line; nothing where it threw nothing. That memory
// ran out says nothing of a file and is passed on.
template <class Read>
std::optional<std::string> damage(const Read& read) {
  try {
    read();
    return {};
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& problem) {
    return one_line(problem.what());
  }
}

}  // namespace ptq::report
