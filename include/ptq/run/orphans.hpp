// Processes that outlive the child that started them, also those that left its group (setsid):
// they become children of this process, which ends them.
#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

namespace ptq {

class Orphans {
 public:
  static Orphans& of_this_process() {
    static Orphans orphans;
    return orphans;
  }

  // Around the life of a child that was started on purpose.
  void expect(pid_t child) { known_.insert(child); }
  void forget(pid_t child) { known_.erase(child); }

  // Ends every child that nobody expects, until there is none; returns how many there were.
  size_t end_all() const {
    size_t ended = 0;
    for (int round = 0; round < kRounds; ++round) {
      const std::vector<pid_t> found = children();
      bool any = false;
      for (const pid_t pid : found) {
        if (known_.count(pid) != 0) continue;
        any = true;
        ::kill(pid, SIGKILL);
        int status = 0;
        if (::waitpid(pid, &status, WNOHANG) == pid) ++ended;
      }
      if (!any) break;
      ::usleep(round < 10 ? 1000 : 20000);  // killed, but not gone yet
    }
    return ended;
  }

 private:
  static constexpr int kRounds = 100;

  // What was there before is not ours to end: a program may be started by exec in a process that
  // has children.
  Orphans() {
    for (const pid_t pid : children()) known_.insert(pid);
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  }

  static std::vector<pid_t> children() {
    std::vector<pid_t> found;
    siginfo_t info{};
    // The usual case, without a walk through all processes: there is no child.
    if (::waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 && errno == ECHILD)
      return found;
    std::error_code none;
    const std::string self = std::to_string(::getpid());
    for (const auto& entry : std::filesystem::directory_iterator("/proc", none)) {
      const pid_t pid = pid_t(std::atol(entry.path().filename().c_str()));
      if (pid <= 0) continue;
      std::ifstream file(entry.path() / "stat");
      std::string line;
      std::getline(file, line, '\0');  // "pid (name) state parent ...": a name may hold anything
      const size_t name_end = line.rfind(") ");
      if (name_end == std::string::npos || name_end + 4 > line.size()) continue;
      const std::string rest = line.substr(name_end + 4);
      if (rest.compare(0, rest.find(' '), self) == 0) found.push_back(pid);
    }
    return found;
  }

  std::set<pid_t> known_;
};

}  // namespace ptq
