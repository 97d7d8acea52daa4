// Reads the results of a folder: one RESULTS/<cell>/record.json per finished cell and
// RESULTS/failed/*.json for cells that did not finish; or the run files of the original study.
//
// A damaged record costs itself only: it is named with the reason, the others are read.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/results/record.hpp"

namespace ptq::report {

// Passkeys that were hidden at one relative depth of the prompt (0 = at its start).
struct DepthCount {
  double depth = 0;
  int64_t correct = 0, total = 0;
};

// Answers to one task of a retrieval suite, over its haystacks, lengths and depths.
struct TaskCount {
  std::string task;
  int64_t correct = 0, total = 0;
};

// What the report needs of one record.
struct Cell {
  std::string experiment, model, fingerprint, method, evaluation, kind;
  int64_t parameters = 0;
  bool lossless = false;          // a full-precision baseline
  std::string status = "failed";  // as in Record
  std::string error;              // why it failed
  std::vector<std::string> warnings;
  Json settings, metrics;
  std::vector<DepthCount> depths;  // of a passkey or retrieval cell
  std::vector<TaskCount> tasks;    // of a retrieval cell
  double seconds = 0;

  // Where it came from.
  std::string track, id, source;  // id: of the cell; source: file, relative to the results
  std::filesystem::path folder;   // with samples.jsonl; empty when there is none
  std::string model_path, started;
  uint64_t seed = 0;
  std::vector<Record::Part> parts;
  Record::Code code;
  Json environment = Json::object();
  bool encodes_weights = false;     // said by the study, which records no bytes
  std::vector<std::string> joined;  // other runs that the study put into the same row

  bool ok() const { return status == "ok"; }

  // What the method did, told from what is stored: a lossy method without encoded weights can only
  // have meant the cache.
  bool changes_weights() const {
    return encodes_weights || number({"weights", "encoded_bits"}).value_or(0) > 0;
  }
  bool changes_cache() const {
    return !lossless && (number({"cache", "bytes_encoded"}).value_or(0) > 0 || !changes_weights());
  }

  // The number at a path such as {"cache", "bytes_per_token"}; nothing when absent or null.
  std::optional<double> number(std::initializer_list<const char*> path) const {
    const Json* value = &metrics;
    for (const char* key : path) {
      if (!value->is_object() || !value->contains(key)) return {};
      value = &(*value)[key];
    }
    if (!value->is_number()) return {};
    return value->get<double>();
  }
};

struct Damaged {
  std::string file, reason;
};

struct Results {
  std::vector<Cell> cells;
  std::vector<Damaged> damaged;
  std::vector<std::string> notes;  // about all of them
};

// Foreign text on one line: no control characters that could move a terminal's cursor.
inline std::string one_line(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool control = static_cast<unsigned char>(c) < 32 || c == 127;
    if (!control)
      out += c;
    else if (!out.empty() && out.back() != ' ')
      out += ' ';
  }
  return out;
}

// What the report uses of a record; throws ptq::Error or nlohmann::json::exception when the
// metrics do not have the form that their evaluation gives them.
inline Cell to_cell(const Record& record) {
  Cell cell;
  cell.experiment = one_line(record.experiment);
  cell.model = one_line(record.model.name);
  cell.fingerprint = one_line(record.model.fingerprint);
  cell.parameters = record.model.parameters;
  cell.method = one_line(record.method.label);
  cell.lossless = record.method.lossless;
  cell.evaluation = one_line(record.evaluation.name);
  cell.kind = one_line(record.evaluation.kind);
  cell.settings = record.evaluation.settings;
  cell.status = record.status;
  if (record.error) cell.error = one_line(record.error->message);
  for (const std::string& warning : record.warnings) cell.warnings.push_back(one_line(warning));
  cell.metrics = record.metrics;
  cell.seconds = std::isfinite(record.seconds) ? record.seconds : 0.0;
  cell.track = one_line(record.track);
  cell.id = one_line(record.cell);
  cell.model_path = one_line(record.model.path);
  cell.started = one_line(record.started_at);
  cell.seed = record.seed;
  cell.parts = record.method.parts;
  cell.code = record.code;
  cell.environment = record.environment;
  // Adds the counts of `entry` to the one of `counts` that is like `count`.
  const auto add = [](auto& counts, auto count, auto key, const Json& entry) {
    count.correct = entry.at("correct").get<int64_t>();
    count.total = entry.at("total").get<int64_t>();
    const auto known = std::find_if(counts.begin(), counts.end(),
                                    [&](const auto& c) { return c.*key == count.*key; });
    if (known == counts.end()) return counts.push_back(count);
    known->correct += count.correct;
    known->total += count.total;
  };
  for (const char* key : {"depths", "cells"})
    if (cell.depths.empty() && cell.metrics.contains(key))
      for (const Json& entry : cell.metrics[key])
        if (entry.contains("depth") && !entry["depth"].is_null())  // needles may stand anywhere
          add(cell.depths, DepthCount{entry["depth"].get<double>()}, &DepthCount::depth, entry);
  if (cell.metrics.contains("tasks"))
    for (const Json& entry : cell.metrics["tasks"])
      add(cell.tasks, TaskCount{one_line(entry.at("task").get<std::string>())}, &TaskCount::task,
          entry);
  return cell;
}

inline Cell read_cell(const std::filesystem::path& file) {
  constexpr uintmax_t kLargest = 64u << 20;  // a record is a few KiB; samples lie beside it
  if (std::filesystem::file_size(file) > kLargest) {
    throw environment_error("the file is larger than 64 MiB");
  }
  std::ifstream in(file, std::ios::binary);
  if (!in) throw environment_error("the file cannot be opened");
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  return to_cell(record_from_json(Json::parse(text), file.filename().string()));
}

// The files of all records below `folder`, in a fixed order.
inline std::vector<std::filesystem::path> record_files(const std::filesystem::path& folder) {
  namespace fs = std::filesystem;
  if (!fs::is_directory(folder)) {
    throw environment_error("there is no such folder", folder.string(),
                            "name the folder that `ptq-host EXPERIMENT.toml --out DIR` wrote");
  }
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename() == "failed") {
      for (const fs::directory_entry& failed : fs::directory_iterator(entry.path())) {
        if (failed.path().extension() == ".json") files.push_back(failed.path());
      }
    } else if (!entry.path().filename().string().starts_with(".") &&  // a cell being computed
               fs::is_regular_file(entry.path() / "record.json")) {
      files.push_back(entry.path() / "record.json");
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

// Every record below `folder`. A cell that failed first and was finished by a later run counts as
// finished. A folder of the study's run files gives the cells of those.
Results read_results(const std::filesystem::path& folder);

}  // namespace ptq::report
