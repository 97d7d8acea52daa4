// ptq-host: dispatches to its commands; every error ends here as one message and an exit code.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "host/commands/commands.hpp"
#include "host/machine.hpp"
#include "ptq/core/error.hpp"
#include "ptq/core/last_words.hpp"
#include "ptq/core/output_file.hpp"
#include "ptq/core/safe_text.hpp"
#include "ptq/core/suggest.hpp"
#include "ptq/engine/cpu/blas_memory.hpp"
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
  info                 sizes of a model
  tokenize             text to token ids and back
  logits               the logits of a sequence, as a safetensors file
  fidelity             a reference in a file, and the divergence of anything from it
  sensitivity          which layer a method hurts
  trace                every point of a pass, and where two traces part
  quantize             a model quantized here, as a checkpoint that other programs load
  prune                a model with heads, channels or layers taken away
  import --check       a packed checkpoint against the model that it was made of
  slurm EXPERIMENT.toml  a script that runs an experiment as one Slurm array
  reproduce RECORD.json  one result computed again and compared
  doctor               what this build and this machine have

Each command has --help. --version prints the version. The manual is docs/cli.md.
)";

struct Command {
  const char* name;
  int (*run)(const std::vector<std::string>&);
};
constexpr Command kCommands[] = {
    {"run", run_command},           {"run-cell", run_cell_command},
    {"methods", methods_command},   {"check", check_command},
    {"info", info_command},         {"tokenize", tokenize_command},
    {"logits", logits_command},     {"trace", trace_command},
    {"import", import_command},     {"doctor", doctor_command},
    {"fidelity", fidelity_command}, {"sensitivity", sensitivity_command},
    {"quantize", quantize_command}, {"prune", prune_command},
    {"slurm", slurm_command},       {"reproduce", reproduce_command},
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
    const Record::Code code = code_facts();
    std::printf("ptq-host %s%s%s, ABI %u.%u\n", code.version.c_str(), code.git.empty() ? "" : " ",
                code.git.c_str(), PTQ_ABI_MAJOR, PTQ_ABI_MINOR);
    return 0;
  }
  for (const Command& command : kCommands) {
    if (words[0] == command.name) return command.run({words.begin() + 1, words.end()});
  }
  const bool file_or_option = words[0].find_first_of("./-") != std::string::npos;
  if (!file_or_option) unknown_command(words[0]);
  return run_command(words);
}

// Before the libraries begin: the BLAS takes its first buffer when it is loaded, see
// blas_memory.hpp, and starts threads that take one each, waiting for ever where there is none.
// Where addresses are limited the program begins again with the word that there be no such threads;
// a word that is said here only would be forgotten when the C library begins. Nothing but the
// system's functions can be used here.
void prepare_blas(int, char** argv, char** environment) {
  constexpr std::string_view kName = "OPENBLAS_NUM_THREADS=", kOne = "OPENBLAS_NUM_THREADS=1";
  constexpr size_t kMost = 4096;
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return;
  char* words[kMost + 2];
  size_t count = 0;
  bool said = false;
  for (; *environment != nullptr && count < kMost; ++environment) {
    const std::string_view word = *environment;
    said = said || word == kOne;
    if (!word.starts_with(kName)) words[count++] = *environment;
  }
  words[count] = const_cast<char*>(kOne.data());
  words[count + 1] = nullptr;
  if (!said) ::execve("/proc/self/exe", argv, words);  // goes on where it cannot
  if (address_space_has(kBlasBuffer)) return;
  constexpr char kMessage[] =
      "error: the limit of the address space is too small for this program\n"
      "  --> ulimit -v\n"
      "  hint: it takes about 200 MiB without a model; ulimit -v unlimited\n";
  if (::write(2, kMessage, sizeof kMessage - 1) < 0) ::_exit(int(ExitCode::resources));
  ::_exit(int(ExitCode::resources));
}
__attribute__((section(".preinit_array"),
               used)) void (*const before_libraries)(int, char**, char**) = prepare_blas;

}  // namespace

int main(int argc, char** argv) {
  // A closed standard descriptor would be taken by the first file we open. What is printed into a
  // closed one is lost, which has to be told: it can only be read.
  for (int fd = 0; fd <= 2; ++fd) {
    if (::fcntl(fd, F_GETFD) < 0 && ::open("/dev/null", fd == 1 ? O_RDONLY : O_RDWR) != fd)
      return 1;
  }
  say_last_words();
  // In our children the BLAS starts no threads of its own: our pool calls it.
  ::setenv("OPENBLAS_NUM_THREADS", "1", 1);
  ::signal(SIGCHLD, SIG_DFL);  // who started us may ignore it; the ends of children must be told
  try {
    const int code = dispatch({argv + 1, argv + argc});
    end_standard_output();
    return code;
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n", one_line_each(error.what()).c_str());
    return int(error.code());
  } catch (const std::bad_alloc&) {
    std::fputs("error: out of memory\n", stderr);
    return int(ExitCode::resources);
  } catch (const std::system_error& error) {  // of a file, or of a stream that is full
    std::fprintf(stderr, "error: %s\n", one_line_each(error.what()).c_str());
    return int(ExitCode::environment);
  } catch (const std::exception& error) {
    std::fprintf(stderr,
                 "error: %s\n  hint: this is a bug of ptq; please report it with the output of "
                 "`ptq-host doctor`\n",
                 one_line_each(error.what()).c_str());
    return int(ExitCode::internal);
  }
}
