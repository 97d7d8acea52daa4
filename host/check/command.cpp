// ptq-host check FILE.so: does a plugin keep the rules of plugin.h? One child process per test, so
// that a crash is a result.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "host/check/guarded.hpp"
#include "host/check/test.hpp"
#include "host/commands/commands.hpp"
#include "ptq/core/error.hpp"
#include "ptq/core/safe_text.hpp"
#include "ptq/run/apart.hpp"

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
  --fuzz SECONDS    only random but valid sequences of calls, with the seeds N, N+1, ...
  --time-limit S    seconds that one test may take (default 20)
  --in-process      run without a child process per test, for a debugger: a crash ends the check

exit codes: 0 when nothing is FAIL, CRASH or TIMEOUT, else 3
)";

struct CheckArguments {
  std::string file;
  std::optional<std::regex> only;
  bool help = false, list = false, json = false, in_process = false;
  uint64_t seed = 1;
  double time_limit = 20;
  double fuzz_seconds = 0;
};

CheckArguments parse(const std::vector<std::string>& args) {
  CheckArguments arguments;
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
    else if (word == "--fuzz")
      arguments.fuzz_seconds = number();
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
  for (const auto& group :
       {file_tests(), load_tests(), description_tests(), encode_tests(), thread_tests(),
        memory_tests(), transform_tests(), activation_tests(), prune_tests(), growth_tests(),
        option_tests(), stage_tests(), fuzz_tests()}) {
    tests.insert(tests.end(), group.begin(), group.end());
  }
  return tests;
}

const char* verdict_name(Verdict verdict) {
  constexpr const char* names[] = {"pass", "FAIL", "CRASH", "TIMEOUT", "skip", "warn"};
  return names[static_cast<size_t>(verdict)];
}

bool is_bad(Verdict verdict) {
  return verdict == Verdict::fail || verdict == Verdict::crash || verdict == Verdict::timeout;
}

Result result_of(const Test& test, const Subject& subject) {
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

Result run_here(const Test& test, const Subject& subject) {
  Result result;
  const std::string touched = touched_wrongly([&] { result = result_of(test, subject); });
  return touched.empty() ? result : Result{Verdict::fail, touched};
}

Result run_apart(const Test& test, const Subject& subject, double seconds) {
  ApartSettings settings;
  settings.seconds = seconds;
  const ApartEnd end = Apart::run(settings, [&] {
    const Result result = run_here(test, subject);
    return char(result.verdict) + safe_text(result.sentence);
  });
  if (end.left > 0 && (end.how == ApartEnd::How::exited || end.how == ApartEnd::How::answered)) {
    return {Verdict::fail, fmt::format("it leaves {} process(es) behind", end.left)};
  }
  switch (end.how) {
    case ApartEnd::How::answered:
      return {static_cast<Verdict>(end.answer[0]), end.answer.substr(1)};
    case ApartEnd::How::too_long:
      return {Verdict::timeout, fmt::format("not done after {} s", seconds)};
    case ApartEnd::How::signalled:
      return {Verdict::crash, fmt::format("signal {} ({})", end.code, strsignal(end.code))};
    case ApartEnd::How::exited:
      return {Verdict::crash, fmt::format("it ended the process with exit code {}; only the host "
                                          "may do that",
                                          end.code)};
    default: return {Verdict::crash, "it " + end.reason()};
  }
}

struct Line {
  Test test;
  Result result;
};

void print_line(const Line& line) {
  const std::string& sentence = line.result.sentence;
  std::printf("%-7s  %-24s  %s\n", verdict_name(line.result.verdict), line.test.name,
              sentence.empty() ? line.test.sentence : sentence.c_str());
  std::fflush(stdout);
}

std::vector<Line> run_all(const std::vector<Test>& tests, const Subject& subject,
                          const CheckArguments& arguments) {
  std::vector<Line> lines;
  std::set<std::string> failed;  // and those that needed one of these
  for (const Test& test : tests) {
    if (arguments.only && !std::regex_match(test.name, *arguments.only)) continue;
    Line line{test, {}};
    std::istringstream needs(test.needs);
    std::string needed;
    while (needs >> needed && failed.count(needed) == 0) needed.clear();
    if (!needed.empty()) {
      line.result = {Verdict::skip, "needs " + needed};
    } else if (arguments.in_process) {
      line.result = run_here(test, subject);
    } else {
      line.result = run_apart(test, subject, arguments.time_limit);
    }
    if (!needed.empty() || is_bad(line.result.verdict)) failed.insert(test.name);
    if (!arguments.json) print_line(line);
    lines.push_back(std::move(line));
  }
  return lines;
}

// The sequence of one seed after the other until the time is over or one goes wrong, of which
// `subject` then has the seed.
Line run_fuzz(const std::vector<Test>& tests, Subject& subject, const CheckArguments& arguments) {
  Line line{*std::find_if(tests.begin(), tests.end(),
                          [](const Test& test) { return std::string(test.name) == kFuzzTest; }),
            {}};
  const auto begin = std::chrono::steady_clock::now();
  const uint64_t first = subject.seed;
  const std::chrono::duration<double> whole(arguments.fuzz_seconds);
  for (;; ++subject.seed) {
    line.result = arguments.in_process ? run_here(line.test, subject)
                                       : run_apart(line.test, subject, arguments.time_limit);
    if (line.result.verdict != Verdict::pass) break;
    if (std::chrono::steady_clock::now() - begin < whole) continue;
    line.result.sentence = fmt::format("{} sequence(s) of calls, seeds {} to {}",
                                       subject.seed - first + 1, first, subject.seed);
    break;
  }
  if (!arguments.json) print_line(line);
  return line;
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
  const CheckArguments arguments = parse(args);
  const std::vector<Test> tests = all_tests();
  if (arguments.help) return std::fputs(kHelp, stdout), 0;
  if (arguments.list) return print_list(tests), 0;
  if (!std::filesystem::is_regular_file(arguments.file)) {
    throw environment_error(std::filesystem::exists(arguments.file)
                                ? "this is no plugin but a folder, a pipe or a device"
                                : "there is no such plugin file",
                            arguments.file);
  }
  Subject subject{std::filesystem::absolute(arguments.file).string(), arguments.seed};
  std::vector<Line> lines;
  if (arguments.fuzz_seconds > 0)
    lines.push_back(run_fuzz(tests, subject, arguments));
  else
    lines = run_all(tests, subject, arguments);
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
