// Some of the rows of a data file.
#pragma once

#include <charconv>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <system_error>

#include "ptq/core/error.hpp"

namespace ptq::tasks {

// Rows "begin:end", counted from 0, half open; either side may be missing.
struct RowRange {
  int64_t begin = 0, end = std::numeric_limits<int64_t>::max();
};

// Errors: a text that is no such range.
inline RowRange parse_rows(const std::string& text) {
  RowRange range;
  if (text.empty()) return range;
  const size_t colon = text.find(':');
  const auto number = [&](std::string_view part, int64_t otherwise) {
    int64_t value = 0;
    const auto [end, status] = std::from_chars(part.data(), part.data() + part.size(), value);
    const bool whole = status == std::errc() && end == part.data() + part.size() && value >= 0;
    return part.empty() ? otherwise : whole ? value : int64_t{-1};
  };
  if (colon != text.npos) {
    range.begin = number(std::string_view(text).substr(0, colon), 0);
    range.end = number(std::string_view(text).substr(colon + 1), range.end);
    if (range.begin >= 0 && range.end > range.begin) return range;
  }
  throw usage_error("`rows` is \"" + text + "\", no range of rows", "choices",
                    "rows = \"0:100\" for the first hundred");
}

}  // namespace ptq::tasks
