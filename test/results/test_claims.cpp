// Who computes a cell.
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "ptq/results/claims.hpp"
#include "test/support/temporary_file.hpp"

using namespace ptq;
using ptq::test::TemporaryFolder;

namespace fs = std::filesystem;

namespace {

// As if the owner had last been seen `seconds` ago.
void age(const fs::path& file, double seconds) {
  struct stat now {};
  REQUIRE(::stat(file.c_str(), &now) == 0);
  timespec times[2] = {now.st_atim, now.st_mtim};
  times[1].tv_sec -= time_t(seconds);
  REQUIRE(::utimensat(AT_FDCWD, file.c_str(), times, 0) == 0);
}

}  // namespace

TEST_CASE("a cell is one host's until it lets go", "[claims]") {
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "claims" / "cell";
  Claims one(folder.path(), "one"), two(folder.path(), "two");
  CHECK(one.take("cell").empty());
  CHECK(one.take("cell").empty());  // still ours
  const std::string owner = two.take("cell");
  CHECK(owner.find("of one, last seen") != owner.npos);
  CHECK(two.take("other").empty());
  two.release("cell");  // not its own: stays
  CHECK_FALSE(two.take("cell").empty());
  one.release("cell");
  CHECK(two.take("cell").empty());
  CHECK(one.take("cell").find("of two") != std::string::npos);
  { Claims three(folder.path(), "three"); }
  two.release("cell");
  two.release("other");
  CHECK_FALSE(fs::exists(file.parent_path()));  // nothing is left
}

TEST_CASE("a claim that nobody touches is anybody's", "[claims]") {
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "claims" / "cell";
  Claims one(folder.path(), "one"), two(folder.path(), "two"), three(folder.path(), "three");
  REQUIRE(one.take("cell").empty());
  age(file, Claims::kStaleSeconds - 10);
  CHECK_FALSE(two.take("cell").empty());
  age(file, 20);
  CHECK(two.take("cell").empty());
  CHECK_FALSE(three.take("cell").empty());
  one.release("cell");  // it is no longer its own
  CHECK_FALSE(three.take("cell").empty());
  // Not readable, as after a crash in the middle of writing.
  Claims broken(folder.path(), "broken");
  fs::resize_file(file, 0);
  CHECK(broken.take("cell") == "process 0 of ?, last seen 0 s ago");
  age(file, Claims::kStaleSeconds + 1);
  CHECK(broken.take("cell").empty());
}

TEST_CASE("the claim of a process that is gone is free at once", "[claims]") {
  const TemporaryFolder folder;
  const pid_t child = ::fork();
  if (child == 0) {
    Claims* lost = new Claims(folder.path(), "here");
    lost->take("cell");
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  Claims other(folder.path(), "elsewhere"), same(folder.path(), "here");
  CHECK_FALSE(other.take("cell").empty());  // who knows
  CHECK(same.take("cell").empty());
}

TEST_CASE("what processes that are gone have left is swept, what lives stays", "[claims]") {
  const TemporaryFolder folder;
  const fs::path claims = folder.path() / "claims";
  const pid_t child = ::fork();
  if (child == 0) {
    Claims* lost = new Claims(folder.path(), "here");
    lost->take("finished");
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  Claims live(folder.path(), "here"), elsewhere(folder.path(), "elsewhere");
  REQUIRE(live.take("mine").empty());
  REQUIRE(elsewhere.take("theirs").empty());
  const std::string gone = "here-" + std::to_string(child);
  const std::vector<std::string> left = {".now-" + gone, ".stale-" + gone + "-finished",
                                         ".now-other-1"};
  for (const std::string& name : left) folder.write("claims/" + name, "");
  live.sweep();
  CHECK_FALSE(fs::exists(claims / "finished"));
  CHECK_FALSE(fs::exists(claims / (".now-" + gone)));
  CHECK_FALSE(fs::exists(claims / (".stale-" + gone + "-finished")));
  CHECK(fs::exists(claims / ".now-other-1"));  // who knows
  CHECK(fs::exists(claims / "mine"));
  CHECK(fs::exists(claims / "theirs"));
  age(claims / ".now-other-1", Claims::kStaleSeconds + 1);
  live.release("mine");
  elsewhere.release("theirs");
  elsewhere.sweep();
  CHECK_FALSE(fs::exists(claims));
}

TEST_CASE("of many processes one gets a stale claim", "[claims]") {
  const TemporaryFolder folder;
  {
    Claims* lost = new Claims(folder.path(), "gone");
    REQUIRE(lost->take("cell").empty());
    age(folder.path() / "claims" / "cell", Claims::kStaleSeconds + 5);
  }
  constexpr int kProcesses = 8;
  std::vector<pid_t> children;
  for (int i = 0; i < kProcesses; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      Claims* mine = new Claims(folder.path(), "host" + std::to_string(i));
      bool got = false;
      for (int k = 0; k < 20 && !got; ++k) got = mine->take("cell").empty();
      ::_exit(got ? 1 : 0);
    }
    children.push_back(child);
  }
  int winners = 0;
  for (const pid_t child : children) {
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    winners += WEXITSTATUS(status);
  }
  CHECK(winners == 1);
}
