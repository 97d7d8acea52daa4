// A record as JSON, and back.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/results/record.hpp"

namespace ptq {

namespace record_detail {

// nlohmann::json prints NaN and infinities as null without a word; here each becomes null together
// with a warning that names its path.
inline Json finite_only(const Json& value, const std::string& path,
                        std::vector<std::string>& warnings) {
  if (value.is_number_float() && !std::isfinite(value.get<double>())) {
    const std::string warning = path + " is " +
                                (std::isnan(value.get<double>()) ? "not a number" : "infinite") +
                                " and was written as null";
    // It is there already where a record is written again.
    if (std::find(warnings.begin(), warnings.end(), warning) == warnings.end())
      warnings.push_back(warning);
    return nullptr;
  }
  if (!value.is_structured()) return value;
  Json copy = value;
  size_t i = 0;
  for (auto& [key, child] : copy.items()) {
    child = finite_only(child,
                        value.is_array() ? path + "[" + std::to_string(i) + "]" : path + "." + key,
                        warnings);
    ++i;
  }
  return copy;
}

// Reads the members of one object; every error names `where` and the JSON path.
class ObjectReader {
 public:
  ObjectReader(const Json& object, std::string where, std::string path)
      : object_(object), where_(std::move(where)), path_(std::move(path)) {
    if (!object.is_object()) throw error("an object is expected", path_);
  }

  const Json& member(const std::string& key) const {
    const auto found = object_.find(key);
    if (found == object_.end()) throw error("the key is missing", child(key));
    return *found;
  }
  template <class T>
  void read(const std::string& key, T& out) const {
    const Json& value = member(key);
    if constexpr (std::is_same_v<T, std::string>) {
      require(value.is_string(), "a string", key);
    } else if constexpr (std::is_same_v<T, bool>) {
      require(value.is_boolean(), "true or false", key);
    } else if constexpr (std::is_same_v<T, uint64_t>) {
      require(value.is_number_unsigned(), "an integer of at least 0", key);
    } else if constexpr (std::is_same_v<T, int64_t>) {
      require(value.is_number_integer() &&
                  !(value.is_number_unsigned() && value.get<uint64_t>() > uint64_t(INT64_MAX)),
              "an integer", key);
    } else if constexpr (std::is_same_v<T, double>) {
      require(value.is_number(), "a number", key);
    } else {
      static_assert(std::is_same_v<T, Json>);
      require(value.is_object(), "an object", key);
    }
    out = value.get<T>();
  }
  ObjectReader object(const std::string& key) const {
    return ObjectReader(member(key), where_, child(key));
  }
  // visit(element, path) for every element of an array.
  template <class Visit>
  void for_each(const std::string& key, Visit visit) const {
    const Json& array = member(key);
    require(array.is_array(), "an array", key);
    for (size_t i = 0; i < array.size(); ++i) {
      visit(array[i], child(key) + "[" + std::to_string(i) + "]");
    }
  }

  Error error(const std::string& message, const std::string& path) const {
    return environment_error(
        message + " in the result record", where_ + ": " + path,
        "the file was changed by hand, damaged, or written by another version");
  }
  std::string child(const std::string& key) const {
    return path_.empty() ? key : path_ + "." + key;
  }
  const std::string& where() const { return where_; }

 private:
  void require(bool fits, const char* expected, const std::string& key) const {
    if (!fits) throw error(std::string(expected) + " is expected", child(key));
  }

  const Json& object_;
  std::string where_, path_;
};

inline Record::Method method_from_json(const ObjectReader& json) {
  Record::Method method;
  json.read("label", method.label);
  json.read("lossless", method.lossless);
  json.for_each("parts", [&](const Json& element, const std::string& path) {
    const ObjectReader reader(element, json.where(), path);
    Record::Part part;
    reader.read("plugin", part.plugin);
    reader.read("plugin_sha256", part.plugin_sha256);
    reader.read("method", part.method);
    reader.read("version", part.version);
    reader.read("options", part.options);
    method.parts.push_back(std::move(part));
  });
  return method;
}

}  // namespace record_detail

inline Json to_json(const Record& record) {
  std::vector<std::string> warnings = record.warnings;
  const auto finite = [&](const Json& value, const char* path) {
    return record_detail::finite_only(value, path, warnings);
  };
  Json parts = Json::array();
  for (const Record::Part& part : record.method.parts) {
    const std::string path = "method.parts[" + std::to_string(parts.size()) + "].options";
    parts.push_back({{"plugin", part.plugin},
                     {"plugin_sha256", part.plugin_sha256},
                     {"method", part.method},
                     {"version", part.version},
                     {"options", finite(part.options, path.c_str())}});
  }
  Json json = {
      {"schema_version", Record::kSchemaVersion},
      {"experiment", record.experiment},
      {"track", record.track},
      {"cell", record.cell},
      {"model",
       {{"name", record.model.name},
        {"path", record.model.path},
        {"fingerprint", record.model.fingerprint},
        {"parameters", record.model.parameters}}},
      {"method",
       {{"label", record.method.label}, {"lossless", record.method.lossless}, {"parts", parts}}},
      {"evaluation",
       {{"name", record.evaluation.name},
        {"kind", record.evaluation.kind},
        {"settings", finite(record.evaluation.settings, "evaluation.settings")}}},
      {"seed", record.seed},
      {"code", {{"version", record.code.version}, {"git", record.code.git}}},
      {"environment", finite(record.environment, "environment")},
      {"status", record.status},
      {"error", nullptr},
      {"warnings", nullptr},
      {"metrics", finite(record.metrics, "metrics")},
      {"started_at", record.started_at},
      {"seconds", finite(record.seconds, "seconds")},
  };
  if (record.error) {
    json["error"] = {{"code", record.error->code},
                     {"message", record.error->message},
                     {"log_tail", record.error->log_tail}};
  }
  json["warnings"] = warnings;
  if (record.headline) {
    json["headline"] = {{"key", record.headline->key},
                        {"direction", record.headline->direction},
                        {"title", record.headline->title}};
  }
  if (!record.samples_sha256.empty()) json["samples_sha256"] = record.samples_sha256;
  if (!record.tokens_sha256.empty()) json["tokens_sha256"] = record.tokens_sha256;
  return json;
}

// `where` is what errors call the source, usually the file. Keys that this version does not know
// are ignored.
inline Record record_from_json(const Json& json, const std::string& where) {
  using record_detail::ObjectReader;
  const ObjectReader root(json, where, "");
  int64_t version = 0;
  root.read("schema_version", version);
  if (version < Record::kOldestSchemaVersion || version > Record::kSchemaVersion) {
    throw environment_error("the result record has schema version " + std::to_string(version) +
                                ", this program reads versions " +
                                std::to_string(Record::kOldestSchemaVersion) + " to " +
                                std::to_string(Record::kSchemaVersion),
                            where, "use the ptq version that wrote it");
  }
  Record record;
  root.read("experiment", record.experiment);
  root.read("track", record.track);
  root.read("cell", record.cell);

  const ObjectReader model = root.object("model");
  model.read("name", record.model.name);
  model.read("path", record.model.path);
  model.read("fingerprint", record.model.fingerprint);
  model.read("parameters", record.model.parameters);

  record.method = record_detail::method_from_json(root.object("method"));

  const ObjectReader evaluation = root.object("evaluation");
  evaluation.read("name", record.evaluation.name);
  evaluation.read("kind", record.evaluation.kind);
  evaluation.read("settings", record.evaluation.settings);

  root.read("seed", record.seed);
  const ObjectReader code = root.object("code");
  code.read("version", record.code.version);
  code.read("git", record.code.git);
  root.read("environment", record.environment);

  root.read("status", record.status);
  if (record.status != "ok" && record.status != "invalid" && record.status != "failed") {
    throw root.error("`ok`, `invalid` or `failed` is expected", "status");
  }
  if ((record.status == "failed") != root.member("error").is_object()) {
    throw root.error("an object exactly for failed cells is expected", "error");
  }
  if (record.status == "failed") {
    const ObjectReader error = root.object("error");
    Record::Failure failure;
    error.read("code", failure.code);
    error.read("message", failure.message);
    error.read("log_tail", failure.log_tail);
    record.error = std::move(failure);
  }
  root.for_each("warnings", [&](const Json& element, const std::string& path) {
    if (!element.is_string()) throw root.error("a string is expected", path);
    record.warnings.push_back(element.get<std::string>());
  });
  if (version >= 2 && json.contains("headline")) {
    const ObjectReader headline = root.object("headline");
    Record::Headline& out = record.headline.emplace();
    headline.read("key", out.key);
    headline.read("direction", out.direction);
    headline.read("title", out.title);
    if (out.direction != "lower" && out.direction != "higher") {
      throw headline.error("`lower` or `higher` is expected", headline.child("direction"));
    }
  }
  root.read("metrics", record.metrics);
  if (json.contains("samples_sha256")) root.read("samples_sha256", record.samples_sha256);
  if (json.contains("tokens_sha256")) root.read("tokens_sha256", record.tokens_sha256);
  root.read("started_at", record.started_at);
  // A non-finite duration was written as null, with a warning.
  if (root.member("seconds").is_null()) {
    record.seconds = std::nan("");
  } else {
    root.read("seconds", record.seconds);
  }
  return record;
}

}  // namespace ptq
