// Written answers: texts, filters and comparison against the harness, and what may not change them.
#include <algorithm>
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "ptq/core/json.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/eval/answers.hpp"
#include "test/support/fake_engine.hpp"
#include "test/support/temporary_file.hpp"

using namespace ptq;
using namespace ptq::eval;
using ptq::test::FakeEngine;
using ptq::test::TempFile;

namespace {

Json fixture() {
  const std::string file = PTQ_SOURCE_DIR "/test/fixtures/tasks/answers.json";
  return parse_json(read_text_file(file, 1 << 20), file);
}

AnswersSettings word_problems(int64_t shots) {
  AnswersSettings s;
  s.task = PTQ_SOURCE_DIR "/datasets/tasks/gsm8k.toml";
  s.data = PTQ_SOURCE_DIR "/test/fixtures/tasks/gsm8k_rows.jsonl";
  s.fewshot = shots;
  s.fewshot_data = shots > 0 ? s.data : "";
  s.max_new_tokens = 24;
  return s;
}

struct Files {
  TempFile task{
      "stop = [\"!\"]\nmax_new_tokens = 6\n[[form]]\ncontext = \"{q}:\"\nanswer = \"{a}\"\n"};
  TempFile data{[] {
    std::string text;
    for (int i = 0; i < 12; ++i)
      text +=
          "{\"q\": \"" + std::string(size_t(5 + i * 7 % 40), char('a' + i)) + "\", \"a\": \"x\"}\n";
    return text;
  }()};
  AnswersSettings settings(int64_t batch = 8) const {
    AnswersSettings s;
    s.task = task.path;
    s.data = data.path;
    s.batch = batch;
    return s;
  }
};

}  // namespace

TEST_CASE("filters and comparison of written answers are the harness's", "[answers]") {
  const auto task = tasks::read_task(PTQ_SOURCE_DIR "/datasets/tasks/gsm8k.toml");
  REQUIRE(task.writes());
  const Json known = fixture();
  for (const Json& row : known["texts"]) {
    for (const tasks::AnswerFilter& filter : task.rules.filters) {
      INFO(row.dump() << ", " << filter.name);
      const std::string taken = filter.apply(row["text"].get<std::string>());
      CHECK(taken == row["filtered"][filter.name].get<std::string>());
      CHECK(task.rules.equal(taken, row["target"].get<std::string>()) ==
            (row["exact_match"][filter.name] == 1.0));
    }
  }
}

TEST_CASE("what a small model writes is what the harness lets it write", "[answers]") {
  const std::string model = PTQ_SOURCE_DIR "/models/tiny-mistral";
  const Tokenizer tokenizer = Tokenizer::load(model);
  const auto engine = make_cpu_engine(model, 2);
  Subject subject{*engine, nullptr, nullptr, tokenizer};
  const Json known = fixture();
  for (const Json& run : known["runs"]) {
    const AnswersSettings s = word_problems(run["fewshot"]);
    const auto items = read_items(read_task_of(s, "answers"), s);
    const Outcome outcome = answers(subject, s, {});
    REQUIRE(outcome.samples.size() == run["rows"].size());
    for (size_t i = 0; i < outcome.samples.size(); ++i) {
      const Json &sample = outcome.samples[i], &right = run["rows"][i];
      INFO(s.fewshot << " examples, row " << i);
      CHECK(items[i].block + items[i].question.context(0) == right["context"].get<std::string>());
      CHECK(sample["answer"] == right["answer"]);
      CHECK(sample["filtered"] == right["filtered"]);
      for (const char* filter : {"strict-match", "flexible-extract"})
        CHECK(sample[std::string("exact_match,") + filter] == right["exact_match"][filter]);
    }
  }
}

TEST_CASE("answers do not depend on their batch, and go on behind a book", "[answers]") {
  const Tokenizer bytes = test::byte_tokenizer();
  const Files files;
  test::FakeKv kv(KvPolicy{0, 4, 4});
  FakeEngine engine(256, 4.0);
  const auto run = [&](int64_t batch, ScoreBook* book) {
    engine.calls.clear();
    Subject subject{engine, &kv, &engine, bytes, {}, book};
    Outcome outcome = answers(subject, files.settings(batch), {});
    for (const char* key : {"seconds", "reference_seconds", "tokens_per_second"})
      outcome.metrics.erase(key);
    return outcome;
  };
  const Outcome one = run(1, nullptr), many = run(5, nullptr);
  CHECK(one.samples == many.samples);
  CHECK(one.metrics == many.metrics);
  for (const Json& sample : one.samples) {
    CHECK(sample["new_tokens"].get<int64_t>() <= 6);
    CHECK(sample["answer"].get<std::string>().find('!') == std::string::npos);
    CHECK(sample["filtered"]["none"] == sample["answer"]);
  }
  CHECK(one.metrics["exposure"].get<double>() > 0);
  CHECK(one.metrics["agreement"].get<double>() < 1);

  const TempFile file("");
  const size_t calls = engine.calls.size();
  {
    ScoreBook book(file.path, ScoreBook::Use::extend);
    AnswersSettings some = files.settings(5);
    some.rows = "0:7";
    Subject subject{engine, &kv, nullptr, bytes, {}, &book};
    answers(subject, some, {});
    CHECK(book.size() == 7);
  }
  ScoreBook book(file.path, ScoreBook::Use::extend);
  CHECK(run(5, &book).metrics == many.metrics);
  CHECK(engine.calls.size() < calls);
}

TEST_CASE("a question that is too long loses its beginning, the answer has room", "[answers]") {
  const Tokenizer bytes = test::byte_tokenizer();
  const Files files;
  FakeEngine engine(256);
  AnswersSettings s = files.settings();
  s.max_length = 30;
  Subject subject{engine, nullptr, nullptr, bytes};
  const Outcome outcome = answers(subject, s, {});
  int64_t longest = 0;
  for (const Json& sample : outcome.samples)
    longest = std::max(longest, sample["prompt_tokens"].get<int64_t>());
  CHECK(longest == 24);
  CHECK(outcome.metrics["truncated"].get<int64_t>() > 0);
  s.max_length = 6;
  CHECK_THROWS_WITH(answers(subject, s, {}), Catch::Contains("leaves no room"));
}

TEST_CASE("a task is asked as its kind", "[answers]") {
  const Tokenizer bytes = test::byte_tokenizer();
  FakeEngine engine(256);
  Subject subject{engine, nullptr, nullptr, bytes};
  AnswersSettings s = word_problems(0);
  s.task = PTQ_SOURCE_DIR "/datasets/tasks/piqa.toml";
  CHECK_THROWS_WITH(answers(subject, s, {}), Catch::Contains("are chosen"));
  const TempFile mixed(
      "[[form]]\ncontext = \"{q}\"\nanswer = \"{a}\"\n[[form]]\ncontext = \"{q}\"\n"
      "choices = [\"a\", \"b\"]\ngold = \"{g}\"\n"),
      wrong("[[form]]\ncontext = \"{q}\"\nanswer = \"{a}\"\n[[filter]]\npattern = \"(\"\n");
  CHECK_THROWS_WITH(tasks::read_task(mixed.path), Catch::Contains("one form writes answers"));
  CHECK_THROWS_WITH(tasks::read_task(wrong.path), Catch::Contains("the pattern `(` is wrong"));
}
