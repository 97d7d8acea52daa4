// Do the answers to multiple-choice questions follow from their scores?
#pragma once

#include <simdjson.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace ptq::consistency_detail {

// The numbers of an array; empty where there is none.
inline std::vector<double> numbers_of(const simdjson::dom::object& object, const char* key) {
  std::vector<double> out;
  simdjson::dom::array array;
  if (object[key].get(array) != simdjson::SUCCESS) return out;
  for (const simdjson::dom::element element : array) {
    double value = 0;
    if (element.get(value) != simdjson::SUCCESS) return {};
    out.push_back(value);
  }
  return out;
}

// Whether the decisions of a line of multiple choice are those of its scores: the first of the
// largest, as they are and divided by the lengths of the choices.
inline bool choices_follow(const simdjson::dom::object& object, const std::vector<double>& scores) {
  int64_t gold = 0, said = 0;
  if (object["gold"].get(gold) != simdjson::SUCCESS) return true;
  const std::vector<double> lengths = numbers_of(object, "lengths");
  for (const char* key : {"acc", "acc_norm"}) {
    if (object[key].get(said) != simdjson::SUCCESS) continue;
    std::vector<double> values = scores;
    if (std::string_view(key) == "acc_norm") {
      if (lengths.size() != scores.size()) continue;
      for (size_t i = 0; i < values.size(); ++i) values[i] /= lengths[i];
    }
    if ((std::max_element(values.begin(), values.end()) - values.begin() == gold) != (said == 1))
      return false;
  }
  return true;
}

}  // namespace ptq::consistency_detail
