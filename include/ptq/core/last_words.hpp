// What a program says when an exception leaves a place that none may leave. Memory that runs out
// does: nlohmann::json 3.11 allocates in its destructor.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <exception>
#include <new>
#include <string_view>

#include "ptq/core/error.hpp"

namespace ptq {

// From now on such an end is one message and an exit code, like any other; without it the C++
// library aborts. Nothing is lost that was finished: files are published whole.
inline void say_last_words() {
  static std::terminate_handler before;
  before = std::set_terminate([] {
    try {
      if (const std::exception_ptr problem = std::current_exception())
        std::rethrow_exception(problem);
    } catch (const std::bad_alloc&) {
      constexpr std::string_view kMessage = "error: out of memory\n";
      [[maybe_unused]] const auto written = ::write(2, kMessage.data(), kMessage.size());
      ::_exit(int(ExitCode::resources));
    } catch (...) {  // a bug: abort, for a core file
    }
    before();
    std::abort();
  });
}

}  // namespace ptq
