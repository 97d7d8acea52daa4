// Where models lie.
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "ptq/run/locate.hpp"
#include "test/support/temporary_file.hpp"

using namespace ptq;
using Catch::Contains;
using ptq::test::TemporaryFolder;
namespace fs = std::filesystem;

TEST_CASE("models are looked up where they may lie", "[grid]") {
  TemporaryFolder folder;
  folder.write("models/tiny/config.json", "{}");
  folder.write("hub/models--Org--Big/snapshots/abc123/config.json", "{}");
  folder.write("hub/models--Org--Big/refs/main", "abc123\n");
  ::setenv("HF_HUB_CACHE", (folder.path() / "hub").c_str(), 1);
  const std::vector<fs::path> bases = {folder.path()};
  CHECK(find_model("models/tiny", bases, "").name == "tiny");
  CHECK(find_model("models/tiny/", bases, "").name == "tiny");
  CHECK(find_model("Org/tiny", bases, "").folder == folder.path() / "models/tiny");
  CHECK(find_model("Org/Big", bases, "").folder.filename() == "abc123");
  CHECK(find_model("Org/Big@abc", bases, "").name == "Big");
  const auto message = [&](const std::string& reference) -> std::string {
    try {
      find_model(reference, bases, "e.toml:3:1");
    } catch (const Error& error) {
      CHECK(error.code() == ExitCode::environment);
      return error.what();
    }
    return "";
  };
  CHECK_THAT(message("Org/Big@zzz"), Contains("--revision zzz"));
  CHECK_THAT(message("Org/Other"), Contains("hf download Org/Other --local-dir models/Other") &&
                                       Contains("e.toml:3:1") && Contains("models--Org--Other"));
  CHECK_THAT(message("meta-llama/X"), Contains("licence"));
  CHECK_THAT(message("models/none"), !Contains("hf download"));

  // A GGUF file is called by its name without the ending.
  folder.write("models/Big-1.5B.Q4_0.gguf", "GGUF");
  const ModelFolder file = find_model("models/Big-1.5B.Q4_0.gguf", bases, "");
  CHECK(file.name == "Big-1.5B.Q4_0");
  CHECK(file.folder == folder.path() / "models/Big-1.5B.Q4_0.gguf");
  CHECK_THAT(message("Org/none.gguf"), Contains("GGUF") && !Contains("hf download"));

  // Folders that hold no model hide nothing.
  fs::create_directories(folder.path() / "models/Big");
  fs::create_directories(folder.path() / "Org");
  CHECK(find_model("Org/Big", bases, "").folder.filename() == "abc123");
  fs::create_directories(folder.path() / "Org/Big");
  CHECK(find_model("Org/Big", bases, "").folder.filename() == "abc123");
  CHECK(find_model("models/Big", bases, "").folder == folder.path() / "models/Big");

  // Variables as the client of Hugging Face reads them.
  const std::string home = std::getenv("HOME") != nullptr ? std::getenv("HOME") : "";
  ::setenv("HOME", folder.path().c_str(), 1);
  ::setenv("PTQ_TEST_PLACE", "hub", 1);
  const auto found_by = [&](const char* variable, const char* value) {
    ::unsetenv("HF_HUB_CACHE");
    ::setenv(variable, value, 1);
    const std::string name = find_model("Org/Big", bases, "").folder.filename().string();
    ::unsetenv(variable);
    return name == "abc123";
  };
  CHECK(found_by("HF_HUB_CACHE", "~/hub"));
  CHECK(found_by("HF_HUB_CACHE", "$HOME/${PTQ_TEST_PLACE}"));
  CHECK(found_by("HUGGINGFACE_HUB_CACHE", "~/$PTQ_TEST_PLACE"));
  CHECK(found_by("HF_HOME", "~"));
  CHECK(locate_detail::expanded("a$PTQ_NO_SUCH/${x") == "a$PTQ_NO_SUCH/${x");
  CHECK(find_model("~/models/tiny", bases, "").folder == folder.path() / "models/tiny");
  ::setenv("HOME", home.c_str(), 1);
  ::unsetenv("PTQ_TEST_PLACE");
}
