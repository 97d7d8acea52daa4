// The words of the command line, taken apart: positions, switches and options with values.
#pragma once

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/suggest.hpp"

namespace ptq::report {

struct Arguments {
  std::vector<std::string> positions;
  std::map<std::string, std::string> values;  // "--out" -> "x.md"
  std::set<std::string> switches;

  bool has(const std::string& name) const { return switches.contains(name); }
  std::string value(const std::string& name, const std::string& otherwise = {}) const {
    const auto found = values.find(name);
    return found == values.end() ? otherwise : found->second;
  }
};

// `valued` and `plain` are the options that the command knows; `names` what its positions are.
inline Arguments parse_arguments(const std::vector<std::string>& words,
                                 const std::vector<std::string>& valued,
                                 const std::vector<std::string>& plain,
                                 const std::vector<std::string>& names) {
  const auto knows = [](const std::vector<std::string>& list, const std::string& word) {
    return std::find(list.begin(), list.end(), word) != list.end();
  };
  Arguments out;
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (knows(valued, word)) {
      if (i + 1 == words.size()) {
        throw usage_error("a value is missing", word, "ptq-report --help");
      }
      out.values[word] = words[++i];
    } else if (knows(plain, word)) {
      out.switches.insert(word);
    } else if (word.starts_with("-") && word != "-") {
      std::vector<std::string> all = valued;
      all.insert(all.end(), plain.begin(), plain.end());
      throw usage_error("unknown option `" + word + "`", {}, did_you_mean(word, all));
    } else {
      out.positions.push_back(word);
    }
  }
  if (out.positions.size() < names.size()) {
    throw usage_error(names[out.positions.size()] + " is missing", {}, "ptq-report --help");
  }
  if (out.positions.size() > names.size()) {
    throw usage_error("too many words: `" + out.positions[names.size()] + "`", {},
                      "ptq-report --help");
  }
  return out;
}

}  // namespace ptq::report
