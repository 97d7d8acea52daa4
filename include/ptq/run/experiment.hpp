// An experiment as values: which models, which methods with which options, which evaluations. Read
// strictly from a configuration tree: an unknown key is an error, all problems come at once.
#pragma once

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
#include "ptq/engine/modes.hpp"
#include "ptq/eval/kinds.hpp"
#include "ptq/run/settings_io.hpp"

namespace ptq {

struct ModelReference {
  std::string text;   // a folder or a Hugging Face id
  std::string where;  // in the experiment file
  std::string name;   // in tables and records; empty: the last part of the folder or id
};

// How all models of the experiment are loaded and computed.
struct ModelSettings {
  Compute compute = Compute::fp32;
  std::string compute_where;  // in the experiment file; empty: not there
  bool random = false;        // random weights instead of the folder's
  uint64_t random_seed = 0;   // of them; also for folders that have no weights
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

struct Evaluation {
  std::string name, kind;
  eval::Settings settings;
  std::string where;
};

struct Limits {
  double cell_seconds = 3600;    // wall clock of one cell
  double hang_seconds = 600;     // without a word of progress
  double address_space_gib = 0;  // of a cell's process, RLIMIT_AS; 0: no limit
  // Kept for the methods of one evaluation: the reference's logits; keys and values of prompts.
  double kept_mib = 512, prompts_mib = 2048;
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
  // Measure the noise floor (engine/noise.hpp) in the cells of lossless methods.
  bool noise_floor = false;
  Limits limits;
};

namespace experiment_detail {

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

// "kind = "perplexity", "passkey" or "generation"".
inline std::string known_kinds() {
  const std::vector<std::string> kinds = eval::kind_words();
  std::string text = "kind = ";
  for (size_t i = 0; i < kinds.size(); ++i) {
    text += (i == 0 ? "\"" : i + 1 < kinds.size() ? ", \"" : " or \"") + kinds[i] + "\"";
  }
  return text;
}

inline Evaluation read_evaluation(const ConfigNode& node, const std::string& path,
                                  Problems& problems) {
  Evaluation evaluation;
  evaluation.where = node.where;
  TableReader table(node, path, problems);
  const ConfigNode* kind = table.node("kind");
  if (kind == nullptr) {
    problems.add(usage_error("`" + path + ".kind` is missing", node.where, known_kinds()));
    return evaluation;
  }
  const std::vector<std::string> kinds = eval::kind_words();
  evaluation.kind = kinds.front();
  const size_t before = problems.size();
  table.choice("kind", evaluation.kind, kinds);
  if (problems.size() != before) return evaluation;  // its keys depend on the kind
  table.string("name", evaluation.name);
  evaluation.settings = eval::make_settings(evaluation.kind);
  read_settings(evaluation.settings, table, node, problems);
  table.finish();
  if (evaluation.name.empty()) {
    evaluation.name = evaluation.kind;
    std::visit(
        [&](const auto& settings) {
          if constexpr (requires { settings.protocol; }) evaluation.name += "-" + settings.protocol;
          if constexpr (requires { settings.task; })
            evaluation.name = std::filesystem::path(settings.task).stem().string();
        },
        evaluation.settings);
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

// A part of an experiment that is a table of its own: read(table, node), or what is wrong with it.
template <class Read>
void read_table(TableReader& table, const std::string& key, const char* example, Problems& problems,
                const Read& read) {
  const ConfigNode* node = table.node(key);
  if (node == nullptr) return;
  if (node->kind != ConfigNode::Kind::table) return table.wrong_type(key, *node, "table", example);
  TableReader own(*node, key, problems);
  read(own, *node);
  own.finish();
}

inline void read_name(TableReader& table, const ConfigNode& tree, Experiment& experiment,
                      Problems& problems) {
  std::string& name = experiment.name;
  table.string("name", name);
  const bool plain = !name.empty() && name[0] != '.' && name.size() <= 100 &&
                     name.find_first_of("/\\\n") == std::string::npos;
  if (plain) return;
  const ConfigNode* node = tree.find("name");
  problems.add(usage_error("`name` must be 1 to 100 characters long and usable as a folder name",
                           node != nullptr ? node->where : experiment.file.string(),
                           "name = \"trackC\""));
}

inline void read_methods(TableReader& table, Experiment& experiment, Problems& problems) {
  const ConfigNode* methods = table.node("methods");
  const std::string file = experiment.file.string();
  experiment.methods_where = methods != nullptr ? methods->where : file;
  if (methods == nullptr) {
    problems.add(usage_error("`methods` is missing", file,
                             "methods = \"*\" for every installed method of the track, or one "
                             "[[methods]] table for each"));
  } else if (methods->kind == ConfigNode::Kind::scalar) {
    experiment.all_methods = methods->scalar == "*";
    if (!experiment.all_methods) {
      table.wrong_type("methods", *methods, "\"*\" or [[methods]] tables", "\"*\"");
    }
  } else {
    for_each_table(table, "methods", *methods,
                   [&](const ConfigNode& node, const std::string& path) {
                     experiment.methods.push_back(read_variant(node, path, problems));
                   });
    require_unique(
        experiment.methods, [](const MethodVariant& m) { return m.label; }, "methods", "label",
        problems);
  }
}

inline void read_evaluations(TableReader& table, Experiment& experiment, Problems& problems) {
  const ConfigNode* evaluations = table.node("evaluations");
  if (evaluations == nullptr) {
    problems.add(usage_error("`evaluations` is missing: what to measure", experiment.file.string(),
                             "[[evaluations]] with " + known_kinds()));
    return;
  }
  for_each_table(table, "evaluations", *evaluations,
                 [&](const ConfigNode& node, const std::string& path) {
                   experiment.evaluations.push_back(read_evaluation(node, path, problems));
                 });
  require_unique(
      experiment.evaluations, [](const Evaluation& e) { return e.name; }, "evaluations", "name",
      problems);
}

}  // namespace experiment_detail

// Reads the tree of an experiment file. What is wrong goes to `problems`; the result is of use only
// when nothing was added.
inline Experiment read_experiment(const ConfigNode& tree, const std::filesystem::path& file,
                                  Problems& problems) {
  namespace detail = experiment_detail;
  Experiment experiment;
  experiment.file = file;
  experiment.name = file.stem().string();
  TableReader table(tree, "", problems);
  detail::read_name(table, tree, experiment, problems);
  table.choice("track", experiment.track, {"A", "B", "C", "pruning"});
  table.integer("seed", experiment.seed, 0, std::numeric_limits<int64_t>::max());
  if (const ConfigNode* models = table.node("models")) {
    experiment.models = detail::read_models(table, *models, problems);
  } else {
    problems.add(usage_error("`models` is missing: the models to run", file.string(),
                             "models = [\"models/tiny-qwen2\"]"));
  }
  detail::read_table(table, "model", "{ compute = \"bf16\" }", problems,
                     [&](TableReader& own, const ConfigNode& node) {
                       ModelSettings& model = experiment.model;
                       std::string compute = compute_word(model.compute);
                       own.choice("compute", compute, compute_words());
                       model.compute = compute_from_word(compute, node.where);
                       model.compute_where = node.where;
                       own.boolean("random", model.random);
                       own.integer("random_seed", model.random_seed, 0,
                                   std::numeric_limits<int64_t>::max());
                     });
  table.string("baseline", experiment.baseline);
  if (const ConfigNode* baseline = tree.find("baseline"))
    experiment.baseline_where = baseline->where;
  table.boolean("noise_floor", experiment.noise_floor);
  detail::read_methods(table, experiment, problems);
  detail::read_evaluations(table, experiment, problems);
  detail::read_table(table, "calibration", "{ text = \"datasets/embedded/calib.txt\" }", problems,
                     [&](TableReader& own, const ConfigNode& node) {
                       experiment.calibration_where = node.where;
                       read_settings(experiment.calibration, own, node, problems);
                     });
  detail::read_table(table, "limits", "{ cell_seconds = 3600 }", problems,
                     [&](TableReader& own, const ConfigNode&) {
                       own.number("cell_seconds", experiment.limits.cell_seconds, 1, 1e7);
                       own.number("hang_seconds", experiment.limits.hang_seconds, 1, 1e7);
                       own.number("address_space_gib", experiment.limits.address_space_gib, 0, 1e6);
                       own.number("kept_mib", experiment.limits.kept_mib, 0, 1e7);
                       own.number("prompts_mib", experiment.limits.prompts_mib, 0, 1e7);
                     });
  table.finish();
  return experiment;
}

}  // namespace ptq
