// Child processes: started in their own process group, watched, and ended with all they started.
// A plugin that crashes, hangs, forks or calls exit costs its own cell and nothing else.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ptq/core/atomic_file.hpp"
#include "ptq/core/error.hpp"
#include "ptq/run/apart.hpp"
#include "ptq/run/orphans.hpp"

extern "C" char** environ;

namespace ptq {

constexpr int kProgressFd = 3;  // of a child: lines "<fraction> <note>"

struct ChildCommand {
  std::vector<std::string> argv;  // argv[0] is the path of the program
  std::filesystem::path log;      // gets standard output and error, at most kLongestLog bytes
  double wall_seconds = 3600;     // limit of its whole life
  double hang_seconds = 600;      // limit without a line of progress
};

constexpr size_t kLongestLog = size_t{16} << 20;

// How a child ended.
struct ChildEnd {
  enum class How { exited, signalled, too_long, hung, stopped };
  How how = How::exited;
  int code = 0;  // exit code or signal number
  double seconds = 0;
  std::string log_tail;  // last lines of its output
};

class Child {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Child(ChildCommand command)
      : command_(std::move(command)), started_(Clock::now()), last_progress_(started_) {
    log_file_ = uninterrupted([&] {
      return ::open(command_.log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    });
    if (log_file_ < 0) throw file_error("cannot create the file", command_.log, errno);
    try {
      start();
    } catch (...) {
      close_all();
      throw;
    }
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  ~Child() {
    if (!end_) {
      ::kill(-pid_, SIGKILL);
      while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
      }
      try {
        end_descendants();
      } catch (const std::bad_alloc&) {  // the next child that ends takes them along
      }
    }
    close_all();
  }

  const std::optional<ChildEnd>& end() const { return end_; }
  double fraction() const { return fraction_; }
  const std::string& note() const { return note_; }
  // Why the log is not complete; empty when it is.
  const std::string& log_problem() const { return log_problem_; }
  double seconds() const { return since(started_); }

  // What to wait on: its pipes, and its end, for the pipes close a moment before that.
  void add_pipes(std::vector<pollfd>& pipes) const {
    for (const int fd : {log_, progress_, alive_}) {
      if (fd >= 0) pipes.push_back({fd, POLLIN, 0});
    }
  }

  // Takes what the child has said, enforces the limits, notices its end.
  void service() {
    if (end_) return;
    read_log();
    read_progress();
    if (!ending_) {
      if (seconds() > command_.wall_seconds)
        begin_end(ChildEnd::How::too_long);
      else if (since(last_progress_) > command_.hang_seconds)
        begin_end(ChildEnd::How::hung);
    } else if (since(asked_to_end_) > kGraceSeconds) {
      ::kill(-pid_, SIGKILL);
    }
    siginfo_t info{};
    // WNOWAIT keeps the process id ours until the whole group has been killed.
    const int waited = ::waitid(P_PID, id_t(pid_), &info, WEXITED | WNOHANG | WNOWAIT);
    if (waited == 0 && info.si_pid == 0) return;
    // Any other error than "no such child", which has ended unheard, comes by again.
    if (waited != 0 && errno != ECHILD) return;
    ::kill(-pid_, SIGKILL);
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    end_descendants();
    read_log();
    read_progress();
    ChildEnd end;
    end.how = WIFSIGNALED(status) ? ChildEnd::How::signalled : ChildEnd::How::exited;
    end.code = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
    if (ending_) end.how = *ending_;
    end.seconds = seconds();
    end.log_tail = last_lines();
    end_ = std::move(end);
    close_all();
  }

  // Asks the whole group to end; it is killed after a grace time.
  void stop() {
    if (!end_ && !ending_) begin_end(ChildEnd::How::stopped);
  }

 private:
  static constexpr double kGraceSeconds = 2;
  static constexpr size_t kTailBytes = 8192;
  static constexpr size_t kTailLines = 20;

  static double since(Clock::time_point t) {
    return std::chrono::duration<double>(Clock::now() - t).count();
  }

  // Also those that left its process group.
  void end_descendants() const {
    Orphans::of_this_process().forget(pid_);
    Orphans::of_this_process().end_all();
  }

  void start() {
    hear_of_children();
    Orphans& orphans = Orphans::of_this_process();
    int log_pipe[2] = {-1, -1}, progress_pipe[2] = {-1, -1};
    if (::pipe2(log_pipe, O_CLOEXEC) != 0 || ::pipe2(progress_pipe, O_CLOEXEC) != 0) {
      throw Error(ExitCode::resources, std::string("cannot make a pipe: ") + std::strerror(errno));
    }
    log_ = log_pipe[0];
    progress_ = progress_pipe[0];
    for (const int fd : {log_, progress_}) ::fcntl(fd, F_SETFL, O_NONBLOCK);

    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_adddup2(&actions, log_pipe[1], 1);
    ::posix_spawn_file_actions_adddup2(&actions, log_pipe[1], 2);
    ::posix_spawn_file_actions_adddup2(&actions, progress_pipe[1], kProgressFd);

    posix_spawnattr_t attributes;
    ::posix_spawnattr_init(&attributes);
    sigset_t none, defaults;
    sigemptyset(&none);
    sigfillset(&defaults);
    ::posix_spawnattr_setsigmask(&attributes, &none);
    ::posix_spawnattr_setsigdefault(&attributes, &defaults);
    ::posix_spawnattr_setpgroup(&attributes, 0);
    ::posix_spawnattr_setflags(
        &attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    std::vector<char*> argv;
    for (std::string& word : command_.argv) argv.push_back(word.data());
    argv.push_back(nullptr);
    const int status = ::posix_spawn(&pid_, argv[0], &actions, &attributes, argv.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    ::posix_spawnattr_destroy(&attributes);
    ::close(log_pipe[1]);
    ::close(progress_pipe[1]);
    if (status != 0) {
      throw environment_error(std::string("cannot start the program: ") + std::strerror(status),
                              command_.argv[0]);
    }
    orphans.expect(pid_);
    alive_ = int(::syscall(SYS_pidfd_open, pid_, 0));  // -1 before Linux 5.3: a timeout serves
  }

  void begin_end(ChildEnd::How how) {
    ending_ = how;
    asked_to_end_ = Clock::now();
    ::kill(-pid_, SIGTERM);
  }

  // Up to 1 MiB, so that a child that never stops writing cannot hold the supervisor.
  template <class Take>
  static void drain(int& fd, const Take& take) {
    std::array<char, 16384> buffer;
    for (int i = 0; i < 64 && fd >= 0; ++i) {
      const ssize_t n = ::read(fd, buffer.data(), buffer.size());
      if (n > 0) {
        take(std::string_view(buffer.data(), size_t(n)));
      } else if (n == 0) {
        ::close(fd);
        fd = -1;
      } else if (errno != EINTR) {
        return;  // nothing more now
      }
    }
  }

  void read_log() {
    drain(log_, [&](std::string_view text) {
      tail_ += text;
      if (tail_.size() > 2 * kTailBytes) tail_.erase(0, tail_.size() - kTailBytes);
      const std::string_view kept = text.substr(0, kLongestLog - logged_);
      logged_ += kept.size();
      write_log(kept);
      if (kept.size() == text.size() || cut_noted_) return;
      cut_noted_ = true;
      write_log("\n[the log is cut here]\n");
    });
  }

  // A log that cannot be written must not cost the result.
  void write_log(std::string_view text) {
    if (const int number = write_all(log_file_, text); number != 0) {
      log_problem_ = std::strerror(number);
    }
  }

  void read_progress() {
    drain(progress_, [&](std::string_view text) {
      line_ += text;
      for (size_t end; (end = line_.find('\n')) != std::string::npos; line_.erase(0, end + 1)) {
        char* rest = nullptr;
        const std::string line = line_.substr(0, end);
        const double fraction = std::strtod(line.c_str(), &rest);
        if (rest == line.c_str()) continue;
        fraction_ = std::clamp(fraction, 0.0, 1.0);
        note_ = *rest == ' ' ? rest + 1 : rest;
        last_progress_ = Clock::now();
      }
      if (line_.size() > 4096) line_.clear();
    });
  }

  std::string last_lines() const {
    std::string text = tail_;
    while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
    size_t begin = text.size();
    for (size_t lines = 0; lines < kTailLines && begin != std::string::npos && begin > 0; ++lines) {
      begin = text.rfind('\n', begin - 1);
    }
    return begin == std::string::npos ? text : text.substr(begin == 0 ? 0 : begin + 1);
  }

  void close_all() {
    for (int* fd : {&log_, &progress_, &log_file_, &alive_}) {
      if (*fd >= 0) ::close(*fd);
      *fd = -1;
    }
  }

  ChildCommand command_;
  Clock::time_point started_, last_progress_, asked_to_end_;
  pid_t pid_ = -1;
  int log_ = -1, progress_ = -1, log_file_ = -1;
  int alive_ = -1;  // of the process: readable when it has ended
  size_t logged_ = 0;
  bool cut_noted_ = false;
  double fraction_ = 0;
  std::string note_, line_, tail_, log_problem_;
  std::optional<ChildEnd::How> ending_;
  std::optional<ChildEnd> end_;
};

// Waits until a child says something, at most `milliseconds`; returns early on a signal.
inline void wait_for_output(const std::vector<pollfd>& pipes, int milliseconds) {
  std::vector<pollfd> watched = pipes;
  ::poll(watched.data(), nfds_t(watched.size()), milliseconds);
}

// SIGINT, SIGTERM, SIGHUP and SIGUSR1 (Slurm's word before a time limit) ask the supervisor to
// stop: `stop_signal` is the first of them. The second SIGINT ends the program at once; the
// children then die with it.
inline volatile std::sig_atomic_t stop_signal = 0;

inline void install_stop_handlers() {
  struct sigaction action {};
  action.sa_handler = [](int number) {
    if (stop_signal != 0 && number == SIGINT) ::_exit(130);
    stop_signal = number;
  };
  sigemptyset(&action.sa_mask);
  action.sa_flags = 0;  // no SA_RESTART: poll returns
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGUSR1}) ::sigaction(number, &action, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
}

}  // namespace ptq
