#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <string>
#include <utility>

#include "analysis/export/export.hpp"

namespace ptq::report {
namespace {

// Our name of a metric where the definition is ours: a perplexity per token of the model's
// tokenizer under our windows is no word_perplexity.
std::string metric_name(const std::string& key) {
  return key == "ppl" || key == "ppl_pooled" ? "token_perplexity" : key == "accuracy" ? "acc" : key;
}

// The standard error that the harness prints beside a metric; "N/A" where there is none.
Json error_of(const Measure& measure, const Cell& cell) {
  if (measure.key == cell.headline.key && cell.headline.share && measure.samples &&
      *measure.samples > 1)
    return std::sqrt(measure.value * (1 - measure.value) / (*measure.samples - 1));
  return "N/A";
}

Json environment_of(const Cell& cell, const char* key) {
  return cell.environment.value(key, Json());
}

void add_task(const Subject& subject, const Cell& cell, Json& out) {
  const std::string& task = cell.evaluation;
  Json result = {{"alias", task}}, higher = Json::object();
  for (const Measure& measure : measures_of(subject, cell)) {
    const std::string name = metric_name(measure.key);
    result[name + ",none"] = measure.value;
    result[name + "_stderr,none"] = error_of(measure, cell);
    higher[name] = measure.higher;
  }
  out["results"][task] = std::move(result);
  out["higher_is_better"][task] = std::move(higher);
  const Json dataset = dataset_of(cell);
  out["configs"][task] = {
      {"task", task},
      {"dataset_path", dataset},
      {"output_type", cell.headline.share ? "generate_until" : "loglikelihood_rolling"},
      {"num_fewshot", 0},
      {"metadata", {{"version", 1}, {"ptq", cell.settings}}}};
  out["versions"][task] = 1;
  out["n-shot"][task] = 0;
  const auto samples =
      cell.headline.share ? cell.number({"total"}) : cell.number({"tokens_scored"});
  const int64_t count = int64_t(samples.value_or(0));
  out["n-samples"][task] = {{"original", count}, {"effective", count}};
  out["task_hashes"][task] = cell.settings.value("data_sha256", Json(""));
}

// Asked tasks: the records have the harness's entries.
void add_asked(const Cell& cell, Json& out) {
  const Json& m = cell.metrics;
  const std::string task = m.value("task", cell.evaluation);
  const int64_t shots = int64_t(cell.number({"fewshot"}).value_or(0));
  const double version = std::strtod(m.value("task_version", "1").c_str(), nullptr);
  std::map<std::string, int64_t> sizes = {{task, int64_t(cell.number({"total"}).value_or(0))}};
  for (const char* part : {"subject", "group"})
    for (const Json& row : m.value(std::string(part) + "s", Json::array()))
      sizes[task + "_" + row.at(part).get<std::string>()] = row.at("total").get<int64_t>();
  std::string group;  // the last one
  for (const auto& [name, entry] : m["results"].items()) {
    const std::string alias = entry.value("alias", name);
    const bool top = name == task, leaf = alias.starts_with("  - ");
    const bool parent = (top && m.contains("subjects")) ||
                        (!top && !leaf && m.contains("groups") && alias.starts_with(" - ") &&
                         std::any_of(m["groups"].begin(), m["groups"].end(), [&](const Json& row) {
                           return task + "_" + row.value("group", "") == name;
                         }));
    out["results"][name] = entry;
    if (parent) out["groups"][name] = entry;
    if (!top) out["group_subtasks"][leaf ? group : task].push_back(name);
    if (parent || top) out["group_subtasks"][name] = Json::array();
    if (parent && !top) group = name;
    Json higher = Json::object();
    for (const auto& [key, value] : entry.items())
      if (key.ends_with(",none") && !key.ends_with("_stderr,none"))
        higher[key.substr(0, key.find(','))] = true;
    out["higher_is_better"][name] = std::move(higher);
    out["versions"][name] = parent ? 2.0 : version;
    out["n-samples"][name] = {{"original", sizes[name]}, {"effective", sizes[name]}};
    if (parent) continue;
    out["n-shot"][name] = shots;
    out["configs"][name] = {
        {"task", name},
        {"dataset_path", dataset_of(cell)},
        {"output_type", cell.kind == "answers" ? "generate_until" : "multiple_choice"},
        {"num_fewshot", shots},
        {"metadata", {{"version", version}, {"ptq", cell.settings}}}};
    out["task_hashes"][name] = m.value("scores_sha256", m.value("answers_sha256", ""));
  }
}

}  // namespace

std::string lm_eval(const Subject& subject) {
  Json out = Json::object();
  const Cell* last = nullptr;
  double seconds = 0;
  for (const auto& [name, cell] : subject.row->cells) {
    if (!cell->figure()) continue;
    if (!last || cell->started > last->started) last = cell;
    seconds += cell->seconds;
    if (asks_task(*cell))
      add_asked(*cell, out);
    else
      add_task(subject, *cell, out);
  }
  const std::string path = last->model_path.empty() ? subject.board->model : last->model_path;
  if (!out.contains("group_subtasks")) out["group_subtasks"] = Json::object();
  out["config"] = {{"model", "ptq"},
                   {"model_args", "pretrained=" + path + ",method=" + subject.row->method},
                   {"model_num_parameters", last->parameters},
                   {"model_dtype", environment_of(*last, "compute")},
                   {"model_revision", "main"},
                   {"model_sha", last->fingerprint},
                   {"batch_size", 1},
                   {"device", environment_of(*last, "device")},
                   {"random_seed", last->seed},
                   {"method", method_in_words(*last)}};
  out["git_hash"] = last->code.git;
  out["date"] = epoch_of(last->started);
  out["pretty_env_info"] = json_text(last->environment);
  // Not run by the harness: its versions are none of these results'.
  out["transformers_version"] = Json();
  out["lm_eval_version"] = Json();
  out["evaluator"] = "ptq " + last->code.version;
  out["model_source"] = "ptq";
  out["model_name"] = path;
  out["model_name_sanitized"] = subject.file_name();
  out["chat_template"] = Json();
  out["chat_template_sha"] = Json();
  out["total_evaluation_time_seconds"] = fmt::format("{:.3f}", seconds);
  return json_text(out, 2) + "\n";
}

}  // namespace ptq::report
