// The list of evaluation kinds: everything else loops over it.
#include <catch2/catch.hpp>
#include <set>
#include <string>
#include <vector>

#include "ptq/eval/kinds.hpp"
#include "ptq/results/token_consistency.hpp"
#include "test/eval/fake_rows.hpp"
#include "test/support/fake_engine.hpp"
#include "test/support/temporary_file.hpp"

using namespace ptq;
using namespace ptq::eval;
using ptq::test::FakeEngine;
using ptq::test::TempFile;

namespace {

// A small evaluation of every kind.
std::vector<Settings> small_settings() {
  PerplexitySettings perplexity;
  perplexity.window = 64;
  CachedDecodeSettings cached_decode;
  cached_decode.lengths = {64};
  cached_decode.samples = 1;
  PasskeySettings passkey;
  passkey.keys = 1;
  passkey.depths = {0.5};
  passkey.context_length = 700;
  RetrievalSettings retrieval;
  retrieval.tasks = {"single"};
  retrieval.lengths = {900};
  retrieval.depths = {0.5};
  retrieval.samples = 1;
  GenerationSettings generation;
  generation.samples = 1;
  generation.prompt_tokens = 16;
  generation.continuation_tokens = 16;
  ChoicesSettings choices;
  choices.task = PTQ_SOURCE_DIR "/datasets/tasks/openbookqa.toml";
  AnswersSettings answers;
  answers.task = PTQ_SOURCE_DIR "/datasets/tasks/gsm8k.toml";
  answers.max_new_tokens = 8;
  return {perplexity, cached_decode, passkey, retrieval, generation, choices, answers};
}

std::string word_of(const Settings& settings) {
  return with_kind(settings, [](const auto& kind, const auto&) { return std::string(kind.word); });
}

}  // namespace

TEST_CASE("every kind is found by its word", "[eval]") {
  std::set<std::string> words;
  for (const std::string& word : kind_words()) {
    CHECK(word_of(make_settings(word)) == word);
    words.insert(word);
  }
  CHECK(words.size() == kind_words().size());
}

TEST_CASE("every kind checks its inputs, runs, and writes the figure that ranks it", "[eval]") {
  const Tokenizer bytes = test::byte_tokenizer();
  FakeEngine engine(256);
  Subject subject{engine, nullptr, &engine, bytes};
  const std::string text = test::some_text(300);
  const TempFile plain(text), lines("{\"text\": \"" + text + "\"}\n"),
      rows(
          "{\"question_stem\": \"Why\", \"choices\": {\"text\": [\"a\", \"so\"], \"label\": "
          "[\"A\", \"B\"]}, \"answerKey\": \"B\"}\n"),
      problems("{\"question\": \"How many?\", \"answer\": \"2 + 2\\n#### 4\"}\n");
  std::set<std::string> seen;
  for (const Settings& small : small_settings()) {
    INFO(word_of(small));
    seen.insert(word_of(small));
    const TempFile& file = word_of(small) == "perplexity" ? plain
                           : word_of(small) == "choices"  ? rows
                           : word_of(small) == "answers"  ? problems
                                                          : lines;
    const Settings settings = with_data_file(small, file.path);
    CHECK_NOTHROW(check_unloaded({bytes, "fake", 1 << 20}, settings));
    const Outcome outcome = evaluate(subject, settings, {});
    const Headline headline = headline_of(settings);
    CHECK(outcome.metrics[headline.key].is_number());
    CHECK((std::string(headline.direction) == "lower" ||
           std::string(headline.direction) == "higher"));
    CHECK(outcome.metrics["regime"] == regime_word(regime_of(settings)));
    CHECK_FALSE(outcome.samples.empty());
  }
  CHECK(seen.size() == kind_words().size());
}

TEST_CASE("the scores of the tokens give the figures of every kind that has them", "[eval]") {
  const Tokenizer bytes = test::byte_tokenizer();
  FakeEngine engine(256, 1.0);
  test::FakeKv kv(KvPolicy{0, 4, 4});
  const Subject with{engine, &kv, &engine, bytes}, alone{engine, nullptr, nullptr, bytes};
  const std::string text = test::some_text(300);
  const TempFile plain(text),
      lines("{\"text\": \"" + text + "\"}\n{\"text\": \"x" + text + "\"}\n");
  std::set<std::string> seen;
  for (const Settings& small : small_settings()) {
    const std::string kind = word_of(small);
    INFO(kind);
    if (!scores_tokens(small)) continue;
    Settings settings = with_data_file(small, kind == "perplexity" ? plain.path : lines.path);
    for (Subject subject : {with, alone}) {
      const Outcome outcome = evaluate(subject, settings, {});
      const TokenFile& file = outcome.tokens;
      if (file.tokens.empty()) continue;
      seen.insert(kind);
      Record record;
      record.evaluation.kind = kind;
      record.metrics = outcome.metrics;
      std::vector<Violation> found;
      consistency_detail::compare_with_tokens(record, file, found);
      for (const Violation& violation : found) FAIL_CHECK(violation.sentence());
      CHECK(outcome.metrics["nonfinite_tokens"] == 0);
      CHECK(file.runs.size() == outcome.samples.size());
      CHECK(file.tokens.size() == outcome.metrics["tokens_scored"].get<size_t>());
      CHECK(file.tokens[0].has_reference() == (subject.reference != nullptr));
      CHECK_NOTHROW(token_file_bytes(file));
    }
  }
  CHECK(seen == std::set<std::string>{"perplexity", "cached-decode", "generation"});
}

TEST_CASE("settings that no experiment file has checked are checked", "[eval]") {
  GenerationSettings settings;
  CHECK_NOTHROW(check_settings(settings, "generation"));
  settings.batch = 0;
  CHECK_THROWS_WITH(check_settings(settings, "generation"),
                    Catch::Contains("`batch` is 0, outside its range 1 to 1024"));
  RetrievalSettings retrieval;
  retrieval.depths = {0.5, 1.5};
  CHECK_THROWS_WITH(check_settings(retrieval, "retrieval"),
                    Catch::Contains("`depths` is 1.5, outside its range 0 to 1"));
  retrieval.depths = {};
  CHECK_THROWS_WITH(check_settings(retrieval, "retrieval"), Catch::Contains("`depths` is empty"));
  retrieval = {};
  retrieval.tasks = {"sinlge"};
  CHECK_THROWS_WITH(check_settings(retrieval, "retrieval"), Catch::Contains("`sinlge`"));
}
