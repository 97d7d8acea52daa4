#include "host/cell_failure.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <optional>

#include "ptq/core/mapped_file.hpp"
#include "ptq/run/cell_error.hpp"

namespace ptq {
namespace {

// A method may have written anything there, of any length.
std::optional<Record::Failure> said_by_cell(const std::filesystem::path& error_json) {
  constexpr size_t kLongest = size_t{1} << 20;
  std::string text(kLongest, '\0');
  std::ifstream file = open_file(error_json);
  file.read(text.data(), std::streamsize(text.size()));
  text.resize(size_t(file.gcount()));
  return parse_cell_error(text);
}

}  // namespace

Record::Failure failure_of(const ChildEnd& end, const std::filesystem::path& error_json,
                           const std::string& note, const std::string& method,
                           const Limits& limits) {
  Record::Failure failure;
  failure.log_tail = end.log_tail;
  failure.code = int64_t(ExitCode::cells_failed);
  const std::string phase = note.empty() ? "" : " (last seen: " + note + ")";
  switch (end.how) {
    case ChildEnd::How::signalled:
      failure.message =
          "the process running `" + method + "` was killed by " + signal_name(end.code) + phase;
      if (end.code == SIGKILL) {
        failure.message += "; perhaps the machine ran out of memory, or a plugin did it";
        failure.code = int64_t(ExitCode::resources);
      }
      if (end.code == SIGBUS)
        failure.message +=
            "; a file that it had mapped became shorter, or its disk failed (replace files of "
            "weights by renaming, never in place)";
      break;
    case ChildEnd::How::too_long:
      failure.message = fmt::format("the cell ran longer than limits.cell_seconds = {:g}{}",
                                    limits.cell_seconds, phase);
      break;
    case ChildEnd::How::hung:
      failure.message =
          fmt::format("no progress for limits.hang_seconds = {:g}{}", limits.hang_seconds, phase);
      break;
    default:
      if (const auto said = said_by_cell(error_json)) {
        failure.code = said->code;
        failure.message = said->message;
        break;
      }
      failure.message =
          fmt::format("the process running `{}` ended with exit code {} and without a result{}",
                      method, end.code, phase);
  }
  const bool of_memory = failure.code == int64_t(ExitCode::resources) ||
                         end.how == ChildEnd::How::signalled ||  // who does not look at NULL
                         failure.message.find(std::strerror(ENOMEM)) != std::string::npos;
  if (limits.address_space_gib > 0 && of_memory)
    failure.message +=
        fmt::format(" (its address space is limited to {:g} GiB, limits.address_space_gib)",
                    limits.address_space_gib);
  return failure;
}

}  // namespace ptq
