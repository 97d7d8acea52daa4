// What a cell's own process needs to know, as one JSON file from the supervisor.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "ptq/core/json.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/results/record.hpp"
#include "ptq/results/record_json.hpp"
#include "ptq/run/settings_io.hpp"
#include "ptq/run/subject_request.hpp"

namespace ptq {

struct CellJob {
  Record record;  // complete but for what is measured
  SubjectRequest subject;
  std::filesystem::path attempt;   // the folder of the results
  std::vector<std::string> files;  // of the evaluation, as eval::files_of() lists them
  bool noise_floor = false;        // a lossless method is run with noise, too
  int64_t supervisor = 0;          // process id
  // The reference's logits or scores, as the kind of evaluation keeps them: read from this file, or
  // with a limit written into it instead of a result. Empty: nothing is kept.
  std::string kept_reference;
  uint64_t kept_limit = 0, prompts_limit = 0;  // bytes, of logits and of prompts' keys and values
  uint64_t address_space = 0;                  // bytes that the process may map; 0: no limit
  std::string unfinished;  // scores of an interrupted run of the cell, to which are added
};

// A path as JSON. Names of files are bytes, strings of JSON are UTF-8: other bytes stand as
// numbers.
inline Json path_json(const std::string& path) {
  if (utf8_error_offset(path) == std::string::npos) return path;
  Json bytes = Json::array();
  for (const char c : path) bytes.push_back(int(static_cast<unsigned char>(c)));
  return bytes;
}
inline std::string path_from_json(const Json& json) {
  if (json.is_string()) return json.get<std::string>();
  std::string path;
  for (const Json& byte : json) path += char(byte.get<int>());
  return path;
}

inline Json paths_json(const std::vector<std::string>& paths) {
  Json json = Json::array();
  for (const std::string& path : paths) json.push_back(path_json(path));
  return json;
}
inline std::vector<std::string> paths_from_json(const Json& json) {
  std::vector<std::string> paths;
  for (const Json& path : json) paths.push_back(path_from_json(path));
  return paths;
}

// Of the subject only what the record does not say.
inline Json to_json(const CellJob& job) {
  const SubjectRequest& subject = job.subject;
  Json json = {{"record", to_json(job.record)},
               {"model_folder", path_json(subject.model.folder.string())},
               {"attempt", path_json(job.attempt.string())},
               {"compute", compute_word(subject.model.compute)},
               {"files", paths_json(job.files)},
               {"noise_floor", job.noise_floor},
               {"plugin_files", paths_json(subject.plugin_files)},
               {"device", subject.device},
               {"threads", subject.threads},
               {"supervisor", job.supervisor},
               {"measurements", path_json(subject.measurements)},
               {"kept_reference", path_json(job.kept_reference)},
               {"unfinished", path_json(job.unfinished)},
               {"kept_limit", job.kept_limit},
               {"prompts_limit", job.prompts_limit},
               {"address_space", job.address_space}};
  if (subject.model.random_seed) json["random_seed"] = *subject.model.random_seed;
  if (subject.calibration) {
    json["calibration"] = {{"settings", settings_to_json(subject.calibration->settings)},
                           {"file", path_json(subject.calibration->file)},
                           {"sha256", subject.calibration->sha256}};
  }
  return json;
}

inline CellJob job_from_json(const Json& json, const std::string& where) {
  CellJob job;
  job.record = record_from_json(json.at("record"), where);
  job.attempt = path_from_json(json.at("attempt"));
  job.files = paths_from_json(json.at("files"));
  job.noise_floor = json.at("noise_floor").get<bool>();
  job.supervisor = json.at("supervisor").get<int64_t>();
  job.kept_reference = path_from_json(json.at("kept_reference"));
  job.unfinished = path_from_json(json.at("unfinished"));
  job.kept_limit = json.at("kept_limit").get<uint64_t>();
  job.prompts_limit = json.at("prompts_limit").get<uint64_t>();
  job.address_space = json.at("address_space").get<uint64_t>();

  SubjectRequest& subject = job.subject;
  subject.method = job.record.method;
  subject.seed = job.record.seed;
  subject.calibration_where = job.record.experiment;
  subject.fingerprint = job.record.model.fingerprint;
  subject.measurements = path_from_json(json.at("measurements"));
  subject.scratch = job.attempt.string();
  subject.model.folder = path_from_json(json.at("model_folder"));
  subject.model.compute = compute_from_word(json.at("compute").get<std::string>(), where);
  if (json.contains("random_seed"))
    subject.model.random_seed = json.at("random_seed").get<uint64_t>();
  if (json.contains("calibration")) {
    const Json& c = json.at("calibration");
    subject.calibration = {read_settings(calibrate::CalibrationSettings{}, c.at("settings")),
                           path_from_json(c.at("file")), c.at("sha256").get<std::string>()};
  }
  subject.plugin_files = paths_from_json(json.at("plugin_files"));
  subject.device = json.at("device").get<std::string>();
  subject.threads = json.at("threads").get<int>();
  return job;
}

}  // namespace ptq
