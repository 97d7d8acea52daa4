// Work in a child process: whatever it does to its process, its answer or the reason why there is
// none comes back. For everything that runs code of a plugin outside of a cell.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <string>

#include "ptq/core/error.hpp"
#include "ptq/run/keeper.hpp"
#include "ptq/run/orphans.hpp"

namespace ptq {

inline std::string signal_name(int number) {
  const char* name = ::sigabbrev_np(number);
  return name == nullptr ? "signal " + std::to_string(number) : std::string("SIG") + name;
}

// SIGCHLD may arrive ignored from whoever started this program; then no end of a child is told.
inline void hear_of_children() { ::signal(SIGCHLD, SIG_DFL); }

struct ApartSettings {
  double seconds = std::numeric_limits<double>::infinity();  // SIGKILL after them
  uint64_t longest_answer = uint64_t{1} << 20;               // bytes
  bool quiet = true;  // no input, output, error messages and memory dumps
};

struct ApartEnd {
  enum class How { answered, exited, signalled, too_long, went_on, long_answer };
  How how = How::exited;
  std::string answer;  // whole, when `answered`
  int code = 0;        // exit code or signal number
  size_t left = 0;     // processes that it left behind; they are ended

  // Why there is no answer, as "it ..." goes on.
  std::string reason() const {
    switch (how) {
      case How::exited: return "ends the process (exit code " + std::to_string(code) + ")";
      case How::signalled: return "crashes (" + signal_name(code) + ")";
      case How::too_long: return "does not end in time";
      case How::went_on: return "puts another program in place of the process, or closes its files";
      case How::long_answer: return "answers with too many bytes";
      default: return {};
    }
  }
};

class Apart {
 public:
  using How = ApartEnd::How;
  using Clock = std::chrono::steady_clock;

  // Runs work() in a child and returns its answer.
  static ApartEnd run(const ApartSettings& settings, const std::function<std::string()>& work) {
    hear_of_children();
    Orphans& orphans = Orphans::of_this_process();
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
      throw Error(ExitCode::resources, std::string("cannot make a pipe: ") + std::strerror(errno));
    std::fflush(nullptr);  // else the child would own a copy of what is not written yet
    const pid_t parent = ::getpid(), child = ::fork();
    if (child < 0) {
      const int error = errno;
      ::close(ends[0]);
      ::close(ends[1]);
      throw Error(ExitCode::resources,
                  std::string("cannot start a process: ") + std::strerror(error));
    }
    if (child == 0) be_child(settings, work, parent, ends[1]);
    orphans.expect(child);
    ::close(ends[1]);
    ApartEnd end = receive(settings, child, ends[0]);
    ::close(ends[0]);
    orphans.forget(child);
    end.left = orphans.end_all();
    return end;
  }

 private:
  // A child that has said all, or nothing, ends soon; who goes on after that is stopped.
  static constexpr double kGraceSeconds = 2;

  [[noreturn]] static void be_child(const ApartSettings& settings,
                                    const std::function<std::string()>& work, pid_t parent,
                                    int pipe_end) {
    end_with_parent(parent);
    // Handlers of the parent (a test framework, say) would interfere.
    for (int number = 1; number < NSIG; ++number) ::signal(number, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    Keeper::stand_between(parent);
    if (settings.quiet) {
      const rlimit no_core{0, 0};
      ::setrlimit(RLIMIT_CORE, &no_core);
      const int nothing = ::open("/dev/null", O_RDWR | O_CLOEXEC);
      for (int fd = 0; fd <= 2; ++fd) ::dup2(nothing, fd);
    }
    std::string message;
    try {
      message = work();
    } catch (...) {
      ::_exit(int(ExitCode::internal));
    }
    const uint64_t size = message.size();
    message.insert(0, reinterpret_cast<const char*>(&size), sizeof size);
    for (size_t done = 0; done < message.size();) {
      const ssize_t n = ::write(pipe_end, message.data() + done, message.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) ::_exit(int(ExitCode::resources));
      done += size_t(n);
    }
    ::_exit(0);  // without the exit handlers of this program
  }

  // Has the child ended? Its process id stays taken until it is reaped.
  static bool has_ended(pid_t child) {
    siginfo_t info{};
    if (::waitid(P_PID, id_t(child), &info, WEXITED | WNOHANG | WNOWAIT) != 0)
      return errno == ECHILD;
    return info.si_pid != 0;
  }

  static ApartEnd receive(const ApartSettings& settings, pid_t child, int pipe_end) {
    ApartEnd end;
    uint64_t size = std::numeric_limits<uint64_t>::max();
    ::fcntl(pipe_end, F_SETFL, O_NONBLOCK);
    bool open = true, in_time = true;
    // Takes what there is; false when nothing more will come.
    const auto take = [&] {
      char buffer[16384];
      while (end.answer.size() < size && end.answer.size() <= settings.longest_answer) {
        const ssize_t n = ::read(pipe_end, buffer, sizeof buffer);
        if (n < 0) return errno == EAGAIN || errno == EINTR;
        if (n == 0) return false;
        end.answer.append(buffer, size_t(n));
        if (size > settings.longest_answer && end.answer.size() >= sizeof size) {
          std::memcpy(&size, end.answer.data(), sizeof size);
          end.answer.erase(0, sizeof size);
          if (size > settings.longest_answer) return false;
        }
      }
      return false;
    };
    const auto started = Clock::now();
    double deadline = settings.seconds;
    const auto now = [&] { return std::chrono::duration<double>(Clock::now() - started).count(); };
    while (!has_ended(child)) {
      if (now() > deadline) {
        in_time = false;
        break;
      }
      pollfd wait{open ? pipe_end : -1, POLLIN, 0};
      ::poll(&wait, 1, open ? 10 : 1);
      if (open && !(open = take())) deadline = std::min(deadline, now() + kGraceSeconds);
    }
    if (open) take();
    if (!in_time) ::kill(child, SIGKILL);
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    end.code = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
    if (end.answer.size() == size)
      end.how = How::answered;
    else if (size != std::numeric_limits<uint64_t>::max() && size > settings.longest_answer)
      end.how = How::long_answer;
    else if (!in_time)
      end.how = open ? How::too_long : How::went_on;
    else
      end.how = WIFSIGNALED(status) ? How::signalled : How::exited;
    return end;
  }
};

}  // namespace ptq
