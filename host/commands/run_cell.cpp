// ptq-host run-cell JOB.json: the child side of a run. Standard output and error end in the cell's
// log; progress goes to descriptor 3; an error that can be put into words goes to error.json.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <mutex>
#include <new>

#include "host/commands/commands.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/run/cancel.hpp"
#include "ptq/run/cell.hpp"
#include "ptq/run/cell_error.hpp"
#include "ptq/run/keeper.hpp"
#include "ptq/run/supervise.hpp"

namespace ptq {
namespace {

// Writes a line at most every 100 ms, so that a fast evaluation is not slowed down by its display.
class ProgressPipe {
 public:
  void operator()(double fraction, const std::string& note) {
    const std::lock_guard lock(mutex_);  // plugins report from any thread
    const auto now = std::chrono::steady_clock::now();
    if (fraction < 1 && note == note_ && now - last_ < std::chrono::milliseconds(100)) return;
    last_ = now;
    note_ = note;
    std::string line = std::to_string(fraction) + " " + note;
    for (char& c : line) c = c == '\n' ? ' ' : c;
    line += '\n';
    // Without a reader nobody looks; the supervisor's end is noticed elsewhere.
    if (::write(kProgressFd, line.data(), line.size()) < 0) return;
  }

 private:
  std::mutex mutex_;
  std::chrono::steady_clock::time_point last_;
  std::string note_;
};

// Whoever ran out of memory has words all the same.
void lift_address_space() {
  rlimit limit{};
  ::getrlimit(RLIMIT_AS, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_AS, &limit);
}

// The exit code, after the result or error.json was written.
int run_job(const CellJob& job) {
  ProgressPipe progress;
  ExitCode code;
  std::string message;
  try {
    const auto report = [&](double fraction, const std::string& note) { progress(fraction, note); };
    if (job.kept_limit > 0)
      keep_reference(job, report);
    else
      run_cell(job, report);
    return 0;
  } catch (const Error& e) {
    lift_address_space();
    code = e.code();
    message = e.what();
  } catch (const std::bad_alloc&) {
    lift_address_space();
    code = ExitCode::resources;
    message = job.address_space > 0 ? "ran out of its address space" : "out of memory";
  } catch (const std::exception& e) {
    code = ExitCode::internal;
    message = e.what();
  }
  std::fprintf(stderr, "error: %s\n", message.c_str());
  write_file_synced(job.attempt / "error.json", cell_error_text(code, message));
  return int(code);
}

}  // namespace

int run_cell_command(const std::vector<std::string>& args) {
  if (args.size() != 1) throw usage_error("run-cell is started by ptq-host itself");
  constexpr uint64_t kLargestJob = uint64_t{64} << 20;
  const CellJob job =
      job_from_json(parse_json(read_text_file(args[0], kLargestJob), args[0]), args[0]);
  end_with_parent(pid_t(job.supervisor));
  Keeper::stand_between(pid_t(job.supervisor));
  if (job.address_space > 0) {
    rlimit limit{};
    ::getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = std::min<rlim_t>(job.address_space, limit.rlim_max);
    ::setrlimit(RLIMIT_AS, &limit);
  }
  ::signal(SIGPIPE, SIG_IGN);
  Cancel::install_handlers();

  const int code = run_job(job);
  // All is written. Exit handlers and destructors of plugins could still change how this ends.
  std::fflush(nullptr);
  ::_exit(code);
}

}  // namespace ptq
