// Do two records hold the same numbers?
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "ptq/core/own_json.hpp"
#include "ptq/results/record.hpp"

namespace ptq {

namespace same_result_detail {

// What two runs of one program differ in.
inline bool varies(const std::string& key) {
  const auto ends = [&](const char* ending) { return key.ends_with(ending); };
  return key == "seconds" || ends("_seconds") || ends("_per_second") || ends("_per_second_why") ||
         key == "peak_resident_bytes";
}

inline void compare(const std::string& place, const Json& a, const Json& b,
                    std::vector<std::string>& out) {
  if (a.is_object() && b.is_object()) {
    for (const auto& [key, value] : a.items()) {
      if (varies(key)) continue;
      const auto other = b.find(key);
      if (other == b.end())
        out.push_back(place + key + ": only in the first");
      else
        compare(place + key + ".", value, *other, out);
    }
    for (const auto& [key, value] : b.items())
      if (!varies(key) && !a.contains(key)) out.push_back(place + key + ": only in the second");
    return;
  }
  if (a == b) return;
  const std::string name = place.substr(0, place.size() - 1);
  const auto shown = [](const Json& value) {
    const std::string text = json_text(value);
    return text.size() > 60 ? text.substr(0, 57) + "..." : text;
  };
  out.push_back(name + ": " + shown(a) + " and " + shown(b));
}

}  // namespace same_result_detail

// The places of two records' metrics that differ, times and the peak of memory left out.
inline std::vector<std::string> metric_differences(const Json& a, const Json& b) {
  std::vector<std::string> out;
  same_result_detail::compare("", a, b, out);
  return out;
}

// The same of two records, and whether their samples differ.
inline std::vector<std::string> result_differences(const Record& a, const Record& b) {
  std::vector<std::string> out = metric_differences(a.metrics, b.metrics);
  if (a.status != b.status) out.push_back("status: " + a.status + " and " + b.status);
  if (a.samples_sha256 != b.samples_sha256) out.push_back("samples.jsonl");
  if (a.tokens_sha256 != b.tokens_sha256) out.push_back("tokens.bin");
  return out;
}

}  // namespace ptq
