// What the tests of `ptq-host check` have in common: their form, their results, loading the plugin.
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "ptq/plugin.h"

namespace ptq::check {

// crash and timeout are seen from outside, by the process that started the test.
enum class Verdict : uint8_t { pass, fail, crash, timeout, skip, warn };

struct Result {
  Verdict verdict = Verdict::pass;
  std::string sentence;  // what was found; may be empty for a pass
};

// Thrown to end a test early. Not derived from std::exception: what a plugin throws is.
struct Stop {
  Result result;
};

template <class... Arguments>
[[noreturn]] void fail(fmt::format_string<Arguments...> text, Arguments&&... arguments) {
  throw Stop{{Verdict::fail, fmt::format(text, std::forward<Arguments>(arguments)...)}};
}
template <class... Arguments>
[[noreturn]] void skip(fmt::format_string<Arguments...> text, Arguments&&... arguments) {
  throw Stop{{Verdict::skip, fmt::format(text, std::forward<Arguments>(arguments)...)}};
}

struct Subject {
  std::string file;  // absolute
  uint64_t seed = 1;
};

struct Test {
  const char* name;      // kebab-case, group first
  const char* sentence;  // what holds when it passes
  const char* needs;     // other tests; skipped when one of them went wrong
  Result (*run)(const Subject& subject);
};

// In the order in which they run.
std::vector<Test> file_tests();         // read from the file, nothing is executed
std::vector<Test> load_tests();         // loading it
std::vector<Test> description_tests();  // what its tables say
std::vector<Test> encode_tests();       // what it computes
std::vector<Test> thread_tests();       // on how many threads
std::vector<Test> memory_tests();       // what it keeps
std::vector<Test> transform_tests();    // what it scales
std::vector<Test> activation_tests();   // how it rounds what enters a layer
std::vector<Test> prune_tests();        // what it removes
std::vector<Test> growth_tests();       // hosts of other versions
std::vector<Test> option_tests();       // whether its options do anything
std::vector<Test> stage_tests();        // whether its stages do anything
std::vector<Test> fuzz_tests();         // a sequence of calls

constexpr const char* kFuzzTest = "fuzz-calls";

// Loads the file (RTLD_NOW, RTLD_LOCAL) and never unloads it. A file that does not load, or whose
// tables cannot be read, stops the test as skipped: other tests say why.
const void* load_library(const Subject& subject);
const ptq_plugin& load_plugin(const Subject& subject);

}  // namespace ptq::check
