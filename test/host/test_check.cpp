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

// Tests of capabilities and stages that a plain cache method does not have.
bool is_for_others(const std::string& test) {
  for (const char* group :
       {"weights-", "prune-", "transform-", "activations-", "stage-", "growth-later-weights"})
    if (test.rfind(group, 0) == 0) return true;
  return false;
}

}  // namespace

TEST_CASE("the plugins of this tree keep the rules", "[check]") {
  for (const char* name : {"example_c", "forge", "fp16", "fp8", "ggml_blocks", "kivi", "kvquant",
                           "kvquant_lite", "rtn", "streaming_llm", "study", "gptq", "w8a8"}) {
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
    INFO(name);
    CHECK(test["result"] == (is_for_others(name) ? "skip" : "pass"));
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
      {"bad_overrun", "kv-encodes",
       "FAIL: bad_overrun (keys): encode: it reads memory 1 byte(s) past the end of its input"},
      {"bad_write", "kv-encodes", "FAIL: bad_write (keys): encode: it writes to its input"},
      {"bad_scratch", "kv-encodes",
       "FAIL: bad_scratch (keys): encode: it wrote before 32 bytes that alloc gave"},
      {"bad_keeps", "kv-encodes",
       "FAIL: bad_keeps (values): encode: it reads its input after the call"},
      {"bad_keeps_call", "kv-encodes",
       "FAIL: bad_keeps_call (values): encode: it reads the ptq_call after the call"},
      // 80 bytes, or 96 where the heap has a piece that is not worth cutting.
      {"bad_leak", "kv-heap", "FAIL: bad_leak (keys): every call keeps "},
      {"bad_tasks", "kv-threads", "FAIL: bad_tasks (keys): its tasks give other bytes forwards"},
      {"bad_older", "growth-older",
       "FAIL: bad_older: policy: it writes to memory 1 byte(s) past the end of the policy"},
      {"bad_later", "growth-later-kv", "FAIL: bad_later (keys): encode failed: this host has"},
      {"bad_tired", "fuzz-calls", "FAIL: bad_tired: after other calls the same call gives other"},
      {"bad_twice", "create-twice", "CRASH: signal 6"},
      {"bad_matrix_leak", "weights-heap", "FAIL: bad_matrix_leak (weights): every call keeps "},
      {"bad_matrix_tasks", "weights-threads",
       "FAIL: bad_matrix_tasks (weights): its tasks give other bytes"},
      {"bad_matrix_later", "growth-later-weights",
       "FAIL: bad_matrix_later (weights): on a host of a later version it gives other bytes"},
      {"bad_transform", "transform-scales", "FAIL: bad_transform: a factor is -"},
      {"bad_transform_random", "transform-same-twice", "FAIL: bad_transform_random: the same"},
      {"bad_activation", "activations-choose", "FAIL: bad_activation: kind is 99"},
      {"bad_activation_random", "activations-same-twice", "FAIL: bad_activation_random: the same"},
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

TEST_CASE("factors and scales of inputs that nobody measured are found", "[check]") {
  const Report report = check("test-plugins/bad_guess.so");
  CHECK(report.code == 3);
  CHECK(report.wrong() ==
        std::vector<std::string>{"transform-not-measured", "activations-not-measured"});
}

TEST_CASE("a stage that changes no bit is named", "[check]") {
  const struct {
    const char *plugin, *test, *sentence;
  } idle[] = {
      {"bad_sample", "stage-kv-calibration", "another sample of the calibration changes no bit"},
      {"bad_outliers", "stage-kv-outliers", "its outliers change no bit"},
      {"bad_rank", "stage-kv-low-rank", "its factors are of full rank"},
      {"bad_stages", "stage-calibration", "another sample of the calibration changes no bit"},
      {"bad_stages", "stage-order", "its order of columns is the usual one"},
      {"bad_stages", "stage-transform", "its transform scales nothing"},
      {"bad_stages", "stage-activations", "it leaves the activations as they are"},
  };
  for (const auto& stage : idle) {
    const std::string found =
        check("test-plugins/" + std::string(stage.plugin) + ".so").of(stage.test);
    INFO(stage.plugin << ": " << found);
    CHECK(found.rfind("warn: ", 0) == 0);
    CHECK(found.find(stage.sentence) != found.npos);
  }
}

TEST_CASE("a library and a folder that other machines do not have are named", "[check]") {
  const Report report = check("test-plugins/bad_needs.so");
  CHECK(report.wrong().empty());
  CHECK(
      report.of("file-needs").rfind("warn: it runs only where these are installed: libboost_", 0) ==
      0);
  CHECK(report.of("file-run-path").rfind("warn: it looks for libraries in /opt/nowhere", 0) == 0);
}

TEST_CASE("the sequence that goes wrong is named by its seed", "[check]") {
  const Report found = check("test-plugins/bad_tired.so", {"--fuzz", "5", "--seed", "7"});
  CHECK(found.code == 3);
  CHECK(found.wrong() == std::vector<std::string>{"fuzz-calls"});
  const Report spoiled = check("test-plugins/bad_spoiled.so", {"--fuzz", "5"});
  CHECK(spoiled.wrong() == std::vector<std::string>{"fuzz-calls"});
  const Report well = check("plugins/kivi.so", {"--fuzz", "0.2"});
  CHECK(well.code == 0);
  CHECK(well.of("fuzz-calls").find("seeds 1 to ") != std::string::npos);
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
    INFO(name << ": " << test["sentence"]);
    const bool others = is_for_others(name) && name != "stage-kv-calibration";
    CHECK(test["result"] == (others ? "skip" : "pass"));
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
