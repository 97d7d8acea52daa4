// How a program ends that runs out of memory where no exception may leave.
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <exception>
#include <functional>
#include <new>
#include <stdexcept>
#include <string>

#include "ptq/core/last_words.hpp"

namespace ptq {
namespace {

struct End {
  int status = 0;
  std::string words;
};

// A child in which `problem` leaves a function that may not throw.
template <class Problem>
End end_of(const Problem& problem) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(ends[1], 2);
    std::set_terminate([] { ::_exit(99); });
    say_last_words();
    const std::function<void()> raise = [&] { throw problem; };
    [&]() noexcept { raise(); }();
    ::_exit(0);
  }
  ::close(ends[1]);
  End end;
  char text[256];
  for (ssize_t n; (n = ::read(ends[0], text, sizeof text)) > 0;) end.words.append(text, size_t(n));
  ::close(ends[0]);
  REQUIRE(::waitpid(child, &end.status, 0) == child);
  return end;
}

}  // namespace

TEST_CASE("no memory in a destructor is one message and an exit code", "[core]") {
  const End end = end_of(std::bad_alloc());
  CHECK(WIFEXITED(end.status));
  CHECK(WEXITSTATUS(end.status) == int(ExitCode::resources));
  CHECK(end.words == "error: out of memory\n");
}

TEST_CASE("what else ends a program in a destructor ends it as before", "[core]") {
  const End end = end_of(std::logic_error("a bug"));
  CHECK(WEXITSTATUS(end.status) == 99);
  CHECK(end.words.empty());
}

}  // namespace ptq
