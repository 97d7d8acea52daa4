#include "bench/sheet.hpp"

#include <fmt/format.h>

#include <cstdio>

#include "ptq/core/output_file.hpp"

namespace ptq::bench {
namespace {

std::string number(double value, bool percent) {
  return percent ? fmt::format("{:.0f} %", 100 * value) : fmt::format("{:.2f}", value);
}

std::string text(const Ratio& r) {
  std::string s = number(r.value, r.percent) + " " + r.of;
  if (r.target)
    s += fmt::format(" (target {} {}: {})",
                     r.target->at_least ? ">=" : "<=", number(r.target->bound, r.percent),
                     r.target->met(r.value) ? "met" : "missed");
  return s;
}

// A field of a line, quoted where it must be (RFC 4180); empty where the line has none.
std::string field(const nlohmann::ordered_json& line, const char* key) {
  const auto found = line.find(key);
  if (found == line.end()) return {};
  if (!found->is_string()) return found->dump();
  std::string text = "\"";
  for (const char c : found->get<std::string>()) text += c == '"' ? "\"\"" : std::string(1, c);
  return text + "\"";
}

std::string csv(const nlohmann::ordered_json& lines) {
  constexpr const char* kKeys[] = {"what",  "value",    "unit",   "spread", "cores",
                                   "ratio", "ratio_of", "target", "met",    "skipped"};
  std::string text;
  for (const char* key : kKeys) text += std::string(text.empty() ? "" : ",") + key;
  for (const auto& line : lines)
    for (const char* key : kKeys) text += (key == kKeys[0] ? "\n" : ",") + field(line, key);
  return text + "\n";
}

}  // namespace

void Sheet::row(const std::string& what, double value, const std::string& unit,
                const std::optional<Ratio>& ratio, const Timing& t) {
  fmt::print("{:<50} {:>10.1f} {:<10} ±{:<4.0f}% {:>6.2f} cores  {}\n", what, value, unit,
             50 * t.spread, t.cores, ratio ? text(*ratio) : "limit");
  std::fflush(stdout);
  nlohmann::ordered_json line = {
      {"what", what}, {"value", value}, {"unit", unit}, {"spread", t.spread}, {"cores", t.cores}};
  if (ratio) {
    line["ratio"] = ratio->value;
    line["ratio_of"] = ratio->of;
    if (ratio->target) {
      line["target"] = ratio->target->bound;
      line["met"] = ratio->target->met(ratio->value);
    }
  }
  add(line);
}

void Sheet::skipped(const std::string& what, const std::string& why) {
  fmt::print("{:<50} skipped: {}\n", what, why);
  add({{"what", what}, {"skipped", why}});
}

void Sheet::add(const nlohmann::ordered_json& line) {
  json_["lines"].push_back(line);
  if (!path_.empty()) write_output_file(path_, json_.dump(2) + "\n");
  if (!csv_path_.empty()) write_output_file(csv_path_, csv(json_["lines"]));
}

}  // namespace ptq::bench
