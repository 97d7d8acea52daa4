#include "analysis/study/study.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>

#include "analysis/read/reproduce.hpp"
#include "analysis/read/samples.hpp"
#include "ptq/results/record_json.hpp"

namespace ptq::report {
namespace {

namespace fs = std::filesystem;

const Json kNothing;

// The study's stored precision: perplexities and accuracies 4 decimals, losses 6.
double rounded(double value, int decimals) {
  const double scale = std::pow(10.0, decimals);
  return std::round(value * scale) / scale;
}

// One passkey cell as the study stores it.
Json passkey_form(const Record& record, const fs::path& folder) {
  const Json& m = record.metrics;
  Json out = {{"accuracy", m.value("accuracy", Json())}, {"depth_accuracy", Json::object()}};
  Json counts = Json::object();
  const Json depths = m.value("depths", Json::array());
  for (const Json& row : depths) {
    const std::string depth = Json(row.at("depth").get<double>()).dump();
    const double total = row.at("total").get<double>(), correct = row.at("correct").get<double>();
    out["depth_accuracy"][depth] = total > 0 ? Json(correct / total) : Json();
    counts[depth] = {row.at("correct"), row.at("total")};
  }
  out["total_correct"] = m.value("correct", Json());
  out["total_tests"] = m.value("total", Json());
  out["depth_counts"] = std::move(counts);
  out["context_length"] = m.value("context_length", Json());
  out["num_keys"] = record.evaluation.settings.value("keys", Json());
  out["details"] = Json::array();
  for_each_sample(folder / "samples.jsonl", [&](const Json& sample) {
    out["details"].push_back({{"depth", sample.value("depth", Json())},
                              {"passkey", sample.value("key", Json())},
                              {"generated", sample.value("answer", Json())},
                              {"correct", sample.value("correct", Json())},
                              {"context_tokens", sample.value("tokens", Json())}});
  });
  return out;
}

Json generation_form(const Record& record, const fs::path& folder) {
  const Json& m = record.metrics;
  Json out = {{"gen_ppl", Json()}, {"num_samples", m.value("samples", Json())}};
  if (m.value("mean_ppl", Json()).is_number()) {
    out["gen_ppl"] = rounded(m["mean_ppl"].get<double>(), 4);
  }
  out["prompt_length"] = m.value("prompt_tokens", Json());
  out["gen_length"] = m.value("continuation_tokens", Json());
  out["per_sample"] = Json::array();
  for_each_sample(folder / "samples.jsonl", [&](const Json& sample) {
    Json row = {{"sample", sample.value("sample", Json(out["per_sample"].size()))},
                {"gen_tokens", sample.value("tokens", Json())},
                {"gen_ppl", Json()}};
    if (sample.value("ppl", Json()).is_number()) {
      row["gen_ppl"] = rounded(sample["ppl"].get<double>(), 4);
    }
    out["per_sample"].push_back(std::move(row));
  });
  return out;
}

// Task blocks of multiple-choice cells have the harness's key names already ("acc,none", ...).
void add_tasks(const Record& record, Json& tasks) {
  const auto add = [&](const std::string& name, const Json& metrics) {
    Json task = {{"alias", name}};
    for (const auto& [key, value] : metrics.items()) {
      if (key.find(',') == key.npos || !value.is_number()) continue;
      task[key] = rounded(value.get<double>(), 4);
    }
    if (task.size() > 1) tasks[name] = std::move(task);
  };
  const Json results = record.metrics.value("results", Json());
  if (results.is_object()) {
    for (const auto& [name, metrics] : results.items()) {
      if (metrics.is_object()) add(name, metrics);
    }
  } else {
    add(record.evaluation.name, record.metrics);
  }
}

std::string plain(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

Json environment_form(const Record& record, const std::string& timestamp) {
  const Json& ours = record.environment;
  Json env = {{"timestamp", timestamp}, {"hostname", "-"}, {"os", ours.value("os", Json("-"))}};
  env["git"] = {{"commit_hash", record.code.git.empty() ? Json() : Json(record.code.git)},
                {"branch", ours.value("git_branch", Json("-"))},
                {"is_dirty", record.code.git.ends_with("-dirty") || record.code.git.ends_with("+")
                                 ? Json(true)
                                 : ours.value("git_dirty", Json(false))}};
  env["gpus"] = ours.value("gpus", Json::array());
  env["packages"] = {{"ptq", record.code.version}};
  for (const auto& [key, value] : ours.items()) {
    if (key != "os" && (value.is_string() || value.is_number())) {
      env["packages"][key] = plain(value);
    }
  }
  return env;
}

}  // namespace

const Json& Run::at(const std::string& path) const {
  const Json* value = &json;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string key = path.substr(begin, end - begin);
    if (!value->is_object()) return kNothing;
    const auto found = value->find(key);
    if (found == value->end()) return kNothing;
    value = &*found;
    begin = end + 1;
  }
  return *value;
}

std::optional<double> Run::number(const std::string& path) const {
  const Json& value = at(path);
  if (!value.is_number()) return {};
  return value.get<double>();
}

std::string Run::text(const std::string& path) const {
  const Json& value = at(path);
  return value.is_string() ? one_line(value.get<std::string>()) : std::string();
}

std::optional<double> Run::accuracy(const std::string& task, const std::string& metric) const {
  return number("results/lm_eval/" + task + "/" + metric + ",none");
}

std::optional<double> Run::average_accuracy() const {
  const Json& tasks = at("results/lm_eval");
  if (!tasks.is_object()) return {};
  double sum = 0;
  int count = 0;
  for (const auto& [task, metrics] : tasks.items()) {
    if (task.starts_with("_") || !metrics.is_object()) continue;
    for (const char* key : {"acc,none", "acc_norm,none", "exact_match,none"}) {
      const auto found = metrics.find(key);
      if (found == metrics.end() || !found->is_number()) continue;
      sum += found->get<double>();
      ++count;
      break;
    }
  }
  if (count == 0) return {};
  return rounded(sum / count, 4);
}

bool is_study_run(const Json& json) {
  return json.is_object() && json.contains("meta") && json["meta"].is_object() &&
         json.contains("results") && json["results"].is_object() &&
         json["meta"].contains("model") && json["meta"].contains("method");
}

Json parse_python_json(std::string_view text, const std::string& where) {
  std::string clean;
  clean.reserve(text.size());
  bool quoted = false;
  for (size_t i = 0; i < text.size();) {
    if (quoted) {
      const size_t step = text[i] == '\\' && i + 1 < text.size() ? 2 : 1;
      quoted = text[i] != '"';
      clean += text.substr(i, step);
      i += step;
      continue;
    }
    bool replaced = false;
    for (const std::string_view word : {"NaN", "-Infinity", "Infinity"}) {
      if (text.substr(i, word.size()) != word) continue;
      clean += "null";
      i += word.size();
      replaced = true;
      break;
    }
    if (replaced) continue;
    quoted = text[i] == '"';
    clean += text[i++];
  }
  return parse_json(clean, where);
}

Json read_python_json(const fs::path& file) {
  constexpr uint64_t kLargest = uint64_t{64} << 20;
  return parse_python_json(read_text_file(file, kLargest), file.string());
}

Run run_of_records(const std::vector<Record>& records, const std::vector<fs::path>& folders) {
  const Record& first = records.front();
  std::string started = first.started_at;
  Json ppl = Json::object(), tasks = Json::object(), stress = Json::object();
  Json warnings = Json::array(), calibration = {{"required", false}};
  double seconds = 0, quantize = 0, peak = 0;
  bool weights = false, cache = false;
  for (size_t i = 0; i < records.size(); ++i) {
    const Record& record = records[i];
    const Json& m = record.metrics;
    started = std::min(started, record.started_at);
    if (std::isfinite(record.seconds)) seconds += record.seconds;
    for (const std::string& warning : record.warnings) {
      warnings.push_back(record.evaluation.name + ": " + warning);
    }
    if (record.error) {
      warnings.push_back(record.evaluation.name + ": " + record.error->message);
      continue;
    }
    if (m.value("calibration", Json()).is_object()) calibration = m["calibration"];
    const Json time = m.value("time", Json::object()), memory = m.value("memory", Json::object());
    quantize = std::max(quantize, time.value("quantize_seconds", 0.0));
    peak = std::max(peak, memory.value("device_peak_bytes", 0.0));  // of an accelerator only
    weights = weights || m.value("weights", Json::object()).value("encoded_scalars", 0.0) > 0;
    cache = cache || m.value("cache", Json::object()).value("bytes_encoded", 0.0) > 0;
    const std::string& kind = record.evaluation.kind;
    if (kind == "perplexity") {
      const auto stored = [&](const char* key, int decimals) {
        const Json value = m.value(key, Json());
        return value.is_number() ? Json(rounded(value.get<double>(), decimals)) : Json();
      };
      ppl[record.evaluation.name] = {{"ppl", stored("ppl", 4)},
                                     {"nll", stored("nll", 6)},
                                     {"num_windows", m.value("windows", Json())}};
    } else if (kind == "cached-decode") {
      ppl[record.evaluation.name] = {{"ppl", m.value("ppl", Json())},
                                     {"nll", m.value("nll", Json())},
                                     {"lengths", m.value("lengths", Json::array())}};
    } else if (kind == "retrieval") {
      Json task = Json::object();
      for (const char* key : {"correct", "total", "accuracy", "partial", "exposure"})
        if (m.value(key, Json()).is_number()) task[key] = m[key];
      tasks[record.evaluation.name] = std::move(task);
      stress["retrieval"][record.evaluation.name] = m.value("tasks", Json::array());
    } else if (kind == "passkey" && !stress.contains("passkey_retrieval")) {
      stress["passkey_retrieval"] = passkey_form(record, folders[i]);
    } else if (kind == "generation" && !stress.contains("generation_ppl")) {
      stress["generation_ppl"] = generation_form(record, folders[i]);
    } else {
      add_tasks(record, tasks);
    }
  }

  std::string again;  // one small experiment for each record
  for (const Record& record : records) again += reproduce_command(to_cell(record));

  Run run;
  run.id = first.model.name + "__" + first.method.label + "__track" + first.track;
  Json config = {{"common_hyperparams", {{"seed", first.seed}}},
                 {"calibration", std::move(calibration)}};
  // A record does not say which part encodes what; alone it is what the bytes show.
  const auto& parts = first.method.parts;
  for (size_t p = 0; p < parts.size(); ++p) {
    if (first.method.lossless) break;
    const bool weight = parts.size() > 1 ? p == 0 : weights && !cache;
    config[weight ? "weight" : "kv"] = parts[p].options;
  }
  config["model"] = {{"name", first.model.name},
                     {"model_id", first.model.path},
                     {"fingerprint", first.model.fingerprint}};
  Json results = {{"ppl", std::move(ppl)}};
  run.json = {{"meta",
               {{"filename", run.id},
                {"timestamp", started},
                {"script", "ptq-host"},
                {"compute_again", again},
                {"model", first.model.name},
                {"method", first.method.label},
                {"track", first.track}}},
              {"config", std::move(config)}};
  results["lm_eval"] = std::move(tasks);
  run.json["results"] = std::move(results);
  Json& stored = run.json["results"];
  if (const auto average = run.average_accuracy()) stored["lm_eval"]["_avg_accuracy"] = *average;
  stored["system_metrics"] = Json::object();
  if (peak > 0) stored["system_metrics"]["vram_peak_mb"] = rounded(peak / (1 << 20), 1);
  stored["eval_time_seconds"] = rounded(seconds, 1);
  if (!stress.empty()) stored["kv_stress_test"] = std::move(stress);
  stored["quant_time_seconds"] = rounded(quantize, 1);
  run.json["env"] = environment_form(first, started);
  run.json["warnings"] = std::move(warnings);
  return run;
}

Run read_run(const fs::path& file) {
  const Json json = read_python_json(file);
  Run run;
  if (is_study_run(json)) {
    run.json = json;
    run.id = run.text("meta/filename");
  } else if (json.is_object() && json.contains("schema_version")) {
    run = run_of_records({record_from_json(json, file.string())}, {file.parent_path()});
  } else {
    throw environment_error("neither a result record nor a run of the study", file.string(),
                            "a record has `schema_version`, a run has `meta` and `results`");
  }
  run.file = file.filename().string();
  return run;
}

std::vector<Run> read_study_runs(const fs::path& folder, std::vector<Damaged>* damaged) {
  std::vector<fs::path> files;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    // experiment.json and results.json of ours stand beside records.
    if (entry.path().extension() == ".json" && name.find("__") != name.npos) {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  std::vector<Run> runs;
  for (const fs::path& file : files) {
    try {
      Run run = read_run(file);
      if (is_study_run(run.json)) runs.push_back(std::move(run));
    } catch (const Error& error) {
      if (!damaged) throw;
      damaged->push_back({file.filename().string(), one_line(error.what())});
    }
  }
  return runs;
}

std::vector<Run> read_runs(const fs::path& folder, std::vector<Damaged>& damaged) {
  std::map<std::pair<std::string, std::string>,
           std::pair<std::vector<Record>, std::vector<fs::path>>>
      groups;
  for (const fs::path& file : record_files(folder, damaged)) {
    const std::string source = file.lexically_relative(folder).string();
    try {
      const Record record = record_from_json(read_python_json(file), source);
      auto& group = groups[{record.model.name, record.method.label}];
      group.first.push_back(record);
      group.second.push_back(file.parent_path());
    } catch (const Error& error) {
      damaged.push_back({source, one_line(error.what())});
    }
  }
  std::vector<Run> runs;
  for (const auto& [key, group] : groups) {
    runs.push_back(run_of_records(group.first, group.second));
    runs.back().file = key.first + " / " + key.second;
  }
  std::vector<Run> studies = read_study_runs(folder, &damaged);
  std::move(studies.begin(), studies.end(), std::back_inserter(runs));
  return runs;
}

}  // namespace ptq::report
