// ptq-host check FILE.so: does a plugin keep the rules of plugin.h? One child process per test, so
// that a crash is a result.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <regex>
#include <string>
#include <utility>
#include <vector>

#include "check_test.hpp"
#include "commands.hpp"
#include "ptq/core/error.hpp"

namespace ptq::check {
namespace {

constexpr const char* kHelp = R"(Does a plugin keep the rules of plugin.h? (docs/abi.md)

  ptq-host check build/plugins/kivi.so
  ptq-host check my.so --only 'kv-.*'

usage: ptq-host check FILE.so [options]

  --list            name the tests and what each one shows
  --only REGEX      run the tests whose whole name matches
  --json            one JSON object instead of text
  --seed N          of the random numbers (default 1)
  --time-limit S    seconds that one test may take (default 20)
  --in-process      run without a child process per test, for a debugger: a crash ends the check

exit codes: 0 when nothing is FAIL, CRASH or TIMEOUT, else 3
)";

struct Arguments {
  std::string file;
  std::optional<std::regex> only;
  bool help = false, list = false, json = false, in_process = false;
  uint64_t seed = 1;
  double time_limit = 20;
};

Arguments parse(const std::vector<std::string>& args) {
  Arguments arguments;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& word = args[i];
    const auto value = [&]() -> const std::string& {
      if (i + 1 == args.size()) throw usage_error("a value is missing", word);
      return args[++i];
    };
    const auto number = [&] {
      const std::string& text = value();
      char* end = nullptr;
      const double parsed = std::strtod(text.c_str(), &end);
      if (text.empty() || *end || !(parsed >= 0)) {
        throw usage_error("`" + text + "` is no number of at least 0", word);
      }
      return parsed;
    };
    if (word == "--help" || word == "-h")
      arguments.help = true;
    else if (word == "--list")
      arguments.list = true;
    else if (word == "--json")
      arguments.json = true;
    else if (word == "--in-process")
      arguments.in_process = true;
    else if (word == "--seed")
      arguments.seed = uint64_t(number());
    else if (word == "--time-limit")
      arguments.time_limit = number();
    else if (word == "--only") {
      try {
        arguments.only.emplace(value());
      } catch (const std::regex_error& error) {
        throw usage_error("`" + args[i] + "` is no regular expression: " + error.what(), word);
      }
    } else if (word.starts_with("-") || !arguments.file.empty()) {
      throw usage_error("`" + word + "` is not understood", "ptq-host check",
                        "ptq-host check --help");
    } else {
      arguments.file = word;
    }
  }
  if (arguments.file.empty() && !arguments.help && !arguments.list) {
    throw usage_error("the plugin file is missing", "ptq-host check", "ptq-host check FILE.so");
  }
  return arguments;
}

std::vector<Test> all_tests() {
  std::vector<Test> tests;
  for (const auto& group : {file_tests(), load_tests(), description_tests(), encode_tests()}) {
    tests.insert(tests.end(), group.begin(), group.end());
  }
  return tests;
}

const char* verdict_name(Verdict verdict) {
  constexpr const char* names[] = {"pass", "FAIL", "CRASH", "TIMEOUT", "skip", "warn"};
  return names[static_cast<size_t>(verdict)];
}

Result run_here(const Test& test, const Subject& subject) {
  try {
    return test.run(subject);
  } catch (const Stop& stop) {
    return stop.result;
  } catch (const std::exception& error) {
    return {Verdict::fail, std::string("an exception left the plugin: ") + error.what()};
  } catch (...) {
    return {Verdict::fail, "an exception left the plugin"};
  }
}

// The child's side: runs the test, sends one byte of verdict and the sentence, and ends without
// the exit handlers of this program.
[[noreturn]] void run_child(const Test& test, const Subject& subject, int pipe_end) {
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  const int nothing = open("/dev/null", O_RDWR);
  dup2(nothing, STDIN_FILENO);
  dup2(nothing, STDOUT_FILENO);  // what a plugin prints must not mix with the report
  dup2(nothing, STDERR_FILENO);
  for (const int signal : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGTERM, SIGPIPE}) {
    ::signal(signal, SIG_DFL);  // handlers of the parent (a test framework, say) would interfere
  }
  const Result result = run_here(test, subject);
  const std::string message = char(result.verdict) + result.sentence;
  const ssize_t sent = write(pipe_end, message.data(), message.size());
  _exit(sent == ssize_t(message.size()) ? 0 : 1);
}

// Reads until the child closes its end. False when the time is over.
bool receive(int pipe_end, double seconds, std::string& message) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  while (true) {
    const std::chrono::duration<double, std::milli> left = end - Clock::now();
    if (left.count() <= 0) return false;
    pollfd wait{pipe_end, POLLIN, 0};
    if (poll(&wait, 1, int(left.count()) + 1) <= 0) continue;
    char buffer[4096];
    const ssize_t length = read(pipe_end, buffer, sizeof buffer);
    if (length < 0 && errno == EINTR) continue;
    if (length <= 0) return true;
    message.append(buffer, size_t(length));
  }
}

Result run_apart(const Test& test, const Subject& subject, double seconds) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw environment_error("no pipe can be made");
  std::fflush(nullptr);  // else the child would own a copy of what is not written yet
  const pid_t child = fork();
  if (child < 0) throw environment_error("no process can be started");
  if (child == 0) {
    close(ends[0]);
    run_child(test, subject, ends[1]);
  }
  close(ends[1]);
  std::string message;
  const bool in_time = receive(ends[0], seconds, message);
  close(ends[0]);
  if (!in_time) kill(child, SIGKILL);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!in_time) return {Verdict::timeout, fmt::format("not done after {} s", seconds)};
  if (WIFSIGNALED(status)) {
    return {Verdict::crash,
            fmt::format("signal {} ({})", WTERMSIG(status), strsignal(WTERMSIG(status)))};
  }
  if (message.empty()) {
    return {Verdict::crash, fmt::format("it ended the process with exit code {}; only the host "
                                        "may do that",
                                        WEXITSTATUS(status))};
  }
  return {static_cast<Verdict>(message[0]), message.substr(1)};
}

struct Line {
  Test test;
  Result result;
};

std::vector<Line> run_all(const std::vector<Test>& tests, const Subject& subject,
                          const Arguments& arguments) {
  std::vector<Line> lines;
  std::map<std::string, Verdict> verdicts;
  for (const Test& test : tests) {
    if (arguments.only && !std::regex_match(test.name, *arguments.only)) continue;
    Line line{test, {}};
    const auto needed = verdicts.find(test.needs);
    if (needed != verdicts.end() && needed->second != Verdict::pass &&
        needed->second != Verdict::warn) {
      line.result = {Verdict::skip, std::string("needs ") + test.needs};
    } else if (arguments.in_process) {
      line.result = run_here(test, subject);
    } else {
      line.result = run_apart(test, subject, arguments.time_limit);
    }
    verdicts[test.name] = line.result.verdict;
    if (!arguments.json) {
      const std::string& sentence = line.result.sentence;
      std::printf("%-7s  %-24s  %s\n", verdict_name(line.result.verdict), test.name,
                  sentence.empty() ? test.sentence : sentence.c_str());
      std::fflush(stdout);
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

bool is_bad(Verdict verdict) {
  return verdict == Verdict::fail || verdict == Verdict::crash || verdict == Verdict::timeout;
}

void print_list(const std::vector<Test>& tests) {
  for (const Test& test : tests) std::printf("%-24s  %s\n", test.name, test.sentence);
}

void print_json(const std::vector<Line>& lines, const Subject& subject, size_t bad) {
  nlohmann::ordered_json out = {{"file", subject.file}, {"seed", subject.seed}, {"ok", bad == 0}};
  out["tests"] = nlohmann::ordered_json::array();
  for (const Line& line : lines) {
    out["tests"].push_back({{"name", line.test.name},
                            {"result", verdict_name(line.result.verdict)},
                            {"sentence", line.result.sentence},
                            {"shows", line.test.sentence}});
  }
  const std::string text =
      out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  std::printf("%s\n", text.c_str());
}

}  // namespace
}  // namespace ptq::check

namespace ptq {

// Returns 0 when nothing is FAIL, CRASH or TIMEOUT, else 3.
int check_command(const std::vector<std::string>& args) {
  using namespace check;
  const Arguments arguments = parse(args);
  const std::vector<Test> tests = all_tests();
  if (arguments.help) return std::fputs(kHelp, stdout), 0;
  if (arguments.list) return print_list(tests), 0;
  if (!std::filesystem::is_regular_file(arguments.file)) {
    throw environment_error("there is no such plugin file", arguments.file);
  }
  const Subject subject{std::filesystem::absolute(arguments.file).string(), arguments.seed};
  const std::vector<Line> lines = run_all(tests, subject, arguments);
  if (lines.empty())
    throw usage_error("no test has a name like this", "--only", "--list names them");
  size_t bad = 0;
  for (const Line& line : lines) bad += is_bad(line.result.verdict);
  if (arguments.json) {
    print_json(lines, subject, bad);
  } else if (bad == 0) {
    std::printf("\n%s keeps the rules.\n", arguments.file.c_str());
  } else {
    std::printf(
        "\n%zu of %zu tests went wrong. To run one again: ptq-host check %s --only NAME "
        "--seed %llu\n",
        bad, lines.size(), arguments.file.c_str(), static_cast<unsigned long long>(subject.seed));
  }
  std::fflush(stdout);
  return bad == 0 ? 0 : static_cast<int>(ExitCode::cells_failed);
}

}  // namespace ptq
