// The retrieval suite: prompts against an independent implementation, scores against hand
// calculation on an engine that looks answers up, and copies of sequences.
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "ptq/core/hash.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/eval/exercised.hpp"
#include "ptq/eval/retrieval.hpp"
#include "test/support/fake_engine.hpp"

using namespace ptq;
using namespace ptq::eval;
using ptq::test::FakeEngine;
using ptq::test::FakeKv;
namespace fs = std::filesystem;

namespace {

// Knows one rule: a sentence that began in the context goes on as it did there first. `share` above
// a half loses what stands in the first third of the text.
void copying_logits(std::span<const int32_t> history, double share, float* logits) {
  std::fill(logits, logits + 256, 0.0f);
  const std::string text(history.begin(), history.end());
  const size_t asked = text.rfind("? ");
  if (asked == std::string::npos) return;
  const std::string begun = text.substr(asked + 2);
  const size_t at = text.find(begun);
  if (at == asked + 2) return;  // stands nowhere: all equal, the lowest id wins
  char next = text[at + begun.size()];
  if (share > 0.5 && at < text.size() / 3 && next >= '0' && next <= '9') {
    next = next == '9' ? '1' : char(next + 1);
  }
  logits[int(next)] = 5;
}

}  // namespace

TEST_CASE("prompts equal those of an independent implementation", "[retrieval]") {
  const fs::path root(PTQ_SOURCE_DIR);
  std::ifstream file(root / "test/fixtures/retrieval/prompts.json");
  const auto cases = nlohmann::json::parse(file);
  REQUIRE(cases.size() == 52);
  std::map<std::string, Tokenizer> tokenizers;
  for (const auto& c : cases) {
    const std::string model = c["model"];
    if (!tokenizers.count(model)) {
      tokenizers.emplace(model, Tokenizer::load(root / "models" / model));
    }
    const Tokenizer& tokenizer = tokenizers.at(model);
    std::string task = c["family"];
    if (task != "single") task += "-" + std::to_string(c["count"].get<int>());
    if (task[0] == 'h') task += "x" + std::to_string(c["chains"].get<int>());
    INFO(model << ", " << task << ", " << c["haystack"] << ", " << c["length"]);
    const retrieval::Prompt prompt = retrieval::make_prompt(
        tokenizer,
        {retrieval::parse_task(task), retrieval::parse_haystack(c["haystack"]), c["length"],
         c["depth"].is_null() ? 0.0 : c["depth"].get<double>(), 0, c["seed"], c["index"]});
    if (c.contains("context")) CHECK(prompt.context == c["context"].get<std::string>());
    CHECK(sha256_hex(prompt.context) == c["context_sha256"].get<std::string>());
    CHECK(prompt.question.text == c["question"].get<std::string>());
    CHECK(prompt.question.answer == c["answer"].get<std::string>());
    CHECK(prompt.question.references == c["references"].get<std::vector<std::string>>());
    CHECK(prompt.tokens == c["prompt_tokens"].get<int64_t>());
    CHECK(retrieval::parse_task(task).max_new_tokens() == c["max_new_tokens"].get<int64_t>());

    // What the answer needs stands in the context, and so does what it could be mistaken for.
    for (const std::string& value : prompt.question.references) {
      CHECK(prompt.context.find(value) != std::string::npos);
    }
    for (const std::string& value : prompt.distractors) {
      CHECK(prompt.context.find(value) != std::string::npos);
    }
    // Spans and tokens of the values spell the values.
    const QuestionTokens tokens =
        tokenize_question(tokenizer, "", 0, prompt.question, prompt.distractors);
    REQUIRE(tokens.values.size() == prompt.question.references.size());
    for (size_t v = 0; v < tokens.values.size(); ++v) {
      const std::vector<int32_t> ids(tokens.answer.begin() + tokens.values[v].begin,
                                     tokens.answer.begin() + tokens.values[v].end);
      const std::string spelled = tokenizer.decode(ids);
      CHECK(spelled.substr(spelled[0] == ' ') == prompt.question.references[v]);
    }
  }
}

TEST_CASE("words of the suite", "[retrieval]") {
  const auto distinct = [](const auto& words) {
    for (const auto& a : words) {
      for (const auto& b : words) {
        if (&a != &b && b.starts_with(a)) return false;
      }
    }
    return true;
  };
  CHECK(distinct(retrieval::kAdjectives));
  CHECK(distinct(retrieval::kNouns));
  CHECK(retrieval::parse_task("hop-4x2").chains == 2);
  CHECK(retrieval::parse_task("hop-4").count == 4);
  for (const char* wrong :
       {"", "sinlge", "multikey", "multikey-1", "multikey-0", "multikey-04", "multikey-4x2",
        "multivalue-9", "hop-x2", "hop-2x0", "hop-2x", "hop--2"}) {
    INFO(wrong);
    CHECK_FALSE(retrieval::find_task(wrong));
  }
  CHECK_THROWS_WITH(retrieval::parse_task("sinlge"),
                    Catch::Contains("known: single, multikey-K (K 2 to 255)"));
}

TEST_CASE("an answer in the model's own words", "[retrieval]") {
  const std::vector<std::string> one = {"12345"}, two = {"red box", "old key"};
  CHECK(judge(" 12345.", one).exact);
  CHECK(judge(" it is 12345", one).exact);
  CHECK_FALSE(judge(" it is 12345", one).final);
  CHECK(judge(" 12345 or 99999", one).exact);
  CHECK_FALSE(judge(" 99999 or 12345", one).exact);
  CHECK_FALSE(judge(" 123456.", one).exact);
  CHECK_FALSE(judge(" 1234\n12345", one).exact);
  CHECK(judge(" 1234\n", one).final);
  CHECK(judge("", one).partial == 0);
  CHECK(judge("\n 12345.", one).exact);  // the first line that holds something counts
  CHECK(judge(" Red Box. The number is in the old key", two).exact);
  CHECK(judge(" red box", two).partial == 0.5);
  CHECK_FALSE(judge(" red box", two).final);
  CHECK(judge(" red box\n old key", two).partial == 0.5);
}

namespace {

// Prompts of 900 tokens, three of each of two tasks at two depths, answered by copying.
struct Suite {
  Suite() {
    engine.logits = copying_logits;
    settings.tasks = {"single", "multikey-4"};
    settings.lengths = {900};
    settings.depths = {0.1, 0.9};
    settings.samples = 3;
  }
  const Tokenizer bytes = test::byte_tokenizer();
  FakeEngine engine{256};
  FakeKv kv{KvPolicy{0, 32, 16}};
  RetrievalSettings settings;
  const double loss = std::log(1 + 255 * std::exp(-5.0));  // of a character that is right
};

}  // namespace

TEST_CASE_METHOD(Suite, "scores of the suite against hand calculation", "[retrieval]") {
  SECTION("full precision") {
    Subject subject{engine, nullptr, nullptr, bytes};
    double last = 0;
    const Outcome outcome = retrieval_suite(
        subject, settings, [&](double fraction, const std::string&) { last = fraction; });
    const Json& m = outcome.metrics;
    CHECK(last == Approx(1));
    CHECK(m["correct"] == 12);
    CHECK(m["accuracy"] == 1.0);
    CHECK(m["ci95_low"].get<double>() == Approx(std::pow(0.025, 1.0 / 12)));
    REQUIRE(m["cells"].size() == 4);
    CHECK(m["tasks"].size() == 2);
    CHECK(m["lengths"][0]["total"] == 12);
    CHECK(m["cells"][1]["depth"] == 0.9);
    CHECK(m["cells"][0]["answer_nll"].get<double>() == Approx(5 * loss));
    CHECK(m["cells"][0]["lead"].get<double>() == Approx(5));
    CHECK(m["cells"][0]["margin"].is_null());
    // A word of padding has 3 or 4 bytes here: less than a line is missing.
    CHECK(m["cells"][0]["prompt_tokens_max"] <= 900 - 8 - 24);
    CHECK(m["cells"][0]["prompt_tokens_min"] > int64_t(900 - 8 - 24 - retrieval::kNoise.size()));
    CHECK(m["cells"][0]["baseline_fails"] == false);
    CHECK_FALSE(m["cells"][0].contains("accuracy_reference"));
    CHECK(m["cells_baseline_fails"] == 0);
    CHECK(outcome.samples[0]["index"] == 0);
    CHECK(outcome.samples.size() == 12);

    // margin of one prompt: from the first character where the nearest other value differs.
    const retrieval::Prompt prompt = retrieval::make_prompt(
        bytes,
        {retrieval::parse_task("multikey-4"), retrieval::Haystack::noise, 900, 0.1, 0, 42, 2});
    REQUIRE(prompt.distractors.size() == 3);
    double margin = 1e9;
    for (const std::string& other : prompt.distractors) {
      const std::string& own = prompt.question.references[0];
      const auto same =
          double(std::mismatch(own.begin(), own.end(), other.begin()).first - own.begin());
      margin = std::min(margin, -(5 - same) * loss + std::log(std::exp(5.0) + 255));
    }
    CHECK(outcome.samples[8]["index"] == 2);
    CHECK(outcome.samples[8]["task"] == "multikey-4");
    CHECK(outcome.samples[8]["margin"].get<double>() == Approx(margin));
  }

  SECTION("a cache that loses early needles, asked twice") {
    settings.second_question = true;
    Subject subject{engine, &kv, &engine, bytes};
    const Outcome outcome = retrieval_suite(subject, settings, {});
    const Json& m = outcome.metrics;
    CHECK(m["cells"][0]["accuracy"] == 0.0);
    CHECK(m["cells"][0]["accuracy_reference"] == 1.0);
    CHECK(m["cells"][0]["lost"] == 3);
    CHECK(m["cells"][0]["answer_nll"].get<double>() == Approx(5 * (loss + 5)));
    CHECK(m["cells"][0]["lead"].get<double>() == Approx(-5));
    CHECK(m["cells"][1]["accuracy"] == 1.0);
    CHECK(m["cells"][2]["margin"].get<double>() < m["cells"][3]["margin"].get<double>());
    CHECK(m["lost"] == 6);
    CHECK(m["cells_baseline_fails"] == 0);
    CHECK(m["second"]["total"] == 6);  // single has nothing else to ask for
    CHECK(m["second"]["accuracy_reference"] == 1.0);
    // The second needles stand anywhere; right where they do not stand in the first third.
    int64_t late = 0;
    for (int64_t index = 0; index < 3; ++index) {
      for (const double depth : settings.depths) {
        const retrieval::Prompt prompt =
            retrieval::make_prompt(bytes, {retrieval::parse_task("multikey-4"),
                                           retrieval::Haystack::noise, 900, depth, 0, 42, index});
        const size_t at = prompt.context.find(prompt.second->references[0]);
        late += at > prompt.context.size() / 2;
      }
    }
    CHECK(m["second"]["correct"] == late);
    CHECK(m["kl_tokens"] == 18 * 5);
    CHECK(m["exposure"].get<double>() > 0.9);
    CHECK(outcome.samples[6]["answer_second"].is_string());
    CHECK(check_exercised(outcome, {.kv = true, .first_encoded_length = 48}).empty());
  }
}

TEST_CASE_METHOD(Suite, "prompts, questions and settings of the suite", "[retrieval]") {
  SECTION("a prompt as long as the model allows leaves room for both questions") {
    settings.tasks = {"multikey-4"};
    settings.second_question = true;
    engine.limit_positions(900);  // beyond, the engine throws
    Subject subject{engine, &kv, &engine, bytes};
    const Outcome outcome = retrieval_suite(subject, settings, {});
    CHECK(outcome.metrics["second"]["accuracy_reference"] == 1.0);
    CHECK(outcome.metrics["accuracy_reference"] == 1.0);
    const int64_t longest = outcome.metrics["cells"][0]["prompt_tokens_max"];
    CHECK(longest < 900 - 8 - 24 - 50);
    CHECK(longest > 900 - 8 - 24 - 150 - int64_t(retrieval::kNoise.size()));
    // Needles and places are those of the same length with room to spare.
    engine.limit_positions(1000);
    const Outcome longer = retrieval_suite(subject, settings, {});
    CHECK(longer.samples[0]["answer_reference"] == outcome.samples[0]["answer_reference"]);
    CHECK(longer.metrics["cells"][0]["prompt_tokens_max"] > longest);
  }

  SECTION("a question that belongs to the prompt is read in full precision") {
    settings.question = "question_aware";
    Subject subject{engine, &kv, &engine, bytes};
    const Outcome outcome = retrieval_suite(subject, settings, {});
    // The blank before the number is decided in full precision, the number is not.
    CHECK(outcome.metrics["cells"][0]["accuracy"] == 0.0);
    const FakeEngine::Call& prompt = engine.calls[1];  // the first is the reference's
    CHECK(prompt.tokens == outcome.samples[0]["tokens"].get<int64_t>());
    CHECK(prompt.first_row == prompt.tokens - 1);
    CHECK(prompt.regime == Regime::prefill_exact);
  }

  SECTION("what full precision cannot answer is marked") {
    settings.tasks = {"hop-2"};
    settings.lengths = {1100};
    Subject subject{engine, nullptr, nullptr, bytes};
    const Outcome outcome = retrieval_suite(subject, settings, {});
    CHECK(outcome.metrics["cells_baseline_fails"] == 1);
    CHECK(outcome.metrics["cells"][0]["depth"].is_null());
    CHECK(outcome.metrics["cells"][0]["baseline_fails"] == true);
  }

  SECTION("settings") {
    Subject subject{engine, nullptr, nullptr, bytes};
    settings.lengths = {200};
    CHECK_THROWS_WITH(retrieval_suite(subject, settings, {}), Catch::Contains("length is 200"));
    settings.question = "context";
    CHECK_THROWS_WITH(retrieval_suite(subject, settings, {}), Catch::Contains("context_only"));
  }
}

TEST_CASE("a copy of a sequence goes on as the sequence does", "[retrieval]") {
  const auto engine = make_cpu_engine((fs::path(PTQ_SOURCE_DIR) / "models/tiny-qwen2").string(), 2);
  std::vector<int32_t> ids(150);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = int32_t(300 + i * 7 % 900);
  const auto rows = [&](Sequence& sequence, std::span<const int32_t> tokens) {
    std::vector<float> all;
    engine->forward(sequence, tokens, Regime::streaming, 0,
                    [&](int64_t, int64_t n, const float* x) {
                      all.insert(all.end(), x, x + n * engine->config().vocab_size);
                    });
    return all;
  };
  const auto sequence = engine->start(nullptr);
  rows(*sequence, std::span(ids).first(100));
  const auto copy = sequence->fork();
  REQUIRE(copy != nullptr);
  const auto tail = std::span(ids).subspan(100);
  const std::vector<float> straight = rows(*sequence, tail);
  CHECK(copy->length() == 100);
  CHECK(rows(*copy, tail) == straight);
  CHECK(copy->bytes().total() == sequence->bytes().total());
}
