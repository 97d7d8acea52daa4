// Amounts of memory for people.
#pragma once

#include <fmt/format.h>

#include <string>

namespace ptq {

// "1.50 GiB" with the given number of digits behind the point.
inline std::string bytes_text(double bytes, int digits = 1) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  while (bytes >= 1024 && unit < 4) {
    bytes /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} B", bytes)
                   : fmt::format("{:.{}f} {}", bytes, digits, units[unit]);
}

}  // namespace ptq
