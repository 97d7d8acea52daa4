#include "host/plan.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "host/bytes_text.hpp"
#include "host/machine.hpp"
#include "host/plugin_folders.hpp"
#include "host/setting.hpp"
#include "ptq/core/toml.hpp"
#include "ptq/model/anatomy.hpp"
#include "ptq/model/load_config.hpp"
#include "ptq/run/engine_loader.hpp"
#include "ptq/run/preflight.hpp"
#include "ptq/run/trial.hpp"

namespace ptq {
namespace fs = std::filesystem;
namespace {

std::string lower_case(const fs::path& path) {
  std::string text = path.string();
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? char(c + 32) : c;
  return text;
}

// A wrong name of the experiment file is the most frequent mistake of all.
void require_experiment_file(const fs::path& file) {
  std::error_code ignored;
  if (fs::is_regular_file(file, ignored)) return;
  std::vector<std::string> candidates;
  for (const fs::path& folder : {file.parent_path(), fs::path("."), fs::path("experiments")}) {
    for (const auto& entry :
         fs::directory_iterator(folder.empty() ? fs::path(".") : folder, ignored)) {
      if (entry.path().extension() == ".toml") {
        candidates.push_back(entry.path().lexically_normal().string());
      }
    }
  }
  // Folder, ending and capitals are what people leave out.
  std::string best = nearest(file.lexically_normal().string(), candidates);
  for (const std::string& candidate : candidates) {
    if (lower_case(fs::path(candidate).stem()) == lower_case(file.stem())) best = candidate;
  }
  throw usage_error(
      "the experiment file does not exist", absolute_path(file).string(),
      best.empty() ? "`ptq-host --help` shows the commands" : "did you mean " + best + "?");
}

// A file that cannot be read is a mistake of the command.
ConfigNode experiment_tree(const fs::path& file) {
  try {
    return read_toml_file(file);
  } catch (const Error& error) {
    throw usage_error(error.message(), error.where(), error.hint());
  }
}

std::string memory_line(const std::string& model, int64_t parameters, uint64_t kv_bytes,
                        int64_t longest) {
  const std::string at_longest =
      longest > 0 ? fmt::format(", {} at {} tokens", bytes_text(double(kv_bytes) * double(longest)),
                                longest)
                  : "";
  return fmt::format("  {}: {:.1f} M parameters, weights {} in 16 bit, FP16 cache {} per token{}\n",
                     model, double(parameters) / 1e6, bytes_text(2.0 * double(parameters)),
                     bytes_text(double(kv_bytes)), at_longest);
}

// Where the configuration of a model is: its own folder, or for a model that is not here yet
// models/configs, which has those of the common ones.
fs::path config_folder(const ModelReference& reference, const std::vector<fs::path>& bases) {
  try {
    return find_model(reference.text, bases, reference.where).folder;
  } catch (const Error&) {
    const fs::path name = fs::path(reference.text.substr(0, reference.text.find('@'))).filename();
    std::error_code ignored;
    for (const fs::path& base : bases) {
      const fs::path folder = base / "models/configs" / name;
      if (fs::exists(folder / "config.json", ignored)) return folder;
    }
    throw;
  }
}

std::string model_memory(const ModelReference& reference, const Plan& plan, int64_t longest) {
  try {
    const ModelConfig config = load_config(config_folder(reference, plan.bases));
    return memory_line(reference.text, parameter_count(config), kv_bytes_per_token_fp16(config),
                       longest);
  } catch (const Error&) {
    return "  " + reference.text + ": unknown until its config.json is there\n";
  }
}

// What the multiple-choice tasks compute, for each method once and once for the reference.
std::string choices_text(const Plan& plan) {
  std::string text;
  for (const GridModel& model : plan.grid.models) {
    std::optional<Tokenizer> tokenizer;
    for (const GridEvaluation& evaluation : plan.grid.evaluations) {
      const eval::Settings settings = eval::with_files(evaluation.settings, evaluation.files);
      const auto* choices = std::get_if<eval::ChoicesSettings>(&settings);
      if (choices == nullptr || evaluation.files.empty()) continue;
      if (!tokenizer) tokenizer.emplace(load_tokenizer(model.source));
      const eval::ChoicesCost cost = eval::choices_cost(*tokenizer, model.config, *choices);
      text += fmt::format(
          "  {} {}: {} questions, {} tokens; one pass per choice would be {}, {:.1f} times as "
          "many\n",
          model.record.name, evaluation.name, cost.questions, cost.tokens, cost.tokens_single,
          double(cost.tokens_single) / double(cost.tokens));
    }
  }
  return text.empty() ? text : "to compute with each method:\n" + text;
}

}  // namespace

Plan make_plan(const PlanRequest& request) {
  require_experiment_file(request.file);
  Plan plan;
  ConfigNode tree = experiment_tree(request.file);
  Problems problems;
  for (const std::string& setting : request.settings) {
    problems.collect([&] { apply_setting(tree, setting); });
  }
  plan.experiment = read_experiment(tree, request.file, problems);
  plan.device = resolve_device(request.device, code_build());
  check_compute(plan.device, plan.experiment.model.compute, plan.experiment.model.compute_where);
  if (plan.experiment.limits.address_space_gib > 0 && plan.device != "cpu") {
    throw usage_error(
        "a cell on a GPU has no limit of its address space: the driver maps more of it "
        "than there is memory",
        "limits.address_space_gib", "--device cpu, or no such limit");
  }

  const std::vector<fs::path> folders = plugin_folders(request.plugins);
  const PluginSet plugins = PluginSet::scan(folders);
  std::string searched = "\n    plugins were looked for in:";
  for (const fs::path& folder : folders) searched += "\n      " + folder.string();
  if (folders.empty()) searched += " no folder (none of the usual ones exists)";
  for (const SkippedFile& file : plugins.skipped()) {
    plan.plugin_notes.push_back(
        fmt::format("skipped {}: {}", safe_text(file.path.string()), file.reason));
    searched += "\n    " + plan.plugin_notes.back();
  }
  plan.grid.methods = resolve_methods(plan.experiment, plugins.methods(), searched, problems);
  problems.throw_if_any();

  plan.bases = search_bases(request.file);
  plan.grid.models = resolve_models(plan.experiment, plan.bases, plan.missing);
  plan.grid.evaluations = resolve_evaluations(plan.experiment, plan.bases, plan.missing);
  plan.grid.calibration = resolve_calibration(plan.experiment, plan.bases, plan.missing);
  check_contexts(plan.grid, plan.experiment, problems);
  problems.throw_if_any();
  check_inputs(plan.grid, plan.experiment, problems);
  try_methods(plan.grid, plan.experiment, problems);
  problems.throw_if_any();
  if (plan.missing.empty()) {
    expand_cells(plan.grid, plan.experiment.seed, PTQ_VERSION, plan.device);
  }
  return plan;
}

std::string plan_text(const Plan& plan, const Store& store, const std::vector<Cell>& cells) {
  std::string text;
  size_t done = 0;
  if (plan.missing.empty()) {
    for (const Cell& cell : cells) {
      const auto status = store.status(cell.place, cell.id);
      done += status.has_value();
      text += fmt::format("  {:24} {:24} {:24} {}\n", plan.grid.models[cell.model].record.name,
                          plan.grid.methods[cell.method].record.label,
                          plan.grid.evaluations[cell.evaluation].name, status ? "done" : "to do");
    }
    text += fmt::format("{} cells: {} to do, {} done, results in {}\n", cells.size(),
                        cells.size() - done, done, store.folder().string());
  } else {
    size_t count = 0;
    for (const ModelReference& model : plan.experiment.models) {
      for (const GridMethod& method : plan.grid.methods) {
        for (const Evaluation& evaluation : plan.experiment.evaluations) {
          text += fmt::format("  {:24} {:24} {:24} to do\n", model.text, method.record.label,
                              evaluation.name);
          ++count;
        }
      }
    }
    text += fmt::format("{} cells; they cannot run before what is missing is there\n", count);
  }
  int64_t longest = 0;
  for (const Evaluation& evaluation : plan.experiment.evaluations) {
    longest = std::max(longest, eval::longest_context(evaluation.settings));
  }
  text += "memory:\n";
  for (const ModelReference& model : plan.experiment.models) {
    text += model_memory(model, plan, longest);
  }
  text += choices_text(plan);
  for (const GridModel& model : plan.grid.models) {
    if (!model.source.random_seed) continue;
    text += "note: " + model.record.name + " has " +
            random_weights_note(*model.source.random_seed) + "\n";
  }
  for (const GridEvaluation& evaluation : plan.grid.evaluations) {
    if (!plan.grid.calibration || evaluation.hashes.empty()) continue;
    if (evaluation.hashes[0] == plan.grid.calibration->sha256)
      text += "note: methods that learn from a text are shown the one that " + evaluation.name +
              " is measured on\n";
  }
  return text;
}

}  // namespace ptq
