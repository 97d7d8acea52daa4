#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "ptq/core/hash.hpp"
#include "ptq/results/store.hpp"
#include "ptq/run/progress.hpp"
#include "ptq/run/supervise.hpp"
#include "test/support/temporary_file.hpp"

using namespace ptq;
using ptq::test::TemporaryFolder;
using ptq::test::text_of;
namespace fs = std::filesystem;

namespace {

const std::string kId = "0123456789abcdef", kOther = "fedcba9876543210";

void write(const fs::path& path, const std::string& text) { std::ofstream(path) << text; }

// extra: further members, ", \"key\": value".
std::string record(const std::string& id, const std::string& status = "ok",
                   const std::string& extra = "") {
  Record r;
  r.cell = id;
  r.status = status;
  if (status == "failed") r.error.emplace();
  Json json = to_json(r);
  json.update(Json::parse("{" + (extra.empty() ? extra : extra.substr(1)) + "}"));
  return json.dump();
}

fs::path attempt(const Store& store, const std::string& id, const std::string& text) {
  const fs::path folder = store.new_attempt(id);
  write(folder / "record.json", text);
  write(folder / "samples.jsonl", "{}\n");
  return folder;
}

size_t entries(const fs::path& folder) {
  return size_t(std::distance(fs::directory_iterator(folder), {}));
}

// A process id that no longer lives.
pid_t dead_process() {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);
  return child;
}

// Runs a child to its end.
ChildEnd run(Child& child, double stop_after = 1e9) {
  while (!child.end()) {
    std::vector<pollfd> pipes;
    child.add_pipes(pipes);
    wait_for_output(pipes, 20);
    if (child.seconds() > stop_after) child.stop();
    child.service();
  }
  return *child.end();
}

ChildCommand shell(const TemporaryFolder& folder, const std::string& script) {
  return {{"/bin/sh", "-c", script}, folder.path() / "log.txt", 60, 60};
}

}  // namespace

using Catch::Contains;

TEST_CASE("SHA-256 as in FIPS 180-4", "[store]") {
  CHECK(sha256_hex("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256_hex("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  TemporaryFolder folder;
  write(folder.path() / "f", "abcdef");
  CHECK(sha256_file(folder.path() / "f", 3) == sha256_hex("abc"));
  CHECK_THROWS_AS(sha256_file(folder.path() / "none"), Error);
  CHECK_THROWS_AS(sha256_file(folder.path()), Error);
}

TEST_CASE("a file is replaced as a whole", "[store]") {
  TemporaryFolder folder;
  write_file_atomic(folder.path() / "f", "one");
  write_file_atomic(folder.path() / "f", "two");
  CHECK(text_of(folder.path() / "f") == "two");
  CHECK(entries(folder.path()) == 1);
  CHECK_THROWS_AS(write_file_atomic(folder.path() / "none" / "f", "x"), Error);
}

TEST_CASE("a cell is published whole", "[store]") {
  TemporaryFolder folder;
  const Store store(folder.path() / "out");
  store.prepare();
  CHECK_FALSE(store.status("m__k__e", kId));
  const fs::path work = attempt(store, kId, record(kId));
  CHECK_FALSE(store.status("m__k__e", kId));  // not before it is published
  store.publish(work, "m__k__e", kId, false);
  CHECK(store.status("m__k__e", kId) == "ok");
  CHECK_FALSE(fs::exists(work));
  CHECK(fs::exists(store.folder() / ("m__k__e__" + kId) / "samples.jsonl"));
  CHECK(entries(store.folder()) == 1);
}

TEST_CASE("an attempt without a sound record is never published", "[store]") {
  TemporaryFolder folder;
  const Store store(folder.path());
  for (const std::string& bad : {std::string(), std::string("{"), record(kOther),
                                 record(kId, "failed"), std::string("[]")}) {
    CHECK_THROWS_AS(store.publish(attempt(store, kId, bad), "m__k__e", kId, false), Error);
    CHECK_FALSE(store.status("m__k__e", kId));
  }
}

TEST_CASE("a cell counts as finished only where the report could read it, samples included",
          "[store]") {
  TemporaryFolder folder;
  const Store store(folder.path());
  const std::string hashes = ", \"samples_sha256\": \"" + sha256_hex("{}\n") +
                             "\", \"tokens_sha256\": \"" + sha256_hex("t") + "\"";
  const fs::path work = attempt(store, kId, record(kId, "ok", hashes));
  write(work / "tokens.bin", "t");
  store.publish(work, "m__k__e", kId, false);
  const fs::path cell = store.folder() / ("m__k__e__" + kId);
  REQUIRE(store.status("m__k__e", kId) == "ok");
  for (const char* name : {"samples.jsonl", "tokens.bin"}) {
    const std::string whole = text_of(cell / name);
    for (const bool there : {true, false}) {
      INFO(name << (there ? " changed" : " missing"));
      if (there)
        write(cell / name, "x");
      else
        fs::remove(cell / name);
      CHECK_FALSE(store.status("m__k__e", kId));
    }
    write(cell / name, whole);
    CHECK(store.status("m__k__e", kId) == "ok");
  }
  for (const char* other : {", \"schema_version\": 99", ", \"samples_sha256\": null",
                            ", \"metrics\": []", ", \"warnings\": \"x\""}) {
    INFO(other);
    write(cell / "record.json", record(kId, "ok", hashes + other));
    CHECK_FALSE(store.status("m__k__e", kId));
  }
}

TEST_CASE("a second result of a cell with other numbers is kept and named", "[store]") {
  TemporaryFolder folder;
  const Store store(folder.path());
  const auto publish = [&](const std::string& nll, const std::string& seconds) {
    const std::string metrics =
        ", \"metrics\": {\"nll\": " + nll + ", \"seconds\": " + seconds + "}";
    return store.publish(attempt(store, kId, record(kId, "ok", metrics)), "p", kId, false);
  };
  CHECK(publish("1.5", "3").empty());
  CHECK(publish("1.5", "4").empty());
  CHECK(entries(store.folder()) == 1);
  const auto differences = publish("1.25", "3");
  REQUIRE(differences.size() == 1);
  CHECK(differences[0] == "nll: 1.5 and 1.25");
  CHECK(entries(store.folder()) == 2);
  CHECK_THAT(text_of(store.folder() / ("p__" + kId) / "record.json"), Contains("1.5"));
  const std::string other = "p__" + kId + ".other-" + Store::host() + "-";
  CHECK_THAT(text_of(store.folder() / (other + std::to_string(::getpid())) / "record.json"),
             Contains("1.25"));
  CHECK(store.prepare() == 0);
}

TEST_CASE("of two results of one cell the first stays, unless it is to be replaced", "[store]") {
  TemporaryFolder folder;
  const Store store(folder.path());
  const auto publish = [&](const std::string& mark, bool replace) {
    store.publish(attempt(store, kId, record(kId, "ok", ", \"mark\": " + mark)), "p", kId, replace);
    return text_of(store.folder() / ("p__" + kId) / "record.json");
  };
  CHECK_THAT(publish("1", false), Contains("1}"));
  CHECK_THAT(publish("2", false), Contains("\"mark\":1}"));
  CHECK_THAT(publish("3", true), Contains("\"mark\":3}"));
  write(store.folder() / ("p__" + kId) / "record.json", "{ damaged");
  CHECK_FALSE(store.status("p", kId));
  CHECK_THAT(publish("4", false), Contains("\"mark\":4}"));
  CHECK(entries(store.folder()) == 1);
}

TEST_CASE("results of other settings step aside and come back", "[store]") {
  TemporaryFolder folder;
  const Store store(folder.path());
  store.publish(attempt(store, kId, record(kId)), "p", kId, false);
  store.publish(attempt(store, kOther, record(kOther)), "p", kOther, false);
  CHECK_FALSE(fs::exists(store.folder() / ("p__" + kId)));
  CHECK(store.status("p", kId) == "ok");  // still known
  store.restore("p", kId);
  CHECK(fs::exists(store.folder() / ("p__" + kId)));
  CHECK_FALSE(fs::exists(store.folder() / ("p__" + kOther)));
}

TEST_CASE("experiments in one folder leave each other's results alone", "[store]") {
  TemporaryFolder folder;
  const Store store(folder.path());
  const auto of = [](const std::string& name) { return ", \"experiment\": \"" + name + "\""; };
  store.publish(attempt(store, kId, record(kId, "ok", of("one"))), "p", kId, false);
  store.publish(attempt(store, kOther, record(kOther, "ok", of("two"))), "p", kOther, false);
  CHECK(fs::exists(folder.path() / ("p__" + kId)));
  CHECK(fs::exists(folder.path() / ("p__" + kOther)));
  CHECK(store.status("p", kId)->experiment == "one");
  // Of one experiment the older settings step aside as ever.
  const std::string third = "00000000000000aa";
  store.publish(attempt(store, third, record(third, "ok", of("two"))), "p", third, false);
  CHECK(fs::exists(folder.path() / ("p__" + kId)));
  CHECK_FALSE(fs::exists(folder.path() / ("p__" + kOther)));

  store.record_failure(kId, record(kId, "failed", of("one")));
  store.record_failure(kOther, record(kOther, "failed", of("two")));
  store.record_failure(third, record(third, "failed", of("two")));
  CHECK(store.supersede_failures("two", {third}) == 1);
  CHECK(fs::exists(store.failure_file(kId)));
  CHECK(fs::exists(store.failure_file(third)));
  CHECK_FALSE(fs::exists(store.failure_file(kOther)));
  CHECK(fs::exists(folder.path() / "superseded/failed" / (kOther + ".json")));
}

TEST_CASE("interrupted calls are repeated, others are not", "[store]") {
  int calls = 0;
  CHECK(uninterrupted([&] { return ++calls < 4 ? (errno = EINTR, -1) : 7; }) == 7);
  CHECK(calls == 4);
  CHECK(uninterrupted([&] { return ++calls, errno = EIO, -1; }) == -1);
  CHECK(calls == 5);
  CHECK(uninterrupted([] { return errno = EINTR, -1; }) == -1);  // not for ever
  for (const int number : {EINVAL, EOPNOTSUPP, ENOSYS}) CHECK(sync_is_unsupported(number));
  for (const int number : {EIO, ENOSPC, EDQUOT}) CHECK_FALSE(sync_is_unsupported(number));
}

TEST_CASE("what dead processes left is swept, what lives stays", "[store]") {
  TemporaryFolder folder;
  const Store store(folder.path());
  const std::string own = store.new_attempt(kId).filename().string();
  const std::string tail = own.substr(own.find('-', 5));
  fs::create_directories(folder.path() / (".tmp-" + std::to_string(dead_process()) + tail));
  fs::create_directories(folder.path() / (".tmp-1" + tail));  // process 1 lives
  fs::create_directories(folder.path() / ".tmp-999999-otherhost-x");
  write(folder.path() / ".tmp-x", "not ours");
  CHECK(store.prepare() == 1);
  CHECK(fs::exists(folder.path() / own));
  CHECK(entries(folder.path()) == 4);
  // Files whose writer was killed: the old one goes, one that is being written stays.
  write(folder.path() / ".tmp-1-0-experiment.json", "half");
  write(folder.path() / ".tmp-1-1-experiment.json", "half");
  fs::last_write_time(folder.path() / ".tmp-1-0-experiment.json",
                      fs::file_time_type::clock::now() - std::chrono::minutes(2));
  CHECK(store.prepare() == 1);
  CHECK_FALSE(fs::exists(folder.path() / ".tmp-1-0-experiment.json"));
  CHECK(entries(folder.path()) == 5);
}

TEST_CASE("failures are kept apart and forgotten after success", "[store]") {
  TemporaryFolder folder;
  const Store store(folder.path());
  store.record_failure(kId, record(kId, "failed"));
  CHECK_FALSE(store.status("p", kId));
  write(store.failure_log(kId), "what it printed");
  CHECK(fs::exists(store.failure_file(kId)));
  store.publish(attempt(store, kId, record(kId)), "p", kId, false);
  CHECK_FALSE(fs::exists(store.failure_file(kId)));
  CHECK_FALSE(fs::exists(store.failure_log(kId)));
}

TEST_CASE("a folder that cannot be written is found before the work", "[store]") {
  TemporaryFolder folder;
  write(folder.path() / "file", "x");
  const auto code = [](const fs::path& path) {
    try {
      Store(path).prepare();
    } catch (const Error& error) {
      return int(error.code());
    }
    return 0;
  };
  CHECK(code(folder.path() / "file") == 4);
  CHECK(code(folder.path() / "file" / "below") == 4);
  CHECK(code("/proc/nowhere") == 4);
  CHECK(code(folder.path() / "a" / "b") == 0);
}

TEST_CASE("names are safe in paths", "[store]") {
  CHECK(path_word("rtn-4bit + kivi-2bit") == "rtn-4bit-+-kivi-2bit");
  CHECK(path_word("../etc") == "_..-etc");
  CHECK(path_word("") == "_");
  CHECK(path_word(std::string(500, 'x')).size() == 60);
}

TEST_CASE("a child's end is told apart", "[supervise]") {
  TemporaryFolder folder;
  SECTION("exit code, log and progress") {
    Child child(shell(folder, "echo out; echo err >&2; echo '0.5 half way' >&3; exit 7"));
    const ChildEnd end = run(child);
    CHECK(end.how == ChildEnd::How::exited);
    CHECK(end.code == 7);
    CHECK_THAT(end.log_tail, Contains("out") && Contains("err"));
    CHECK(text_of(folder.path() / "log.txt") == "out\nerr\n");
    CHECK(child.fraction() == 0.5);
    CHECK(child.note() == "half way");
  }
  SECTION("a signal") {
    Child child(shell(folder, "kill -SEGV $$"));
    const ChildEnd end = run(child);
    CHECK(end.how == ChildEnd::How::signalled);
    CHECK(signal_name(end.code) == "SIGSEGV");
  }
  SECTION("no such program") {
    CHECK_THROWS_AS(Child({{"/nowhere/program"}, folder.path() / "log.txt", 1, 1}), Error);
  }
  SECTION("only the last lines are kept") {
    Child child(shell(folder, "seq 1 100000"));
    const ChildEnd end = run(child);
    CHECK_THAT(end.log_tail, Catch::StartsWith("99981\n") && Catch::EndsWith("\n100000"));
  }
}

TEST_CASE("limits end the whole group", "[supervise]") {
  TemporaryFolder folder;
  // The grandchild would write the file after a second, if it lived.
  const std::string grandchild = "(sleep 1; touch " + (folder.path() / "alive").string() + ") & ";
  SECTION("wall clock, SIGTERM ignored") {
    ChildCommand command = shell(
        folder, "trap '' TERM; " + grandchild + "while :; do echo '0 x' >&3; sleep 0.05; done");
    command.wall_seconds = 0.2;
    Child child(command);
    CHECK(run(child).how == ChildEnd::How::too_long);
  }
  SECTION("no progress") {
    ChildCommand command = shell(folder, grandchild + "sleep 60");
    command.hang_seconds = 0.2;
    Child child(command);
    CHECK(run(child).how == ChildEnd::How::hung);
    std::this_thread::sleep_for(std::chrono::milliseconds(1200));
    CHECK_FALSE(fs::exists(folder.path() / "alive"));
  }
  SECTION("stop") {
    Child child(shell(folder, "sleep 60"));
    CHECK(run(child, 0.1).how == ChildEnd::How::stopped);
  }
  SECTION("a grandchild does not outlive a child that ends well") {
    Child child(shell(folder, grandchild + "exit 0"));
    CHECK(run(child).how == ChildEnd::How::exited);
    std::this_thread::sleep_for(std::chrono::milliseconds(1200));
    CHECK_FALSE(fs::exists(folder.path() / "alive"));
  }
}

TEST_CASE("a log that never ends is cut", "[supervise]") {
  TemporaryFolder folder;
  Child child(shell(folder, "head -c 20000000 /dev/zero | tr '\\0' x"));
  run(child);
  const auto size = fs::file_size(folder.path() / "log.txt");
  CHECK(size >= kLongestLog);
  CHECK(size < kLongestLog + 100);
}

TEST_CASE("the time that is left is guessed from like cells", "[supervise]") {
  TimeEstimate estimate;
  CHECK(estimate.expected("a") == -1);
  CHECK(estimate.remaining("a", 0, 1) == -1);
  CHECK(estimate.remaining("a", 0.5, 10) == Approx(10));
  estimate.finished("a", 4);
  estimate.finished("b", 8);
  CHECK(estimate.expected("a") == 4);
  CHECK(estimate.expected("c") == 6);
  CHECK(estimate.remaining("a", 0, 1) == 3);
  CHECK(duration_text(80) == "1 min 20 s");
}
