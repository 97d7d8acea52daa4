// After each call into a plugin: what it changed of the process is put back and noted.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "ptq/run/standard_files.hpp"
#include "ptq/run/surroundings.hpp"

namespace ptq {

class PutBack {
 public:
  explicit PutBack(std::string method) : method_(std::move(method)) {}

  const FloatMode& mode() const { return surroundings_.mode(); }

  // Blocks are encoded thousands of times a second: what cannot change numbers is looked at when
  // some time has passed. Returns what cannot be put back, as "it ..." goes on, or "".
  std::string after(const char* function) {
    if (::getpid() != process_) ::_exit(0);  // a copy that the plugin made; the original goes on
    const auto now = std::chrono::steady_clock::now();
    const bool all = std::strcmp(function, "encode") != 0 || now - looked_ > kLookEvery;
    if (!all) {
      note(function, surroundings_.restore_numbers());
      return {};
    }
    looked_ = now;
    return after_all(function);
  }
  std::string after_all(const char* function) {
    note(function, surroundings_.restore());
    return files_.lost() ? "closes or replaces the standard files of the process" : std::string();
  }
  // One sentence each.
  const std::vector<std::string>& changes() const { return changes_; }

 private:
  static constexpr std::chrono::milliseconds kLookEvery{50};

  void note(const std::string& function, const std::string& changed) {
    if (changed.empty()) return;
    const std::string sentence = "method " + method_ + ", " + function + ": it changes " + changed +
                                 " of the process; that was put back";
    if (std::find(changes_.begin(), changes_.end(), sentence) == changes_.end())
      changes_.push_back(sentence);
  }

  std::string method_;
  Surroundings surroundings_;
  StandardFiles files_;
  pid_t process_ = ::getpid();
  std::chrono::steady_clock::time_point looked_;
  std::vector<std::string> changes_;
};

}  // namespace ptq
