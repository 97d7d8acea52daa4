// The result of one cell (model x method x evaluation): what run/ writes and analysis/ reads. Its
// JSON carries a schema version; a human page is rendered from the same object.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/core/safe_text.hpp"

namespace ptq {

using Json = nlohmann::ordered_json;

// object[key] = value. A number that could not be computed (NaN, infinity) becomes null, and
// object[key + "_why"] says why: no null without a reason.
inline void put_number(Json& object, const std::string& key, double value,
                       const std::string& why = "not a finite number") {
  if (std::isfinite(value)) {
    object[key] = value;
  } else {
    object[key] = nullptr;
    object[key + "_why"] = why;
  }
}

// The text of a JSON value; strings that are not valid UTF-8 (a tokenizer can cut a character) get
// U+FFFD in place of the bad bytes. indent -1 = one line.
inline std::string json_text(const Json& value, int indent = -1) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

// Reads JSON of a file that anyone may have written. Nesting is bounded because copies, comparisons
// and text of a value recurse into it.
inline Json parse_json(std::string_view text, const std::string& where) {
  constexpr int kDeepest = 128;
  text = without_byte_order_mark(text);
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted && c == '\\') {
      ++i;
    } else if (c == '"') {
      quoted = !quoted;
    } else if (!quoted && (c == '[' || c == '{') && ++depth > kDeepest) {
      throw environment_error(
          "the JSON text is nested deeper than " + std::to_string(kDeepest) + " levels", where);
    } else if (!quoted && (c == ']' || c == '}')) {
      --depth;
    }
  }
  try {
    return Json::parse(text);
  } catch (const Json::exception& error) {
    throw environment_error(std::string("not valid JSON: ") + error.what(), where);
  }
}

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
  static constexpr int64_t kSchemaVersion = 1;

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
    std::string name, kind;  // kind: "perplexity", "passkey", "generation"
    Json settings = Json::object();
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
  // "ok"; "invalid": measured, but the method provably did nothing; "failed": not measured.
  std::string status = "ok";
  std::optional<Failure> error;  // present exactly when failed
  std::vector<std::string> warnings;
  Json metrics = Json::object();
  // SHA-256 of samples.jsonl beside the record; empty in records of versions before it was kept.
  std::string samples_sha256;
  std::string started_at;  // ISO 8601, UTC
  double seconds = 0;
};

namespace record_detail {

// nlohmann::json prints NaN and infinities as null without a word; here each becomes null together
// with a warning that names its path.
inline Json finite_only(const Json& value, const std::string& path,
                        std::vector<std::string>& warnings) {
  if (value.is_number_float() && !std::isfinite(value.get<double>())) {
    warnings.push_back(path + " is " +
                       (std::isnan(value.get<double>()) ? "not a number" : "infinite") +
                       " and was written as null");
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
  if (!record.samples_sha256.empty()) json["samples_sha256"] = record.samples_sha256;
  return json;
}

// `where` is what errors call the source, usually the file. Keys that this version does not know
// are ignored.
inline Record record_from_json(const Json& json, const std::string& where) {
  using record_detail::ObjectReader;
  const ObjectReader root(json, where, "");
  int64_t version = 0;
  root.read("schema_version", version);
  if (version != Record::kSchemaVersion) {
    throw environment_error("the result record has schema version " + std::to_string(version) +
                                ", this program reads version " +
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

  const ObjectReader method = root.object("method");
  method.read("label", record.method.label);
  method.read("lossless", record.method.lossless);
  method.for_each("parts", [&](const Json& element, const std::string& path) {
    const ObjectReader reader(element, where, path);
    Record::Part part;
    reader.read("plugin", part.plugin);
    reader.read("plugin_sha256", part.plugin_sha256);
    reader.read("method", part.method);
    reader.read("version", part.version);
    reader.read("options", part.options);
    record.method.parts.push_back(std::move(part));
  });

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
  root.read("metrics", record.metrics);
  if (json.contains("samples_sha256")) root.read("samples_sha256", record.samples_sha256);
  root.read("started_at", record.started_at);
  // A non-finite duration was written as null, with a warning.
  if (root.member("seconds").is_null()) {
    record.seconds = std::nan("");
  } else {
    root.read("seconds", record.seconds);
  }
  return record;
}

namespace record_detail {

// Text inside a Markdown table cell or line: no cell breaks, no line breaks, no markup.
inline std::string markdown(std::string_view text) {
  std::string out;
  for (const char c : one_line(text)) {
    if (std::string_view("|`*_<>[]\\").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

// A scalar for people: numbers with at most six significant digits, integers whole.
inline std::string shown(const Json& value) {
  if (value.is_number_float()) {
    char text[32];
    std::snprintf(text, sizeof text, "%.6g", value.get<double>());
    return text;
  }
  if (value.is_string()) return markdown(value.get<std::string>());
  if (value.is_null()) return "-";
  return markdown(json_text(value));
}

// Rows `name | value` of an object, nested objects as `outer.inner`; arrays are left out.
inline void scalar_rows(const Json& object, const std::string& prefix, std::string& out) {
  for (const auto& [key, value] : object.items()) {
    if (value.is_object()) {
      scalar_rows(value, prefix + key + ".", out);
    } else if (!value.is_array()) {
      out += "| " + markdown(prefix + key) + " | " + shown(value) + " |\n";
    }
  }
}

inline std::string scalar_table(const Json& object, const char* left, const char* right) {
  std::string rows;
  scalar_rows(object, "", rows);
  if (rows.empty()) return "none\n";
  return std::string("| ") + left + " | " + right + " |\n|---|---|\n" + rows;
}

// An array of objects as a table with the columns of its first element.
inline std::string object_table(const Json& array) {
  std::string head = "|", rule = "|", rows;
  for (const auto& [key, value] : array[0].items()) {
    head += " " + markdown(key) + " |";
    rule += "---|";
  }
  for (const Json& element : array) {
    rows += "|";
    for (const auto& [key, unused] : array[0].items()) {
      const auto found = element.find(key);
      rows += " " + (found == element.end() ? std::string("-") : shown(*found)) + " |";
    }
    rows += "\n";
  }
  return head + "\n" + rule + "\n" + rows;
}

}  // namespace record_detail

// result.md: what ran, what came out, what to mistrust, with which options, where.
inline std::string result_markdown(const Record& record) {
  using record_detail::markdown;
  std::string page = "# " + markdown(record.model.name) + " / " + markdown(record.method.label) +
                     " / " + markdown(record.evaluation.name) + "\n\n";
  Json what = {{"experiment", record.experiment},
               {"track", record.track},
               {"cell", record.cell},
               {"status", record.status},
               {"model", record.model.name + " (" + record.model.path + ")"},
               {"parameters", record.model.parameters},
               {"model fingerprint", record.model.fingerprint},
               {"method", record.method.label + (record.method.lossless ? " (lossless)" : "")},
               {"evaluation", record.evaluation.name + " (" + record.evaluation.kind + ")"},
               {"seed", record.seed},
               {"started", record.started_at},
               {"seconds", record.seconds}};
  page += record_detail::scalar_table(what, "", "");

  if (record.error) {
    page += "\n## Error\n\n" + markdown(record.error->message) + " (exit code " +
            std::to_string(record.error->code) + ")\n";
    if (!record.error->log_tail.empty()) {
      // Indented, so that the log cannot end the block.
      page += "\nLast lines of the log:\n\n    ";
      for (const char c : one_line_each(record.error->log_tail))
        page += c == '\n' ? std::string("\n    ") : std::string(1, c);
      page += "\n";
    }
  }
  if (!record.warnings.empty()) {
    page += "\n## Warnings\n\n";
    for (const std::string& warning : record.warnings) page += "- " + markdown(warning) + "\n";
  }
  page += "\n## Metrics\n\n" + record_detail::scalar_table(record.metrics, "metric", "value");
  for (const auto& [key, value] : record.metrics.items()) {
    if (value.is_array() && !value.empty() && value[0].is_object()) {
      page += "\n### " + markdown(key) + "\n\n" + record_detail::object_table(value);
    }
  }
  page += "\n## Method\n";
  for (const Record::Part& part : record.method.parts) {
    page += "\n" + markdown(part.method) + " " + markdown(part.version) + " from " +
            markdown(part.plugin) + " (sha256 " + markdown(part.plugin_sha256) + ")\n\n" +
            record_detail::scalar_table(part.options, "option", "value");
  }
  if (record.method.parts.empty()) page += "\nfull precision, no plugin\n";
  page += "\n## Evaluation settings\n\n" +
          record_detail::scalar_table(record.evaluation.settings, "setting", "value");
  page += "\n## Environment\n\n" + record_detail::scalar_table(record.environment, "", "") +
          "\nptq " + markdown(record.code.version) +
          (record.code.git.empty() ? "" : ", commit " + markdown(record.code.git)) + "\n";
  return page;
}

}  // namespace ptq
