// What the user sees while cells run: on a terminal one line that is rewritten, elsewhere one line
// per finished cell. Always on standard error.
#pragma once

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "ptq/core/safe_text.hpp"

namespace ptq {

// "3 s", "1 min 20 s", "2 h 5 min".
inline std::string duration_text(double seconds) {
  const long s = std::max(0L, long(seconds + 0.5));
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {} s", s / 60, s % 60);
  return fmt::format("{} h {} min", s / 3600, s % 3600 / 60);
}

// Guesses the time that is left from the cells that are done. Cells with the same key (model and
// evaluation) take about as long as each other.
class TimeEstimate {
 public:
  void finished(const std::string& key, double seconds) {
    add(of_key_[key], seconds);
    add(all_, seconds);
  }

  // Seconds of a whole cell, or -1 when nothing is known yet.
  double expected(const std::string& key) const {
    const auto found = of_key_.find(key);
    if (found != of_key_.end()) return found->second.sum / found->second.count;
    return all_.count > 0 ? all_.sum / all_.count : -1;
  }

  // Seconds that a running cell still needs, or -1.
  double remaining(const std::string& key, double fraction, double elapsed) const {
    constexpr double kEnoughToExtrapolate = 0.05;
    if (fraction >= kEnoughToExtrapolate) return elapsed / fraction * (1 - fraction);
    const double whole = expected(key);
    return whole < 0 ? -1 : std::max(0.0, whole - elapsed);
  }

 private:
  struct Mean {
    double sum = 0, count = 0;
  };
  static void add(Mean& mean, double seconds) {
    mean.sum += seconds;
    mean.count += 1;
  }
  std::map<std::string, Mean> of_key_;
  Mean all_;
};

class ProgressLine {
 public:
  // quiet: nothing but what say() is asked to print.
  explicit ProgressLine(bool quiet) : quiet_(quiet) {
    const char* term = std::getenv("TERM");
    const bool dumb = term != nullptr && std::string(term) == "dumb";
    animated_ = !quiet && !dumb && ::isatty(STDERR_FILENO) == 1;
  }
  ~ProgressLine() { clear(); }

  bool animated() const { return animated_; }

  // Rewrites the line, cut to the width of the terminal.
  void show(const std::string& text) {
    if (!animated_) return;
    winsize size{};
    size_t columns = 80;
    if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) columns = size.ws_col;
    std::fprintf(stderr, "\r\x1b[K%s", one_line(text).substr(0, columns - 1).c_str());
    std::fflush(stderr);
    shown_ = true;
  }

  // A line that stays. Unimportant ones are left out when quiet.
  void say(const std::string& text, bool important = false) {
    if (quiet_ && !important) return;
    clear();
    std::fprintf(stderr, "%s\n", one_line_each(text).c_str());
    std::fflush(stderr);
  }

  void clear() {
    if (shown_) std::fputs("\r\x1b[K", stderr);
    shown_ = false;
  }

 private:
  bool quiet_, animated_ = false, shown_ = false;
};

}  // namespace ptq
