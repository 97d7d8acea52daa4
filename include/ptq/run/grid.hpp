// From an experiment to the list of cells: every model with every method and every evaluation, each
// with an id made of all that decides its result.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "ptq/core/own_json.hpp"
#include "ptq/core/problems.hpp"
#include "ptq/core/suggest.hpp"
#include "ptq/model/anatomy.hpp"
#include "ptq/model/load_config.hpp"
#include "ptq/model/weight_files.hpp"
#include "ptq/plugin.h"
#include "ptq/results/record.hpp"
#include "ptq/results/store.hpp"
#include "ptq/run/experiment.hpp"
#include "ptq/run/fingerprint.hpp"
#include "ptq/run/locate.hpp"
#include "ptq/run/model_source.hpp"
#include "ptq/run/plugins.hpp"

namespace ptq {

struct GridModel {
  Record::Model record;  // what results say about it
  ModelSource source;
  ModelConfig config;
  std::string fingerprint_of;         // what of the weights the fingerprint is made of
  std::vector<std::string> warnings;  // findings about the folder, one sentence each
};

struct GridMethod {
  Record::Method record;
  std::vector<std::string> plugin_files;  // of each part
};

struct GridEvaluation {
  std::string name, kind;
  eval::Settings settings;                 // file names as the user wrote them
  std::vector<std::string> files, hashes;  // where those of files_of() were found, their SHA-256
  bool noise_floor = false;                // lossless methods are run with noise, too
};

struct Cell {
  size_t model = 0, method = 0, evaluation = 0;  // positions in the grid
  std::string id;                                // 16 hex digits
  std::string place;  // <model>__<method>__<evaluation>, the folder's name without the id
};

struct ExperimentGrid {
  std::vector<GridModel> models;
  std::vector<GridMethod> methods;
  std::vector<GridEvaluation> evaluations;
  std::optional<calibrate::CalibrationSource> calibration;
  std::vector<Cell> cells;
};

// Does a method belong to what `methods = "*"` stands for? Baselines belong to every track.
inline bool fits_track(const MethodInfo& method, const std::string& track) {
  if ((method.traits & PTQ_LOSSLESS) != 0) return true;
  const uint64_t weights = method.capabilities & (PTQ_CAN_WEIGHTS | PTQ_CAN_ACTIVATIONS);
  if (track == "A") return weights == PTQ_CAN_WEIGHTS;
  if (track == "B") return (weights & PTQ_CAN_ACTIVATIONS) != 0;
  if (track == "C") return (method.capabilities & PTQ_CAN_KV) != 0;
  if (track == "pruning") return (method.capabilities & PTQ_CAN_PRUNE) != 0;
  return false;
}

namespace grid_detail {

inline Record::Part make_part(const MethodInfo& info, const Json& options,
                              std::map<std::string, std::string>& hashes) {
  Record::Part part;
  part.plugin = std::filesystem::path(info.plugin_file).filename().string();
  std::string& hash = hashes[info.plugin_file];
  if (hash.empty()) hash = sha256_file(info.plugin_file);
  part.plugin_sha256 = hash;
  part.method = info.name;
  part.version = info.version;
  part.options = options;
  return part;
}

// What a method is called today that had another name: experiments of before go on working.
inline std::string current_name(const std::string& name) {
  constexpr std::pair<const char*, const char*> kRenamed[] = {{"kivi_seed", "kivi_study"},
                                                              {"kvquant_seed", "kvquant_study"},
                                                              {"forge_seed", "forge_study"}};
  for (const auto& [before, now] : kRenamed)
    if (name == before) return now;
  return name;
}

inline const MethodInfo& find_method(const std::vector<MethodInfo>& installed,
                                     const MethodPart& part, const std::string& searched) {
  std::vector<std::string> names;
  const MethodInfo* renamed = nullptr;
  for (const MethodInfo& info : installed) {
    if (info.name == part.method) return info;
    if (info.name == current_name(part.method)) renamed = &info;
    names.push_back(info.name);
  }
  if (renamed != nullptr) return *renamed;
  std::string hint = names.empty() ? "no method is installed" : did_you_mean(part.method, names);
  throw usage_error("no installed plugin has a method `" + part.method + "`", part.where,
                    hint + searched);
}

inline void check_model_folder(const std::filesystem::path& folder, bool random_weights,
                               ModelConfig& config, std::vector<std::string>& warnings) {
  config = load_config(folder);
  if (const auto note = class_defaults_note(config)) warnings.push_back(*note);
  if (!random_weights) {
    WeightFiles weights(folder);
    weights.check_tensors(config);
    warnings.insert(warnings.end(), weights.warnings().begin(), weights.warnings().end());
  }
  std::error_code ignored;
  const bool bytes_will_do = random_weights && config.vocab_size >= kByteTokens;
  if (!bytes_will_do && !is_gguf(folder) &&
      !std::filesystem::exists(folder / "tokenizer.json", ignored)) {
    throw environment_error("the model folder has no tokenizer.json", folder.string(),
                            "fetch tokenizer.json of the same model");
  }
}

// A name as part of a folder's. Of names in other scripts little is left there: they are told apart
// by a hash.
inline std::string place_word(const std::string& name) {
  const bool ascii = std::all_of(name.begin(), name.end(), [](char c) { return (c & 0x80) == 0; });
  return path_word(name) + (ascii ? "" : "-" + sha256_hex(name).substr(0, 8));
}

// At most one method of a composition encodes the cache, and at most one prunes. Which part encodes
// the weights depends on options: JoinedWeights of run/method_set.hpp finds out.
inline void check_composition(const MethodVariant& variant,
                              const std::vector<const MethodInfo*>& infos) {
  const auto several = [&](uint64_t capability) {
    return std::count_if(infos.begin(), infos.end(), [&](const auto* info) {
             return (info->capabilities & capability) != 0;
           }) > 1;
  };
  if (several(PTQ_CAN_KV))
    throw usage_error("the parts of `" + variant.label + "` both want to encode the cache",
                      variant.where, "combine one weights method and one cache method");
  if (several(PTQ_CAN_PRUNE))
    throw usage_error("the parts of `" + variant.label + "` both want to prune", variant.where,
                      "combine one pruning method with others");
}

// Where a file of an evaluation is. Errors: nowhere; the message says how to get it.
inline std::string find_file(const eval::Settings& settings, const eval::NamedFile& file,
                             const std::vector<std::filesystem::path>& bases,
                             const std::string& where) {
  try {
    return find_data_file(file.path, bases, where).string();
  } catch (const Error& error) {
    const auto* choices = std::get_if<eval::ChoicesSettings>(&settings);
    if (choices == nullptr) throw;
    std::string hint = "the descriptions of tasks are in datasets/tasks of the repository";
    if (file.key != "task") {
      const std::filesystem::path folder = std::filesystem::path(file.path).parent_path();
      hint = "python datasets/export_hf.py " +
             std::filesystem::path(choices->task).stem().string() + " --out " +
             (folder.empty() ? "." : folder.string());
    }
    throw Error(error.code(), error.message(), error.where(), hint);
  }
}

}  // namespace grid_detail

// One variant with complete options. `searched` is added to the message about an unknown method:
// where plugins were looked for and what was skipped there. hashes: of plugin files, as far as they
// are known.
inline GridMethod resolve_method(const MethodVariant& variant,
                                 const std::vector<MethodInfo>& installed,
                                 const std::string& searched,
                                 std::map<std::string, std::string>& hashes, Problems& problems) {
  GridMethod method;
  method.record.label = variant.label;
  method.record.lossless = true;
  std::vector<const MethodInfo*> infos;
  for (const MethodPart& part : variant.parts) {
    problems.collect([&] {
      const MethodInfo& info = grid_detail::find_method(installed, part, searched);
      infos.push_back(&info);
      if ((info.traits & PTQ_LOSSLESS) == 0) method.record.lossless = false;
      const auto options = validate_options(info.options, part.options,
                                            part.options_where + " of `" + info.name + "`");
      method.record.parts.push_back(grid_detail::make_part(info, options, hashes));
      method.plugin_files.push_back(info.plugin_file);
    });
  }
  problems.collect([&] { grid_detail::check_composition(variant, infos); });
  return method;
}

// The variants of the experiment.
inline std::vector<GridMethod> resolve_methods(const Experiment& experiment,
                                               const std::vector<MethodInfo>& installed,
                                               const std::string& searched, Problems& problems) {
  std::vector<MethodVariant> variants = experiment.methods;
  if (experiment.all_methods) {
    for (const MethodInfo& info : installed) {
      if (!fits_track(info, experiment.track)) continue;
      const std::string where = experiment.methods_where;
      variants.push_back({info.name, {{info.name, {}, where, where}}, where});
    }
    if (variants.empty()) {
      problems.add(usage_error("no installed method fits track " + experiment.track,
                               experiment.methods_where,
                               "`ptq-host methods` lists what is installed" + searched));
    }
  }

  std::vector<GridMethod> methods;
  std::map<std::string, std::string> hashes;
  for (const MethodVariant& variant : variants) {
    methods.push_back(resolve_method(variant, installed, searched, hashes, problems));
  }

  if (!experiment.baseline.empty()) {
    std::vector<std::string> labels;
    for (const MethodVariant& variant : variants) labels.push_back(variant.label);
    if (std::find(labels.begin(), labels.end(), experiment.baseline) == labels.end()) {
      problems.add(usage_error("the baseline `" + experiment.baseline +
                                   "` is not the label of a method of this experiment",
                               experiment.baseline_where,
                               did_you_mean(experiment.baseline, labels)));
    }
  }
  return methods;
}

// The model folders, checked as far as that is quick: configuration, tokenizer file, headers of the
// weights against the configuration.
inline std::vector<GridModel> resolve_models(const Experiment& experiment,
                                             const std::vector<std::filesystem::path>& bases,
                                             Problems& problems) {
  std::vector<GridModel> models;
  for (const ModelReference& reference : experiment.models) {
    problems.collect([&] {
      const ModelFolder found = find_model(reference.text, bases, reference.where);
      GridModel model;
      model.source = {
          found.folder, experiment.model.compute,
          random_weights_seed(found.folder, experiment.model.random, experiment.model.random_seed)};
      try {
        grid_detail::check_model_folder(found.folder, model.source.random_seed.has_value(),
                                        model.config, model.warnings);
      } catch (const Error& error) {
        // A download that did not finish: the command that began it also completes it.
        if (!locate_detail::looks_like_hub_id(reference.text, bases)) throw;
        throw Error(error.code(), error.message(), error.where(), download_command(reference.text));
      }
      const ModelFingerprint fingerprint =
          model_fingerprint(found.folder, model.source.random_seed);
      model.fingerprint_of = fingerprint.made_of;
      const std::string name = reference.name.empty() ? found.name : reference.name;
      model.record = {name, reference.text, fingerprint.hex, parameter_count(model.config)};
      for (const GridModel& other : models) {
        if (other.record.name != name) continue;
        throw usage_error(
            "two models are called `" + name + "`", reference.where,
            "give one a name: { model = \"" + reference.text + "\", name = \"other\" }");
      }
      models.push_back(std::move(model));
    });
  }
  return models;
}

inline std::vector<GridEvaluation> resolve_evaluations(
    const Experiment& experiment, const std::vector<std::filesystem::path>& bases,
    Problems& problems) {
  std::vector<GridEvaluation> evaluations;
  std::set<std::string> seen_missing;  // several evaluations may want one file
  for (const Evaluation& evaluation : experiment.evaluations) {
    problems.collect([&] {
      GridEvaluation out{evaluation.name, evaluation.kind, evaluation.settings, {}, {}};
      out.noise_floor = experiment.noise_floor && eval::scores_tokens(evaluation.settings);
      for (const eval::NamedFile& file : eval::files_of(out.settings)) {
        if (seen_missing.count(file.path) > 0) return;
        seen_missing.insert(file.path);
        out.files.push_back(grid_detail::find_file(out.settings, file, bases, evaluation.where));
        seen_missing.erase(file.path);
        out.hashes.push_back(sha256_file(out.files.back()));
      }
      evaluations.push_back(std::move(out));
    });
  }
  return evaluations;
}

inline std::optional<calibrate::CalibrationSource> resolve_calibration(
    const Experiment& experiment, const std::vector<std::filesystem::path>& bases,
    Problems& problems) {
  if (experiment.calibration_where.empty()) return {};
  calibrate::CalibrationSource out{experiment.calibration, "", ""};
  problems.collect([&] {
    out.file = find_data_file(out.settings.text, bases, experiment.calibration_where).string();
    out.sha256 = sha256_file(out.file);
  });
  return out;
}

// An evaluation must fit into the context that a model was made for.
inline void check_contexts(const ExperimentGrid& grid, const Experiment& experiment,
                           Problems& problems) {
  for (const GridModel& model : grid.models) {
    for (const GridEvaluation& evaluation : grid.evaluations) {
      const int64_t needed = eval::longest_context(evaluation.settings);
      if (needed <= model.config.max_position_embeddings) continue;
      std::string where = experiment.file.string();
      for (const Evaluation& e : experiment.evaluations) {
        if (e.name == evaluation.name) where = e.where;
      }
      problems.add(usage_error("`" + evaluation.name + "` feeds " + std::to_string(needed) +
                                   " tokens, but the context of " + model.record.name +
                                   " ends at " +
                                   std::to_string(model.config.max_position_embeddings),
                               where, "choose a shorter context for this evaluation"));
    }
  }
}

// Everything that decides the result of a cell. Names and paths do not: a renamed folder with the
// same content is the same model. Whether a method calibrates only its instance knows, so the
// calibration counts for all but the lossless ones.
inline Json cell_identity(const GridModel& model, const GridMethod& method,
                          const GridEvaluation& evaluation, uint64_t seed,
                          const std::string& version, const std::string& device,
                          const std::optional<calibrate::CalibrationSource>& calibration = {}) {
  Json parts = Json::array();
  for (const Record::Part& part : method.record.parts) {
    parts.push_back({{"plugin_sha256", part.plugin_sha256},
                     {"method", part.method},
                     {"options", part.options}});
  }
  const Json settings = settings_to_json(eval::with_files(evaluation.settings, evaluation.hashes));
  Json identity = {{"host", version},
                   {"abi", std::to_string(PTQ_ABI_MAJOR) + "." + std::to_string(PTQ_ABI_MINOR)},
                   {"model", model.record.fingerprint},
                   {"compute", compute_word(model.source.compute)},
                   {"parts", parts},
                   {"evaluation", {{"kind", evaluation.kind}, {"settings", settings}}},
                   {"seed", seed},
                   {"device", device}};
  if (calibration && !method.record.lossless) {
    identity["calibration"] = settings_to_json(calibration->settings);
    identity["calibration"]["text"] = calibration->sha256;
  }
  if (evaluation.noise_floor && method.record.lossless) identity["noise_floor"] = kRoundingNoise;
  return identity;
}

// Fills grid.cells, models outermost, evaluations innermost.
inline void expand_cells(ExperimentGrid& grid, uint64_t seed, const std::string& version,
                         const std::string& device) {
  std::set<std::string> places;
  for (size_t m = 0; m < grid.models.size(); ++m) {
    for (size_t v = 0; v < grid.methods.size(); ++v) {
      for (size_t e = 0; e < grid.evaluations.size(); ++e) {
        const GridModel& model = grid.models[m];
        const GridMethod& method = grid.methods[v];
        const GridEvaluation& evaluation = grid.evaluations[e];
        Cell cell{m, v, e, "", ""};
        cell.id = cell_id(
            cell_identity(model, method, evaluation, seed, version, device, grid.calibration));
        cell.place = grid_detail::place_word(model.record.name) + "__" +
                     grid_detail::place_word(method.record.label) + "__" +
                     grid_detail::place_word(evaluation.name);
        if (!places.insert(cell.place).second) {
          throw usage_error("two cells would share the folder " + cell.place,
                            method.record.label + ", " + evaluation.name,
                            "give the methods or evaluations names that differ in letters or "
                            "digits within the first 60 characters");
        }
        grid.cells.push_back(std::move(cell));
      }
    }
  }
}

// "tiny-qwen2 kivi-2bit passkey"
inline std::string cell_name(const ExperimentGrid& grid, const Cell& cell) {
  return grid.models[cell.model].record.name + " " + grid.methods[cell.method].record.label + " " +
         grid.evaluations[cell.evaluation].name;
}

}  // namespace ptq
