// The result of one cell (model x method x evaluation): what run/ writes and analysis/ reads. Its
// JSON (record_json.hpp) carries a schema version; a page for people (record_page.hpp) is rendered
// from the same object.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ptq/core/own_json.hpp"

namespace ptq {

// Is a result one of full precision, told from what the host stored: plain weights, and a cache of
// 16-bit rows as the model made them? What a plugin says of itself does not count.
inline bool is_full_precision(const Json& metrics) {
  const auto number = [&](const char* part, const char* key, double otherwise) {
    const auto object = metrics.find(part);
    if (object == metrics.end() || !object->is_object()) return otherwise;
    const auto value = object->find(key);
    return value != object->end() && value->is_number() ? value->get<double>() : otherwise;
  };
  if (number("weights", "encoded_scalars", 0) > 0 || number("weights", "encoded_bits", 0) > 0)
    return false;
  if (number("cache", "effective_bits", 16) < 16) return false;
  if (number("cache", "bytes_encoded", 0) == 0) return true;
  const Json dense = metrics["cache"].value("encoded_is_dense", Json(false));
  return dense.is_boolean() && dense.get<bool>();
}

struct Record {
  // 2: with `headline`. Records of version 1 are read too.
  static constexpr int64_t kSchemaVersion = 2, kOldestSchemaVersion = 1;

  struct Model {
    std::string name, path, fingerprint;
    int64_t parameters = 0;
  };
  // One method of one plugin; a cell may combine a weight and a cache method.
  struct Part {
    std::string plugin, plugin_sha256, method, version;  // plugin: file name
    Json options = Json::object();                       // every option with its value
  };
  struct Method {
    std::string label;
    // Full precision: while a cell is planned what its plugins say, in a result what the host saw
    // (is_full_precision).
    bool lossless = false;
    std::vector<Part> parts;
  };
  struct Evaluation {
    std::string name, kind;  // kind: a word of eval/kinds.hpp
    Json settings = Json::object();
  };
  // The one figure of the metrics by which methods are ranked.
  struct Headline {
    std::string key;        // dotted path into the metrics
    std::string direction;  // "lower" or "higher": which is better
    std::string title;
  };
  struct Code {
    std::string version, git;  // git: commit, empty outside a checkout
  };
  struct Failure {
    int64_t code = 1;  // as ExitCode
    std::string message, log_tail;
  };

  std::string experiment, track, cell;
  Model model;
  Method method;
  Evaluation evaluation;
  uint64_t seed = 0;
  Code code;
  Json environment = Json::object();  // cpu, threads, os, compiler, device, ...
  // "ok"; "invalid": measured, but the method provably did nothing, or some of its numbers are
  // none; "failed": not measured.
  std::string status = "ok";
  std::optional<Failure> error;  // present exactly when failed
  std::vector<std::string> warnings;
  std::optional<Headline> headline;  // present when measured; absent in version 1
  Json metrics = Json::object();
  // SHA-256 of samples.jsonl beside the record; empty in records of versions before it was kept.
  std::string samples_sha256;
  // The same of tokens.bin; empty where there is none.
  std::string tokens_sha256;
  std::string started_at;  // ISO 8601, UTC
  double seconds = 0;
};

}  // namespace ptq
