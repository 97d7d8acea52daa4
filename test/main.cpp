// Entry of ptq-tests: runs Catch2 and closes with one line "N passed, N failed" (test cases), which
// test/run_all.sh adds up.
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#include <cstddef>
#include <cstdio>

namespace {

struct Outcome {
  bool ran = false;  // stays false for --list-tests, --help and the like
  std::size_t passed = 0;
  std::size_t failed = 0;
};
Outcome outcome;

struct CountingListener : Catch::TestEventListenerBase {
  using TestEventListenerBase::TestEventListenerBase;
  void testRunEnded(const Catch::TestRunStats& stats) override {
    const Catch::Counts& cases = stats.totals.testCases;
    // failedButOk: marked [!mayfail] or [!shouldfail] in the source, so not a failure of the run.
    outcome = {true, cases.passed + cases.failedButOk, cases.failed};
  }
};
CATCH_REGISTER_LISTENER(CountingListener)

}  // namespace

int main(int argc, char** argv) {
  const int status = Catch::Session().run(argc, argv);
  if (!outcome.ran) return status;
  std::fflush(nullptr);
  std::printf("\n%zu passed, %zu failed\n", outcome.passed, outcome.failed);
  // A filter that matches nothing must not look like success.
  return status == 0 && outcome.passed + outcome.failed == 0 ? 1 : status;
}
