// An experiment as values: which models, which methods with which options, which evaluations. Read
// strictly from a configuration tree: an unknown key is an error, all problems come at once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "ptq/calibrate/sequences.hpp"
#include "ptq/core/config_tree.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/data/retrieval_prompt.hpp"
#include "ptq/eval/evaluation.hpp"

namespace ptq {

struct ModelReference {
  std::string text;   // a folder or a Hugging Face id
  std::string where;  // in the experiment file
  std::string name;   // in tables and records; empty: the last part of the folder or id
};

// How all models of the experiment are loaded and computed.
struct ModelSettings {
  Compute compute = Compute::fp32;
  bool random = false;       // random weights instead of the folder's
  uint64_t random_seed = 0;  // of them; also for folders that have no weights
};

// One method of a variant, as written; run/grid.hpp finds it among the installed ones.
struct MethodPart {
  std::string method;
  Json options;  // only what the user gave
  std::string where, options_where;
};

struct MethodVariant {
  std::string label;
  std::vector<MethodPart> parts;
  std::string where;
};

using EvaluationSettings =
    std::variant<eval::PerplexitySettings, eval::CachedDecodeSettings, eval::PasskeySettings,
                 eval::RetrievalSettings, eval::GenerationSettings>;

struct Evaluation {
  std::string name, kind;
  EvaluationSettings settings;
  std::string where;
};

struct Limits {
  double cell_seconds = 3600;  // wall clock of one cell
  double hang_seconds = 600;   // without a word of progress
};

struct Experiment {
  std::filesystem::path file;
  std::string name;
  std::string track = "C";  // A, B, C or pruning
  uint64_t seed = 0;
  std::vector<ModelReference> models;
  ModelSettings model;
  std::string baseline;  // label; empty: the first lossless method
  std::string baseline_where;
  bool all_methods = false;  // methods = "*"
  std::string methods_where;
  std::vector<MethodVariant> methods;
  std::vector<Evaluation> evaluations;
  calibrate::CalibrationSettings calibration;
  std::string calibration_where;  // empty: no such table
  Limits limits;
};

inline const std::vector<std::string>& evaluation_kinds() {
  static const std::vector<std::string> kinds = {"perplexity", "cached-decode", "passkey",
                                                 "retrieval", "generation"};
  return kinds;
}

// The fields of each settings struct, listed once for everything that reads or writes them. A
// visitor has integer(key, value, low, high), number(key, value, low, high), boolean(key, value),
// lists of numbers, integers and words, choice(key, text, allowed words), file(key, path, what for)
// and regime(key, value, allowed words).
constexpr int64_t kLongestContext = int64_t{1} << 24;  // tokens

template <class Visitor>
void visit_settings(eval::PerplexitySettings& s, Visitor& v) {
  v.file("text", s.text);
  v.choice("join", s.join, {"raw", "wikitext2"});
  v.choice("protocol", s.protocol, {"disjoint", "half_overlap"});
  v.integer("window", s.window, 2, kLongestContext);
  v.integer("max_windows", s.max_windows, 0, kLongestContext);
  v.regime("regime", s.regime, {"streaming", "prefill-exact", "prefill-encoded", "independent"});
}

template <class Visitor>
void visit_settings(eval::PasskeySettings& s, Visitor& v) {
  v.integer("keys", s.keys, 1, 100000);
  v.numbers("depths", s.depths, 0, 1);
  v.integer("context_length", s.context_length, 64, kLongestContext);
  v.integer("max_new_tokens", s.max_new_tokens, 1, 1024);
  v.integer("seed", s.seed, 0, std::numeric_limits<uint32_t>::max());
  v.regime("regime", s.regime, {"streaming", "prefill-exact", "prefill-encoded"});
  v.choice("question", s.question, {"cached", "prefilled"});
}

template <class Visitor>
void visit_settings(eval::CachedDecodeSettings& s, Visitor& v) {
  v.file("texts", s.texts);
  v.integer("samples", s.samples, 1, 1000000);
  v.integers("lengths", s.lengths, 2, kLongestContext);
  v.regime("regime", s.regime, {"streaming", "prefill-exact"});
  v.integer("chunk", s.chunk, 1, kLongestContext);
}

template <class Visitor>
void visit_settings(eval::RetrievalSettings& s, Visitor& v) {
  v.words("tasks", s.tasks, [](const std::string& word) { retrieval::parse_task(word); });
  v.words("haystacks", s.haystacks,
          [](const std::string& word) { retrieval::parse_haystack(word); });
  v.integers("lengths", s.lengths, 128, kLongestContext);
  v.numbers("depths", s.depths, 0, 1);
  v.integer("samples", s.samples, 1, 100000);
  v.integer("max_new_tokens", s.max_new_tokens, 0, 1024);
  v.integer("seed", s.seed, 0, std::numeric_limits<uint32_t>::max());
  v.regime("regime", s.regime, {"streaming", "prefill-exact", "prefill-encoded"});
  v.choice("question", s.question, {"context_only", "question_aware"});
  v.boolean("second_question", s.second_question);
}

template <class Visitor>
void visit_settings(eval::GenerationSettings& s, Visitor& v) {
  v.file("texts", s.texts);
  v.integer("samples", s.samples, 1, 1000000);
  v.integer("prompt_tokens", s.prompt_tokens, 1, kLongestContext);
  v.integer("continuation_tokens", s.continuation_tokens, 1, kLongestContext);
  v.regime("regime", s.regime, {"streaming", "prefill-exact", "prefill-encoded"});
  v.integer("batch", s.batch, 1, 1024);
}

template <class Visitor>
void visit_settings(calibrate::CalibrationSettings& s, Visitor& v) {
  v.file("text", s.text, "calibrate on");
  v.choice("join", s.join, {"raw", "wikitext2"});
  v.integer("sequences", s.sequences, 1, 4096);
  v.integer("length", s.length, 2, kLongestContext);
  v.number("memory_gib", s.memory_gib, 0, 65536);
}

template <class Visitor>
void visit_settings(EvaluationSettings& settings, Visitor& visitor) {
  std::visit([&](auto& s) { visit_settings(s, visitor); }, settings);
}

// Default settings of a kind.
inline EvaluationSettings make_settings(const std::string& kind) {
  if (kind == "passkey") return eval::PasskeySettings{};
  if (kind == "generation") return eval::GenerationSettings{};
  if (kind == "retrieval") return eval::RetrievalSettings{};
  if (kind == "cached-decode") return eval::CachedDecodeSettings{};
  return eval::PerplexitySettings{};
}

// Tokens of the longest sequence that the evaluation feeds.
inline int64_t longest_context(const EvaluationSettings& settings) {
  struct Length {
    int64_t operator()(const eval::PerplexitySettings& s) const { return s.window; }
    int64_t operator()(const eval::PasskeySettings& s) const {
      return s.context_length + s.max_new_tokens;
    }
    int64_t operator()(const eval::CachedDecodeSettings& s) const {
      return *std::max_element(s.lengths.begin(), s.lengths.end());
    }
    int64_t operator()(const eval::RetrievalSettings& s) const {
      return *std::max_element(s.lengths.begin(), s.lengths.end());
    }
    int64_t operator()(const eval::GenerationSettings& s) const {
      return s.prompt_tokens + s.continuation_tokens;
    }
  };
  return std::visit(Length{}, settings);
}

namespace experiment_detail {

struct SettingsToJson {
  Json out = Json::object();

  void file(const char* key, std::string& value, const char* = "") { out[key] = value; }
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
  void regime(const char* key, Regime& value, const std::vector<std::string>&) {
    out[key] = regime_word(value);
  }
};

struct SettingsFromJson {
  const Json& in;

  void file(const char* key, std::string& value, const char* = "") {
    value = in.at(key).get<std::string>();
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
  void regime(const char* key, Regime& value, const std::vector<std::string>&) {
    value = regime_from_word(in.at(key).get<std::string>(), key);
  }
};

struct SettingsFromTable {
  TableReader& table;
  const std::string& where;
  Problems& problems;

  void file(const char* key, std::string& value, const std::string& what_for = "evaluate on") {
    table.string(key, value);
    if (!value.empty()) return;
    const char* example = what_for == "calibrate on"    ? "calib.txt"
                          : std::string(key) == "texts" ? "books.jsonl"
                                                        : "test.txt";
    problems.add(usage_error("`" + table.full(key) + "` is missing: the file to " + what_for, where,
                             std::string(key) + " = \"datasets/embedded/" + example + "\""));
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
    for (const auto& [word, place] : read) {
      try {
        check(word);
        value.push_back(word);
      } catch (const Error& error) {
        problems.add(usage_error(error.message(), place, error.hint()));
      }
    }
  }
  void regime(const char* key, Regime& value, const std::vector<std::string>& allowed) {
    std::string word = regime_word(value);
    table.choice(key, word, allowed);
    value = regime_from_word(word, where);
  }
};

// "kivi bits=2 group_size=32"
inline std::string default_label(const std::vector<MethodPart>& parts) {
  std::string label;
  for (const MethodPart& part : parts) {
    label += (label.empty() ? "" : " + ") + part.method;
    for (const auto& [name, value] : part.options.items()) {
      label += " " + name + "=" + (value.is_string() ? value.get<std::string>() : value.dump());
    }
  }
  return label;
}

inline MethodPart read_part(TableReader& table, const ConfigNode& node, Problems& problems) {
  MethodPart part;
  part.where = part.options_where = node.where;
  part.options = Json::object();
  table.string("method", part.method);
  if (const ConfigNode* options = table.node("options")) {
    part.options_where = options->where + " " + table.full("options");
    if (options->kind == ConfigNode::Kind::table) {
      part.options = to_json(*options);
    } else {
      table.wrong_type("options", *options, "table", "{ bits = 4 }");
    }
  }
  if (part.method.empty()) {
    problems.add(usage_error("`" + table.full("method") + "` is missing: the name of a method",
                             node.where, "`ptq-host methods` lists the installed ones"));
  }
  return part;
}

inline MethodVariant read_variant(const ConfigNode& node, const std::string& path,
                                  Problems& problems) {
  MethodVariant variant;
  variant.where = node.where;
  TableReader table(node, path, problems);
  table.string("label", variant.label);
  const ConfigNode* parts = table.node("parts");
  if (parts == nullptr) {
    variant.parts.push_back(read_part(table, node, problems));
  } else if (parts->kind != ConfigNode::Kind::array || parts->items.empty()) {
    table.wrong_type("parts", *parts, "array of tables", "[{ method = \"rtn\" }]");
  } else {
    for (size_t i = 0; i < parts->items.size(); ++i) {
      const std::string part_path = table.full("parts") + "[" + std::to_string(i) + "]";
      if (parts->items[i].kind != ConfigNode::Kind::table) {
        table.wrong_type("parts", parts->items[i], "table", "[{ method = \"rtn\" }]");
        continue;
      }
      TableReader part_table(parts->items[i], part_path, problems);
      variant.parts.push_back(read_part(part_table, parts->items[i], problems));
      part_table.finish();
    }
  }
  table.finish();
  if (variant.label.empty()) variant.label = default_label(variant.parts);
  return variant;
}

inline Evaluation read_evaluation(const ConfigNode& node, const std::string& path,
                                  Problems& problems) {
  Evaluation evaluation;
  evaluation.where = node.where;
  TableReader table(node, path, problems);
  const ConfigNode* kind = table.node("kind");
  if (kind == nullptr) {
    problems.add(
        usage_error("`" + path + ".kind` is missing", node.where,
                    "kind = \"perplexity\", \"cached-decode\", \"passkey\", \"retrieval\" or "
                    "\"generation\""));
    return evaluation;
  }
  evaluation.kind = evaluation_kinds().front();
  const size_t before = problems.size();
  table.choice("kind", evaluation.kind, evaluation_kinds());
  if (problems.size() != before) return evaluation;  // its keys depend on the kind
  table.string("name", evaluation.name);
  evaluation.settings = make_settings(evaluation.kind);
  SettingsFromTable reader{table, node.where, problems};
  visit_settings(evaluation.settings, reader);
  table.finish();
  const auto* windows = std::get_if<eval::PerplexitySettings>(&evaluation.settings);
  if (windows != nullptr && windows->protocol == "half_overlap" && windows->window % 2 != 0) {
    problems.add(
        usage_error("`" + table.full("window") + "` is " + std::to_string(windows->window) +
                        ", half_overlap needs an even number",
                    node.find("window")->where, "window = " + std::to_string(windows->window - 1)));
  }
  if (evaluation.name.empty()) {
    evaluation.name = evaluation.kind;
    if (const auto* ppl = std::get_if<eval::PerplexitySettings>(&evaluation.settings)) {
      evaluation.name += "-" + ppl->protocol;
    }
  }
  return evaluation;
}

// An array of folders and ids, each a string or { model = "...", name = "..." }.
inline std::vector<ModelReference> read_models(TableReader& table, const ConfigNode& array,
                                               Problems& problems) {
  const char* example = "[\"models/tiny-qwen2\"]";
  std::vector<ModelReference> models;
  if (array.kind != ConfigNode::Kind::array || array.items.empty()) {
    table.wrong_type("models", array, "array of strings", example);
    return models;
  }
  for (size_t i = 0; i < array.items.size(); ++i) {
    const ConfigNode& item = array.items[i];
    ModelReference model{"", item.where, ""};
    if (item.kind == ConfigNode::Kind::table) {
      TableReader reader(item, "models[" + std::to_string(i) + "]", problems);
      reader.string("model", model.text);
      reader.string("name", model.name);
      reader.finish();
    } else if (item.scalar.is_string()) {
      model.text = item.scalar.get<std::string>();
    } else {
      table.wrong_type("models", item, "string", example);
      continue;
    }
    if (model.text.empty()) {
      problems.add(usage_error("a model of `models` names no folder", item.where,
                               "{ model = \"models/tiny-qwen2\", name = \"tiny\" }"));
    }
    models.push_back(std::move(model));
  }
  return models;
}

// visit(item, path) for every table of an array of tables that must not be empty.
template <class Visit>
void for_each_table(TableReader& table, const std::string& key, const ConfigNode& array,
                    const Visit& visit) {
  if (array.kind != ConfigNode::Kind::array || array.items.empty()) {
    table.wrong_type(key, array, "one or more [[" + key + "]] tables", "[{ ... }]");
    return;
  }
  for (size_t i = 0; i < array.items.size(); ++i) {
    if (array.items[i].kind == ConfigNode::Kind::table) {
      visit(array.items[i], key + "[" + std::to_string(i) + "]");
    } else {
      table.wrong_type(key, array.items[i], "table", "[{ ... }]");
    }
  }
}

template <class Item, class Name>
void require_unique(const std::vector<Item>& items, const Name& name, const char* what,
                    const char* key, Problems& problems) {
  for (size_t i = 0; i < items.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (name(items[i]) != name(items[j]) || name(items[i]).empty()) continue;
      problems.add(usage_error(std::string("two ") + what + " are called `" + name(items[i]) + "`",
                               items[i].where,
                               std::string("give one of them another `") + key + "`"));
    }
  }
}

}  // namespace experiment_detail

// All settings, defaults included, in a fixed order.
inline Json settings_to_json(EvaluationSettings settings) {
  experiment_detail::SettingsToJson writer;
  visit_settings(settings, writer);
  return writer.out;
}
inline Json settings_to_json(calibrate::CalibrationSettings settings) {
  experiment_detail::SettingsToJson writer;
  visit_settings(settings, writer);
  return writer.out;
}

// The reverse, for our own files: throws nlohmann's exceptions when something is missing.
inline EvaluationSettings settings_from_json(const std::string& kind, const Json& json) {
  EvaluationSettings settings = make_settings(kind);
  experiment_detail::SettingsFromJson reader{json};
  visit_settings(settings, reader);
  return settings;
}

inline calibrate::CalibrationSettings calibration_from_json(const Json& json) {
  calibrate::CalibrationSettings settings;
  experiment_detail::SettingsFromJson reader{json};
  visit_settings(settings, reader);
  return settings;
}

// Reads the tree of an experiment file. What is wrong goes to `problems`; the result is of use only
// when nothing was added.
inline Experiment read_experiment(const ConfigNode& tree, const std::filesystem::path& file,
                                  Problems& problems) {
  Experiment experiment;
  experiment.file = file;
  experiment.name = file.stem().string();
  TableReader table(tree, "", problems);

  table.string("name", experiment.name);
  const bool plain_name = !experiment.name.empty() && experiment.name[0] != '.' &&
                          experiment.name.size() <= 100 &&
                          experiment.name.find_first_of("/\\\n") == std::string::npos;
  if (!plain_name) {
    const ConfigNode* name = tree.find("name");
    problems.add(usage_error("`name` must be 1 to 100 characters long and usable as a folder name",
                             name != nullptr ? name->where : file.string(), "name = \"trackC\""));
  }
  table.choice("track", experiment.track, {"A", "B", "C", "pruning"});
  table.integer("seed", experiment.seed, 0, std::numeric_limits<int64_t>::max());

  if (const ConfigNode* models = table.node("models")) {
    experiment.models = experiment_detail::read_models(table, *models, problems);
  } else {
    problems.add(usage_error("`models` is missing: the models to run", file.string(),
                             "models = [\"models/tiny-qwen2\"]"));
  }
  if (const ConfigNode* model = table.node("model")) {
    if (model->kind == ConfigNode::Kind::table) {
      TableReader model_table(*model, "model", problems);
      std::string compute = compute_word(experiment.model.compute);
      model_table.choice("compute", compute, compute_words());
      experiment.model.compute = compute_from_word(compute, model->where);
      model_table.boolean("random", experiment.model.random);
      model_table.integer("random_seed", experiment.model.random_seed, 0,
                          std::numeric_limits<int64_t>::max());
      model_table.finish();
    } else {
      table.wrong_type("model", *model, "table", "{ compute = \"bf16\" }");
    }
  }

  table.string("baseline", experiment.baseline);
  if (const ConfigNode* baseline = tree.find("baseline"))
    experiment.baseline_where = baseline->where;

  const ConfigNode* methods = table.node("methods");
  experiment.methods_where = methods != nullptr ? methods->where : file.string();
  if (methods == nullptr) {
    problems.add(usage_error("`methods` is missing", file.string(),
                             "methods = \"*\" for every installed method of the track, or one "
                             "[[methods]] table for each"));
  } else if (methods->kind == ConfigNode::Kind::scalar) {
    experiment.all_methods = methods->scalar == "*";
    if (!experiment.all_methods) {
      table.wrong_type("methods", *methods, "\"*\" or [[methods]] tables", "\"*\"");
    }
  } else {
    experiment_detail::for_each_table(
        table, "methods", *methods, [&](const ConfigNode& node, const std::string& path) {
          experiment.methods.push_back(experiment_detail::read_variant(node, path, problems));
        });
    experiment_detail::require_unique(
        experiment.methods, [](const MethodVariant& m) { return m.label; }, "methods", "label",
        problems);
  }

  if (const ConfigNode* evaluations = table.node("evaluations")) {
    experiment_detail::for_each_table(
        table, "evaluations", *evaluations, [&](const ConfigNode& node, const std::string& path) {
          experiment.evaluations.push_back(
              experiment_detail::read_evaluation(node, path, problems));
        });
    experiment_detail::require_unique(
        experiment.evaluations, [](const Evaluation& e) { return e.name; }, "evaluations", "name",
        problems);
  } else {
    problems.add(usage_error("`evaluations` is missing: what to measure", file.string(),
                             "[[evaluations]] with kind = \"perplexity\", \"cached-decode\", "
                             "\"passkey\", \"retrieval\" or \"generation\""));
  }

  if (const ConfigNode* calibration = table.node("calibration")) {
    if (calibration->kind == ConfigNode::Kind::table) {
      TableReader calibration_table(*calibration, "calibration", problems);
      experiment.calibration_where = calibration->where;
      experiment_detail::SettingsFromTable reader{calibration_table, calibration->where, problems};
      visit_settings(experiment.calibration, reader);
      calibration_table.finish();
    } else {
      table.wrong_type("calibration", *calibration, "table",
                       "{ text = \"datasets/embedded/calib.txt\" }");
    }
  }

  if (const ConfigNode* limits = table.node("limits")) {
    if (limits->kind == ConfigNode::Kind::table) {
      TableReader limits_table(*limits, "limits", problems);
      limits_table.number("cell_seconds", experiment.limits.cell_seconds, 1, 1e7);
      limits_table.number("hang_seconds", experiment.limits.hang_seconds, 1, 1e7);
      limits_table.finish();
    } else {
      table.wrong_type("limits", *limits, "table", "{ cell_seconds = 3600 }");
    }
  }
  table.finish();
  return experiment;
}

}  // namespace ptq
