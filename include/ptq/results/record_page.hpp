// result.md: the page of one record for people.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

#include "ptq/core/own_json.hpp"
#include "ptq/core/safe_text.hpp"
#include "ptq/results/record.hpp"

namespace ptq {

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
