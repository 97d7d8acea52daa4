// The command that computes one cell again.
#pragma once

#include <string>

#include "analysis/read/records.hpp"

namespace ptq::report {

namespace reproduce_detail {

// A value of JSON in TOML. TOML knows no null: such members are left out.
inline std::string toml_value(const Json& value) {
  if (value.is_object()) {
    std::string out;
    for (const auto& [key, child] : value.items()) {
      if (child.is_null()) continue;
      out += (out.empty() ? "" : ", ") + json_text(Json(key)) + " = " + toml_value(child);
    }
    return "{ " + out + " }";
  }
  if (value.is_array()) {
    std::string out;
    for (const Json& child : value) out += (out.empty() ? "" : ", ") + toml_value(child);
    return "[" + out + "]";
  }
  return json_text(value);  // numbers, words and strings are written alike
}

inline std::string line(const char* key, const Json& value) {
  return std::string(key) + " = " + toml_value(value) + "\n";
}

}  // namespace reproduce_detail

// A small experiment file with this cell alone, and the command that runs it.
inline std::string reproduce_command(const Cell& cell) {
  using reproduce_detail::line;
  const Json command = cell.environment.value("command", Json());
  if (command.is_string()) return command.get<std::string>();  // the study's
  std::string toml = line("name", cell.experiment) + line("track", cell.track) +
                     line("seed", cell.seed) + line("models", Json::array({cell.model_path}));
  const Json compute = cell.environment.value("compute", Json());
  const Json weights = cell.environment.value("weights", Json());
  if (compute.is_string() || weights == "random") {
    toml += "\n[model]\n";
    if (compute.is_string()) toml += line("compute", compute);
    if (weights == "random") {
      toml += line("random", true) +
              line("random_seed", cell.environment.value("weights_seed", Json(0)));
    }
  }
  const Json calibration = cell.metrics.value("calibration", Json());
  if (calibration.is_object() && calibration.contains("text")) {
    toml += "\n[calibration]\n";
    for (const char* key : {"text", "join", "sequences", "length"}) {
      if (calibration.contains(key)) toml += line(key, calibration[key]);
    }
  }
  toml += "\n[[methods]]\n" + line("label", cell.method);
  Json parts = Json::array();
  for (const Record::Part& part : cell.parts) {
    parts.push_back({{"method", part.method}, {"options", part.options}});
  }
  if (parts.size() == 1) {
    toml += line("method", parts[0]["method"]) + line("options", parts[0]["options"]);
  } else {
    toml += line("parts", parts);
  }
  toml += "\n[[evaluations]]\n" + line("kind", cell.kind) + line("name", cell.evaluation);
  for (const auto& [key, value] : cell.settings.items()) {
    if (!key.ends_with("_sha256") && !value.is_null()) toml += line(key.c_str(), value);
  }
  const Json device = cell.environment.value("device", Json());
  const bool cuda = device.is_string() && device.get<std::string>().starts_with("cuda");
  return "cat > cell.toml <<'EOF'\n" + toml + "EOF\nptq-host cell.toml --out results/again" +
         (cuda ? " --device cuda" : "") + "\n";
}

}  // namespace ptq::report
