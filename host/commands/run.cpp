// ptq-host EXPERIMENT.toml: everything is checked first, then the missing cells run.
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>

#include <cstdio>
#include <regex>
#include <set>

#include "host/arguments.hpp"
#include "host/commands/commands.hpp"
#include "host/machine.hpp"
#include "host/plan.hpp"
#include "host/plugin_folders.hpp"
#include "host/runner.hpp"
#include "ptq/core/hash.hpp"
#include "ptq/core/safe_text.hpp"
#include "ptq/run/cell_cost.hpp"
#include "ptq/run/shard.hpp"
#include "ptq/run/supervise.hpp"

namespace ptq {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRunHelp =
    R"(Runs an experiment: every model with every method and evaluation that has no result yet.

  ptq-host experiments/trackC.toml
  ptq-host experiments/trackC.toml --set evaluations.passkey.keys=2 --out results/quick

usage: ptq-host [run] EXPERIMENT.toml [options]

  --out DIR        folder of the results; default results/<name of the experiment>
  --set KEY=VALUE  override a key of the file, repeatable; the value is TOML:
                     --set seed=1                          --set limits.cell_seconds=60
                     --set evaluations.passkey.keys=2      (by name or kind)
                     --set methods.kivi-2bit.options.bits=4  (by label or method)
  --only REGEX     only cells whose "model method evaluation" matches
  --shard I/N      the I-th of N parts of the grid, by estimated cost; slurm: of a Slurm array
  --max-seconds S  stop then, as if interrupted (exit code 75: work is left)
  --dry-run        print the cells, the memory they need and what is missing; run nothing
  --fresh          compute finished cells again
  --device NAME    auto (default), cpu, cuda or cuda:N
  --threads N      of each cell; default all cores
  --jobs N         cells at the same time; default 1
  --plugins DIR    a folder with method plugins, repeatable; before $PTQ_PLUGINS, ./plugins and
                   the folders beside the program
  --quiet          only failures and the tables at the end

The same command continues after an interruption: finished cells are kept. Several at once, also
on several hosts that share the folder, divide the cells among them (docs/cluster.md).
Keys of the file: docs/experiments.md. Exit codes: docs/cli.md.
)";

// The cells whose name matches --only.
std::vector<Cell> selected(const ExperimentGrid& grid, const std::string& pattern) {
  if (pattern.empty()) return grid.cells;
  std::vector<Cell> cells;
  try {
    const std::regex regex(pattern);
    for (const Cell& cell : grid.cells) {
      if (std::regex_search(cell_name(grid, cell), regex)) cells.push_back(cell);
    }
  } catch (const std::regex_error& error) {
    throw usage_error(std::string("not a regular expression: ") + error.what(),
                      "--only " + pattern);
  }
  if (cells.empty() && !grid.cells.empty()) {
    throw usage_error("no cell matches", "--only " + pattern,
                      "a cell is called \"" + cell_name(grid, grid.cells.front()) + "\"");
  }
  return cells;
}

// Those of them that belong to a part of the grid. Parts are made of all cells, whatever is done
// already: every process sees the same ones.
std::vector<Cell> part_of(const ExperimentGrid& grid, const std::vector<Cell>& cells,
                          const std::string& text) {
  if (text.empty()) return cells;
  const Shard shard = parse_shard(text);
  std::vector<double> costs;
  for (const Cell& cell : cells) costs.push_back(cell_cost(grid, cell));
  const std::vector<int64_t> parts = divide_cells(costs, shard.count);
  std::vector<Cell> own;
  for (size_t i = 0; i < cells.size(); ++i)
    if (parts[i] == shard.index) own.push_back(cells[i]);
  return own;
}

// What was asked for, beside the results: defaults filled in, overrides applied. experiment.json is
// the last one; experiments/ has the last of each name, for folders with several.
void write_experiment(const Plan& plan, const Store& store) {
  Json evaluations = Json::array(), models = Json::array(), methods = Json::array();
  for (const GridModel& model : plan.grid.models) models.push_back(model.record.name);
  for (const GridMethod& method : plan.grid.methods) methods.push_back(method.record.label);
  for (const GridEvaluation& e : plan.grid.evaluations) {
    evaluations.push_back(
        {{"name", e.name}, {"kind", e.kind}, {"settings", settings_to_json(e.settings)}});
  }
  Json cells = Json::array();
  for (const Cell& cell : plan.grid.cells) cells.push_back(cell.id);
  Json json = {{"name", plan.experiment.name},
               {"track", plan.experiment.track},
               {"seed", plan.experiment.seed},
               {"baseline", plan.experiment.baseline},
               {"noise_floor", plan.experiment.noise_floor},
               {"models", models},
               {"model",
                {{"compute", compute_word(plan.experiment.model.compute)},
                 {"random", plan.experiment.model.random},
                 {"random_seed", plan.experiment.model.random_seed}}},
               {"methods", methods},
               {"evaluations", evaluations},
               {"cells", cells}};
  if (plan.grid.calibration) {
    json["calibration"] = settings_to_json(plan.grid.calibration->settings);
  }
  const std::string text = json_text(json, 2) + "\n";
  write_file_atomic(store.folder() / "experiment.json", text);
  const fs::path all = store.folder() / "experiments";
  std::error_code error;
  fs::create_directories(all, error);
  if (error) throw file_error("cannot create the folder", all, error.value());
  const std::string& name = plan.experiment.name;
  const std::string file = path_word(name) + "__" + sha256_hex(name).substr(0, 16) + ".json";
  write_file_atomic(all / file, text);
}

// The tables, by the report program beside this one; without it, where the results are.
void print_report(const fs::path& folder) {
  const std::string program = (program_folder() / "ptq-report").string();
  std::error_code ignored;
  if (fs::exists(program, ignored)) {
    // A bare word could be one of the report's commands or options.
    const bool bare = folder.string().find('/') == std::string::npos;
    std::string words[] = {program, (bare ? "./" : "") + folder.string()};
    char* argv[] = {words[0].data(), words[1].data(), nullptr};
    pid_t pid = 0;
    int status = 0;
    std::fflush(nullptr);
    if (::posix_spawn(&pid, argv[0], nullptr, nullptr, argv, environ) == 0) {
      while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
      }
      if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
    }
    fmt::print(stderr, "note: ptq-report could not print the tables; try `ptq-report {}`\n",
               folder.string());
  }
  std::fputs(("results: " + one_line(folder.string()) + "\n").c_str(), stdout);
}

}  // namespace

int run_command(const std::vector<std::string>& args) {
  if (wants_help(args, kRunHelp)) return 0;
  namespace po = boost::program_options;
  Options options;
  auto add = options.add_options();
  add("experiment", po::value<std::string>())("out", po::value<std::string>());
  add("set", po::value<std::vector<std::string>>())("only", po::value<std::string>());
  add("dry-run", po::bool_switch())("fresh", po::bool_switch())("quiet", po::bool_switch());
  add("device", po::value<std::string>()->default_value("auto"));
  add("threads", po::value<std::string>())("jobs", po::value<std::string>());
  add("plugins", po::value<std::vector<std::string>>());
  add("shard", po::value<std::string>())("max-seconds", po::value<std::string>());
  const Arguments arguments = parse_arguments(args, options, "experiment");
  if (arguments.count("experiment") == 0) {
    throw usage_error("no experiment file is given", "", "for example experiments/trackC.toml");
  }
  RunSettings settings;
  settings.threads = int(integer_of(arguments, "threads", 0, 1, 4096));
  settings.jobs = int(integer_of(arguments, "jobs", 1, 1, 256));
  settings.fresh = arguments["fresh"].as<bool>();
  settings.quiet = arguments["quiet"].as<bool>();
  settings.max_seconds = double(integer_of(arguments, "max-seconds", 0, 1, int64_t{1} << 40));
  const std::string shard = text_of(arguments, "shard");

  PlanRequest request;
  request.file = text_of(arguments, "experiment");
  request.settings = list_of(arguments, "set");
  request.plugins = list_of(arguments, "plugins");
  request.device = text_of(arguments, "device");
  const Plan plan = make_plan(request);
  std::string out = text_of(arguments, "out");
  if (out.empty()) out = "results/" + plan.experiment.name;
  const Store store(out);
  const std::vector<Cell> cells =
      part_of(plan.grid, selected(plan.grid, text_of(arguments, "only")), shard);
  if (!settings.quiet) {
    for (const std::string& note : plan.plugin_notes)
      fmt::print(stderr, "note: {}\n", one_line(note));
    for (const GridModel& model : plan.grid.models) {
      for (const std::string& warning : model.warnings) {
        fmt::print(stderr, "note: {}: {}\n", one_line(model.record.name), one_line(warning));
      }
    }
  }
  if (arguments["dry-run"].as<bool>()) {
    std::fputs(one_line_each(plan_text(plan, store, cells)).c_str(), stdout);
    std::fflush(stdout);
  }
  plan.missing.throw_if_any();
  if (arguments["dry-run"].as<bool>()) return 0;

  store.prepare();
  write_experiment(plan, store);
  std::set<std::string> wanted;
  for (const Cell& cell : plan.grid.cells) wanted.insert(cell.id);
  if (const int old = store.supersede_failures(plan.experiment.name, wanted); old > 0) {
    fmt::print(stderr,
               "note: {} old failures of cells that the experiment no longer has are now in "
               "{}\n",
               old, (store.folder() / "superseded" / "failed").string());
  }
  install_stop_handlers();
  if (!settings.quiet) {
    fmt::print(stderr, "{}: {} models x {} methods x {} evaluations, {} cells, results in {}\n",
               plan.experiment.name, plan.grid.models.size(), plan.grid.methods.size(),
               plan.grid.evaluations.size(), cells.size(), out);
  }
  const RunSummary summary = run_cells(plan, cells, store, settings);
  if (summary.interrupted) {
    fmt::print(stderr, "stopped: {} of {} cells are saved; the same command continues\n",
               summary.finished + summary.kept, cells.size());
    return int(ExitCode::interrupted);
  }
  if (!settings.quiet) {
    fmt::print(stderr, "{} cells computed, {} kept from before, {} failed\n", summary.finished,
               summary.kept - summary.elsewhere, summary.failed);
    if (summary.elsewhere > 0)
      fmt::print(stderr, "{} cells were computed by other processes meanwhile\n",
                 summary.elsewhere);
  }
  for (const auto& [experiment, count] : summary.kept_of) {
    fmt::print(stderr,
               "note: {} of the kept cells were computed by the experiment `{}` with the same "
               "settings; the tables show them there\n",
               count, experiment);
  }
  if (shard.empty())
    print_report(out);
  else  // the last of the parts would print the whole
    std::fputs(
        ("results: " + one_line(out) + "; all parts together: ptq-report " + one_line(out) + "\n")
            .c_str(),
        stdout);
  return int(summary.failed + summary.invalid > 0 ? ExitCode::cells_failed : ExitCode::ok);
}

}  // namespace ptq
