// A process that runs methods is asked to end by SIGTERM, SIGINT or SIGHUP: at once, unless a
// plugin is at work. That one is told through call->cancelled, and the process ends when it
// returns.
#pragma once

#include <signal.h>

#include <atomic>

namespace ptq {

class Cancel {
 public:
  static bool requested() { return requested_; }
  static void request() { requested_ = true; }  // what the handlers do
  static void withdraw() { requested_ = false; }

  static void install_handlers() {
    struct sigaction action {};
    action.sa_handler = [](int number) {
      requested_ = true;
      if (inside_ > 0) return;
      ::signal(number, SIG_DFL);
      ::raise(number);
    };
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    for (const int number : {SIGTERM, SIGINT, SIGHUP}) ::sigaction(number, &action, nullptr);
  }

  // Lives as long as a call into a plugin.
  class Inside {
   public:
    Inside() { ++inside_; }
    ~Inside() { --inside_; }
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;
  };

 private:
  // Lock-free, so that a handler may use them.
  static inline std::atomic<bool> requested_{false};
  static inline std::atomic<int> inside_{0};
};

}  // namespace ptq
