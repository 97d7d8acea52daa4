// ptq-host slurm EXPERIMENT.toml: one batch script that runs the grid as a Slurm array.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "host/arguments.hpp"
#include "host/commands/commands.hpp"
#include "host/plan.hpp"
#include "host/plugin_folders.hpp"
#include "ptq/core/atomic_file.hpp"
#include "ptq/core/safe_text.hpp"
#include "ptq/run/cell_cost.hpp"
#include "ptq/run/engine_loader.hpp"
#include "ptq/run/locate.hpp"

namespace ptq {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSlurmHelp =
    R"(Prints a batch script that runs an experiment as one Slurm array on hosts that share its folder.

  ptq-host slurm experiments/trackC-7b.toml --task-minutes 60 > grid.sh
  sbatch grid.sh                       again after it: what is left; ptq-report results/trackC-7b

usage: ptq-host slurm EXPERIMENT.toml [options]

  --out DIR         folder of the results; default results/<name of the experiment>
  --set KEY=VALUE   as of run, repeatable
  --plugins DIR     as of run, repeatable
  --device NAME     as of run; with cuda a task has one GPU
  --tasks N         tasks of the array; without it as many as last --task-minutes each
  --task-minutes M  what a task is to last, and (four times that) its time limit; default 30
  --gflops R        multiply-adds per second that a task makes, in billions; default 100, cuda 20000
  --cpus N          cores of a task; default 8
  --memory GIB      memory of a task; default 32
  --sbatch LINE     a line of #SBATCH as it is, repeatable: --sbatch "--partition=gpu"

A task computes several cells, so that short ones do not strain the controller. It asks for a signal
before its time is over, keeps what is done and is queued again. Nothing calls srun or squeue.
)";

// A word of a shell command.
std::string shell_word(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

// The multiply-adds of all cells.
double grid_cost(const ExperimentGrid& grid) {
  double sum = 0;
  for (const Cell& cell : grid.cells) sum += cell_cost(grid, cell);
  return sum;
}

std::string script(const Plan& plan, const Arguments& arguments, const std::string& command,
                   const std::string& log_folder) {
  const bool cuda = text_of(arguments, "device").starts_with("cuda");
  const int64_t minutes = integer_of(arguments, "task-minutes", 30, 1, 100000);
  const int64_t gflops = integer_of(arguments, "gflops", cuda ? 20000 : 100, 1, 1 << 30);
  const double all = grid_cost(plan.grid) / (1e9 * double(gflops)) / 60;
  const int64_t cells = int64_t(plan.grid.cells.size());
  int64_t tasks = integer_of(arguments, "tasks", 0, 1, 1000000);
  if (tasks == 0) tasks = std::max<int64_t>(1, int64_t(std::ceil(all / double(minutes))));
  tasks = std::min(tasks, std::max<int64_t>(cells, 1));
  const int64_t limit = 4 * minutes, warning = std::min<int64_t>(120, 15 * limit);
  std::string text = fmt::format(
      "#!/usr/bin/env bash\n"
      "# {} cells of {}, about {:.0f} minutes of work at {} billion multiply-adds a second.\n"
      "#SBATCH --job-name=ptq-{}\n#SBATCH --array=1-{}\n#SBATCH --ntasks=1\n"
      "#SBATCH --cpus-per-task={}\n#SBATCH --mem={}G\n#SBATCH --time={}\n"
      "#SBATCH --signal=B:USR1@{}\n#SBATCH --requeue\n#SBATCH --open-mode=append\n"
      "#SBATCH --output=\"{}/%A_%a.log\"\n",
      cells, one_line(plan.experiment.name), std::max(1.0, all), gflops,
      path_word(plan.experiment.name), tasks, integer_of(arguments, "cpus", 8, 1, 4096),
      integer_of(arguments, "memory", 32, 1, 1 << 20), limit, warning, log_folder);
  if (cuda) text += "#SBATCH --gpus=1\n";
  for (const std::string& line : list_of(arguments, "sbatch"))
    text += "#SBATCH " + one_line(line) + "\n";
  text += fmt::format(
      "\n# 75: work is left, because time was up. Then the task is queued again; what it has is "
      "kept.\n"
      "cd {} || exit\n"
      "{} --shard slurm --threads \"${{SLURM_CPUS_PER_TASK:-1}}\" --quiet &\n"
      "trap 'kill -USR1 %1 2>/dev/null' USR1 TERM\n"
      "wait %1\ncode=$?\n"
      "while kill -0 %1 2>/dev/null; do wait %1; code=$?; done\n"
      "if [ \"$code\" -eq 75 ]; then\n"
      "  scontrol requeue \"${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}\"\n"
      "fi\nexit \"$code\"\n",
      shell_word(fs::current_path().string()), command);
  return text;
}

}  // namespace

int slurm_command(const std::vector<std::string>& args) {
  if (wants_help(args, kSlurmHelp)) return 0;
  namespace po = boost::program_options;
  Options options;
  auto add = options.add_options();
  add("experiment", po::value<std::string>())("out", po::value<std::string>());
  add("set", po::value<std::vector<std::string>>())("plugins",
                                                    po::value<std::vector<std::string>>());
  add("device", po::value<std::string>()->default_value("cpu"))("tasks", po::value<std::string>());
  add("task-minutes", po::value<std::string>())("gflops", po::value<std::string>());
  add("cpus", po::value<std::string>())("memory", po::value<std::string>());
  add("sbatch", po::value<std::vector<std::string>>());
  const Arguments arguments = parse_arguments(args, options, "experiment");
  if (arguments.count("experiment") == 0)
    throw usage_error("no experiment file is given", "", "ptq-host slurm experiments/trackC.toml");
  PlanRequest request;
  request.file = text_of(arguments, "experiment");
  request.settings = list_of(arguments, "set");
  request.plugins = list_of(arguments, "plugins");
  check_device_name(text_of(arguments, "device"));
  for (const std::string& line : list_of(arguments, "sbatch"))
    if (!line.starts_with("-"))
      throw usage_error("`" + line + "` is no option of sbatch", "--sbatch",
                        "for example --sbatch \"--partition=gpu\"");
  const Plan plan = make_plan(request);
  plan.missing.throw_if_any();
  std::string out = text_of(arguments, "out");
  if (out.empty()) out = "results/" + plan.experiment.name;

  std::string command = shell_word((program_folder() / "ptq-host").string()) + " " +
                        shell_word(absolute_path(request.file).string()) + " --out " +
                        shell_word(out) + " --device " + shell_word(text_of(arguments, "device"));
  for (const std::string& setting : request.settings) command += " --set " + shell_word(setting);
  for (const std::string& folder : request.plugins)
    command += " --plugins " + shell_word(absolute_path(folder).string());
  // Slurm makes no folder for its logs.
  make_folders(out);
  std::fputs(script(plan, arguments, command, absolute_path(out).string()).c_str(), stdout);
  return 0;
}

}  // namespace ptq
