// The readers of texts.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "ptq/core/hash.hpp"
#include "ptq/data/text.hpp"
#include "test/support/temporary_file.hpp"

using namespace ptq;
using ptq::test::TempFile;

TEST_CASE("texts", "[eval]") {
  CHECK(join_wikitext2(" \n = A = \n \n b\n") == "\n\n = A = \n\n\n\n\n b\n");
  CHECK(join_wikitext2("a\nb") == "a\n\n\nb");
  CHECK(join_wikitext2("") == "");
  const auto raw = std::filesystem::path(PTQ_SHARED_DIR) / "data/wikitext2/wiki.test.raw";
  if (std::filesystem::exists(raw)) {
    const std::string joined = join_wikitext2(read_utf8_file(raw));
    CHECK(joined.size() == 1296370);
    CHECK(sha256_hex(joined) == "696cca6b65a171b0a358a4be6732cdfdf2dd6164a32e20fd70e3c13fc4dfae83");
  } else {
    WARN("skipped: no " << raw);
  }

  const TempFile bad("good \xC3\xA4\xFF more"), empty("");
  CHECK_THROWS_WITH(read_utf8_file(bad.path), Catch::Contains("at byte 7"));
  CHECK_THROWS_WITH(read_utf8_file(empty.path), Catch::Contains("empty"));
  CHECK_THROWS_AS(read_utf8_file("/no/such/file"), Error);
  CHECK_THROWS_AS(read_utf8_file("/"), Error);

  const TempFile lines("{\"id\":1,\"text\":\"a\\nb\"}\r\n\n  \n{\"text\":\"\xC3\xA4\"}");
  const auto texts = read_jsonl_texts(lines.path, 0);
  REQUIRE(texts.size() == 2);
  CHECK(texts[0].text == "a\nb");
  CHECK(texts[1].text == "\xC3\xA4");
  CHECK(texts[1].line == 4);
  CHECK(read_jsonl_texts(lines.path, 1).size() == 1);
  const auto refuses = [](const std::string& content, const std::string& message) {
    const TempFile file(content);
    INFO(content);
    CHECK_THROWS_WITH(read_jsonl_texts(file.path, 0), Catch::Contains(message));
  };
  refuses("{\"text\":\"a\"}\n{\"txt\":\"b\"}\n", ":2");
  refuses("{\"text\":\"a\"}\n{\"text\":3}\n", ":2: text");
  refuses("{\"text\":\"a\"}\n\n{\"text\":\"b\"", ":3");
  refuses("[1]", ":1");
  refuses("{\"text\":\"\xFF\"}", "UTF-8");
  refuses("\n\n", "no texts");
}
