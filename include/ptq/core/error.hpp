// One error type for the whole program: what happened, where, and what to do about it.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace ptq {

// Exit codes of ptq-host; documented in docs/cli.md and stable.
enum class ExitCode : int {
  ok = 0,
  internal = 1,      // a bug in ptq
  usage = 2,         // bad command line, experiment file or option; nothing was computed
  cells_failed = 3,  // some cells failed, the finished ones are saved
  environment = 4,   // missing or damaged file, unusable device, plugin that cannot be loaded
  resources = 5,     // out of memory or disk
  disagree = 6,      // a verification failed
  interrupted = 75,  // stopped by a signal, can be resumed
};

// Thrown everywhere below the command line. `what()` is the whole message in the form
//   <message>
//     --> <where>
//     hint: <hint>
// where the last two lines appear only when they are known.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, std::string message, std::string where = {}, std::string hint = {})
      : std::runtime_error(format(message, where, hint)),
        code_(code),
        message_(std::move(message)),
        where_(std::move(where)),
        hint_(std::move(hint)) {}

  ExitCode code() const noexcept { return code_; }
  const std::string& message() const noexcept { return message_; }  // one sentence
  const std::string& where() const noexcept { return where_; }      // file:line, key, tensor
  const std::string& hint() const noexcept { return hint_; }        // what the user can do

  // The same error with `context` in front of its place, e.g. the file a nested parser worked on.
  Error at(const std::string& context) const {
    return Error(code_, message_, where_.empty() ? context : context + ": " + where_, hint_);
  }

 private:
  static std::string format(const std::string& message, const std::string& where,
                            const std::string& hint) {
    std::string text = message;
    if (!where.empty()) text += "\n  --> " + where;
    if (!hint.empty()) text += "\n  hint: " + hint;
    return text;
  }

  ExitCode code_;
  std::string message_, where_, hint_;
};

inline Error usage_error(std::string message, std::string where = {}, std::string hint = {}) {
  return Error(ExitCode::usage, std::move(message), std::move(where), std::move(hint));
}
inline Error environment_error(std::string message, std::string where = {}, std::string hint = {}) {
  return Error(ExitCode::environment, std::move(message), std::move(where), std::move(hint));
}

}  // namespace ptq
