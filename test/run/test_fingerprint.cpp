// The fingerprint of a model folder.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <string>

#include "ptq/run/fingerprint.hpp"
#include "ptq/run/random_model.hpp"
#include "test/support/temporary_file.hpp"

using namespace ptq;
using ptq::test::TemporaryFolder;
namespace fs = std::filesystem;

namespace {
std::string fingerprint(const fs::path& folder, std::optional<uint64_t> random_seed = {}) {
  return model_fingerprint(folder, random_seed).hex;
}
}  // namespace

TEST_CASE("the fingerprint of a model follows what is read and nothing else", "[grid]") {
  TemporaryFolder folder;
  const auto fill = [&](const std::string& name, const std::string& weights) {
    folder.write(name + "/config.json", "{}");
    folder.write(name + "/tokenizer.json", "{}");
    folder.write(name + "/model.safetensors", weights);
    return folder.path() / name;
  };
  const std::string a = fingerprint(fill("a", "12345678weights"));
  CHECK(a.size() == 64);
  CHECK(fingerprint(fill("b", "12345678weights")) == a);  // the place does not matter
  CHECK(fingerprint(fill("c", "12345678weighty")) != a);
  folder.write("a/README.md", "text");
  CHECK(fingerprint(folder.path() / "a") == a);
  folder.write("a/tokenizer.json", "{ }");
  CHECK(fingerprint(folder.path() / "a") != a);
  fs::remove(folder.path() / "b/model.safetensors");
  CHECK_THROWS_AS(fingerprint(folder.path() / "b"), Error);
  CHECK(fingerprint(folder.path() / "b", 0) != fingerprint(folder.path() / "b", 1));
  folder.write("b/model.safetensors.index.json",
               R"({"weight_map": {"x": "model-2.safetensors", "y": "model-1.safetensors"}})");
  CHECK(weight_file_names(folder.path() / "b") ==
        std::set<std::string>{"model-1.safetensors", "model-2.safetensors"});
}

TEST_CASE("the fingerprint of a GGUF file follows its bytes and the tokenizer beside it",
          "[grid]") {
  TemporaryFolder folder;
  const fs::path a = folder.write("a/x.gguf", "GGUF weights");
  const std::string first = fingerprint(a);
  CHECK(fingerprint(folder.write("b/other.gguf", "GGUF weights")) == first);
  CHECK(fingerprint(folder.write("c/x.gguf", "GGUF weighty")) != first);
  folder.write("a/config.json", "{}");  // of another model
  CHECK(fingerprint(a) == first);
  folder.write("a/tokenizer.json", "{}");
  CHECK(fingerprint(a) != first);
  CHECK_THROWS_AS(random_weights_seed(a, true, 0), Error);
  CHECK_FALSE(random_weights_seed(a, false, 0));
}

TEST_CASE("a weight file that becomes shorter while it is read is an error", "[grid]") {
  TemporaryFolder folder;
  folder.write("model.safetensors", "weights");
  const fs::path file = folder.path() / "model.safetensors";
  const int fd = ::open(file.c_str(), O_RDONLY);
  CHECK(fingerprint_detail::hash_of_range(fd, 0, 7, file) == sha256_hex("weights"));
  CHECK(fingerprint_detail::hash_of_range(fd, 2, 4, file) == sha256_hex("ig"));
  CHECK_THROWS_WITH(fingerprint_detail::hash_of_range(fd, 0, 8, file),
                    Catch::Contains("became shorter while it was read"));
  ::close(fd);
}

TEST_CASE("every byte of a large weight file counts", "[grid]") {
  TemporaryFolder folder;
  ::setenv("XDG_CACHE_HOME", (folder.path() / "cache").c_str(), 1);
  folder.write("m/config.json", "{}");
  const fs::path file = folder.write("m/model.safetensors", "");
  fs::resize_file(file, (uint64_t{64} << 20) + 5);  // two pieces, sparse
  const auto put = [&](uint64_t offset, char c) {
    std::fstream(file, std::ios::binary | std::ios::in | std::ios::out)
        .seekp(std::streamoff(offset))
        .put(c);
  };
  // Files that changed just now are never trusted unseen: the clock is too coarse.
  const auto age = [&] {
    const timespec old[2] = {{1'700'000'000, 0}, {1'700'000'000, 0}};
    REQUIRE(::utimensat(AT_FDCWD, file.c_str(), old, 0) == 0);
  };
  const auto hash = [&] { return hash_weight_file(file); };
  const std::string zeros = hash().hex;
  put(0, 'x');
  age();  // the time of the content is that of before, in the inode it is new
  const std::string first = hash().hex;
  CHECK(first != zeros);
  put((uint64_t{64} << 20) + 4, 'x');
  age();
  CHECK(hash().hex != first);
  put((uint64_t{64} << 20) + 4, 0);
  put(0, 0);
  CHECK(hash().hex == zeros);
  CHECK_FALSE(hash().kept);
  CHECK_FALSE(fs::exists(folder.path() / "cache"));
  CHECK(model_fingerprint(folder.path() / "m").made_of == "every byte of the weights");

  // A hash that was kept counts while the state of the file is the same.
  using namespace fingerprint_detail;
  const fs::path kept = kept_hash_file(file);
  REQUIRE(kept.parent_path() == folder.path() / "cache/ptq/hashes");
  const auto settled = [&] { return hash_weight_file(file, 0); };
  CHECK(settled().hex == zeros);
  CHECK(fs::exists(kept));
  CHECK(settled().kept);
  CHECK(settled().hex == zeros);
  CHECK_FALSE(hash().kept);  // not yet settled
  put(40'000'000, 'y');
  age();
  const WeightHash changed = settled();
  CHECK_FALSE(changed.kept);
  CHECK(changed.hex != zeros);
  ::unsetenv("XDG_CACHE_HOME");
}
