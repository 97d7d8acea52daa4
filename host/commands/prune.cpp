// ptq-host prune: a model with heads, channels or layers taken away, as a folder.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "host/bytes_text.hpp"
#include "host/commands/commands.hpp"
#include "host/commands/companions.hpp"
#include "host/commands/one_sequence.hpp"
#include "ptq/core/atomic_file.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/model/anatomy.hpp"
#include "ptq/model/load_config.hpp"
#include "ptq/model/weight_files.hpp"
#include "ptq/run/locate.hpp"

namespace ptq {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPruneHelp =
    R"(Removes key/value heads with their query heads, MLP channels or whole layers of a model.

  ptq-host prune --model models/tiny-llama --method taylor --set ratio=0.2 \
      --calibration datasets/embedded/calib.txt --out tiny-llama-80

usage: ptq-host prune --model DIR --method NAME [--set KEY=VALUE] --out DIR [options]

  --out DIR        a folder that does not exist or is empty
  --model DIR      a Hugging Face folder with 16- or 32-bit weights
  --method NAME    one that prunes: taylor, blockwise, layerwise, magnitude, wanda, flap, shortgpt
  --set KEY=VALUE  an option of the method, repeatable: ratio, seq_len, num_samples, ...
  --calibration FILE  the text of a method that measures on one
  --json           what was removed, as JSON
  --seed N, --threads N, --plugins DIR: as in ptq-host run

The folder's config.json has a key `layer_sizes`, since its layers differ: this program reads it,
other programs refuse such weights by their shapes. The weights that stay keep their bytes.
)";

// Errors: an output that is there already, a GGUF file, which has no tokenizer files to copy.
void check_folders(const Arguments& arguments) {
  for (const char* needed : {"out", "method"})
    if (arguments.count(needed) == 0)
      throw usage_error(std::string("--") + needed + " is missing", "", "--help shows examples");
  const fs::path model =
      find_model(text_of(arguments, "model"), {working_folder()}, "--model").folder;
  if (is_gguf(model))
    throw usage_error("a GGUF file cannot be written as a Hugging Face folder", model.string(),
                      "name the folder of the original model; in an experiment it can be pruned");
  const fs::path out = text_of(arguments, "out");
  std::error_code ignored;
  if (fs::exists(out, ignored) && !fs::is_empty(out, ignored))
    throw usage_error("the folder is not empty", out.string(), "name one that does not exist");
}

std::string write_pruned_model(const Arguments& arguments) {
  const OneSequence one = open_one_sequence(arguments);
  const PrunedModel* pruned = one.subject->pruned();
  if (pruned == nullptr)
    throw usage_error("the method does not prune",
                      "--method " + list_of(arguments, "method").front(),
                      "`ptq-host methods` lists those that can: prune");
  const fs::path out = text_of(arguments, "out");
  const fs::path model =
      find_model(text_of(arguments, "model"), {working_folder()}, "--model").folder;
  make_folders(out);
  copy_companions(model, out);
  fs::copy_file(pruned->folder() / kSingleFile, out / kSingleFile);
  // Last: a folder without it is no model.
  fs::copy_file(pruned->folder() / "config.json", out / "config.json");
  const ModelConfig config = load_config(out);
  WeightFiles(out).check_tensors(config);
  print_warnings(*one.subject);
  const Json& json = pruned->json();
  if (arguments["json"].as<bool>()) return json_text(json, 2) + "\n";
  const auto gone = [&](const char* what) {
    return std::count_if(json["layers"].begin(), json["layers"].end(),
                         [&](const Json& layer) { return layer[what] == 0; });
  };
  return fmt::format(
      "{} of {} parameters left ({:.2f} % removed), {} of {} layers without attention, {} without "
      "MLP; {}: {}\n",
      json["parameters_after"].get<int64_t>(), json["parameters_before"].get<int64_t>(),
      100 * json["removed"].get<double>(), gone("key_value_heads"), json["layers"].size(),
      gone("channels"), out.string(), bytes_text(json["bytes"].get<uint64_t>()));
}

}  // namespace

int prune_command(const std::vector<std::string>& args) {
  if (wants_help(args, kPruneHelp)) return 0;
  std::vector<std::string> on_cpu = args;
  if (std::find(args.begin(), args.end(), "--device") == args.end())
    on_cpu.insert(on_cpu.end(), {"--device", "cpu"});
  const Arguments arguments =
      parse_one_sequence(on_cpu, {.with_value = {"out"}, .flags = {"json"}, .needs_tokens = false});
  check_folders(arguments);
  fmt::print("{}", compute_apart(arguments, "pruned model",
                                 [&] { return write_pruned_model(arguments); }));
  return 0;
}

}  // namespace ptq
