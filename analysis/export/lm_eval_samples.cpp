#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "analysis/export/export.hpp"
#include "analysis/read/samples.hpp"
#include "ptq/core/error.hpp"
#include "ptq/core/hash.hpp"
#include "ptq/tasks/rows.hpp"

namespace ptq::report {
namespace {

// What a row was and how it was asked.
struct AskedRow {
  Json doc, arguments;
  std::string target;
};

std::string text_setting(const Cell& cell, const char* key) {
  const auto found = cell.settings.find(key);
  return found != cell.settings.end() && found->is_string() ? found->get<std::string>() : "";
}

// A file of the experiment, if it is the one of the record. Errors: it is not there, or another.
std::string same_file(const Cell& cell, const char* key, const char* hash_key) {
  std::string path = text_setting(cell, key);
  if (path.empty()) return path;
  if (key == std::string("task") && path.find_first_of("/.") == path.npos)
    path = "datasets/tasks/" + path + ".toml";
  if (sha256_file(path) != text_setting(cell, hash_key))
    throw environment_error("this is not the file that was asked", path);
  return path;
}

// The rows of a cell by their numbers, asked once more.
std::map<int64_t, AskedRow> asked_rows(const Cell& cell) {
  const tasks::TaskFiles files{same_file(cell, "task", "task_sha256"),
                               same_file(cell, "data", "data_sha256"),
                               same_file(cell, "labels", "labels_sha256"),
                               same_file(cell, "fewshot_data", "fewshot_data_sha256")};
  const tasks::TaskDescription task = tasks::read_task(files.task);
  std::map<int64_t, AskedRow> out;
  const int64_t shots = cell.settings.value("fewshot", int64_t{0});
  for (const tasks::Item& item :
       tasks::read_items(task, files, shots, tasks::parse_rows(text_setting(cell, "rows")))) {
    AskedRow& row = out[item.row];
    row.doc = item.fields;
    const tasks::Question& q = item.question;
    row.target = task.writes() ? q.choices[0] : std::to_string(q.gold);
    for (size_t c = 0; c < q.choices.size(); ++c) {
      Json& argument = row.arguments["gen_args_" + std::to_string(c)];
      argument["arg_0"] = item.block + q.context(c);
      if (task.writes())
        argument["arg_1"] = {{"until", task.rules.stop}, {"do_sample", false}};
      else
        argument["arg_1"] = task.delimiter + q.continuation(c);
    }
  }
  return out;
}

// Hashes as EvaluationTracker makes them (lm_eval/evaluator.py).
void add_row(const AskedRow& row, Json& line) {
  line["doc"] = row.doc;
  line["target"] = row.target;
  line["arguments"] = row.arguments;
  line["doc_hash"] = sha256_hex(json_text(row.doc, 2));
  line["target_hash"] = sha256_hex(row.target);
}

// A line of samples.jsonl with chosen answers.
std::vector<Json> chosen_lines(const Json& sample) {
  const Json values = sample.value("loglikelihoods", Json::array());
  const Json greedy = sample.value("greedy", Json::array());
  Json texts = Json::array();
  for (size_t c = 0; c < values.size(); ++c)
    texts.push_back({values[c].dump(), greedy.size() > c && greedy[c] == true ? "True" : "False"});
  Json line = {{"doc_id", sample.value("doc_id", Json())},
               {"doc", Json::object()},
               {"target", std::to_string(sample.value("gold", int64_t{-1}))},
               {"arguments", Json::object()},
               {"resps", Json::array({texts})},
               {"filtered_resps", texts},
               {"filter", "none"},
               {"metrics", Json::array()},
               {"prompt_hash", sample.value("prompt_hash", Json())}};
  for (const char* metric : {"acc", "acc_norm", "acc_bytes"}) {
    if (!sample.contains(metric)) continue;
    line["metrics"].push_back(metric);
    line[metric] = double(sample[metric].get<int>());
  }
  return {line};
}

// One with a written answer: a line for each filter.
std::vector<Json> written_lines(const Json& sample) {
  std::vector<Json> lines;
  const Json filtered = sample.value("filtered", Json::object());
  for (const auto& [filter, taken] : filtered.items()) {
    Json line = {{"doc_id", sample.value("doc_id", Json())},
                 {"doc", Json::object()},
                 {"target", sample.value("target", "")},
                 {"arguments", Json::object()},
                 {"resps", Json::array({Json::array({sample.value("answer", "")})})},
                 {"filtered_resps", Json::array({taken})},
                 {"filter", filter},
                 {"metrics", Json::array({"exact_match"})},
                 {"prompt_hash", sample.value("prompt_hash", Json())}};
    line["exact_match"] = double(sample.value("exact_match," + filter, 0));
    lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace

bool asks_task(const Cell& cell) {
  return cell.metrics.contains("results") && cell.metrics["results"].is_object() &&
         cell.metrics.contains("task");
}

std::map<std::string, std::string> lm_eval_samples(const Subject& subject,
                                                   std::vector<std::string>& notes) {
  std::map<std::string, std::string> files;
  for (const auto& [name, cell] : subject.row->cells) {
    if (!asks_task(*cell) || cell->folder.empty()) continue;
    const std::string task = cell->metrics.value("task", cell->evaluation);
    std::map<int64_t, AskedRow> rows;
    try {
      rows = asked_rows(*cell);
    } catch (const Error& error) {
      notes.push_back(fmt::format("the samples of {} have no texts: {}: {}", task, error.where(),
                                  error.message()));
    }
    for_each_sample(cell->folder / "samples.jsonl", [&](const Json& sample) {
      const std::string part = sample.value("subject", "");
      std::string& out = files["samples_" + (part.empty() ? task : task + "_" + part)];
      const bool written = sample.contains("answer");
      for (Json& line : written ? written_lines(sample) : chosen_lines(sample)) {
        const auto row = rows.find(sample.value("doc_id", int64_t{-1}));
        if (row != rows.end()) add_row(row->second, line);
        out += json_text(line) + "\n";
      }
    });
  }
  return files;
}

}  // namespace ptq::report
