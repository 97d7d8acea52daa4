// Collects every problem of an input, so that the user sees all of them at once.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"

namespace ptq {

class Problems {
 public:
  void add(Error error) { errors_.push_back(std::move(error)); }
  bool empty() const { return errors_.empty(); }
  size_t size() const { return errors_.size(); }

  // Runs `work`; an Error it throws becomes one more problem.
  template <class Work>
  void collect(const Work& work) {
    try {
      work();
    } catch (const Error& error) {
      add(error);
    }
  }

  // Throws nothing when there is no problem, the problem when there is one, and otherwise one Error
  // whose text holds a block per problem in the form the command line prints.
  void throw_if_any() const {
    if (errors_.empty()) return;
    if (errors_.size() == 1) throw errors_.front();
    std::string text;
    for (const Error& error : errors_) {
      if (!text.empty()) text += "\nerror: ";
      text += error.what();
    }
    throw Error(errors_.front().code(), text);
  }

 private:
  std::vector<Error> errors_;
};

}  // namespace ptq
