// What of a result cannot be true, and the comparisons that find it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

#include "ptq/core/own_json.hpp"

namespace ptq {

struct Violation {
  std::string key;   // path in the record, or the file beside it
  std::string text;  // "is 4.5, but exp(nll) is 5.6"

  std::string sentence() const { return key + " " + text; }
};

namespace consistency_detail {

inline std::string shown_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", value);
  return text;
}

// Sums of the same float64 numbers in another order.
inline bool agree(double a, double b) {
  return std::fabs(a - b) <= 1e-9 + 1e-6 * std::max(std::fabs(a), std::fabs(b));
}

inline std::optional<double> number_at(const Json& object, std::string_view key) {
  if (!object.is_object()) return {};
  const auto found = object.find(std::string(key));
  if (found == object.end() || !found->is_number()) return {};
  return found->get<double>();
}

}  // namespace consistency_detail
}  // namespace ptq
