// Real tokenizers: ids of the official models, of llama.cpp's vectors and of the embedded models.
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "ptq/model/tokenizer.hpp"

using namespace ptq;
using namespace std::string_literals;
namespace fs = std::filesystem;

namespace {

using Ids = std::vector<int32_t>;

const fs::path kTokenizers = fs::path(PTQ_SHARED_DIR) / "data/tokenizers";

// True if the shared data is here; says so otherwise.
bool available(const fs::path& path) {
  if (fs::exists(path)) return true;
  WARN("skipped: " << path.filename().string() << " is not here");
  return false;
}

// Loading takes a moment; the tests share one copy of each.
const Tokenizer& shared(const std::string& name) {
  static std::map<std::string, Tokenizer> loaded;
  const auto found = loaded.find(name);
  if (found != loaded.end()) return found->second;
  return loaded.emplace(name, Tokenizer::load(kTokenizers / name)).first->second;
}

// Ids computed with the official rank and model files, without the beginning-of-text token.
struct Row {
  std::string text;
  Ids qwen2, llama3, mistral;
};
const Row kRows[] = {
    {"Hello world"s, {9707, 1879}, {9906, 1917}, {23325, 2294}},
    {" Hello world"s, {21927, 1879}, {22691, 1917}, {29473, 23325, 2294}},
    {"Hello  world   !"s,
     {9707, 220, 1879, 256, 753},
     {9906, 220, 1917, 256, 758},
     {23325, 29473, 2294, 1027, 1686}},
    {"I'm sure they'll DON'T, he'S"s,
     {40, 2776, 2704, 807, 3278, 44273, 17323, 11, 566, 13272},
     {40, 2846, 2771, 814, 3358, 45373, 17773, 11, 568, 13575},
     {1083, 29510, 29487, 2632, 1358, 29510, 1352, 1152, 1600, 29510, 29506, 29493, 1168, 29510,
      29503}},
    {"x = 1234567 + 3.14"s,
     {87, 284, 220, 16, 17, 18, 19, 20, 21, 22, 488, 220, 18, 13, 16, 19},
     {87, 284, 220, 4513, 10961, 22, 489, 220, 18, 13, 975},
     {2086, 1095, 29473, 29508, 29518, 29538, 29549, 29550, 29552, 29555, 1416, 29473, 29538, 29491,
      29508, 29549}},
    {"line1\n\n\n  line2\r\n\tend"s,
     {1056, 16, 1406, 220, 1555, 17, 319, 6246},
     {1074, 16, 1432, 220, 1584, 17, 319, 6379},
     {2175, 29508, 781, 781, 781, 29473, 2175, 29518, 29569, 781, 780, 1184}},
    {"   "s, {262}, {262}, {1028}},
    {"trailing   "s, {376, 14277, 262}, {376, 14612, 262}, {27934, 3055}},
    {"\n \n"s, {26809}, {27907}, {29473, 781, 29473, 781}},
    {"cafe\314\201"s, {924, 58858}, {936, 1897, 54939}, {8681, 2280, 29717}},
    {"\346\210\221\344\273\254\345\234\2502024\345\271\264"s,
     {104952, 17, 15, 17, 19, 7948},
     {98739, 19000, 2366, 19, 8107},
     {29473, 30010, 30318, 29778, 29518, 29502, 29518, 29549, 30124}},
    {"\340\244\271\340\244\277\340\244\250\340\245\215\340\244\246\340\245\200"s,
     {93948, 42311, 101, 30484, 99, 43647},
     {95048, 100556, 101102, 44747},
     {29473, 30740, 30322, 30308, 30068, 30814, 30503}},
    {"\331\205\330\261\330\255\330\250\330\247 \331\241\331\242\331\243"s,
     {124122, 29825, 124671, 220, 149, 94, 149, 95, 149, 96},
     {101244, 30925, 103645, 220, 109610, 110546, 117413},
     {28848, 29715, 29868, 29751, 29683, 29473, 988, 932, 988, 933, 988, 934}},
    {"\360\237\246\231\360\237\232\200 \302\275 \342\205\247"s,
     {149955, 145836, 220, 26062, 220, 70467, 100},
     {9468, 99, 247, 9468, 248, 222, 220, 27154, 220, 71567, 100},
     {29473, 1011, 930, 937, 924, 30780, 29473, 29807, 29473, 997, 904, 938}},
    {"a\302\240b\343\200\200c"s,
     {64, 4102, 65, 22441, 66},
     {64, 115648, 23249, 66},
     {1032, 29768, 29494, 30119, 29485}},
    {"'\305\277 and 'RE"s,
     {6, 144815, 323, 364, 787},
     {6, 129, 123, 323, 364, 793},
     {1232, 31283, 1072, 1232, 1664}},
    {"\341\204\200\341\205\241"s,
     {19969},
     {157, 226, 222, 157, 227, 94},
     {29473, 996, 903, 899, 996, 904, 932}},
    {"\342\204\253"s, {144044}, {15284, 104}, {29473, 997, 903, 942}},
    {"\357\254\201"s, {144300}, {171, 71831}, {29473, 30928}},
    {"Vi\341\273\207t Nam"s,
     {35544, 124382, 29974},
     {36644, 26298, 83, 31074},
     {11772, 30307, 29475, 17676}},
    {"                 z"s, {338, 1147}, {338, 1167}, {1127, 29473, 1454}},
    {"\000\001"s, {188, 189}, {188, 189}, {29473, 771, 30302}},
    {"def f(x):\n    return x"s,
     {750, 282, 2075, 982, 262, 470, 856},
     {755, 282, 2120, 997, 262, 471, 865},
     {1569, 1053, 29500, 29512, 2097, 781, 3055, 1372, 2086}},
    {"word\342\200\213word"s, {1158, 15692, 1158}, {1178, 16067, 1178}, {2475, 29703, 2954}},
    {"<|endoftext|>x"s,
     {151643, 87},
     {27, 91, 8862, 728, 428, 91, 29, 87},
     {1291, 29534, 1184, 1777, 1540, 29534, 29535, 29512}},
    {"<|begin_of_text|>hi"s,
     {27, 91, 7265, 3575, 4326, 91, 29, 6023},
     {128000, 6151},
     {1291, 29534, 2125, 29498, 1777, 29498, 1540, 29534, 29535, 6133}},
    {"<s>[INST] hi"s,
     {44047, 30768, 64462, 60, 15588},
     {45147, 31868, 65562, 60, 15960},
     {1, 3, 29473, 12782}},
    {"it\342\200\231s"s, {275, 748}, {275, 753}, {1146, 29577, 29481}},
    {""s, {}, {}, {}},
};

}  // namespace

TEST_CASE("tokenizer: ids of the official models") {
  if (!available(kTokenizers)) return;
  const Tokenizer &qwen2 = shared("qwen2.5"), &llama3 = shared("llama3"),
                  &mistral = shared("mistral-v0.3");
  CHECK(qwen2.bos_id() == -1);
  CHECK(llama3.bos_id() == 128000);
  CHECK(mistral.bos_id() == 1);
  CHECK(qwen2.vocab_size() == 151665);
  CHECK(llama3.vocab_size() == 128256);
  CHECK(mistral.vocab_size() == 32768);
  for (const Row& row : kRows) {
    INFO("text " << row.text);
    CHECK(qwen2.encode(row.text) == row.qwen2);
    CHECK(llama3.encode(row.text, false) == row.llama3);
    CHECK(mistral.encode(row.text, false) == row.mistral);
    Ids with_bos = {128000};
    with_bos.insert(with_bos.end(), row.llama3.begin(), row.llama3.end());
    CHECK(llama3.encode(row.text) == with_bos);
    CHECK(llama3.decode(row.llama3) == row.text);
    CHECK(qwen2.decode(row.qwen2) == to_nfc(row.text));
    if (row.text.find("<s>") == std::string::npos) {
      CHECK(mistral.decode(mistral.encode(row.text), true) == row.text);
    }
  }
  CHECK(llama3.encode(" Vi\u1EC7t", false) == Ids{101798});  // no merges lead to it
  CHECK(llama3.encode("This is a test sentence.") == Ids{128000, 2028, 374, 264, 1296, 11914, 13});
  CHECK(qwen2.encode("<|endoftext|>x", true, false) == Ids{27, 91, 8691, 723, 427, 91, 29, 87});
  CHECK(llama3.encode("<|begin_of_text|>hi", false, false) ==
        Ids{27, 91, 7413, 3659, 4424, 91, 29, 6151});
}

TEST_CASE("tokenizer: vectors of llama.cpp") {
  const fs::path folder = kTokenizers / "cases";
  if (!available(folder)) return;
  const std::string separator = "\n__ggml_vocab_test__\n";
  const std::string all = read_text_file(folder / "cases.inp", 1 << 20);
  std::vector<std::string> texts;
  for (size_t begin = 0; begin <= all.size();) {
    const size_t end = std::min(all.find(separator, begin), all.size());
    texts.push_back(all.substr(begin, end - begin));
    begin = end + separator.size();
  }
  std::ifstream expected(folder / "llama-bpe.out");
  std::string line;
  size_t n = 0;
  while (std::getline(expected, line)) {
    REQUIRE(n < texts.size());
    std::istringstream numbers(line);
    const Ids ids{std::istream_iterator<int32_t>(numbers), {}};
    INFO("case " << n << ": " << texts[n]);
    CHECK(shared("llama3").encode(texts[n++], false) == ids);
  }
  CHECK(n == 46);
}

TEST_CASE("tokenizer: stories of the 260K model") {
  const fs::path data = fs::path(PTQ_SHARED_DIR) / "data/weights";
  if (!available(data)) return;
  const Tokenizer t = Tokenizer::load(data / "stories260K/hf");
  const auto reference = JsonDocument::load(data / "stories260K/reference.json");
  std::ifstream stories(data / "tinystories-text/stories.jsonl");
  int compared = 0;
  reference.root().get("sequences").for_each_element([&](const JsonValue& sequence) {
    std::string line;
    REQUIRE(std::getline(stories, line));
    const auto story = JsonDocument::parse(line, "stories.jsonl");
    Ids expected;
    sequence.get("ids").for_each_element(
        [&](const JsonValue& id) { expected.push_back(int32_t(id.as_integer())); });
    CHECK(t.encode(story.root().get("text").as_string()) == expected);
    ++compared;
  });
  CHECK(compared == 5);
}

TEST_CASE("tokenizer: WikiText-2 comes back unchanged") {
  const fs::path file = fs::path(PTQ_SHARED_DIR) / "data/wikitext2/wiki.test.raw";
  if (!available(file)) return;
  const std::string text = read_text_file(file, 1 << 24);
  for (const char* name : {"llama3", "qwen2.5", "mistral-v0.3"}) {
    INFO(name);
    const Tokenizer& t = shared(name);
    const std::string expected = std::string(name) == "qwen2.5" ? to_nfc(text) : text;
    CHECK((t.decode(t.encode(text), true) == expected));
  }
}

TEST_CASE("tokenizer: cutting at word starts does not change ids") {
  const fs::path file = fs::path(PTQ_SHARED_DIR) / "data/wikitext2/wiki.test.raw";
  if (!available(file)) return;
  const auto document = JsonDocument::load(kTokenizers / "mistral-v0.3/tokenizer.json",
                                           {.max_bytes = 1 << 24, .max_depth = 16});
  const TokenizerParts parts = read_tokenizer_parts(document.root());
  REQUIRE(parts.word_start == "\u2581");
  std::string text = read_text_file(file, 1 << 24).substr(0, 200'000);
  text += "   a  <unk \u2581\u2581b\u2581 \n \n  " + std::string(40, ' ') + "\u6211 \u6211";
  std::string normalized = "\u2581";
  for (const char c : text) normalized += c == ' ' ? "\u2581" : std::string(1, c);
  Ids whole;
  parts.model.encode(normalized, whole);
  CHECK((shared("mistral-v0.3").encode(text, false) == whole));
}

TEST_CASE("tokenizer: long runs take n log n time") {
  if (!available(kTokenizers)) return;
  const std::string run(1'000'000, ' ');
  for (const char* name : {"llama3", "qwen2.5", "mistral-v0.3"}) {
    const Tokenizer& t = shared(name);
    CHECK((t.decode(t.encode(run), true) == run));
    CHECK((t.decode(t.encode(std::string(300'000, 'a')), true) == std::string(300'000, 'a')));
  }
}

TEST_CASE("tokenizer: stored cases of the embedded models") {
  const fs::path root(PTQ_SOURCE_DIR);
  const fs::path file = root / "test/fixtures/models/tokenizer_cases.json";
  if (!available(file)) return;
  std::map<std::string, Tokenizer> loaded;
  int compared = 0;
  JsonDocument::load(file).root().for_each_element([&](const JsonValue& entry) {
    const std::string model(entry.get("model").as_string());
    if (!fs::exists(root / "models" / model / "tokenizer.json")) return;
    auto found = loaded.find(model);
    if (found == loaded.end()) {
      found = loaded.emplace(model, Tokenizer::load(root / "models" / model)).first;
    }
    Ids expected;
    entry.get("ids").for_each_element(
        [&](const JsonValue& id) { expected.push_back(int32_t(id.as_integer())); });
    INFO(entry.path() << ": " << entry.get("text").as_string());
    CHECK(found->second.encode(entry.get("text").as_string()) == expected);
    ++compared;
  });
  if (compared == 0) WARN("skipped: the embedded models are not here");
}
