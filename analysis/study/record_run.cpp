// Our records of one model and method in the form of the study's run files.
#include <algorithm>
#include <cmath>

#include "analysis/read/reproduce.hpp"
#include "analysis/read/samples.hpp"
#include "analysis/study/study.hpp"

namespace ptq::report {
namespace {

// The study's stored precision: perplexities and accuracies 4 decimals, losses 6.
double rounded(double value, int decimals) {
  const double scale = std::pow(10.0, decimals);
  return std::round(value * scale) / scale;
}

// One passkey cell as the study stores it.
Json passkey_form(const Cell& cell) {
  const Json& m = cell.metrics;
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
  out["num_keys"] = cell.settings.value("keys", Json());
  out["details"] = Json::array();
  for_each_sample(cell.folder / "samples.jsonl", [&](const Json& sample) {
    out["details"].push_back({{"depth", sample.value("depth", Json())},
                              {"passkey", sample.value("key", Json())},
                              {"generated", sample.value("answer", Json())},
                              {"correct", sample.value("correct", Json())},
                              {"context_tokens", sample.value("tokens", Json())}});
  });
  return out;
}

Json generation_form(const Cell& cell) {
  const Json& m = cell.metrics;
  Json out = {{"gen_ppl", Json()}, {"num_samples", m.value("samples", Json())}};
  if (m.value("mean_ppl", Json()).is_number()) {
    out["gen_ppl"] = rounded(m["mean_ppl"].get<double>(), 4);
  }
  out["prompt_length"] = m.value("prompt_tokens", Json());
  out["gen_length"] = m.value("continuation_tokens", Json());
  out["per_sample"] = Json::array();
  for_each_sample(cell.folder / "samples.jsonl", [&](const Json& sample) {
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

// Task blocks of multiple-choice cells have the harness's key names already ("acc,none", ...);
// other figures have the name of their metric.
void add_tasks(const Cell& cell, Json& tasks) {
  const auto add = [&](const std::string& name, const Json& metrics) {
    Json task = {{"alias", name}};
    for (const auto& [key, value] : metrics.items()) {
      if (key.find(',') == key.npos || !value.is_number()) continue;
      task[key] = rounded(value.get<double>(), 4);
    }
    if (task.size() > 1) tasks[name] = std::move(task);
  };
  const Json results = cell.metrics.value("results", Json());
  if (results.is_object()) {
    for (const auto& [name, metrics] : results.items()) {
      if (metrics.is_object()) add(name, metrics);
    }
  } else {
    add(cell.evaluation, cell.metrics);
    const auto figure = figure_at(cell.metrics, cell.headline);
    if (!tasks.contains(cell.evaluation) && figure)
      tasks[cell.evaluation] = {{cell.headline.key, rounded(*figure, 4)}};
  }
}

std::string plain(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

Json environment_form(const Cell& cell, const std::string& timestamp) {
  const Json& ours = cell.environment;
  Json env = {{"timestamp", timestamp}, {"hostname", "-"}, {"os", ours.value("os", Json("-"))}};
  env["git"] = {{"commit_hash", cell.code.git.empty() ? Json() : Json(cell.code.git)},
                {"branch", ours.value("git_branch", Json("-"))},
                {"is_dirty", cell.code.git.ends_with("-dirty") || cell.code.git.ends_with("+")
                                 ? Json(true)
                                 : ours.value("git_dirty", Json(false))}};
  env["gpus"] = ours.value("gpus", Json::array());
  env["packages"] = {{"ptq", cell.code.version}};
  for (const auto& [key, value] : ours.items()) {
    if (key != "os" && (value.is_string() || value.is_number())) {
      env["packages"][key] = plain(value);
    }
  }
  return env;
}

// What the records of a run add up to.
struct Sums {
  Json ppl = Json::object(), tasks = Json::object(), stress = Json::object();
  Json calibration = {{"required", false}};
  double seconds = 0, quantize_seconds = 0, peak_bytes = 0;
  bool weights = false, cache = false;

  // Told by what the metrics hold, so that an evaluation that is not known appears as a task.
  void add(const Cell& cell) {
    const Json& m = cell.metrics;
    const auto list = [&](const char* key) {
      const auto found = m.find(key);
      return found != m.end() && found->is_array();
    };
    if (cell.headline.key == "ppl" && list("lengths")) {
      ppl[cell.evaluation] = {{"ppl", m.value("ppl", Json())},
                              {"nll", m.value("nll", Json())},
                              {"lengths", m["lengths"]}};
    } else if (cell.headline.key == "ppl") {
      const auto stored = [&](const char* key, int decimals) {
        const Json value = m.value(key, Json());
        return value.is_number() ? Json(rounded(value.get<double>(), decimals)) : Json();
      };
      ppl[cell.evaluation] = {{"ppl", stored("ppl", 4)},
                              {"nll", stored("nll", 6)},
                              {"num_windows", m.value("windows", Json())}};
    } else if (cell.headline.share && list("tasks")) {
      Json task = Json::object();
      for (const char* key : {"correct", "total", "accuracy", "partial", "exposure"})
        if (m.value(key, Json()).is_number()) task[key] = m[key];
      tasks[cell.evaluation] = std::move(task);
      stress["retrieval"][cell.evaluation] = m["tasks"];
    } else if (cell.headline.share && list("depths") && !stress.contains("passkey_retrieval")) {
      stress["passkey_retrieval"] = passkey_form(cell);
    } else if (m.contains("mean_ppl") && !stress.contains("generation_ppl")) {
      stress["generation_ppl"] = generation_form(cell);
    } else {
      add_tasks(cell, tasks);
    }
  }

  // What every evaluation records.
  void add_common(const Cell& cell) {
    const Json& m = cell.metrics;
    if (m.value("calibration", Json()).is_object()) calibration = m["calibration"];
    const Json time = m.value("time", Json::object()), memory = m.value("memory", Json::object());
    quantize_seconds = std::max(quantize_seconds, time.value("quantize_seconds", 0.0));
    peak_bytes = std::max(peak_bytes, memory.value("device_peak_bytes", 0.0));  // accelerators only
    weights = weights || cell.number({"weights", "encoded_scalars"}).value_or(0) > 0;
    cache = cache || cell.number({"cache", "bytes_encoded"}).value_or(0) > 0;
  }
};

Json config_form(const Cell& first, const Sums& results) {
  Json config = {{"common_hyperparams", {{"seed", first.seed}}},
                 {"calibration", results.calibration}};
  // A record does not say which part encodes what; alone it is what the bytes show.
  for (size_t p = 0; p < first.parts.size() && !first.lossless; ++p) {
    const bool weight = first.parts.size() > 1 ? p == 0 : results.weights && !results.cache;
    config[weight ? "weight" : "kv"] = first.parts[p].options;
  }
  config["model"] = {
      {"name", first.model}, {"model_id", first.model_path}, {"fingerprint", first.fingerprint}};
  return config;
}

}  // namespace

Run run_of_cells(const std::vector<Cell>& cells) {
  const Cell& first = cells.front();
  std::string started = first.started, again;  // again: one small experiment for each record
  Json warnings = Json::array();
  Sums results;
  for (const Cell& cell : cells) {
    started = std::min(started, cell.started);
    results.seconds += cell.seconds;
    again += reproduce_command(cell);
    for (const std::string& warning : cell.warnings) {
      warnings.push_back(cell.evaluation + ": " + warning);
    }
    if (cell.status == "failed") {
      warnings.push_back(cell.evaluation + ": " + cell.error);
      continue;
    }
    results.add_common(cell);
    results.add(cell);
  }
  Run run;
  run.id = first.model + "__" + first.method + "__track" + first.track;
  run.json = {{"meta",
               {{"filename", run.id},
                {"timestamp", started},
                {"script", "ptq-host"},
                {"compute_again", again},
                {"model", first.model},
                {"method", first.method},
                {"track", first.track}}},
              {"config", config_form(first, results)},
              {"results", {{"ppl", results.ppl}, {"lm_eval", results.tasks}}}};
  Json& stored = run.json["results"];
  if (const auto average = run.average_accuracy()) stored["lm_eval"]["_avg_accuracy"] = *average;
  stored["system_metrics"] = Json::object();
  if (results.peak_bytes > 0)
    stored["system_metrics"]["vram_peak_mb"] = rounded(results.peak_bytes / (1 << 20), 1);
  stored["eval_time_seconds"] = rounded(results.seconds, 1);
  if (!results.stress.empty()) stored["kv_stress_test"] = results.stress;
  stored["quant_time_seconds"] = rounded(results.quantize_seconds, 1);
  run.json["env"] = environment_form(first, started);
  run.json["warnings"] = std::move(warnings);
  return run;
}

}  // namespace ptq::report
