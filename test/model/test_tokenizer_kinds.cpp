// The kinds of normalizers and pre-tokenizers, replayed from ids of the reference library, and the
// regular expressions behind them.
#include <catch2/catch.hpp>
#include <chrono>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "ptq/model/tokenizer.hpp"

using namespace ptq;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace ptq::test {
namespace {

using Ids = std::vector<int32_t>;
using Json = nlohmann::json;

const fs::path kFixtures = fs::path(PTQ_SOURCE_DIR) / "test/fixtures/tokenizers";

Json load(const char* name) { return Json::parse(read_text_file(kFixtures / name, 1 << 20)); }
std::string quoted(const std::string& text) { return Json(text).dump(); }

// All bytes and all pairs of bytes, see kinds.py: ids show where the text was cut.
const BpeModel& pair_model() {
  static const BpeModel model = [] {
    BpeModel m;
    m.byte_level = true;
    m.merges = MergeTable(1 << 16);
    for (int32_t a = 0; a < 256; ++a) {
      m.byte_ids[static_cast<size_t>(a)] = a;
      for (int32_t b = 0; b < 256; ++b) {
        m.merges.insert(a, b, {static_cast<uint32_t>(256 * a + b), 256 + 256 * a + b});
      }
    }
    return m;
  }();
  return model;
}

// A tokenizer with these steps; every step is a piece of JSON.
Tokenizer with_steps(const std::string& normalizers, const std::string& steps) {
  const std::string json = R"({"normalizer": {"type": "Sequence", "normalizers": )" + normalizers +
                           R"(}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": )" + steps +
                           R"(}, "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE",)"
                           R"("unk_token": "a", "vocab": {"a": 0}, "merges": []}})";
  const auto document = JsonDocument::parse(json, "tokenizer.json", {.max_depth = 16});
  TokenizerParts parts = read_tokenizer_parts(document.root());
  parts.model = pair_model();
  return Tokenizer::from_parts(std::move(parts));
}

std::string split_step(const std::string& regex, const std::string& behavior = "Isolated") {
  return R"([{"type": "Split", "pattern": {"Regex": )" + quoted(regex) + R"(}, "behavior": ")" +
         behavior +
         R"(", "invert": false}, {"type": "ByteLevel", "add_prefix_space": false,)"
         R"("use_regex": false}])";
}

std::string refusal(const std::string& regex) {
  try {
    with_steps("[]", split_step(regex));
  } catch (const Error& error) {
    CHECK_THAT(error.where(), Contains("pretokenizers[0].pattern.Regex"));
    return error.message();
  }
  return "no error";
}

}  // namespace

TEST_CASE("tokenizer kinds: ids of the reference") {
  const Json kinds = load("kinds.json"), cases = load("kinds_cases.json");
  const auto texts = cases["texts"].get<std::vector<std::string>>();
  std::map<std::string, std::vector<Ids>> expected;
  for (const Json& kind : cases["kinds"]) expected[kind["name"]] = kind["ids"];
  REQUIRE(expected.size() > 50);
  REQUIRE(expected.size() == kinds.size());
  for (const Json& kind : kinds) {
    const std::string name = kind["name"];
    Json steps = kind.value("steps", Json::array());
    if (!kind.contains("byte_level")) {
      steps.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}});
    }
    const Tokenizer t = with_steps(kind.value("normalizers", Json::array()).dump(), steps.dump());
    REQUIRE(expected[name].size() == texts.size());
    for (size_t i = 0; i < texts.size(); ++i) {
      // The control token of kinds.py is not in this tokenizer.
      if (texts[i].find("<x>") != std::string::npos) continue;
      INFO(name << ": " << texts[i]);
      CHECK(t.encode(texts[i]) == expected[name][i]);
    }
  }
}

TEST_CASE("tokenizer kinds: what a regular expression may not say is named") {
  CHECK(refusal(R"((?i:'s)|\p{L}+|[^\s&&\P{Han}]+?|a{,3}|{x})") == "no error");
  CHECK_THAT(refusal("("), Contains("missing closing parenthesis"));
  CHECK_THAT(refusal("[a"), Contains("not closed"));
  CHECK_THAT(refusal("a\\"), Contains("backslash"));
  CHECK_THAT(refusal(R"(\p{NoSuchThing})"), Contains("unknown property"));
  CHECK_THAT(refusal(R"(\p{L)"), Contains("not closed"));
  CHECK_THAT(refusal(R"(a{2}+)"), Contains("different things"));
  CHECK_THAT(refusal(R"(x(?i)a)"), Contains("(?i)"));
  CHECK_THAT(refusal(R"((*FAIL))"), Contains("(*FA"));
  CHECK_THAT(refusal(R"((?{x}))"), Contains("(?{x"));
  CHECK_THAT(refusal(R"(\G)"), Contains(R"(`\G`)"));
  CHECK_THAT(refusal(R"(\Qa)"), Contains(R"(`\Q`)"));
  CHECK_THAT(refusal(R"([[:punct:]])"), Contains("[:punct:"));
  CHECK_THAT(refusal(R"([a&&])"), Contains("&&"));
  CHECK_THAT(refusal(R"((?<=a+)b)"), Contains("lookbehind"));
  CHECK_THAT(refusal(std::string(20'000, 'a')), Contains("20000 bytes"));
  CHECK_THAT(refusal(std::string(5'000, '(') + std::string(5'000, ')')), Contains("parentheses"));
  CHECK_THAT(refusal(std::string(40, '[') + "a" + std::string(40, ']')), Contains("classes"));
}

TEST_CASE("tokenizer kinds: patterns that would never end are stopped") {
  const auto begin = std::chrono::steady_clock::now();
  for (const char* regex : {"(a+)+$", "(?:a|aa)+$", "a*a*a*a*a*a*[bc]", R"((?=(a+)+\1[xy])a)"}) {
    INFO(regex);
    const Tokenizer t = with_steps("[]", split_step(regex));
    CHECK_THROWS_WITH(t.encode(std::string(5'000, 'a') + "!"), Contains("too many steps"));
    CHECK(t.encode("x!").size() == 1);
  }
  // What is only long is no reason to stop.
  const Tokenizer t = with_steps("[]", split_step(R"(\p{Lu}*\p{Ll}+|\p{Lu}+\p{Ll}*)"));
  CHECK(t.encode(std::string(200'000, 'A')).size() == 100'000);
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(60));
}

TEST_CASE("tokenizer kinds: a match far from the last one is found at every place") {
  // The search goes in steps of 256 bytes, which may end inside a character.
  const SplitPattern pattern("!");
  for (size_t n = 80; n < 180; ++n) {
    for (const std::string front : {"", "a", "aa"}) {
      std::string text = front;
      for (size_t i = 0; i < n; ++i) text += "\u3042";
      const size_t at = text.size();
      const std::vector<TextSegment> without = pattern.segments(text);
      REQUIRE(without.size() == 1);
      CHECK(without[0].end == at);
      const std::vector<TextSegment> found = pattern.segments(text + "!");
      REQUIRE(found.size() == 2);
      CHECK((found[1].begin == at && found[1].end == at + 1 && found[1].match));
    }
  }
}

TEST_CASE("tokenizer kinds: a pattern by hand and by PCRE2 cuts alike") {
  const char* gpt2 =
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
  const char* llama3 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
                       R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  std::string text = "I'm 12345 'RE  \r\n\n x\u00A0y\u180E \u0939\u093F! \U0001F999\t\t ";
  for (uint32_t c = 0; c < 0x33000; c += c < 0x20000 ? 1 : 7) {
    if (c < 0xD800 || c > 0xDFFF) append_utf8(text, c);
    if (c % 5 == 0) text += " a";
  }
  for (const auto& [regex, pattern] :
       {std::pair{gpt2, WordPattern::gpt2}, {llama3, WordPattern::llama3}}) {
    const WordSplitter by_hand(pattern);
    size_t begin = 0;
    for (const TextSegment& word : SplitPattern(regex).segments(text)) {
      if (word.begin != begin || word.end != by_hand.word_end(text, begin) || !word.match) {
        FAIL(regex << " at byte " << begin << ": "
                   << text.substr(word.begin, word.end - word.begin));
      }
      begin = word.end;
    }
    CHECK(begin == text.size());
  }
}

}  // namespace ptq::test
