// ptq-host check: the plugins of this tree pass, and each plugin that is wrong on purpose is named
// by the right test.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/commands/commands.hpp"
#include "ptq/core/error.hpp"

namespace ptq::test {
namespace {

using ptq::check_command;

struct Report {
  int code = -1;
  nlohmann::json tests;

  // The result of one test with its sentence, e.g. "FAIL: it exports ...".
  std::string of(const std::string& name) const {
    for (const auto& test : tests) {
      if (test["name"] == name) {
        return test["result"].get<std::string>() + ": " + test["sentence"].get<std::string>();
      }
    }
    return "no such test";
  }
  std::vector<std::string> wrong() const {
    std::vector<std::string> names;
    for (const auto& test : tests) {
      const std::string result = test["result"];
      if (result == "FAIL" || result == "CRASH" || result == "TIMEOUT")
        names.push_back(test["name"]);
    }
    return names;
  }
};

// Runs check_command with its standard output going to a file.
Report check(const std::string& file, std::vector<std::string> options = {}) {
  const std::string out =
      (std::filesystem::temp_directory_path() / ("ptq-test-check-" + std::to_string(getpid())))
          .string();
  options.insert(options.begin(), {std::string(PTQ_BINARY_DIR) + "/" + file, "--json"});
  std::fflush(stdout);
  const int before = dup(STDOUT_FILENO);
  const int to_file = open(out.c_str(), O_CREAT | O_TRUNC | O_RDWR, 0600);
  dup2(to_file, STDOUT_FILENO);
  Report report;
  report.code = check_command(options);
  std::fflush(stdout);
  dup2(before, STDOUT_FILENO);
  close(before);
  std::string text(size_t(lseek(to_file, 0, SEEK_END)), '\0');
  REQUIRE(pread(to_file, text.data(), text.size(), 0) == ssize_t(text.size()));
  close(to_file);
  std::filesystem::remove(out);
  report.tests = nlohmann::json::parse(text)["tests"];
  return report;
}

}  // namespace

TEST_CASE("the plugins of this tree keep the rules", "[check]") {
  for (const char* name : {"example_c", "forge", "fp16", "fp8", "ggml_blocks", "kivi", "kvquant",
                           "kvquant_lite", "rtn", "streaming_llm", "study"}) {
    const Report report = check("plugins/" + std::string(name) + ".so");
    INFO(name << ": " << report.tests.dump(1));
    CHECK(report.code == 0);
    CHECK(report.wrong().empty());
  }
}

TEST_CASE("the plain C example passes every test of a cache method", "[check]") {
  const Report report = check("plugins/example_c.so");
  for (const auto& test : report.tests) {
    const std::string name = test["name"];
    const bool weights = name.rfind("weights-", 0) == 0 || name.rfind("prune-", 0) == 0;
    INFO(name);
    CHECK(test["result"] == (weights ? "skip" : "pass"));
  }
}

TEST_CASE("each plugin that is wrong on purpose is named by the right test", "[check]") {
  struct Fault {
    const char *plugin, *test, *result;  // result: how it begins
  };
  const std::vector<Fault> faults = {
      {"bad_magic", "description-magic", "FAIL: the first eight bytes"},
      {"bad_abi", "description-version", "FAIL: it is built for version 99."},
      {"bad_size", "description-sizes", "FAIL: ptq_plugin.struct_size is 24"},
      {"bad_name", "description-names", "FAIL: the method name \"Bad Name\""},
      {"bad_option", "description-options", "FAIL: bad_option.level: the default: 17 is outside"},
      {"bad_print", "load-silent", "FAIL: loading it prints: hello from bad_print"},
      {"bad_policy", "kv-policy", "FAIL: bad_policy (keys): block of keys is 0"},
      {"bad_calibration", "kv-calibration",
       "FAIL: bad_calibration (keys): calibrate returned status 1 without"},
      {"bad_abort", "kv-encodes", "CRASH: signal 6"},
      {"bad_exit", "kv-encodes", "CRASH: it ended the process with exit code 0"},
      {"bad_throw", "kv-encodes", "FAIL: an exception left the plugin: thrown across"},
      {"bad_fail", "kv-encodes", "FAIL: bad_fail (keys): encode failed: the moon"},
      {"bad_silent", "kv-encodes", "FAIL: bad_silent (keys): encode returned status 1 without"},
      {"bad_unfilled", "kv-encodes", "FAIL: bad_unfilled (keys): encode returned ok and left"},
      {"bad_nan", "kv-encodes",
       "FAIL: bad_nan (keys): encode failed: ptq.encode/1: scale 0 is nan"},
      {"bad_bits", "kv-encodes",
       "FAIL: bad_bits (keys): encode failed: ptq.encode/1: code 0 is 16"},
      {"bad_passthrough", "kv-lossy", "FAIL: bad_passthrough (keys): pass-through"},
  };
  for (const Fault& fault : faults) {
    const Report report = check("test-plugins/" + std::string(fault.plugin) + ".so");
    const std::string found = report.of(fault.test);
    INFO(fault.plugin << ": " << found);
    CHECK(found.rfind(fault.result, 0) == 0);
    CHECK(report.code == 3);
    CHECK(report.wrong() == std::vector<std::string>{fault.test});  // and by no other
  }
}

TEST_CASE("an option that does nothing is named", "[check]") {
  const std::string found = check("test-plugins/bad_print.so").of("kv-option-effect");
  INFO(found);
  CHECK(found.rfind("warn: no other value changes a byte", 0) == 0);
  CHECK(found.find("bad_print.level") != found.npos);
}

TEST_CASE("a method that is calibrated passes every test of a cache method", "[check]") {
  const Report report = check("test-plugins/calibrated.so");
  for (const auto& test : report.tests) {
    const std::string name = test["name"];
    const bool weights = name.rfind("weights-", 0) == 0 || name.rfind("prune-", 0) == 0;
    INFO(name << ": " << test["sentence"]);
    CHECK(test["result"] == (weights ? "skip" : "pass"));
  }
}

TEST_CASE("a crash and an endless loop are results", "[check]") {
  const Report crash = check("test-plugins/bad_crash.so", {"--only", "kv-.*"});
  CHECK(crash.code == 3);
  // A sanitizer turns the signal into an exit of the child.
  CHECK(crash.of("kv-encodes").rfind("CRASH: ", 0) == 0);
  CHECK(crash.of("kv-blocks") == "skip: needs kv-encodes");
  const Report hang =
      check("test-plugins/bad_hang.so", {"--only", "kv-encodes", "--time-limit", "0.3"});
  CHECK(hang.code == 3);
  CHECK(hang.of("kv-encodes") == "TIMEOUT: not done after 0.3 s");
}

TEST_CASE("a method that is not reproducible is found", "[check]") {
  const Report report = check("test-plugins/bad_random.so");
  CHECK(report.code == 3);
  CHECK(report.of("kv-same-twice").rfind("FAIL: bad_random (keys): ", 0) == 0);
}

TEST_CASE("wrong use of the check", "[check]") {
  CHECK_THROWS_AS(check_command({}), ptq::Error);
  CHECK_THROWS_AS(check_command({"no/such/file.so"}), ptq::Error);
  CHECK_THROWS_AS(check_command({"a.so", "--only", "("}), ptq::Error);
  CHECK_THROWS_AS(check_command({"a.so", "--seed", "x"}), ptq::Error);
  CHECK_THROWS_AS(check_command({"a.so", "--frobnicate"}), ptq::Error);
}

}  // namespace ptq::test
