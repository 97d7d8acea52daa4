// A part of a grid, for one of several processes that share the work.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "ptq/core/error.hpp"

namespace ptq {

struct Shard {
  int64_t index = 1, count = 1;  // index from 1 on
  bool whole() const { return count == 1; }
};

// "2/8", or "slurm": the task of the array that the process runs in, else the task of its step.
// Errors: neither; Slurm's variables are not there.
inline Shard parse_shard(const std::string& text) {
  const auto number = [](std::string_view digits, int64_t& value) {
    const auto [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return status == std::errc() && end == digits.data() + digits.size();
  };
  const auto variable = [&](const char* name, int64_t& value) {
    const char* set = std::getenv(name);
    return set != nullptr && number(set, value);
  };
  Shard shard;
  if (text == "slurm") {
    int64_t first = 0;
    if (variable("SLURM_ARRAY_TASK_ID", shard.index) &&
        variable("SLURM_ARRAY_TASK_COUNT", shard.count) &&
        variable("SLURM_ARRAY_TASK_MIN", first)) {
      shard.index -= first - 1;
    } else if (variable("SLURM_PROCID", shard.index) && variable("SLURM_NTASKS", shard.count)) {
      ++shard.index;
    } else {
      throw usage_error("there is no task of a Slurm array or step here", "--shard slurm",
                        "it is made for scripts of `ptq-host slurm`; --shard 1/4 names a part");
    }
  } else {
    const size_t slash = text.find('/');
    if (slash == text.npos || !number(std::string_view(text).substr(0, slash), shard.index) ||
        !number(std::string_view(text).substr(slash + 1), shard.count))
      throw usage_error("`" + text + "` is no part of a grid", "--shard",
                        "--shard 2/8 is the second of eight, --shard slurm that of an array");
  }
  if (shard.count < 1 || shard.index < 1 || shard.index > shard.count)
    throw usage_error(
        "there is no part " + std::to_string(shard.index) + " of " + std::to_string(shard.count),
        "--shard " + text, "parts count from 1");
  return shard;
}

// Whose part each of the cells is, 1 to count, from what they cost: neighbours stay together (they
// share a model and a reference), and parts cost about the same.
inline std::vector<int64_t> divide_cells(const std::vector<double>& costs, int64_t count) {
  double total = 0, before = 0;
  for (const double cost : costs) total += cost;
  std::vector<int64_t> parts;
  for (const double cost : costs) {
    const double middle = total > 0 ? (before + cost / 2) / total : 0;
    parts.push_back(1 + std::min(count - 1, int64_t(std::floor(middle * double(count)))));
    before += cost;
  }
  return parts;
}

}  // namespace ptq
