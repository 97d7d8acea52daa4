// Replays every saved fuzz input: test/corpus/NAME/* are the seeds of the target NAME,
// test/corpus/regress/NAME-* inputs that once were findings. Each is read or refused with
// ptq::Error; anything else that is thrown fails the test.
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "ptq/model/unicode_forms.hpp"
#include "test/fuzz/targets.hpp"

using namespace ptq;
namespace fs = std::filesystem;

namespace {

std::vector<uint8_t> read_bytes(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

struct Counts {
  int accepted = 0, refused = 0;
};

Counts replay(const std::string& target, bool (*run)(fuzz::Bytes)) {
  Counts counts;
  const fs::path corpus = fs::path(PTQ_SOURCE_DIR) / "test/corpus";
  const auto replay_file = [&](const fs::path& path) {
    INFO(path.string());
    bool accepted = false;
    CHECK_NOTHROW(accepted = run(read_bytes(path)));
    ++(accepted ? counts.accepted : counts.refused);
  };
  for (const auto& entry : fs::directory_iterator(corpus / target)) replay_file(entry.path());
  for (const auto& entry : fs::directory_iterator(corpus / "regress")) {
    if (entry.path().filename().string().starts_with(target + "-")) replay_file(entry.path());
  }
  return counts;
}

}  // namespace

TEST_CASE("corpus: saved fuzz inputs are read or refused") {
  const struct {
    const char* name;
    bool (*run)(fuzz::Bytes);
  } targets[] = {{"config", fuzz::config},
                 {"safetensors", fuzz::safetensors},
                 {"gguf", fuzz::gguf},
                 {"index", fuzz::index},
                 {"tokenizer", fuzz::tokenizer},
                 {"toml", fuzz::toml},
                 {"bundle", fuzz::bundle},
                 {"tokens", fuzz::tokens},
                 {"record", fuzz::record},
                 {"store", fuzz::store},
                 {"csv", fuzz::csv},
                 {"task", fuzz::task},
                 {"packed", fuzz::packed},
                 {"encoding", fuzz::encoding}};
  for (const auto& target : targets) {
    INFO(target.name);
    const Counts counts = replay(target.name, target.run);
    CHECK(counts.accepted >= 3);  // seeds reach behind the parser
    CHECK(counts.refused >= 2);
  }
}

TEST_CASE("corpus: NFC of what random texts found") {
  // utf8proc 2.8 drops U+11A7 behind a Hangul syllable.
  CHECK(to_nfc("\u1104\u1167\u11A7\u1199") == "\uB5D8\u11A7\u1199");
  CHECK(to_nfc("\u1104\u1167\u11A8") == "\uB5D9");
  // Marks younger than the tables of the reference stay where they are; older ones are ordered.
  CHECK(to_nfc("x\u07FD\u0334") == "x\u07FD\u0334");
  CHECK(to_nfc("x\u0301\u0334") == "x\u0334\u0301");
  CHECK(to_nfc("\U00011935\U00011930e\u0301") == "\U00011935\U00011930\u00E9");
  // Letters and numbers of Unicode 16.
  CHECK(char_classes()[0x14201] == CharClass::letter);
  CHECK(char_classes()[0x1E5F3] == CharClass::number);
}
