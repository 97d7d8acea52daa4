#include "analysis/study/leaderboard.hpp"

#include <algorithm>
#include <cmath>

namespace ptq::report {
namespace {

// The metric that a task is scored by, counted once: acc_norm where lengths of answers differ.
const char* primary_metric(const std::string& task) {
  for (const char* norm : {"hellaswag", "arc_challenge", "openbookqa"}) {
    if (task == norm) return "acc_norm";
  }
  return "acc";
}

bool is_subject(const std::string& task) { return task.starts_with("mmlu_"); }

}  // namespace

std::vector<const Run*> BoardRow::runs() const {
  std::vector<const Run*> out;
  for (const Run* run : {ppl, tasks, passkey, generation, vram}) {
    if (run && std::find(out.begin(), out.end(), run) == out.end()) out.push_back(run);
  }
  return out;
}

std::vector<StudyBoard> join(const Layout& layout, const std::vector<Run>& runs) {
  const auto find = [&](const std::string& id, const std::string& label) -> const Run* {
    for (const Run& run : runs) {
      if (run.id == id) return &run;
    }
    throw environment_error("the layout names a run that is not there: " + id, "row " + label,
                            "add the file to the folder, or give another --layout");
  };
  std::vector<StudyBoard> boards;
  for (const Layout::Board& layout_board : layout.boards) {
    StudyBoard board{&layout_board, {}};
    for (const Layout::Row& row : layout_board.rows) {
      BoardRow line{row.label, {}};
      if (!row.run.empty()) {
        const Run* all = find(row.run, row.label);
        const auto pick = [&](const std::string& id) {
          return id.empty() || id == row.run ? all : find(id, row.label);
        };
        // A column stays empty when its run does not hold the figure.
        const auto if_there = [](const Run* run, const char* path) {
          return run->at(path).is_object() && !run->at(path).contains("error") &&
                         !run->at(path).empty()
                     ? run
                     : nullptr;
        };
        line.method = all->method();
        line.ppl = pick(row.ppl);
        line.tasks = if_there(pick(row.tasks), "results/lm_eval");
        line.passkey = if_there(pick(row.passkey), "results/kv_stress_test/passkey_retrieval");
        line.generation = if_there(pick(row.generation), "results/kv_stress_test/generation_ppl");
        line.vram = pick(row.vram);
      }
      board.rows.push_back(std::move(line));
    }
    boards.push_back(std::move(board));
  }
  return boards;
}

std::string environment_value(const Run& run, const std::string& path) {
  if (path == "gpu") {
    const Json& gpus = run.at("env/gpus");
    return gpus.is_array() && !gpus.empty() ? gpus[0].value("name", "") : std::string();
  }
  if (path == "python") {
    const std::string version = run.text("env/python_version");
    const size_t dot = version.find('.');
    return dot == version.npos ? std::string() : version.substr(0, version.find('.', dot + 1));
  }
  const std::string version = run.text("env/packages/" + path);
  return version == "not installed" ? std::string() : version;
}

TaskAverage average_of_tasks(const Run& run) {
  TaskAverage average;
  const Json& tasks = run.at("results/lm_eval");
  if (!tasks.is_object()) return average;
  double variance = 0;
  for (const auto& [task, metrics] : tasks.items()) {
    if (task.starts_with("_") || is_subject(task)) continue;
    const std::string metric = primary_metric(task);
    const auto value = run.accuracy(task, metric);
    if (!value) continue;
    average.mean += *value;
    ++average.tasks;
    const double error = run.accuracy(task, metric + "_stderr").value_or(0);
    variance += error * error;
  }
  if (average.tasks > 0) {
    average.mean /= average.tasks;
    average.error = std::sqrt(variance) / average.tasks;
  }
  return average;
}

std::vector<double> generation_ppls(const Run& run) {
  std::vector<double> out;
  const Json& samples = run.at("results/kv_stress_test/generation_ppl/per_sample");
  if (!samples.is_array()) return out;
  for (const Json& sample : samples) {
    const Json value = sample.value("gen_ppl", Json());
    out.push_back(value.is_number() ? value.get<double>() : std::nan(""));
  }
  return out;
}

}  // namespace ptq::report
