// tokens.bin: what is written is read, and nothing else is.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>

#include "ptq/results/token_file.hpp"
#include "test/support/temporary_file.hpp"

namespace ptq::test {
namespace {

constexpr float kNone = std::numeric_limits<float>::quiet_NaN();

TokenFile example() {
  TokenFile file;
  file.runs = {{0, 1, 2}, {1, 1, 1}, {1, 7, 0}};
  file.tokens = {{1.5f, 1.25f, 0.125f, 0.25f, 60000, 30000, 5},
                 {0.5f, 0.75f, 0.5f, 0.375f, 50000, 65535, TokenScore::kFlip | 0},
                 {kNone, 2.0f, kNone, kNone, 0, 20000, TokenScore::kNotFinite}};
  return file;
}

template <class T>
void overwrite(std::string& bytes, size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

std::string refusal(const std::string& bytes) {
  try {
    parse_token_file(bytes, "cell/tokens.bin");
  } catch (const Error& error) {
    CHECK(error.code() == ExitCode::environment);
    CHECK(error.where() == "cell/tokens.bin");
    return error.message();
  }
  return {};
}

}  // namespace

TEST_CASE("token scores come back from their file bit for bit", "[token_file]") {
  const TokenFile file = example();
  TemporaryFolder folder;
  const auto path = folder.write(kTokenFileName, token_file_bytes(file));
  const TokenFile read = read_token_file(path);
  CHECK(read.runs == file.runs);
  REQUIRE(read.tokens.size() == file.tokens.size());
  CHECK(std::memcmp(read.tokens.data(), file.tokens.data(),
                    file.tokens.size() * sizeof(TokenScore)) == 0);
  CHECK(std::filesystem::file_size(path) == 32 + 3 * 12 + 3 * 24);

  const TokenFile empty = parse_token_file(token_file_bytes({}), "");
  CHECK(empty.runs.empty());
  CHECK(empty.tokens.empty());
}

TEST_CASE("a token score says what its bits mean", "[token_file]") {
  const TokenFile file = example();
  CHECK(file.tokens[0].rank() == 5);
  CHECK_FALSE(file.tokens[0].flip());
  CHECK(file.tokens[0].finite());
  CHECK(file.tokens[0].has_reference());
  CHECK(file.tokens[0].delta_p() == Approx(std::exp(-1.5) - std::exp(-1.25)));
  CHECK(file.tokens[0].overlap_share() == Approx(60000 / 65535.0));
  CHECK(file.tokens[1].rank() == 0);
  CHECK(file.tokens[1].flip());
  CHECK(file.tokens[1].confidence_share() == 1);
  CHECK_FALSE(file.tokens[2].finite());
}

TEST_CASE("a file of token scores that is cut anywhere is refused", "[token_file]") {
  const std::string bytes = token_file_bytes(example());
  for (size_t length = 0; length < bytes.size(); ++length) {
    CAPTURE(length);
    CHECK_FALSE(refusal(bytes.substr(0, length)).empty());
  }
  CHECK_FALSE(refusal(bytes + '\0').empty());
}

TEST_CASE("a header of token scores that lies is refused before anything is allocated",
          "[token_file]") {
  const std::string good = token_file_bytes(example());
  const auto with = [&](size_t at, auto value) {
    std::string bytes = good;
    overwrite(bytes, at, value);
    return refusal(bytes);
  };
  using Catch::Contains;
  CHECK_THAT(with(0, 'P'), Contains("does not begin with"));
  CHECK_THAT(with(8, uint32_t{2}), Contains("version is 2"));
  CHECK_THAT(with(12, uint32_t{20}), Contains("20 bytes"));
  for (const uint64_t count : {uint64_t{0}, uint64_t{4}, uint64_t{1} << 40, uint64_t{1} << 61,
                               std::numeric_limits<uint64_t>::max()}) {
    CHECK_THAT(with(16, count), Contains("announces"));
    CHECK_THAT(with(24, count), Contains("announces"));
  }
  // 12 and 24 bytes: two runs for one token give the same size, but not the same sum.
  std::string traded = good;
  overwrite(traded, 16, uint64_t{5});
  overwrite(traded, 24, uint64_t{2});
  CHECK_FALSE(refusal(traded).empty());
  CHECK_THAT(with(32 + 8, uint32_t{3}), Contains("runs hold 4 tokens, but there are 3"));
  CHECK_THAT(with(32 + 4, std::numeric_limits<uint32_t>::max()), Contains("largest position"));
}

TEST_CASE("random bytes are no file of token scores and do no harm", "[token_file]") {
  std::mt19937 random(7);
  const std::string good = token_file_bytes(example());
  for (int i = 0; i < 2000; ++i) {
    std::string bytes = good;
    for (int changes = 0; changes < 4; ++changes)
      bytes[random() % bytes.size()] = char(random() & 255);
    if (i % 2 == 0) {
      for (size_t at = 0; at < bytes.size(); ++at) bytes[at] = char(random() & 255);
      CHECK_FALSE(refusal(bytes).empty());
    } else {
      try {
        const TokenFile read = parse_token_file(bytes, "");  // scores may be any
        CHECK(token_file_bytes(read) == bytes);
      } catch (const Error&) {
      }
    }
  }
}

TEST_CASE("scores whose runs do not add up are never written", "[token_file]") {
  TokenFile file = example();
  file.runs.pop_back();
  file.runs.pop_back();
  CHECK_THROWS_AS(token_file_bytes(file), Error);
}

}  // namespace ptq::test
