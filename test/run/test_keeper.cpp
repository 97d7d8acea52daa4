// Processes apart: who kills his parent costs himself, and nothing outlives the supervisor.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <string>

#include "ptq/run/apart.hpp"
#include "ptq/run/standard_files.hpp"

namespace ptq::test {
namespace {

bool alive(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("State:", 0) == 0) return line.find_first_of("ZX") == std::string::npos;
  return false;
}

ApartEnd apart(const std::function<std::string()>& work) {
  ApartSettings settings;
  settings.seconds = 10;
  return Apart::run(settings, work);
}

}  // namespace

TEST_CASE("who kills his parent ends himself", "[keeper]") {
  const ApartEnd end = apart([]() -> std::string {
    ::kill(::getppid(), SIGKILL);
    ::pause();
    return "never";
  });
  CHECK(end.how == ApartEnd::How::signalled);
  CHECK(end.code == SIGKILL);
}

TEST_CASE("who leaves before he kills his parent is ended as well", "[keeper]") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const ApartEnd end = apart([&]() -> std::string {
    ::prctl(PR_SET_PDEATHSIG, 0);
    ::setsid();
    const pid_t self = ::getpid();
    if (::write(ends[1], &self, sizeof self) != sizeof self) ::_exit(1);
    ::kill(::getppid(), SIGKILL);
    for (;;) ::pause();
  });
  CHECK(end.how == ApartEnd::How::signalled);
  pid_t left = 0;
  REQUIRE(::read(ends[0], &left, sizeof left) == sizeof left);
  ::close(ends[0]);
  ::close(ends[1]);
  CHECK_FALSE(alive(left));
}

TEST_CASE("the end of a process is told as it was", "[keeper]") {
  CHECK(apart([] { return std::string("well"); }).answer == "well");
  const ApartEnd exited = apart([]() -> std::string { ::_exit(7); });
  CHECK(exited.how == ApartEnd::How::exited);
  CHECK(exited.code == 7);
  const ApartEnd aborted = apart([]() -> std::string {
    ::signal(SIGABRT, SIG_DFL);
    ::abort();
  });
  CHECK(aborted.how == ApartEnd::How::signalled);
  CHECK(aborted.code == SIGABRT);
}

TEST_CASE("nothing outlives a supervisor that is killed", "[keeper]") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t supervisor = ::fork();
  if (supervisor == 0) {
    apart([&]() -> std::string {
      if (::fork() == 0) {  // a grandchild in a session of its own
        ::setsid();
        if (::fork() != 0) ::_exit(0);
        const pid_t self = ::getpid();
        if (::write(ends[1], &self, sizeof self) != sizeof self) ::_exit(1);
      }
      for (;;) ::pause();
    });
    ::_exit(0);
  }
  pid_t grandchild = 0;
  REQUIRE(::read(ends[0], &grandchild, sizeof grandchild) == sizeof grandchild);
  ::close(ends[0]);
  ::close(ends[1]);
  CHECK(alive(grandchild));
  ::kill(supervisor, SIGKILL);
  REQUIRE(::waitpid(supervisor, nullptr, 0) == supervisor);
  for (int i = 0; i < 500 && alive(grandchild); ++i) ::usleep(10000);
  CHECK_FALSE(alive(grandchild));
}

TEST_CASE("closed and replaced standard files are noticed", "[keeper]") {
  const auto after = [](const std::function<void()>& deed) {
    return apart([&] {
             const StandardFiles files;
             deed();
             const bool first = files.lost();
             return std::string(first ? "lost" : "there") + (files.lost() ? ", lost" : "");
           })
        .answer;
  };
  CHECK(after([] {}) == "there");
  CHECK(after([] { ::close(1); }).rfind("lost", 0) == 0);
  CHECK(after([] { ::dup2(::open("/dev/zero", O_RDWR), 2); }).rfind("lost", 0) == 0);
}

}  // namespace ptq::test
