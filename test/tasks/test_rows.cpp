// Descriptions, rows and requests of the tasks. The digests in test/fixtures/tasks/requests.json
// are those of lm-evaluation-harness 0.4.11 (make.py beside it).
#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "ptq/core/hash.hpp"
#include "ptq/eval/choice_requests.hpp"
#include "ptq/model/load_config.hpp"
#include "ptq/model/load_tokenizer.hpp"
#include "ptq/tasks/rows.hpp"
#include "test/support/temporary_file.hpp"

using namespace ptq;
using namespace ptq::tasks;
using ptq::test::TempFile;

namespace {

const std::string kSource = PTQ_SOURCE_DIR;

template <class T>
void add_number(Sha256& hash, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  hash.update(std::string_view(bytes, sizeof value));
}

std::vector<Item> items_of(const std::string& task, const std::string& folder, int64_t shots) {
  const std::string data = folder + "/" + task + ".jsonl";
  const std::string labels = task == "piqa" ? folder + "/piqa-labels.lst" : "";
  const std::string examples = task == "mmlu" ? folder + "/mmlu_dev.jsonl" : data;
  return read_items(read_task(kSource + "/datasets/tasks/" + task + ".toml"),
                    {"", data, labels, examples}, shots, {});
}

TaskDescription small_task(const std::string& more = "") {
  const TempFile file("metrics = [\"acc\"]\n" + more +
                      "[[form]]\ncontext = \"{q}\"\nchoices = \"c\"\ngold = \"{g}\"\n");
  return read_task(file.path);
}

}  // namespace

namespace {

// The digests of all requests of some items; without a tokenizer only of their texts.
struct Digests {
  Sha256 texts, tokens;
  int64_t requests = 0;

  void add(const std::vector<Item>& items, const eval::PairTokenizer* pairs) {
    for (const Item& item : items) {
      for (size_t c = 0; c < item.question.choices.size(); ++c, ++requests) {
        const std::string context = item.block + item.question.context(c);
        const std::string continuation = " " + item.question.continuation(c);
        for (const std::string& text : {context, continuation}) {
          add_number(texts, int64_t(text.size()));
          texts.update(text);
        }
        if (pairs == nullptr) continue;
        const eval::TokenPair pair = pairs->encode(context, continuation, "test");
        for (const auto& ids : {pair.context, pair.continuation}) {
          add_number(tokens, int64_t(ids.size()));
          for (const int32_t id : ids) add_number(tokens, id);
        }
      }
    }
  }
  void check(const Json& entry) {
    CHECK(requests == entry["requests"].get<int64_t>());
    CHECK(texts.hex() == entry["texts_sha256"].get<std::string>());
    if (entry.contains("tokens_sha256"))
      CHECK(tokens.hex() == entry["tokens_sha256"].get<std::string>());
  }
};

Json fixture(const std::string& name) {
  const std::string file = kSource + "/test/fixtures/tasks/" + name;
  return parse_json(read_text_file(file, 1 << 20), name);
}

}  // namespace

TEST_CASE("requests and token pairs are the harness's, with and without examples", "[tasks]") {
  const std::string model = kSource + "/models/tiny-mistral";
  const ModelConfig config = load_config(model);
  const Tokenizer tokenizer = Tokenizer::load(model);
  const eval::PairTokenizer pairs(tokenizer, config, int64_t{1} << 20);
  const Json entries = fixture("requests.json");
  REQUIRE(entries.size() == 16);
  for (const Json& entry : entries) {
    const std::string name = entry["task"];
    INFO(name << ", " << entry["fewshot"] << " examples");
    Digests digests;
    digests.add(items_of(name, kSource + "/datasets/embedded/tasks", entry["fewshot"]), &pairs);
    digests.check(entry);
  }
}

TEST_CASE("requests of the official rows are the harness's", "[tasks]") {
  const std::string shared = std::string(PTQ_SHARED_DIR) + "/data/";
  if (!std::filesystem::exists(shared + "tasks")) {
    WARN("skipped: the shared data is not here");
    return;
  }
  const std::map<std::string, std::string> files = {
      {"hellaswag", "hellaswag/hellaswag_val.jsonl"},
      {"winogrande", "winogrande/dev.jsonl"},
      {"piqa", "piqa/valid.first100.jsonl"},
      {"arc_easy", "arc/arc_easy_test.jsonl"},
      {"arc_challenge", "arc/ARC-Challenge-Test.jsonl"},
      {"boolq", "boolq/val.jsonl"},
      {"openbookqa", "openbookqa/dev.jsonl"},
      {"mmlu", "mmlu/test.jsonl"}};
  const ModelConfig config;
  std::map<std::string, Tokenizer> tokenizers;
  for (const Json& entry : fixture("requests_official.json")) {
    const std::string name = entry["task"], words = entry.value("tokenizer", "");
    INFO(name << " " << words);
    const std::string labels =
        name == "piqa" ? shared + "tasks/piqa/valid-labels.first100.lst" : std::string();
    RowRange rows;
    if (entry.contains("most")) rows.end = entry["most"];
    const auto items = read_items(read_task(kSource + "/datasets/tasks/" + name + ".toml"),
                                  {"", shared + "tasks/" + files.at(name), labels, ""}, 0, rows);
    Digests digests;
    if (words.empty()) {
      digests.add(items, nullptr);
    } else {
      auto found = tokenizers.find(words);
      if (found == tokenizers.end())
        found = tokenizers.emplace(words, Tokenizer::load(shared + "tokenizers/" + words)).first;
      const eval::PairTokenizer pairs(found->second, config, int64_t{1} << 20);
      digests.add(items, &pairs);
    }
    digests.check(entry);
  }
}

TEST_CASE("a pair is cut where the context alone ends", "[tasks]") {
  const Tokenizer bytes = Tokenizer::load(kSource + "/models/tiny-mistral");
  const ModelConfig config = load_config(kSource + "/models/tiny-mistral");
  const eval::PairTokenizer pairs(bytes, config, 8);
  const auto blank = pairs.encode("one two ", "three", "test"),
             plain = pairs.encode("one two", " three", "test");
  CHECK(blank.context == plain.context);
  CHECK(blank.continuation == plain.continuation);
  CHECK(plain.context.front() == bytes.bos_id());
  const auto empty = pairs.encode("", "three", "test");
  CHECK(empty.context == std::vector<int32_t>{bytes.bos_id()});
  CHECK(empty.continuation == bytes.encode("three", false));
  const auto begun = pairs.encode("<|begin_of_text|>one", " two", "test");
  CHECK(begun.context == bytes.encode("one"));
  // Of too many tokens the first go, the token that begins the text among them.
  const auto long_pair = pairs.encode("one two three four five six seven eight nine", " ten", "t");
  CHECK(long_pair.truncated);
  CHECK(long_pair.context.size() + long_pair.continuation.size() == 9);
  CHECK(long_pair.context.front() != bytes.bos_id());
  CHECK_THROWS_WITH(pairs.encode("a", " b c d e f g h i j k l m n o p", "row 3"),
                    Catch::Contains("the model takes 8") && Catch::Contains("row 3"));
}

TEST_CASE("rows are picked by a range, right answers are found or missed with their place",
          "[tasks]") {
  CHECK(parse_rows("3:5").begin == 3);
  CHECK(parse_rows(":5").end == 5);
  CHECK(parse_rows("7:").begin == 7);
  for (const char* bad : {"5", "5:3", "a:b", "-1:4", "1:2:3"}) CHECK_THROWS(parse_rows(bad));

  const TempFile rows(R"({"q": "a", "c": ["x", "y"], "g": 1})"
                      "\n\n"
                      R"({"q": "b", "c": ["x", "y"], "g": "0"})"
                      "\n"
                      R"({"q": "c", "c": ["x", "y"], "g": 2})"
                      "\n");
  const TaskDescription task = small_task();
  const auto items = read_items(task, {"", rows.path, "", ""}, 0, parse_rows("0:2"));
  REQUIRE(items.size() == 2);
  CHECK(items[1].row == 1);
  CHECK(items[0].question.gold == 1);
  CHECK(items[1].question.gold == 0);
  CHECK_THROWS_WITH(read_items(task, {"", rows.path, "", ""}, 0, {}),
                    Catch::Contains("number 2 of 2 choices") && Catch::Contains(":4"));
  CHECK_THROWS_WITH(read_items(task, {"", rows.path, "", ""}, 0, parse_rows("9:")),
                    Catch::Contains("the file has 3"));
  const TempFile labels("0\n1\n");
  const auto labelled = read_items(task, {"", rows.path, labels.path, ""}, 0, parse_rows("0:2"));
  CHECK(labelled[1].question.gold == 1);
  CHECK_THROWS_WITH(read_items(task, {"", rows.path, labels.path, ""}, 0, {}),
                    Catch::Contains("only 2 labels"));
  const TempFile other(R"({"question": "a", "answer": 1})");
  CHECK_THROWS_WITH(read_items(task, {"", other.path, "", ""}, 0, {}),
                    Catch::Contains("it has question, answer") && Catch::Contains("export_hf.py"));
}

TEST_CASE("mistakes of a description come with their place, all at once", "[tasks]") {
  const TempFile file(
      "metrics = [\"acc\", \"acc_nrom\"]\nsubjekt = \"{s}\"\n[[form]]\ncontext = \"{q\"\n"
      "choices = \"c\"\n");
  CHECK_THROWS_WITH(read_task(file.path), Catch::Contains("acc_norm") &&
                                              Catch::Contains("no partner") &&
                                              Catch::Contains("did you mean `subject`?") &&
                                              Catch::Contains("needs `gold`"));
}
