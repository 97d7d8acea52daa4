#include <fmt/format.h>

#include <cmath>

#include "analysis/export/export.hpp"

namespace ptq::report {
namespace {

// The form's free members hold texts only.
std::string as_text(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

Json source_of(const Cell& cell) {
  Json details = Json::object();
  for (const auto& [key, value] : cell.settings.items()) details[key] = as_text(value);
  return {{"dataset_name", dataset_of(cell)},
          {"source_type", "other"},
          {"additional_details", std::move(details)}};
}

Json result_of(const Cell& cell, const Measure& measure) {
  Json config = {{"metric_id", "ptq." + measure.key},
                 {"metric_name", measure.title},
                 {"lower_is_better", !measure.higher},
                 {"score_type", "continuous"},
                 {"min_score", 0},
                 {"max_score", std::isinf(measure.most) ? Json("Infinity") : Json(measure.most)}};
  if (!measure.unit.empty()) config["metric_unit"] = measure.unit;
  Json score = {{"score", measure.value}}, uncertainty = Json::object();
  if (measure.interval.known())
    uncertainty["confidence_interval"] = {{"lower", measure.interval.low},
                                          {"upper", measure.interval.high},
                                          {"confidence_level", 0.95},
                                          {"method", measure.how}};
  if (measure.samples) uncertainty["num_samples"] = int64_t(*measure.samples);
  if (!uncertainty.empty()) score["uncertainty"] = std::move(uncertainty);
  score["details"] = {{"record", cell.id}, {"samples_sha256", cell.samples_sha256}};
  return {{"evaluation_result_id", cell.id + "/" + measure.key},
          {"evaluation_name", cell.evaluation},
          {"source_data", source_of(cell)},
          {"evaluation_timestamp", cell.started},
          {"metric_config", std::move(config)},
          {"score_details", std::move(score)}};
}

// The base model and what was done to it.
Json model_of(const Subject& subject, const Cell& cell) {
  Json details = {{"deployment_type", "self_deployed"},
                  {"model_availability", "unknown"},
                  {"base_model_path", cell.model_path},
                  {"base_model_fingerprint", cell.fingerprint},
                  {"parameters", std::to_string(cell.parameters)},
                  {"method", method_in_words(cell)}};
  for (const char* key : {"cpu", "gpu", "device", "compute", "os"})
    if (cell.environment.contains(key)) details[key] = as_text(cell.environment[key]);
  for (const char* part : {"cache", "weights"})
    if (cell.metrics.contains(part)) details[part] = cell.metrics[part].dump();
  return {{"name", subject.board->model + ", " + subject.row->method},
          {"id", subject.board->model + "+" + subject.row->method},
          {"inference_engine", {{"name", "ptq"}, {"version", cell.code.version}}},
          {"additional_details", std::move(details)}};
}

}  // namespace

std::string every_eval_ever(const Subject& subject, const std::string& organization) {
  Json results = Json::array();
  const Cell* last = nullptr;
  for (const auto& [name, cell] : subject.row->cells) {
    if (!cell->figure()) continue;
    if (!last || cell->started > last->started) last = cell;
    for (const Measure& measure : measures_of(subject, *cell))
      results.push_back(result_of(*cell, measure));
  }
  const std::string created = std::to_string(epoch_of(last->started));
  const Json out = {{"schema_version", "0.3.0"},
                    {"evaluation_id", last->experiment + "/" + subject.file_name() + "/" + created},
                    {"evaluation_timestamp", last->started},
                    {"retrieved_timestamp", created},
                    {"source_metadata",
                     {{"source_name", last->experiment},
                      {"source_type", "evaluation_run"},
                      {"source_organization_name", organization},
                      {"evaluator_relationship", "other"}}},
                    {"eval_library",
                     {{"name", "ptq"},
                      {"version", last->code.version.empty() ? "unknown" : last->code.version},
                      {"additional_details",
                       {{"commit", last->code.git}, {"seed", std::to_string(last->seed)}}}}},
                    {"model_info", model_of(subject, *last)},
                    {"evaluation_results", std::move(results)}};
  return json_text(out, 2) + "\n";
}

}  // namespace ptq::report
