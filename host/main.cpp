// ptq-host: dispatches to its commands; every error ends here as one message and an exit code.
#include <fcntl.h>

#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "commands.hpp"
#include "ptq/core/error.hpp"
#include "ptq/core/suggest.hpp"
#include "ptq/plugin.h"

namespace {

using namespace ptq;

constexpr const char* kHelp =
    R"(Measures post-training quantization methods of language models, as plugins, on one machine.

  ptq-host experiments/trackC.toml            run an experiment and print its tables
  ptq-host methods kivi                       what the method kivi can be set to

usage: ptq-host EXPERIMENT.toml [options]
       ptq-host COMMAND [options]

  run EXPERIMENT.toml  the same as without the word run
  methods [NAME]       installed methods, or the options of one
  check FILE.so        does a plugin keep the rules of the interface?
  info                 sizes of a model folder
  tokenize             text to token ids and back
  logits               the logits of a sequence, as a safetensors file
  doctor               what this build and this machine have

Each command has --help. --version prints the version. The manual is docs/cli.md.
)";

struct Command {
  const char* name;
  int (*run)(const std::vector<std::string>&);
};
constexpr Command kCommands[] = {
    {"run", run_command},       {"run-cell", run_cell_command}, {"methods", methods_command},
    {"check", check_command},   {"info", info_command},         {"tokenize", tokenize_command},
    {"logits", logits_command}, {"doctor", doctor_command},
};

// A word without dot and slash that is no command is a mistyped command, not a file.
[[noreturn]] void unknown_command(const std::string& word) {
  std::vector<std::string> names;
  for (const Command& command : kCommands) {
    if (std::string(command.name) != "run-cell") names.push_back(command.name);
  }
  throw usage_error("there is no command `" + word + "`", "", did_you_mean(word, names));
}

int dispatch(std::vector<std::string> words) {
  if (words.empty()) {
    std::fputs(kHelp, stderr);
    return int(ExitCode::usage);
  }
  if (words[0] == "--help" || words[0] == "-h" || words[0] == "help") {
    if (words.size() == 1) {
      std::fputs(kHelp, stdout);
      return 0;
    }
    words = {words[1], "--help"};  // help COMMAND
  }
  if (words[0] == "--version") {
    std::printf("ptq-host %s%s%s, ABI %u.%u\n", PTQ_VERSION, *PTQ_GIT_HASH != 0 ? " " : "",
                PTQ_GIT_HASH, PTQ_ABI_MAJOR, PTQ_ABI_MINOR);
    return 0;
  }
  for (const Command& command : kCommands) {
    if (words[0] == command.name) return command.run({words.begin() + 1, words.end()});
  }
  const bool file_or_option = words[0].find_first_of("./-") != std::string::npos;
  if (!file_or_option) unknown_command(words[0]);
  return run_command(words);
}

}  // namespace

int main(int argc, char** argv) {
  // A closed standard descriptor would be taken by the first file we open.
  for (int fd = 0; fd <= 2; ++fd) {
    if (::fcntl(fd, F_GETFD) < 0 && ::open("/dev/null", O_RDWR) != fd) return 1;
  }
  try {
    const int code = dispatch({argv + 1, argv + argc});
    if (std::fflush(stdout) != 0) {
      throw environment_error("the standard output cannot be written");
    }
    return code;
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return int(error.code());
  } catch (const std::bad_alloc&) {
    std::fputs("error: out of memory\n", stderr);
    return int(ExitCode::resources);
  } catch (const std::exception& error) {
    std::fprintf(stderr,
                 "error: %s\n  hint: this is a bug of ptq; please report it with the output of "
                 "`ptq-host doctor`\n",
                 error.what());
    return int(ExitCode::internal);
  }
}
