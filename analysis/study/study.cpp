#include "analysis/study/study.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>

namespace ptq::report {
namespace {

namespace fs = std::filesystem;

const Json kNothing;

Cell record_cell(const Record& record, const fs::path& file) {
  Cell cell = cell_of_record(record, file);
  cell.folder = file.parent_path();
  return cell;
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
  constexpr double kStored = 1e4;  // the study keeps four decimals
  return std::round(sum / count * kStored) / kStored;
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

Run read_run(const fs::path& file) {
  const Json json = read_python_json(file);
  Run run;
  if (is_study_run(json)) {
    run.json = json;
    run.id = run.text("meta/filename");
  } else if (json.is_object() && json.contains("schema_version")) {
    run = run_of_cells({record_cell(record_from_json(json, file.string()), file)});
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
  std::map<std::pair<std::string, std::string>, std::vector<Cell>> groups;
  for (const fs::path& file : record_files(folder, damaged)) {
    try {
      Cell cell = record_cell(read_record(file), file);
      groups[{cell.model, cell.method}].push_back(std::move(cell));
    } catch (const Error& error) {
      damaged.push_back({file.lexically_relative(folder).string(), one_line(error.what())});
    }
  }
  std::vector<Run> runs;
  for (const auto& [key, cells] : groups) {
    runs.push_back(run_of_cells(cells));
    runs.back().file = key.first + " / " + key.second;
  }
  std::vector<Run> studies = read_study_runs(folder, &damaged);
  std::move(studies.begin(), studies.end(), std::back_inserter(runs));
  return runs;
}

}  // namespace ptq::report
