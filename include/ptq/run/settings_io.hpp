// Settings of evaluations and of the calibration, to and from JSON and out of an experiment file.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "ptq/calibrate/sequences.hpp"
#include "ptq/core/config_tree.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/engine/modes.hpp"
#include "ptq/eval/kinds.hpp"
#include "ptq/stats/verdict.hpp"

namespace ptq {
namespace settings_detail {

struct SettingsToJson {
  Json out = Json::object();

  void file(const char* key, std::string& value, const char* = "") { out[key] = value; }
  void optional_file(const char* key, std::string& value) { out[key] = value; }
  template <class Check>
  void text(const char* key, std::string& value, const Check&) {
    out[key] = value;
  }
  void choice(const char* key, std::string& value, const std::vector<std::string>&) {
    out[key] = value;
  }
  template <class Integer>
  void integer(const char* key, Integer& value, int64_t, int64_t) {
    out[key] = value;
  }
  void number(const char* key, double& value, double, double) { out[key] = value; }
  void boolean(const char* key, bool& value) { out[key] = value; }
  void numbers(const char* key, std::vector<double>& value, double, double) { out[key] = value; }
  void integers(const char* key, std::vector<int64_t>& value, int64_t, int64_t) {
    out[key] = value;
  }
  template <class Check>
  void words(const char* key, std::vector<std::string>& value, const Check&) {
    out[key] = value;
  }
  void regime(const char* key, Regime& value, const std::vector<Regime>&) {
    out[key] = regime_word(value);
  }
  void decide(const char* key, eval::DecideSettings& value, const std::vector<std::string>&) {
    if (!value.on()) return;
    out[key] = {{"metric", value.metric}, {"alpha", value.alpha}, {"margin", value.margin}};
  }
  void rule(bool, const char*, const std::string&, const std::string&) {}
};

struct SettingsFromJson {
  const Json& in;

  void file(const char* key, std::string& value, const char* = "") {
    value = in.at(key).get<std::string>();
  }
  void optional_file(const char* key, std::string& value) { file(key, value); }
  template <class Check>
  void text(const char* key, std::string& value, const Check&) {
    file(key, value);
  }
  void choice(const char* key, std::string& value, const std::vector<std::string>&) {
    value = in.at(key).get<std::string>();
  }
  template <class Integer>
  void integer(const char* key, Integer& value, int64_t, int64_t) {
    value = in.at(key).get<Integer>();
  }
  void number(const char* key, double& value, double, double) { value = in.at(key).get<double>(); }
  void boolean(const char* key, bool& value) { value = in.at(key).get<bool>(); }
  void numbers(const char* key, std::vector<double>& value, double, double) {
    value = in.at(key).get<std::vector<double>>();
  }
  void integers(const char* key, std::vector<int64_t>& value, int64_t, int64_t) {
    value = in.at(key).get<std::vector<int64_t>>();
  }
  template <class Check>
  void words(const char* key, std::vector<std::string>& value, const Check&) {
    value = in.at(key).get<std::vector<std::string>>();
  }
  void regime(const char* key, Regime& value, const std::vector<Regime>&) {
    value = regime_from_word(in.at(key).get<std::string>(), key);
  }
  void decide(const char* key, eval::DecideSettings& value, const std::vector<std::string>&) {
    const auto found = in.find(key);
    if (found == in.end()) return;
    value.metric = found->at("metric").get<std::string>();
    value.alpha = found->at("alpha").get<double>();
    value.margin = found->at("margin").get<double>();
  }
  void rule(bool, const char*, const std::string&, const std::string&) {}
};

struct SettingsFromTable {
  TableReader& table;
  const ConfigNode& node;  // of the table
  Problems& problems;

  void file(const char* key, std::string& value, const std::string& what_for = "evaluate on") {
    table.string(key, value);
    if (!value.empty()) return;
    if (std::string(key) == "task") {
      problems.add(usage_error("`" + table.full(key) + "` is missing: what is asked", node.where,
                               "task = \"hellaswag\", one of datasets/tasks, or the path of a "
                               "description"));
      return;
    }
    const char* example = what_for == "calibrate on"    ? "calib.txt"
                          : std::string(key) == "texts" ? "books.jsonl"
                          : std::string(key) == "data"  ? "tasks/hellaswag.jsonl"
                                                        : "test.txt";
    problems.add(usage_error("`" + table.full(key) + "` is missing: the file to " + what_for,
                             node.where,
                             std::string(key) + " = \"datasets/embedded/" + example + "\""));
  }
  void optional_file(const char* key, std::string& value) { table.string(key, value); }
  template <class Check>
  void text(const char* key, std::string& value, const Check& check) {
    table.string(key, value);
    const ConfigNode* place = node.find(key);
    try {
      check(value);
    } catch (const Error& error) {
      problems.add(usage_error(error.message(), place ? place->where : node.where, error.hint()));
    }
  }
  void choice(const char* key, std::string& value, const std::vector<std::string>& allowed) {
    table.choice(key, value, allowed);
  }
  template <class Integer>
  void integer(const char* key, Integer& value, int64_t low, int64_t high) {
    table.integer(key, value, low, high);
  }
  void number(const char* key, double& value, double low, double high) {
    table.number(key, value, low, high);
  }
  void boolean(const char* key, bool& value) { table.boolean(key, value); }
  void numbers(const char* key, std::vector<double>& value, double low, double high) {
    table.numbers(key, value, low, high);
  }
  void integers(const char* key, std::vector<int64_t>& value, int64_t low, int64_t high) {
    table.integers(key, value, low, high);
  }
  // check(word) throws what is wrong with it.
  template <class Check>
  void words(const char* key, std::vector<std::string>& value, const Check& check) {
    std::vector<std::pair<std::string, std::string>> read;
    table.strings(key, read);
    if (read.empty()) return;
    value.clear();
    std::set<std::string> seen;
    for (const auto& [word, place] : read) {
      try {
        check(word);
        if (!seen.insert(word).second)
          throw usage_error("`" + table.full(key) + "` has " + Json(word).dump() +
                            " more than once");
        value.push_back(word);
      } catch (const Error& error) {
        problems.add(usage_error(error.message(), place, error.hint()));
      }
    }
  }
  void regime(const char* key, Regime& value, const std::vector<Regime>& allowed) {
    std::vector<std::string> words;
    for (const Regime one : allowed) words.push_back(regime_word(one));
    std::string word = regime_word(value);
    table.choice(key, word, words);
    value = regime_from_word(word, node.where);
  }
  void decide(const char* key, eval::DecideSettings& value,
              const std::vector<std::string>& metrics) {
    const ConfigNode* inner = table.node(key);
    if (inner == nullptr) return;
    if (inner->kind != ConfigNode::Kind::table) {
      table.wrong_type(key, *inner, "table", "{ metric = \"" + metrics[0] + "\" }");
      return;
    }
    TableReader fields(*inner, table.full(key), problems);
    value.metric = metrics[0];
    fields.choice("metric", value.metric, metrics);
    value.margin = value.metric == "answers" ? stats::kAnswerMargin : stats::kLossMargin;
    fields.number("alpha", value.alpha, eval::kLeastAlpha, 0.5);
    fields.number("margin", value.margin, 0, eval::kMostMargin);
    fields.finish();
  }
  void rule(bool holds, const char* key, const std::string& text, const std::string& hint) {
    if (holds) return;
    const ConfigNode* place = node.find(key);
    problems.add(usage_error("`" + table.full(key) + "` " + text,
                             place != nullptr ? place->where : node.where, hint));
  }
};

}  // namespace settings_detail

// All settings, defaults included, in a fixed order.
template <class Settings>
Json settings_to_json(Settings settings) {
  settings_detail::SettingsToJson writer;
  visit_settings(settings, writer);
  return writer.out;
}

// The reverse, for our own files: throws nlohmann's exceptions when something is missing.
template <class Settings>
Settings read_settings(Settings settings, const Json& json) {
  settings_detail::SettingsFromJson reader{json};
  visit_settings(settings, reader);
  return settings;
}
inline eval::Settings settings_from_json(const std::string& kind, const Json& json) {
  return read_settings(eval::make_settings(kind), json);
}

// Out of the table at `node`; what is wrong goes to `problems`.
template <class Settings>
void read_settings(Settings& settings, TableReader& table, const ConfigNode& node,
                   Problems& problems) {
  settings_detail::SettingsFromTable reader{table, node, problems};
  visit_settings(settings, reader);
}

}  // namespace ptq
