// ptq-host reproduce RECORD.json: the cell of a record computed again, and both results compared.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>

#include "host/arguments.hpp"
#include "host/commands/commands.hpp"
#include "host/plan.hpp"
#include "host/runner.hpp"
#include "ptq/core/atomic_file.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/core/safe_text.hpp"
#include "ptq/core/scratch_folder.hpp"
#include "ptq/results/record_experiment.hpp"
#include "ptq/results/record_json.hpp"
#include "ptq/results/same_result.hpp"
#include "ptq/run/supervise.hpp"

namespace ptq {
namespace {

namespace fs = std::filesystem;

constexpr const char* kReproduceHelp =
    R"(Computes the cell of a record again and says whether the numbers are the same to the last digit.

  ptq-host reproduce results/trackC/tiny-llama__kivi-2bit__passkey__0123456789abcdef/record.json

usage: ptq-host reproduce RECORD.json [options]

  --device NAME   auto, cpu (default), cuda or cuda:N
  --threads N     default all cores
  --plugins DIR   a folder with method plugins, repeatable
  --keep DIR      keep the new result there

Paths in the record (model, texts) are seen from the working folder. Exit code 0: all is the same,
6: something differs; times and the peak of memory are not compared.
)";

Record read_record(const fs::path& file) {
  constexpr uint64_t kLargest = uint64_t{64} << 20;
  return record_from_json(parse_json(read_text_file(file, kLargest), file.string()), file.string());
}

// The experiment of the record's one cell. What is wrong with it is wrong with the record: errors
// name that, and no line, and not the file that was written from it.
Plan plan_of(const PlanRequest& request, const fs::path& record) {
  try {
    Plan plan = make_plan(request);
    plan.missing.throw_if_any();
    return plan;
  } catch (const Error& error) {
    const auto named = [&](std::string text) {
      const std::string scratch = request.file.string();
      for (size_t at = 0; (at = text.find(scratch, at)) != std::string::npos;
           at += record.string().size()) {
        const size_t place = at + scratch.size(),
                     end = std::min(text.find_first_not_of(":0123456789", place), text.size());
        text.replace(at, end - at, record.string());
      }
      return text;
    };
    throw Error(error.code(), named(error.message()), named(error.where()), named(error.hint()));
  }
}

// What of the program and its inputs is not what it was.
void say_changes(const Record& before, const Record& now) {
  const auto differ = [](const std::string& what, const std::string& a, const std::string& b) {
    if (a != b) fmt::print("note: {} was {}, now it is {}\n", what, one_line(a), one_line(b));
  };
  differ("the program", before.code.version + " " + before.code.git,
         now.code.version + " " + now.code.git);
  differ("the model", before.model.fingerprint.substr(0, 16), now.model.fingerprint.substr(0, 16));
  for (size_t i = 0; i < std::min(before.method.parts.size(), now.method.parts.size()); ++i)
    differ("the plugin of " + one_line(before.method.parts[i].method),
           before.method.parts[i].plugin_sha256.substr(0, 16),
           now.method.parts[i].plugin_sha256.substr(0, 16));
  for (const auto& [key, value] : before.evaluation.settings.items())
    if (key.ends_with("_sha256") && value.is_string())
      differ(key, value.get<std::string>().substr(0, 16),
             now.evaluation.settings.value(key, "").substr(0, 16));
  for (const char* key : {"cpu", "device"})
    differ(key, json_text(before.environment.value(key, Json())),
           json_text(now.environment.value(key, Json())));
}

}  // namespace

int reproduce_command(const std::vector<std::string>& args) {
  if (wants_help(args, kReproduceHelp)) return 0;
  namespace po = boost::program_options;
  Options options;
  auto add = options.add_options();
  add("record", po::value<std::string>())("keep", po::value<std::string>());
  add("device", po::value<std::string>()->default_value("cpu"))("threads",
                                                                po::value<std::string>());
  add("plugins", po::value<std::vector<std::string>>());
  const Arguments arguments = parse_arguments(args, options, "record");
  if (arguments.count("record") == 0)
    throw usage_error("no record is given", "", "ptq-host reproduce results/NAME/CELL/record.json");
  fs::path file = text_of(arguments, "record");
  std::error_code ignored;
  if (fs::is_directory(file, ignored)) file /= "record.json";
  const Record before = read_record(file);
  if (before.status == "failed")
    throw usage_error("the record is one of a failure", file.string(),
                      "the experiment itself computes failed cells again");

  const ScratchFolder folder;
  PlanRequest request;
  request.file = folder.path() / "cell.toml";
  request.plugins = list_of(arguments, "plugins");
  request.device = text_of(arguments, "device");
  write_file_atomic(request.file, record_experiment(before));
  const Plan plan = plan_of(request, file);
  const std::string keep = text_of(arguments, "keep");
  if (!keep.empty() &&
      fs::equivalent(keep, fs::absolute(file).parent_path().parent_path(), ignored))
    throw usage_error("the record lies in that folder and would be replaced", "--keep " + keep,
                      "name another folder");
  const Store store(keep.empty() ? folder.path() / "results" : fs::path(keep));
  store.prepare();
  install_stop_handlers();
  RunSettings settings;
  settings.threads = int(integer_of(arguments, "threads", 0, 1, 4096));
  settings.fresh = true;
  const RunSummary summary = run_cells(plan, plan.grid.cells, store, settings);
  if (summary.interrupted) return int(ExitCode::interrupted);
  if (summary.failed > 0) return int(ExitCode::cells_failed);

  const Cell& cell = plan.grid.cells.at(0);
  const Record now = read_record(store.folder() / (cell.place + "__" + cell.id) / "record.json");
  say_changes(before, now);
  const std::vector<std::string> differences = result_differences(before, now);
  for (const std::string& difference : differences)
    fmt::print("differs: {}\n", one_line(difference));
  if (differences.empty()) fmt::print("the same: every number of {}\n", one_line(file.string()));
  return int(differences.empty() ? ExitCode::ok : ExitCode::disagree);
}

}  // namespace ptq
