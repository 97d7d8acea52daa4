// Reads the results of a folder: one RESULTS/<cell>/record.json per finished cell and
// RESULTS/failed/*.json for cells that did not finish.
//
// A damaged record costs itself only: it is named with the reason, the others are read.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "analysis/read/asked.hpp"
#include "analysis/read/headline.hpp"
#include "ptq/core/error.hpp"
#include "ptq/core/json_number.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/core/safe_text.hpp"
#include "ptq/results/consistency.hpp"
#include "ptq/results/record_json.hpp"
#include "ptq/results/same_result.hpp"

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
  bool lossless = false;          // full precision, as the host saw it
  std::string status = "failed";  // as in Record
  std::string error;              // why it failed
  std::vector<std::string> warnings;
  bool contradicted = false;  // by its own figures, samples or scores of tokens
  Json settings, metrics;
  Headline headline;               // which of the metrics it is judged by
  std::vector<DepthCount> depths;  // of a passkey or retrieval cell
  std::vector<TaskCount> tasks;    // of a retrieval cell
  double seconds = 0;

  // Where it came from.
  std::string track, id, source;  // id: of the cell; source: file, relative to the results
  std::filesystem::path folder;   // with samples.jsonl; empty when there is none
  std::string model_path, started;
  std::string samples_sha256;  // of the file that belongs to the record; empty in older ones
  uint64_t seed = 0;
  std::vector<Record::Part> parts;
  Record::Code code;
  Json environment = Json::object();
  bool encodes_weights = false;     // said by the study, which records no bytes
  std::vector<std::string> joined;  // other runs that the study put into the same row

  bool ok() const { return status == "ok"; }

  // The figure that it is judged by; nothing for a cell without a result.
  std::optional<double> figure() const {
    return ok() ? figure_at(metrics, headline) : std::nullopt;
  }

  // It ended before its samples did, because it was decided (eval/decide.hpp).
  bool decided_early() const {
    const auto used = number({"decided", "used"}), of = number({"decided", "of"});
    return used && of && *used < *of;
  }

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
  std::vector<Asked> asked;        // by experiment, where the folder says it
  std::vector<std::string> notes;  // about all of them
};

// What the report uses of a record; throws ptq::Error or
// nlohmann::json::exception when the metrics do not have the form that their evaluation gives them.
inline Cell to_cell(const Record& record) {
  Cell cell;
  cell.experiment = one_line(record.experiment);
  cell.model = one_line(record.model.name);
  cell.fingerprint = one_line(record.model.fingerprint);
  cell.parameters = record.model.parameters;
  cell.method = one_line(record.method.label);
  // A failed cell shows nothing: what its plugin says of itself is no evidence.
  cell.lossless =
      record.method.lossless && record.status != "failed" && is_full_precision(record.metrics);
  cell.evaluation = one_line(record.evaluation.name);
  cell.kind = one_line(record.evaluation.kind);
  cell.settings = record.evaluation.settings;
  cell.status = record.status;
  if (record.error) cell.error = one_line(record.error->message);
  for (const std::string& warning : record.warnings) cell.warnings.push_back(one_line(warning));
  cell.metrics = record.metrics;
  cell.headline = headline_of(record);
  cell.seconds = std::isfinite(record.seconds) ? record.seconds : 0.0;
  cell.track = one_line(record.track);
  cell.id = one_line(record.cell);
  cell.model_path = one_line(record.model.path);
  cell.started = one_line(record.started_at);
  cell.samples_sha256 = one_line(record.samples_sha256);
  cell.seed = record.seed;
  cell.parts = record.method.parts;
  cell.code = record.code;
  cell.environment = record.environment;
  // Adds the counts of `entry` to the one of `counts` that is like `count`.
  const auto add = [](auto& counts, auto count, auto key, const Json& entry) {
    count.correct = json_integer<int64_t>(entry.at("correct"), "metrics: correct");
    count.total = json_integer<int64_t>(entry.at("total"), "metrics: total");
    // Sums of as many such counts as a record can hold are far from overflow.
    constexpr int64_t kLargest = int64_t{1} << 40;
    if (std::max(count.correct, count.total) > kLargest)
      throw environment_error("metrics: " + std::to_string(count.correct) + " right of " +
                              std::to_string(count.total));
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

// Does a warning of a cell say that its record may not be believed or is one of several? What the
// run itself warned of does not.
inline bool concerns_the_record(std::string_view warning) {
  return warning.starts_with("NOT CONSISTENT") || warning.starts_with("CONFLICT") ||
         warning.starts_with("a second record");
}

inline Record read_record(const std::filesystem::path& file) {
  constexpr uint64_t kLargest = uint64_t{64} << 20;  // a few KiB; samples lie beside it
  const std::string name = file.filename().string();
  return record_from_json(parse_json(read_text_file(file, kLargest), name), name);
}

// The cell of a record that was read from `file`, and what in it or its samples cannot be true.
inline Cell cell_of_record(const Record& record, const std::filesystem::path& file) {
  Cell cell = to_cell(record);
  if (file.filename() == "record.json") {
    for (const Violation& violation : violations(record, file.parent_path())) {
      cell.warnings.push_back(one_line("NOT CONSISTENT: " + violation.sentence()));
      cell.contradicted = true;
    }
  }
  return cell;
}

inline Cell read_cell(const std::filesystem::path& file) {
  return cell_of_record(read_record(file), file);
}

// The files of all records below `folder`, in a fixed order. What cannot be looked into is named in
// `damaged`; the folder itself must be readable.
std::vector<std::filesystem::path> record_files(const std::filesystem::path& folder,
                                                std::vector<Damaged>& damaged);

// Every record below `folder`. A cell that failed first and was finished by a later run counts as
// finished; of two results of one cell the later one counts.
Results read_results(const std::filesystem::path& folder);

}  // namespace ptq::report
