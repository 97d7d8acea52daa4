// ptq-host import --check: a packed checkpoint against the model that it was made of.
#include <fmt/format.h>

#include <string>
#include <vector>

#include "host/arguments.hpp"
#include "host/commands/commands.hpp"
#include "ptq/core/error.hpp"
#include "ptq/model/checkpoint_check.hpp"
#include "ptq/run/locate.hpp"

namespace ptq {
namespace {

constexpr const char* kImportHelp =
    R"(Holds a checkpoint that another program quantized against the 16-bit model that it was made of.

  ptq-host import --check models/Llama-3.1-8B models/Llama-3.1-8B-GPTQ

usage: ptq-host import --check BASE_DIR CHECKPOINT_DIR [--all]

  --check  for every packed layer: its distance to the base as the label says, and whether another
           way to read it (zero points less one, another order of the numbers in a word) lies nearer;
           groups with one value only; for every other tensor: whether it is the base's
  --all    print every tensor, not only those with a problem

Exit code 6 where there is a problem. A checkpoint needs no import to run: name its folder.
)";

std::string line(const CheckedTensor& t) {
  std::string text = fmt::format("{:<44} {:>10.2e}  {}\n", t.name, t.error, t.problem);
  if (!t.better.empty()) text += fmt::format("{:<44} {:>10.2e}  read so\n", "", t.better_error);
  return text;
}

}  // namespace

int import_command(const std::vector<std::string>& args) {
  if (wants_help(args, kImportHelp)) return 0;
  namespace po = boost::program_options;
  Options options;
  options.add_options()("check", po::bool_switch())("all", po::bool_switch())(
      "folders", po::value<std::vector<std::string>>());
  const Arguments arguments = parse_arguments(args, options, "folders", 2);
  const std::vector<std::string> folders = list_of(arguments, "folders");
  if (!arguments["check"].as<bool>() || folders.size() != 2)
    throw usage_error("import needs --check and two folders", "",
                      "ptq-host import --check BASE_DIR CHECKPOINT_DIR");
  const auto find = [&](const std::string& reference) {
    return find_model(reference, {working_folder()}, "import").folder;
  };
  const std::vector<CheckedTensor> all = check_checkpoint(find(folders[0]), find(folders[1]));
  size_t packed = 0, plain = 0, problems = 0;
  double largest = 0;
  for (const CheckedTensor& t : all) {
    ++(t.packed ? packed : plain);
    problems += !t.problem.empty();
    if (t.packed) largest = std::max(largest, t.error);
    if (!t.problem.empty() || arguments["all"].as<bool>()) fmt::print("{}", line(t));
  }
  fmt::print(
      "{} packed layers, largest distance to the base {:.3f}; {} other tensors; {} problems\n",
      packed, largest, plain, problems);
  return int(problems > 0 ? ExitCode::disagree : ExitCode::ok);
}

}  // namespace ptq
