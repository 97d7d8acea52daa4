// What ptq-bench prints: one line per measurement, and the same as JSON and CSV for scripts.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "bench/timing.hpp"

namespace ptq::bench {

// What a ratio has to reach.
struct Target {
  double bound;
  bool at_least;  // else at most
  bool met(double ratio) const { return at_least ? ratio >= bound : ratio <= bound; }
};

// A measured value in relation to a limit or to another line of the same run.
struct Ratio {
  double value = 0;
  std::string of;        // "of the matrix rate", "x decode with plain weights"
  bool percent = false;  // value 0.55 is printed as 55 %
  std::optional<Target> target;
};

class Sheet {
 public:
  // Paths, empty for none. Written with every line: a run that is cut keeps its lines.
  Sheet(std::string json, std::string csv) : path_(std::move(json)), csv_path_(std::move(csv)) {}
  // Prints a line.
  void row(const std::string& what, double value, const std::string& unit,
           const std::optional<Ratio>& ratio, const Timing& t);
  // A line that was not measured, and why.
  void skipped(const std::string& what, const std::string& why);
  // A heading, and a fact for the JSON.
  void fact(const std::string& key, const nlohmann::ordered_json& value) { json_[key] = value; }

 private:
  void add(const nlohmann::ordered_json& line);

  std::string path_, csv_path_;
  nlohmann::ordered_json json_ = {{"lines", nlohmann::ordered_json::array()}};
};

}  // namespace ptq::bench
