// What a plugin can change of the process and the thread that it runs in, so that the host can put
// it back: arithmetic, locale, working folder, file mask, limits, signals, environment.
#pragma once

#include <fcntl.h>
#include <locale.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cfenv>
#include <cstdlib>
#include <cstring>
#include <locale>
#include <string>
#include <vector>
#ifdef __SSE__
#include <immintrin.h>
#endif

extern "C" char** environ;

namespace ptq {

// How this thread computes: rounding, flushing of subnormal numbers, traps, precision of x87. A
// few nanoseconds to look at, so that it is done at every call.
class FloatMode {
 public:
  static FloatMode now() {
    FloatMode mode;
#ifdef __SSE__
    mode.sse_ = _mm_getcsr() & ~kFlags;
    __asm__ volatile("fnstcw %0" : "=m"(mode.x87_));
#else
    mode.rounding_ = std::fegetround();
#endif
    return mode;
  }
  void set() const {
#ifdef __SSE__
    _mm_setcsr(sse_ | (_mm_getcsr() & kFlags));
    __asm__ volatile("fldcw %0" : : "m"(x87_));
#else
    std::fesetround(rounding_);
#endif
  }
  bool operator==(const FloatMode&) const = default;

 private:
#ifdef __SSE__
  static constexpr unsigned kFlags = 0x3F;  // what has happened, no setting
  unsigned sse_ = 0;
  unsigned short x87_ = 0;
#else
  int rounding_ = 0;
#endif
};

// Host code that a plugin calls computes as the host does, whatever the plugin has set.
class InHostMode {
 public:
  explicit InHostMode(const FloatMode& host)
      : before_(FloatMode::now()), differs_(before_ != host) {
    if (differs_) host.set();
  }
  ~InHostMode() {
    if (differs_) before_.set();
  }
  InHostMode(const InHostMode&) = delete;
  InHostMode& operator=(const InHostMode&) = delete;

 private:
  FloatMode before_;
  bool differs_;
};

// All of it, as it is when the object is made.
class Surroundings {
 public:
  Surroundings()
      : mode_(FloatMode::now()),
        thread_locale_(::uselocale(locale_t(nullptr))),
        locale_(::setlocale(LC_ALL, nullptr)),
        folder_(::open(".", O_PATH | O_DIRECTORY | O_CLOEXEC)),
        file_mask_(file_mask()),
        environment_(environment()) {
    if (folder_ >= 0) ::fstat(folder_, &folder_facts_);
    for (int i = 0; i < kLimits; ++i) ::getrlimit(__rlimit_resource(i), &limits_[size_t(i)]);
    for (int i = 1; i < NSIG; ++i) ::sigaction(i, nullptr, &actions_[size_t(i)]);
    ::pthread_sigmask(SIG_SETMASK, nullptr, &blocked_);
  }
  ~Surroundings() {
    if (folder_ >= 0) ::close(folder_);
  }
  Surroundings(const Surroundings&) = delete;
  Surroundings& operator=(const Surroundings&) = delete;

  const FloatMode& mode() const { return mode_; }

  // Puts back what can change numbers; cheap. Names what was changed, or gives "".
  std::string restore_numbers() const {
    std::string changed;
    if (FloatMode::now() != mode_) {
      mode_.set();
      add(changed, "the rounding mode or another setting of floating point");
    }
    const bool thread_changed = ::uselocale(locale_t(nullptr)) != thread_locale_;
    if (thread_changed) ::uselocale(thread_locale_);
    if (thread_changed || locale_ != ::setlocale(LC_ALL, nullptr) || std::locale() != cpp_locale_) {
      std::locale::global(cpp_locale_);
      ::setlocale(LC_ALL, locale_.c_str());
      add(changed, "the locale");
    }
    return changed;
  }
  // Puts back everything; some microseconds.
  std::string restore() const {
    std::string changed = restore_numbers();
    struct stat facts {};
    if (folder_ >= 0 &&
        (::stat(".", &facts) != 0 || facts.st_ino != folder_facts_.st_ino ||
         facts.st_dev != folder_facts_.st_dev) &&
        ::fchdir(folder_) == 0)
      add(changed, "the working folder");
    if (::umask(file_mask_) != file_mask_) add(changed, "the file mode mask");
    restore_limits(changed);
    restore_signals(changed);
    if (!same_environment()) {
      ::clearenv();
      for (const std::string& entry : environment_)
        if (const size_t name = entry.find('='); name != std::string::npos)
          ::setenv(entry.substr(0, name).c_str(), entry.c_str() + name + 1, 1);
      add(changed, "the environment");
    }
    return changed;
  }

 private:
  static constexpr int kLimits = RLIM_NLIMITS;

  static void add(std::string& list, const std::string& what) {
    list += (list.empty() ? "" : ", ") + what;
  }
  static mode_t file_mask() {
    const mode_t mask = ::umask(077);
    ::umask(mask);
    return mask;
  }
  static std::vector<std::string> environment() {
    std::vector<std::string> entries;
    for (char** entry = environ; entry && *entry; ++entry) entries.emplace_back(*entry);
    return entries;
  }
  bool same_environment() const {
    size_t i = 0;
    for (char** entry = environ; entry && *entry; ++entry, ++i)
      if (i == environment_.size() || environment_[i] != *entry) return false;
    return i == environment_.size();
  }
  void restore_limits(std::string& changed) const {
    for (int i = 0; i < kLimits; ++i) {
      rlimit now{};
      rlimit before = limits_[size_t(i)];
      ::getrlimit(__rlimit_resource(i), &now);
      if (now.rlim_cur == before.rlim_cur && now.rlim_max == before.rlim_max) continue;
      add(changed, "a resource limit");
      if (::setrlimit(__rlimit_resource(i), &before) == 0) continue;
      before.rlim_max = now.rlim_max;  // who lowers a hard limit cannot raise it again
      before.rlim_cur = std::min(before.rlim_cur, now.rlim_max);
      ::setrlimit(__rlimit_resource(i), &before);
    }
  }
  void restore_signals(std::string& changed) const {
    for (int i = 1; i < NSIG; ++i) {
      struct sigaction now {};
      const struct sigaction& before = actions_[size_t(i)];
      if (::sigaction(i, nullptr, &now) != 0 || now.sa_handler == before.sa_handler) continue;
      ::sigaction(i, &before, nullptr);
      const char* name = ::sigabbrev_np(i);
      add(changed,
          "the handler of " + (name ? "SIG" + std::string(name) : "signal " + std::to_string(i)));
    }
    sigset_t now;
    ::pthread_sigmask(SIG_SETMASK, &blocked_, &now);
    for (int i = 1; i < NSIG; ++i)
      if (sigismember(&now, i) != sigismember(&blocked_, i)) {
        add(changed, "the blocked signals");
        break;
      }
  }

  FloatMode mode_;
  locale_t thread_locale_;
  std::string locale_;
  std::locale cpp_locale_;
  int folder_;
  struct stat folder_facts_ {};
  mode_t file_mask_;
  std::array<rlimit, kLimits> limits_{};
  std::array<struct sigaction, NSIG> actions_{};
  sigset_t blocked_{};
  std::vector<std::string> environment_;
};

}  // namespace ptq
