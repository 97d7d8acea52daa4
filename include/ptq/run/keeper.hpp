// A process of its own between a supervisor and a process that runs code of plugins. It is the
// parent that a plugin sees, so that one that kills its parent costs its own cell only; and when
// the supervisor dies, whatever way, it ends everything that was started below it, also what left
// the process group and the session.
#pragma once

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "ptq/core/error.hpp"
#include "ptq/run/orphans.hpp"

namespace ptq {

// In a child: die with the parent, whatever happens to it.
inline void end_with_parent(pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(int(ExitCode::interrupted));  // it was gone already
}

class Keeper {
 public:
  // Called by a child of `supervisor` that has no threads. Returns in a new process, and there
  // only; the calling one keeps it, and ends as that one ends. False: no process could be started,
  // and the caller goes on without a keeper.
  static bool stand_between(pid_t supervisor) {
    const pid_t keeper = ::getpid(), kept = ::fork();
    if (kept == 0) end_with_parent(keeper);
    if (kept <= 0) return kept == 0;
    keep(supervisor, kept);
  }

 private:
  [[noreturn]] static void keep(pid_t supervisor, pid_t kept) {
    Orphans& orphans = Orphans::of_this_process();  // made before there can be any
    orphans.forget(kept);
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    ::prctl(PR_SET_PDEATHSIG, 0);
    // What the whole group is asked is for the other one to answer.
    for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGUSR1}) ::signal(number, SIG_IGN);
    close_all();
    const int above = open_process(supervisor), below = open_process(kept);
    for (;;) {
      if (::getppid() != supervisor) {
        orphans.end_all();
        ::_exit(int(ExitCode::interrupted));
      }
      int status = 0;
      const pid_t ended = ::waitpid(kept, &status, WNOHANG);
      if (ended == kept) end_like(status);
      if (ended < 0 && errno != EINTR) ::_exit(int(ExitCode::internal));
      pollfd either[] = {{above, POLLIN, 0}, {below, POLLIN, 0}};
      ::poll(either, 2, above < 0 || below < 0 ? 20 : 1000);
    }
  }

  // Pipes of the other one would never end, and its files never be closed.
  static void close_all() {
    if (::syscall(SYS_close_range, 0u, ~0u, 0u) == 0) return;
    for (int fd = 0; fd < 1024; ++fd) ::close(fd);  // before Linux 5.9
  }
  static int open_process(pid_t pid) { return int(::syscall(SYS_pidfd_open, pid, 0)); }

  // What the other one left behind becomes the supervisor's, which counts and ends it.
  [[noreturn]] static void end_like(int status) {
    if (!WIFSIGNALED(status)) ::_exit(WEXITSTATUS(status));
    const int number = WTERMSIG(status);
    const rlimit no_core{0, 0};  // there is one of the other already, where they are wanted
    ::setrlimit(RLIMIT_CORE, &no_core);
    ::signal(number, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::kill(::getpid(), number);
    ::_exit(128 + number);
  }
};

}  // namespace ptq
