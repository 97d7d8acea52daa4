#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "ptq/model/tokenizer.hpp"
#include "test/support/replaced.hpp"

using namespace ptq;
using namespace std::string_literals;
using Catch::Matchers::Contains;
using ptq::test::replaced;
namespace fs = std::filesystem;

namespace {

using Ids = std::vector<int32_t>;

std::string tokenizer_error(const std::string& json) {
  try {
    Tokenizer::parse(json, "tokenizer.json");
  } catch (const Error& e) {
    CHECK_THAT(e.where(), Contains("tokenizer.json"));
    return e.what();
  }
  return "no error";
}

// A SentencePiece-style tokenizer of a few tokens; `a`..`c`, byte tokens for 0xC3 and 0xA9 only.
const std::string kSmall = R"({"version": "1.0", "truncation": null, "padding": null,
  "added_tokens": [
    {"id": 1, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
     "normalized": false, "special": true},
    {"id": 14, "content": "ab!", "single_word": false, "lstrip": false, "rstrip": false,
     "normalized": false, "special": false}],
  "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
  "pre_tokenizer": null,
  "post_processor": {"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
  "decoder": {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
    {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
  "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
    "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
    "vocab": {"<unk>": 0, "<s>": 1, "▁": 2, "a": 3, "b": 4, "c": 5, "ab": 6, "▁a": 7, "▁ab": 8,
      "bc": 9, "abc": 10, "<0xC3>": 11, "<0xA9>": 12, "▁▁": 13},
    "merges": ["a b", "▁ a", "▁ ab", "b c", "a bc", "▁ ▁"]}})";

// A byte-level tokenizer with one token per byte and "ab" on top.
std::string small_byte_level() {
  std::string vocab;
  for (uint32_t b = 0; b < 256; ++b) {
    std::string spelling;
    append_utf8(spelling, byte_alphabet()[b]);
    if (spelling == "\"" || spelling == "\\") spelling.insert(0, "\\");
    vocab += "\"" + spelling + "\": " + std::to_string(b) + ", ";
  }
  return R"({"version": "1.0", "added_tokens": [],
    "normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
       "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}]},
    "post_processor": {"type": "ByteLevel"}, "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {)" +
         vocab + R"("ab": 256}, "merges": [["a", "b"]]}})";
}

// The words of a text, separated by '|'.
std::string words(const std::string& text, WordPattern pattern = WordPattern::llama3) {
  const WordSplitter splitter(pattern);
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t end = splitter.word_end(text, i);
    out += (i > 0 ? "|" : "") + text.substr(i, end - i);
    i = end;
  }
  return out;
}

}  // namespace

TEST_CASE("tokenizer: word patterns") {
  CHECK(words("I'm sure they'll DON'T, he'S") == "I|'m| sure| they|'ll| DON|'T|,| he|'S");
  CHECK(words("'\u017Ft 'RE ''s 'x") == "'\u017F|t| '|RE| ''|s| '|x");
  CHECK(words("1234567") == "123|456|7");
  CHECK(words("1234", WordPattern::qwen2) == "1|2|3|4");
  CHECK(words("a  b   ") == "a| | b|   ");
  CHECK(words("\n \n  x\r\n\ty") == "\n \n| | x|\r\n|\ty");
  CHECK(words(" \r \t!\n\n?") == " \r| |\t|!\n\n|?");
  CHECK(words("don\u2019t") == "don|\u2019t");
  CHECK(words("\u00A0a\u3000\u2003b\u180Ec") == "\u00A0a|\u3000|\u2003b|\u180Ec");
  CHECK(words("\u0939\u093F\u0928") == "\u0939|\u093F\u0928");
  CHECK(words("x=\u00BD\u2167\u0661\U0001D7D8") == "x|=|\u00BD\u2167\u0661|\U0001D7D8");
  CHECK(words("'") == "'");
  CHECK(words(" ") == " ");
  CHECK(words("! ") == "!| ");
  const auto gpt2 = [](const std::string& text) { return words(text, WordPattern::gpt2); };
  CHECK(gpt2("I'm sure they'll DON'T 's") == "I|'m| sure| they|'ll| DON|'|T| '|s");
  CHECK(gpt2("x 1234  5\u00BD") == "x| 1234| | 5\u00BD");
  CHECK(gpt2("a!? b\n\n c \n") == "a|!?| b|\n\n| c| \n");
  CHECK(gpt2(" \u00A0x\u3000y") == " |\u00A0|x|\u3000|y");
}

TEST_CASE("tokenizer: classes of all code points") {
  int letters = 0, spaces = 0;
  for (const CharClass c : char_classes()) {
    letters += c == CharClass::letter;
    spaces += c == CharClass::space;
  }
  CHECK(spaces == 25);
  CHECK(letters >= 131'756);  // Unicode 14; later versions only add
  std::string all;
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    const size_t begin = all.size();
    append_utf8(all, c);
    size_t i = begin;
    if (next_code_point(all, i) != c || i != all.size()) FAIL("code point " << c);
  }
  CHECK(utf8_error_offset(all) == std::string::npos);
}

TEST_CASE("tokenizer: NFC") {
  CHECK(to_nfc("cafe\u0301") == "caf\u00E9");
  CHECK(to_nfc("\u1100\u1161\u11A8") == "\uAC01");
  CHECK(to_nfc("\u212B") == "\u00C5");
  CHECK(to_nfc("\uFB01") == "\uFB01");
  CHECK(to_nfc("a\0\u0301b"s) == "a\0\u0301b"s);
  CHECK(to_nfc("q\u0307\u0323") == "q\u0323\u0307");
  CHECK(to_nfc("") == "");
}

TEST_CASE("tokenizer: byte alphabet of GPT-2") {
  const auto& t = byte_alphabet();
  CHECK(t[0x00] == 0x100);
  CHECK(t[0x09] == 0x109);
  CHECK(t[0x0A] == 0x10A);
  CHECK(t[0x0D] == 0x10D);
  CHECK(t[0x20] == 0x120);
  CHECK(t[0x21] == 0x21);
  CHECK(t[0x7F] == 0x121);
  CHECK(t[0x80] == 0x122);
  CHECK(t[0xA0] == 0x142);
  CHECK(t[0xAD] == 0x143);
  CHECK(t[0xFF] == 0xFF);
  std::string bytes;
  CHECK(byte_level_decode("\u0120a\u010A", bytes));
  CHECK(bytes == " a\n");
  CHECK_FALSE(byte_level_decode("\u0144", bytes));
}

TEST_CASE("tokenizer: position of invalid UTF-8") {
  CHECK(utf8_error_offset("abc") == std::string::npos);
  CHECK(utf8_error_offset("ab\xFF") == 2);
  CHECK(utf8_error_offset("\u00E9\xC3") == 2);
  CHECK(utf8_error_offset("a\xED\xA0\x80") == 1);
  CHECK(utf8_error_offset("\U0001F999\xC0\x80") == 4);
  CHECK(utf8_error_offset("\xF4\x90\x80\x80") == 0);
}

TEST_CASE("tokenizer: ids that no token has are no text") {
  // A hole between the vocabulary and the added tokens, and the padding rows behind both.
  const Tokenizer t = Tokenizer::parse(replaced(kSmall, "{\"id\": 14,", "{\"id\": 20,"), "");
  CHECK(t.vocab_size() == 21);
  CHECK_FALSE(t.exists(14));
  CHECK_FALSE(t.exists(21));
  CHECK_FALSE(t.exists(-1));
  CHECK(t.exists(20));
  const Ids chosen = {8, 14, 5, 300, 19, 5, 1};
  CHECK(t.decode_chosen(chosen) == t.decode(Ids{8, 5, 5}));
  CHECK(t.decode_chosen(Ids{14}).empty());
  CHECK_THROWS_WITH(t.decode(chosen), Contains("the token id 14 does not exist"));
}

TEST_CASE("tokenizer: SentencePiece style with byte fallback") {
  const Tokenizer t = Tokenizer::parse(kSmall, "tokenizer.json");
  CHECK(t.bos_id() == 1);
  CHECK(t.vocab_size() == 15);
  CHECK(t.encode("") == Ids{1});
  CHECK(t.encode("abc") == Ids{1, 8, 5});
  CHECK(t.encode("abc", false) == Ids{8, 5});
  CHECK(t.encode(" abc") == Ids{1, 2, 8, 5});
  CHECK(t.encode("  c") == Ids{1, 13, 2, 5});
  CHECK(t.encode("bcabc") == Ids{1, 2, 9, 6, 5});
  CHECK(t.encode("\u00E9") == Ids{1, 2, 11, 12});
  CHECK(t.encode("xyaz") == Ids{1, 2, 0, 3, 0});        // neighbours fuse
  CHECK(t.encode("x\u00E9y") == Ids{1, 2, 11, 12, 0});  // as the reference does
  CHECK(t.encode("a<s>ab!b") == Ids{1, 7, 1, 14, 2, 4});
  CHECK(t.encode("a<s>a", false, false) == Ids{7, 0, 3});
  CHECK(t.decode(Ids{1, 8, 5}) == "<s> abc");
  CHECK(t.decode(Ids{1, 8, 5}, true) == "abc");
  CHECK(t.decode(Ids{2, 11, 12, 4}) == "\u00E9b");
  CHECK(t.decode(Ids{12, 11, 4}) == "\uFFFD\uFFFDb");
  CHECK(t.decode(Ids{}) == "");
  CHECK_THROWS_WITH(t.decode(Ids{15}), Contains("15"));
  CHECK_THROWS_WITH(t.decode(Ids{-1}), Contains("-1"));
  CHECK_THROWS_WITH(t.encode("ab\xFF"), Contains("UTF-8 at byte 2"));
  CHECK(Tokenizer::parse(replaced(kSmall, "\"fuse_unk\": true", "\"fuse_unk\": false"), "")
            .encode("xyaz") == Ids{1, 2, 0, 0, 3, 0});
}

TEST_CASE("tokenizer: without a decoder the tokens stand between spaces") {
  std::string json = kSmall;
  const size_t begin = json.find("\"decoder\""), end = json.find("\"model\"");
  json.replace(begin, end - begin, "\"decoder\": null, ");
  CHECK(Tokenizer::parse(json, "tokenizer.json").decode(Ids{3, 6, 4}) == "a ab b");
}

TEST_CASE("tokenizer: Metaspace") {
  const auto metaspace = [](const std::string& scheme, const std::string& split) {
    const std::string node = R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": ")" +
                             scheme + R"(", "split": )" + split + "}";
    std::string json = replaced(kSmall, "\"pre_tokenizer\": null", "\"pre_tokenizer\": " + node);
    const size_t begin = json.find("\"normalizer\""), end = json.find("\"pre_tokenizer\"");
    json.erase(begin, end - begin);
    return Tokenizer::parse(json, "tokenizer.json");
  };
  for (const char* split : {"false", "true"}) {
    CHECK(metaspace("first", split).encode("ab") == Ids{1, 8});
    CHECK(metaspace("first", split).encode(" ab") == Ids{1, 8});  // the space already stands for it
    CHECK(metaspace("first", split).encode("<s>ab") == Ids{1, 1, 6});
    CHECK(metaspace("always", split).encode("<s>ab") == Ids{1, 1, 8});
    CHECK(metaspace("never", split).encode("ab") == Ids{1, 6});
  }
  CHECK(metaspace("first", "false").encode("b  c") == Ids{1, 2, 4, 13, 5});
  CHECK(metaspace("first", "true").encode("b  c") == Ids{1, 2, 4, 2, 2, 5});
}

TEST_CASE("tokenizer: byte level") {
  const Tokenizer t = Tokenizer::parse(small_byte_level(), "tokenizer.json");
  CHECK(t.bos_id() == -1);
  CHECK(t.encode("ab") == Ids{256});
  CHECK(t.encode("e\u0301") == Ids{0xC3, 0xA9});
  CHECK(t.encode("a\0b"s) == Ids{'a', 0, 'b'});
  const auto text = [&](const std::string& bytes) {
    return t.decode(Ids(reinterpret_cast<const uint8_t*>(bytes.data()),
                        reinterpret_cast<const uint8_t*>(bytes.data()) + bytes.size()));
  };
  CHECK(text("a\u00E9\U0001F999") == "a\u00E9\U0001F999");
  // One U+FFFD for each maximal part of a sequence, table 3-8 of the Unicode standard.
  CHECK(text("\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64") ==
        "a\uFFFD\uFFFD\uFFFDb\uFFFDc\uFFFD\uFFFDd");
  CHECK(text("\xED\xA0\x80") == "\uFFFD\uFFFD\uFFFD");
  CHECK(text("\xC0\xAF\xF5\xE0\x9F") == "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD");
  CHECK(text("\xE2\x82") == "\uFFFD");
}

TEST_CASE("tokenizer: what is not implemented is an error with its path") {
  CHECK(tokenizer_error(kSmall) == "no error");
  CHECK(tokenizer_error(small_byte_level()) == "no error");
  const auto refused = [](const std::string& from, const std::string& to, const std::string& text) {
    const std::string& json = kSmall.find(from) != std::string::npos ? kSmall : small_byte_level();
    INFO(to);
    // Advice to write another step would change ids.
    CHECK_THAT(tokenizer_error(replaced(json, from, to)),
               Contains(text) && !Contains("did you mean"));
  };
  refused("\"version\": \"1.0\"", "\"version\": \"2.0\"", "version");
  refused("\"truncation\": null", "\"truncation\": {\"max_length\": 5}", "truncation");
  refused("\"padding\": null", "\"padding\": {}", "padding");
  refused("\"padding\": null", "\"paddings\": {}", "paddings");
  refused("\"type\": \"BPE\"", "\"type\": \"Unigram\"", "Unigram");
  refused("\"type\": \"BPE\"", "\"type\": \"WordPiece\"", "tokenizer.json: model");
  refused("\"dropout\": null", "\"dropout\": 0.1", "model.dropout");
  refused("\"continuing_subword_prefix\": null", "\"continuing_subword_prefix\": \"##\"",
          "model.continuing_subword_prefix");
  refused("\"end_of_word_suffix\": null", "\"end_of_word_suffix\": \"</w>\"",
          "model.end_of_word_suffix");
  refused("{\"type\": \"Prepend\", \"prepend\": \"▁\"}", "{\"type\": \"Uppercase\"}",
          "normalizer.normalizers[0]");
  for (const char* type : {"BertNormalizer", "Precompiled", "Nmt", "StripAccents"}) {
    refused("\"NFC\"", "\""s + type + "\"", type);
  }
  refused("{\"String\": \" \"}, \"content\": \"▁\"", "{\"Regex\": \"(\"}, \"content\": \"▁\"",
          "normalizers[1].pattern.Regex");
  refused("\"Isolated\"", "\"Kept\"", "pretokenizers[0].behavior");
  refused("\\\\p{N}| ?", "\\\\p{N}{1,2}+| ?", "pretokenizers[0].pattern.Regex");
  refused("\"use_regex\": false}", "\"use_regex\": false}, {\"type\": \"Whitespace\"}",
          "pretokenizers[2]");
  for (const char* type : {"BertPreTokenizer", "UnicodeScripts", "CharDelimiterSplit"}) {
    refused("\"pre_tokenizer\": null", "\"pre_tokenizer\": {\"type\": \""s + type + "\"}", type);
  }
  refused("\"pre_tokenizer\": null",
          R"("pre_tokenizer": {"type": "Metaspace", "replacement": "▁▁"})", "one character");
  refused(
      "\"pre_tokenizer\": null",
      R"("pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "add_prefix_space": false})",
      "contradicts");
  refused("\"TemplateProcessing\"", "\"BertProcessing\"", "post_processor");
  refused("\"SpecialToken\": {\"id\": \"<s>\"", "\"SpecialToken\": {\"id\": \"<t>\"", "<t>");
  refused("\"ids\": [1]", "\"ids\": [2]", "post_processor.special_tokens");
  refused("\"ids\": [1]", "\"ids\": [99]", "post_processor.special_tokens");
  refused("\"id\": \"A\"", "\"id\": \"B\"", "single[1].Sequence");
  refused("\"type\": \"Fuse\"", "\"type\": \"CTC\"", "decoder.decoders[2]");
  refused("\"decoder\"", "\"x\"", "x");
  refused("\"lstrip\": false", "\"lstrip\": true", "added_tokens[0].lstrip");
  refused("\"rstrip\": false", "\"rstrip\": true", "added_tokens[0].rstrip");
  refused("\"single_word\": false", "\"single_word\": true", "added_tokens[0].single_word");
}

TEST_CASE("tokenizer: a byte without a token is unknown or lost, as in the reference") {
  const std::string lacking = replaced(small_byte_level(), "\"!\": 33, ", "");
  const auto ids = [](const std::string& json) {
    return Tokenizer::parse(json, "tokenizer.json").encode("a!b?!!a");
  };
  // What is beside a lost byte merges across it.
  CHECK(ids(replaced(lacking, "\"Regex\": \"", "\"Regex\": \"[^?]+|")) == Ids{256, '?', 'a'});
  const std::string unknown =
      replaced(lacking, "\"type\": \"BPE\"", "\"type\": \"BPE\", \"unk_token\": \"?\"");
  CHECK(ids(unknown) == Ids{'a', '?', 'b', '?', '?', '?', 'a'});
  CHECK_THAT(tokenizer_error(replaced(lacking, "\"type\": \"BPE\"",
                                      "\"type\": \"BPE\", \"byte_fallback\": true")),
             Contains("byte_fallback"));
}

TEST_CASE("tokenizer: damaged vocabularies and merges") {
  const auto refused = [](const std::string& from, const std::string& to, const std::string& text) {
    INFO(to);
    CHECK_THAT(tokenizer_error(replaced(kSmall, from, to)), Contains(text));
  };
  refused("\"c\": 5", "\"c\": 4", "the id 4");
  refused("\"c\": 5", "\"c\": -5", "model.vocab.c");
  refused("\"c\": 5", "\"c\": 5.0", "integer");
  refused("\"c\": 5", "\"c\": 99999999", "outside");
  refused("\"c\": 5", "\"c\": 5, \"c\": 20", "twice");
  refused("\"c\": 5", "\"c\": 5, \"\": 20", "empty");
  refused("\"b c\"", "\"b d\"", "model.merges[3]");
  refused("\"b c\"", "\"c b\"", "`cb`");
  refused("\"b c\"", "\"b c \"", "one space");
  refused("\"b c\"", "\"bc\"", "one space");
  refused("\"b c\"", "[\"b\"]", "two tokens");
  refused("\"b c\"", "\"a b\"", "twice");
  refused("\"b c\"", "7", "model.merges[3]");
  refused("\"unk_token\": \"<unk>\"", "\"unk_token\": \"<none>\"", "model.unk_token");
  refused("\"unk_token\": \"<unk>\"", "\"unk_token\": null", "would be lost");
  refused("\"id\": 14", "\"id\": 5", "belongs to both");
  refused("\"id\": 1,", "\"id\": 15,", "two ids");
  refused("\"content\": \"ab!\"", "\"content\": \"<s>\"", "twice");
  refused("\"content\": \"ab!\"", "\"content\": \"\"", "empty");
  refused("\"content\": \"ab!\"", "\"content\": \"\\ud800\"", "JSON");
  CHECK_THAT(
      tokenizer_error(replaced(small_byte_level(), "\"ab\": 256", "\"ab\": 256, \"\u2581\": 257")),
      Contains("byte-level alphabet"));
  CHECK_THAT(tokenizer_error("{}"), Contains("`model` is missing"));
  CHECK_THAT(tokenizer_error("["), Contains("not valid JSON"));
  // Cut anywhere, the file is refused.
  for (size_t n = 0; n < kSmall.size(); n += 5) {
    if (tokenizer_error(kSmall.substr(0, n)) == "no error") FAIL("accepted with " << n << " bytes");
  }
}

TEST_CASE("tokenizer: added tokens match leftmost, then longest") {
  const AddedTokenFinder finder(
      {{"<a", 1, false}, {"<ab>", 2, false}, {"<ab>x", 3, true}, {"b", 4, false}});
  CHECK(finder.match("<ab>x", 0, true).id == 3);
  CHECK(finder.match("<ab>x", 0, false).id == 2);
  CHECK(finder.match("<ab", 0, true).id == 1);
  CHECK(finder.match("x<ab", 0, true).length == 0);
  CHECK(finder.match("<b", 0, true).length == 0);
}

TEST_CASE("tokenizer: missing files") {
  const fs::path folder = fs::temp_directory_path() / "ptq-no-such-folder";
  CHECK_THROWS_WITH(Tokenizer::load(folder), Contains("no tokenizer.json"));
}

TEST_CASE("tokenizer: several threads share one tokenizer") {
  const Tokenizer t = Tokenizer::parse(small_byte_level(), "tokenizer.json");
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += "ab" + std::to_string(i % 70'001) + "x ";
  const Ids expected = t.encode(text);
  std::vector<Ids> results(4);
  std::vector<std::thread> threads;
  for (Ids& result : results) threads.emplace_back([&] { result = t.encode(text); });
  for (std::thread& thread : threads) thread.join();
  for (const Ids& result : results) CHECK((result == expected));
}
