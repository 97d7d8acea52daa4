#include "analysis/study/columns.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "leaderboard_toml.hpp"
#include "ptq/core/suggest.hpp"
#include "ptq/core/toml.hpp"

namespace ptq::report {
namespace {

// A table of strings, tables and arrays; every key must be known.
class Entry {
 public:
  Entry(const Json& json, std::string where) : json_(json), where_(std::move(where)) {
    if (!json.is_object()) throw usage_error("a table is expected", where_);
  }
  void allow(const std::vector<std::string>& keys) const {
    for (const auto& [key, value] : json_.items()) {
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) {
        throw usage_error("unknown key `" + key + "`", where_, did_you_mean(key, keys));
      }
    }
  }
  std::string text(const char* key, bool needed = false) const {
    if (!json_.contains(key)) {
      if (needed) throw usage_error("the key `" + std::string(key) + "` is missing", where_);
      return {};
    }
    if (!json_[key].is_string()) throw usage_error("a text is expected", where_ + "." + key);
    return json_[key].get<std::string>();
  }
  template <class Visit>
  void each(const char* key, Visit visit) const {
    if (!json_.contains(key)) return;
    if (!json_[key].is_array()) throw usage_error("an array is expected", where_ + "." + key);
    for (size_t i = 0; i < json_[key].size(); ++i) {
      visit(Entry(json_[key][i], where_ + "." + key + "[" + std::to_string(i) + "]"));
    }
  }
  std::map<std::string, std::string> texts(const char* key) const {
    std::map<std::string, std::string> out;
    if (!json_.contains(key)) return out;
    const Entry table(json_[key], where_ + "." + key);
    for (const auto& [name, value] : table.json_.items()) out[name] = table.text(name.c_str());
    return out;
  }

 private:
  const Json& json_;
  std::string where_;
};

Layout::Task task_of(const Entry& table) {
  table.allow({"task", "name", "head", "metric"});
  Layout::Task task{table.text("task", true), table.text("name", true), table.text("head"),
                    table.text("metric")};
  if (task.metric.empty()) task.metric = "acc";
  return task;
}

Layout::Board board_of(const Entry& table) {
  table.allow({"track", "title", "model", "ppl", "row", "task", "field"});
  Layout::Board board{
      table.text("track", true), table.text("title"), table.text("model", true), {}, {}, {}, {}};
  table.each("ppl", [&](const Entry& column) {
    column.allow({"key", "head"});
    board.ppl.push_back({column.text("key", true), column.text("head", true)});
  });
  table.each("row", [&](const Entry& row) {
    row.allow({"label", "run", "ppl", "tasks", "passkey", "generation", "vram"});
    board.rows.push_back({row.text("label", true), row.text("run"), row.text("ppl"),
                          row.text("tasks"), row.text("passkey"), row.text("generation"),
                          row.text("vram")});
  });
  table.each("task", [&](const Entry& task) { board.tasks.push_back(task_of(task)); });
  table.each("field", [&](const Entry& field) { board.fields.push_back(task_of(field)); });
  return board;
}

// The newest run that has something at `path`.
std::string newest(const std::vector<const Run*>& runs, const std::string& path) {
  for (auto run = runs.rbegin(); run != runs.rend(); ++run) {
    const Json& value = (*run)->at(path);
    if (value.is_null() || (value.is_object() && (value.empty() || value.contains("error")))) {
      continue;
    }
    return (*run)->id;
  }
  return {};
}

Layout::Board automatic_board(const std::string& track, const std::string& model,
                              const std::vector<const Run*>& runs) {
  Layout::Board board{track, model, model, {}, {}, {}, {}};
  std::set<std::string> seen_tasks;
  std::vector<std::string> methods;
  for (const Run* run : runs) {
    if (std::find(methods.begin(), methods.end(), run->method()) == methods.end()) {
      methods.push_back(run->method());
    }
    const Json& sets = run->at("results/ppl");
    if (sets.is_object()) {
      for (const auto& [key, value] : sets.items()) {
        const bool known = std::any_of(board.ppl.begin(), board.ppl.end(),
                                       [k = key](const auto& c) { return c.key == k; });
        if (!known) board.ppl.push_back({key, key});
      }
    }
    const Json& tasks = run->at("results/lm_eval");
    if (!tasks.is_object()) continue;
    for (const auto& [key, value] : tasks.items()) {
      // Subjects of a group are not tasks of their own.
      if (key.starts_with("_") || !value.is_object() || key.starts_with("mmlu_")) continue;
      if (!value.contains("acc,none") || !seen_tasks.insert(key).second) continue;
      board.tasks.push_back({key, key, "acc", "acc"});
    }
  }
  // The full-precision row first, the others by the first perplexity of their newest run.
  const auto key = [&](const std::string& method) {
    double ppl = HUGE_VAL;
    for (const Run* run : runs) {
      if (run->method() != method || board.ppl.empty()) continue;
      ppl = run->number("results/ppl/" + board.ppl[0].key + "/ppl").value_or(ppl);
    }
    return std::make_pair(method != "fp16", ppl);
  };
  std::stable_sort(methods.begin(), methods.end(),
                   [&](const std::string& a, const std::string& b) { return key(a) < key(b); });
  for (const std::string& method : methods) {
    std::vector<const Run*> of_method;
    for (const Run* run : runs) {
      if (run->method() == method) of_method.push_back(run);
    }
    Layout::Row row{"**" + method + "**", newest(of_method, "results/ppl"), {}, {}, {}, {}, {}};
    row.tasks = newest(of_method, "results/lm_eval");
    row.passkey = newest(of_method, "results/kv_stress_test/passkey_retrieval");
    row.generation = newest(of_method, "results/kv_stress_test/generation_ppl");
    row.vram = newest(of_method, "results/system_metrics/vram_peak_mb");
    if (row.run.empty()) row.run = of_method.back()->id;
    board.rows.push_back(std::move(row));
  }
  return board;
}

}  // namespace

namespace {

Layout layout_of(const Json& json, const std::string& where) {
  const Entry root(json, where);
  root.allow({"later", "names", "board", "environment"});
  Layout layout;
  layout.written = true;
  layout.later = root.text("later");
  layout.names = root.texts("names");
  root.each("board", [&](const Entry& board) { layout.boards.push_back(board_of(board)); });
  root.each("environment", [&](const Entry& row) {
    row.allow({"name", "path", "suffix", "only", "stated"});
    layout.environment.push_back({row.text("name", true), row.text("path", true),
                                  row.text("suffix"), row.text("only"), row.texts("stated")});
  });
  return layout;
}

}  // namespace

Layout parse_layout(const std::string& text, const std::string& where) {
  return layout_of(to_json(parse_toml(text, where)), where);
}

const std::string& study_layout_text() {
  static const std::string text = kStudyLeaderboard;
  return text;
}

Layout automatic_layout(const std::vector<Run>& runs) {
  std::map<std::pair<std::string, std::string>, std::vector<const Run*>> groups;
  std::vector<std::pair<std::string, std::string>> order;
  for (const Run& run : runs) {
    const auto key = std::make_pair(run.track(), run.model());
    if (groups[key].empty()) order.push_back(key);
    groups[key].push_back(&run);
  }
  std::sort(order.begin(), order.end());
  Layout layout;
  for (const auto& key : order) {
    layout.boards.push_back(automatic_board(key.first, key.second, groups[key]));
  }
  for (const char* path : {"gpu", "torch", "transformers", "lm-eval", "python", "ptq", "cpu"}) {
    layout.environment.push_back({path, path, {}, {}, {}});
  }
  return layout;
}

Layout choose_layout(const std::vector<Run>& runs, const std::string& file) {
  if (!file.empty()) return layout_of(to_json(read_toml_file(file)), file);
  Layout study = parse_layout(study_layout_text(), "study_leaderboard.toml");
  for (const Layout::Board& board : study.boards) {
    for (const Layout::Row& row : board.rows) {
      const bool there =
          row.run.empty() ||
          std::any_of(runs.begin(), runs.end(), [&](const Run& r) { return r.id == row.run; });
      if (!there) return automatic_layout(runs);
    }
  }
  return study;
}

}  // namespace ptq::report
