// What a user is given: a file of his choice, and the standard output.
#pragma once

#include <poll.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "ptq/core/atomic_file.hpp"
#include "ptq/core/error.hpp"

namespace ptq {

// Whole or not at all. What is there and no plain file itself (/dev/stdout and other links,
// devices, pipes) is written into instead: to replace it would take it away from everybody else.
inline void write_output_file(const std::filesystem::path& path, std::string_view text) {
  std::error_code error;
  const auto type = std::filesystem::symlink_status(path, error).type();
  if (type == std::filesystem::file_type::not_found ||
      type == std::filesystem::file_type::regular) {
    return write_file_atomic(path, text);
  }
  std::ofstream file(path, std::ios::binary);
  file << text << std::flush;
  if (!file) throw environment_error("the file cannot be written", path.string());
}

// At the end of a program: has all that was printed been written? A reader that closed its pipe has
// seen enough.
inline void end_standard_output() {
  if (std::fflush(stdout) == 0 && !std::ferror(stdout)) return;
  pollfd out{1, POLLOUT, 0};
  const bool reader_is_gone = ::poll(&out, 1, 0) > 0 && (out.revents & POLLERR) != 0;
  if (!reader_is_gone) throw environment_error("the standard output cannot be written");
}

}  // namespace ptq
