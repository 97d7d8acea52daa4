// Why a cell has no result.
#include <catch2/catch.hpp>
#include <csignal>
#include <string>

#include "host/cell_failure.hpp"
#include "ptq/run/cell_error.hpp"
#include "test/support/temporary_file.hpp"

using namespace ptq;
using How = ChildEnd::How;

namespace {

Record::Failure failure(How how, int code, const std::string& error_json = "") {
  const test::TemporaryFolder folder;
  if (!error_json.empty()) folder.write("error.json", error_json);
  ChildEnd end;
  end.how = how;
  end.code = code;
  return failure_of(end, folder.path() / "error.json", "ppl 12", "kivi", Limits{});
}

}  // namespace

TEST_CASE("a cell's failure is what its process says, or how it ended", "[runner]") {
  const std::string said = cell_error_text(ExitCode::resources, "out of memory");
  CHECK(failure(How::exited, 5, said).message == "out of memory");
  CHECK(failure(How::exited, 5, said).code == 5);
  CHECK(failure(How::signalled, SIGSEGV, said).message ==
        "the process running `kivi` was killed by SIGSEGV (last seen: ppl 12)");
  CHECK_THAT(failure(How::signalled, SIGBUS).message,
             Catch::Contains("a file that it had mapped became shorter"));
  CHECK_THAT(failure(How::too_long, 9).message, Catch::Contains("limits.cell_seconds"));
}

TEST_CASE("an error.json that a method wrote is read with care", "[runner]") {
  for (const char* text :
       {"", "[]", "{}", "{\"code\": 5}", "{\"message\": 7}", "{\"message\": \"\"}"}) {
    INFO(text);
    CHECK(failure(How::exited, 3, text).message ==
          "the process running `kivi` ended with exit code 3 and without a result (last seen: ppl "
          "12)");
  }
  for (const char* code : {"\"five\"", "-1", "1e300", "99999999999999999999", "256", "null"}) {
    const Record::Failure found = failure(
        How::exited, 3, std::string("{\"message\": \"\\u001b[2Jno\", \"code\": ") + code + "}");
    CHECK(found.code == 3);
    CHECK(found.message == "[2Jno");
  }
}

TEST_CASE("only what is of one machine is tried again by the next", "[runner]") {
  CHECK(may_succeed_elsewhere(failure(How::signalled, SIGKILL).code));  // no memory, perhaps
  CHECK(may_succeed_elsewhere(int64_t(ExitCode::environment)));
  CHECK_FALSE(may_succeed_elsewhere(failure(How::signalled, SIGSEGV).code));
  CHECK_FALSE(may_succeed_elsewhere(failure(How::hung, 0).code));
}
