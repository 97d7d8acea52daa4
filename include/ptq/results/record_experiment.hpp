// The experiment with one cell alone that a record is the result of.
#pragma once

#include <string>

#include "ptq/core/own_json.hpp"
#include "ptq/results/record.hpp"

namespace ptq {

namespace record_experiment_detail {

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

}  // namespace record_experiment_detail

// As TOML. Paths are those of the record, seen from where it was made.
inline std::string record_experiment(const Record& record) {
  using record_experiment_detail::line;
  std::string toml =
      line("name", record.experiment) + line("track", record.track) + line("seed", record.seed);
  Json model = record.model.path;
  if (!record.model.name.empty())
    model = {{"model", record.model.path}, {"name", record.model.name}};
  toml += line("models", Json::array({model}));
  const Json compute = record.environment.value("compute", Json());
  const Json weights = record.environment.value("weights", Json());
  if (compute.is_string() || weights == "random") {
    toml += "\n[model]\n";
    if (compute.is_string()) toml += line("compute", compute);
    if (weights == "random") {
      toml += line("random", true) +
              line("random_seed", record.environment.value("weights_seed", Json(0)));
    }
  }
  const Json calibration =
      record.metrics.is_object() ? record.metrics.value("calibration", Json()) : Json();
  if (calibration.is_object() && calibration.contains("text")) {
    toml += "\n[calibration]\n";
    for (const char* key : {"text", "join", "sequences", "length"}) {
      if (calibration.contains(key)) toml += line(key, calibration[key]);
    }
    if (calibration.contains("layer_errors")) toml += line("layer_errors", true);
  }
  toml += "\n[[methods]]\n" + line("label", record.method.label);
  Json parts = Json::array();
  for (const Record::Part& part : record.method.parts) {
    parts.push_back({{"method", part.method}, {"options", part.options}});
  }
  if (parts.size() == 1) {
    toml += line("method", parts[0]["method"]) + line("options", parts[0]["options"]);
  } else {
    toml += line("parts", parts);
  }
  toml += "\n[[evaluations]]\n" + line("kind", record.evaluation.kind) +
          line("name", record.evaluation.name);
  for (const auto& [key, value] : record.evaluation.settings.items()) {
    if (!key.ends_with("_sha256") && !value.is_null()) toml += line(key.c_str(), value);
  }
  return toml;
}

}  // namespace ptq
