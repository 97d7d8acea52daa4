// Multiple choice: scores, decisions, errors, and what may not change them.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "ptq/core/atomic_file.hpp"
#include "ptq/core/toml.hpp"
#include "ptq/eval/choices.hpp"
#include "ptq/model/load_config.hpp"
#include "test/support/fake_engine.hpp"
#include "test/support/temporary_file.hpp"

using namespace ptq;
using namespace ptq::eval;
using ptq::test::FakeEngine;
using ptq::test::TempFile;

namespace {

// Rows of two subjects, with choices of several lengths and one letter.
std::string some_rows(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    const std::string q(size_t(5 + i * 7 % 40), char('a' + i % 26));
    text +=
        "{\"q\": \"" + q + "\", \"s\": \"" + (i % 2 ? "odd" : "even") +
        "\", \"c\": [\"x\", \"two\", \"y\", \"a longer one\"], \"g\": " + std::to_string(i % 4) +
        "}\n";
  }
  return text;
}

struct TaskFiles {
  TempFile task{
      "metrics = [\"acc\", \"acc_norm\", \"acc_bytes\"]\nprimary = \"acc_norm\"\n"
      "subject = \"{s}\"\nheader = \"A header of more than thirty-two bytes for {s}.\"\n"
      "[[form]]\ncontext = \"{q}:\"\nchoices = \"c\"\ngold = \"{g}\"\n"
      "[groups]\nall = [\"even\", \"odd\"]\n"};
  TempFile data{some_rows(24)};

  ChoicesSettings settings(Regime regime = Regime::streaming) const {
    ChoicesSettings s;
    s.task = task.path;
    s.data = data.path;
    s.regime = regime;
    return s;
  }
};

// The plainest way: one sequence and one call for each choice.
std::vector<std::vector<double>> one_by_one(FakeEngine& engine, KvMethod* kv, Regime regime,
                                            const ChoicesSettings& s, const Tokenizer& tokenizer) {
  std::vector<std::vector<double>> out;
  const auto task = tasks::read_task(s.task);
  const PairTokenizer pairs(tokenizer, engine.config(), engine.config().max_position_embeddings);
  for (const tasks::Item& item : read_items(task, s)) {
    out.emplace_back();
    for (size_t c = 0; c < item.question.choices.size(); ++c) {
      const TokenPair pair = pairs.encode(item.block + item.question.context(c),
                                          " " + item.question.continuation(c), "");
      std::vector<int32_t> ids = pair.context;
      ids.insert(ids.end(), pair.continuation.begin(), pair.continuation.end() - 1);
      const int64_t last = int64_t(pair.context.size()) - 1;
      double sum = 0;
      const auto add = [&](int64_t begin) {
        return [&, begin](int64_t row, int64_t rows, const float* logits) {
          for (int64_t r = 0; r < rows; ++r)
            sum += scan_logits(logits + r * 256, 256)
                       .log_prob(pair.continuation[size_t(begin + row + r - last)]);
        };
      };
      const auto sequence = engine.start(kv);
      const auto tokens = std::span<const int32_t>(ids);
      if (regime == Regime::prefill_exact) {
        engine.forward(*sequence, tokens.first(size_t(last)), regime, last, {});
        engine.forward(*sequence, tokens.subspan(size_t(last)), Regime::streaming, 0, add(last));
      } else {
        engine.forward(*sequence, tokens, regime, last, add(0));
      }
      out.back().push_back(sum);
    }
  }
  return out;
}

std::vector<std::vector<double>> scores_of(const Outcome& outcome) {
  std::vector<std::vector<double>> out;
  for (const Json& sample : outcome.samples)
    out.push_back(sample["loglikelihoods"].get<std::vector<double>>());
  return out;
}

void check_equal(const std::vector<std::vector<double>>& a,
                 const std::vector<std::vector<double>>& b) {
  REQUIRE(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i)
    for (size_t c = 0; c < a[i].size(); ++c) CHECK(a[i][c] == Approx(b[i][c]).margin(1e-9));
}

}  // namespace

TEST_CASE("choices share their context and score as in a call for each", "[choices]") {
  const Tokenizer bytes = test::byte_tokenizer();
  const TaskFiles files;
  test::FakeKv kv(KvPolicy{0, 4, 4});
  for (const bool forks : {false, true}) {
    FakeEngine engine(256, 0.5);
    engine.forks = forks;
    for (const Regime regime : {Regime::streaming, Regime::prefill_exact, Regime::independent}) {
      INFO(regime_word(regime) << (forks ? ", forks" : ""));
      Subject subject{engine, &kv, nullptr, bytes};
      const ChoicesSettings s = files.settings(regime);
      engine.calls.clear();
      const Outcome outcome = choices(subject, s, {});
      int64_t fed = 0;
      for (const FakeEngine::Call& call : engine.calls) fed += call.tokens;
      if (forks && regime != Regime::independent) {
        CHECK(fed == outcome.metrics["tokens_computed"].get<int64_t>());
        CHECK(3 * fed < outcome.metrics["tokens_one_pass_per_choice"].get<int64_t>());
      }
      check_equal(scores_of(outcome), one_by_one(engine, &kv, regime, s, bytes));
      CHECK((outcome.metrics["exposure"].get<double>() > 0) == (regime != Regime::independent));
    }
  }
}

TEST_CASE("scores do not depend on which rows are asked together", "[choices]") {
  const Tokenizer bytes = test::byte_tokenizer();
  const TaskFiles files;
  FakeEngine engine(256);
  engine.forks = true;
  Subject subject{engine, nullptr, nullptr, bytes};
  ChoicesSettings s = files.settings();
  const auto all = scores_of(choices(subject, s, {}));
  s.rows = "7:12";
  const Outcome some = choices(subject, s, {});
  REQUIRE(some.samples.size() == 5);
  CHECK(some.samples[0]["doc_id"] == 7);
  for (size_t i = 0; i < 5; ++i) CHECK(scores_of(some)[i] == all[i + 7]);
}

TEST_CASE("the best choice is the first of the best, by the rules of the harness", "[choices]") {
  const double tie[] = {-2, -1, -1};
  CHECK(best_choice(tie, {}) == 1);
  tasks::Question q;
  q.choices = {"ab", "\xC3\xA9\xC3\xA9\xC3\xA9", "abcd"};  // 2, 3, 4 code points; 2, 6, 4 bytes
  q.gold = 1;
  CHECK(code_points(q.choices[1]) == 3);
  const double scores[] = {-2.0, -2.9,
                           -4.2};  // a point: -1, -0.97, -1.05; a byte: -1, -0.48, -1.05
  CHECK(right_by_metric(scores, q) == std::array<bool, 3>{false, true, true});
  const double others[] = {-1.0, -2.4, -2.2};  // a point: -0.5, -0.8, -0.55; a byte: -0.5, -0.4
  CHECK(right_by_metric(others, q) == std::array<bool, 3>{false, false, true});
}

TEST_CASE("errors are the harness's, of subjects pooled", "[choices]") {
  const auto of = [](int64_t right, int64_t total) {
    ChoiceTally tally;
    tally.total = total;
    tally.right = {right, right, right};
    return tally;
  };
  CHECK(of(71, 126).error(0) == Approx(0.0444).margin(5e-5));
  CHECK(of(6024, 10042).error(0) == Approx(0.0049).margin(5e-5));
  CHECK(of(919, 1267).error(0) == Approx(0.0125).margin(5e-5));
  CHECK(std::isnan(of(1, 1).error(0)));
  // The humanities of Qwen2.5-7B: questions and right answers of each subject.
  const std::vector<ChoiceTally> parts = {of(71, 126),  of(138, 165), of(177, 204), of(207, 237),
                                          of(103, 121), of(90, 108),  of(134, 163), of(279, 346),
                                          of(268, 895), of(242, 311), of(271, 324), of(827, 1534),
                                          of(147, 171)};
  CHECK(pooled_error(parts, 0) == Approx(0.0064).margin(5e-5));
}

TEST_CASE("a method is held against the reference answer by answer", "[choices]") {
  const Tokenizer bytes = test::byte_tokenizer();
  const TaskFiles files;
  FakeEngine engine(256, 4.0);
  test::FakeKv kv(KvPolicy{0, 4, 4});
  Subject subject{engine, &kv, &engine, bytes};
  std::string note;
  const Outcome outcome =
      choices(subject, files.settings(), [&](double, const std::string& text) { note = text; });
  const Json& m = outcome.metrics;
  CHECK(note == "0 s left");
  CHECK(m["total"] == 24);
  CHECK(m["primary"] == "acc_norm");
  CHECK(m["acc_norm"] == m["accuracy"]);
  CHECK(m["score_difference_max"].get<double>() > 0);
  int64_t right = 0, flips = 0;
  for (const Json& sample : outcome.samples) {
    right += sample["correct"].get<bool>();
    flips += sample["correct"] != sample["correct_reference"];
    CHECK(sample["acc_norm"] == int(sample["correct"].get<bool>()));
  }
  CHECK(m["correct"] == right);
  CHECK(m["flips"].get<double>() == Approx(double(flips) / 24));
  CHECK(m["scores_sha256"] == choices_detail::scores_digest(outcome.samples));
  REQUIRE(m["subjects"].size() == 2);
  CHECK(m["subjects"][0]["total"] == 12);
  CHECK(m["groups"][0]["correct"] == right);
  CHECK(m["groups"][0]["acc_se"] == m["acc_se"]);
  const Json& results = m["results"];  // as the harness writes them
  std::vector<std::string> names;
  for (const auto& [name, entry] : results.items()) names.push_back(name);
  CHECK(names == std::vector<std::string>{"text", "text_all", "text_even", "text_odd"});
  CHECK(results["text_odd"]["alias"] == "  - odd");
  CHECK(results["text"]["acc_norm,none"] == m["acc_norm"]);
  CHECK(results["text_all"]["acc_stderr,none"] == m["acc_se"]);
}

TEST_CASE("16-bit logits are emulated by rounding each score and their sum", "[choices]") {
  const Tokenizer bytes = test::byte_tokenizer();
  const TaskFiles files;
  FakeEngine engine(256);
  Subject subject{engine, nullptr, nullptr, bytes};
  ChoicesSettings s = files.settings();
  s.logits_dtype = "bf16";
  for (const auto& scores : scores_of(choices(subject, s, {})))
    for (const double score : scores)
      CHECK(score == double(bf16_to_float(float_to_bf16(float(score)))));
}

TEST_CASE("a score that is not finite ends the evaluation", "[choices]") {
  const Tokenizer bytes = test::byte_tokenizer();
  const TaskFiles files;
  FakeEngine engine(256);
  engine.logits = [](std::span<const int32_t> history, double, float* out) {
    std::fill(out, out + 256, 0.0f);
    if (history.size() == 60) out[7] = std::numeric_limits<float>::quiet_NaN();
  };
  Subject subject{engine, nullptr, nullptr, bytes};
  CHECK_THROWS_WITH(choices(subject, files.settings(), {}), Catch::Contains("not finite"));
}

namespace {

// The embedded rows of a task, or some of them.
ChoicesSettings embedded(const std::string& task, const std::string& rows, int64_t shots = 0) {
  const std::string folder = PTQ_SOURCE_DIR "/datasets/embedded/tasks/";
  ChoicesSettings s;
  s.task = PTQ_SOURCE_DIR "/datasets/tasks/" + task + ".toml";
  s.data = folder + task + ".jsonl";
  s.rows = rows;
  s.fewshot = shots;
  if (task == "piqa") s.labels = folder + "piqa-labels.lst";
  if (task == "mmlu") s.fewshot_data = folder + "mmlu_dev.jsonl";
  return s;
}

}  // namespace

TEST_CASE("log-likelihoods are the harness's on a small model", "[choices]") {
  const Json fixture = parse_json(
      read_text_file(PTQ_SOURCE_DIR "/test/fixtures/tasks/scores.json", 1 << 20), "fixture");
  const std::string model = PTQ_SOURCE_DIR "/models/tiny-mistral";
  const Tokenizer tokenizer = Tokenizer::load(model);
  const auto engine = make_cpu_engine(model, 2);
  Subject subject{*engine, nullptr, nullptr, tokenizer};
  for (const Json& entry : fixture) {
    const Json& right = entry["loglikelihoods"];
    ChoicesSettings s =
        embedded(entry["task"], "0:" + std::to_string(right.size()), entry["fewshot"]);
    INFO(entry["task"] << ", " << s.fewshot << " examples");
    s.regime = Regime::independent;  // float32 throughout, as the harness computed
    const Outcome outcome = choices(subject, s, {});
    REQUIRE(outcome.samples.size() == right.size());
    for (size_t i = 0; i < right.size(); ++i) {
      const Json& sample = outcome.samples[i];
      REQUIRE(sample["loglikelihoods"].size() == right[i].size());
      for (size_t c = 0; c < right[i].size(); ++c) {
        CHECK(sample["loglikelihoods"][c].get<double>() ==
              Approx(right[i][c].get<double>()).margin(1e-4));
        CHECK(sample["greedy"][c] == (entry["greedy"][i].get<std::string>()[c] == '1'));
      }
    }
  }
}

TEST_CASE("scores are the same with other neighbours, threads and without sharing", "[choices]") {
  const std::string model = PTQ_SOURCE_DIR "/models/tiny-mistral";
  const Tokenizer tokenizer = Tokenizer::load(model);
  const auto one = make_cpu_engine(model, 1), two = make_cpu_engine(model, 2);
  const auto run = [&](Engine& engine, const ChoicesSettings& s) {
    Subject subject{engine, nullptr, nullptr, tokenizer};
    return choices(subject, s, {});
  };
  // Four rows of each subject share their five examples; a row alone shares nothing.
  const Outcome all = run(*two, embedded("mmlu", "0:16", 5));
  CHECK(all.metrics["tokens_computed"].get<int64_t>() * 4 <
        all.metrics["tokens_one_pass_per_choice"].get<int64_t>());
  const Outcome again = run(*two, embedded("mmlu", "0:16", 5));
  CHECK(all.metrics["scores_sha256"] == again.metrics["scores_sha256"]);
  for (const Outcome& other :
       {run(*one, embedded("mmlu", "0:16", 5)), run(*two, embedded("mmlu", "5:6", 5))}) {
    const size_t first = other.samples.size() == 1 ? 5 : 0;
    for (size_t i = 0; i < other.samples.size(); ++i) {
      const Json &a = all.samples[first + i], &b = other.samples[i];
      CHECK(a["acc"] == b["acc"]);
      for (size_t c = 0; c < 4; ++c)
        CHECK(a["loglikelihoods"][c].get<double>() ==
              Approx(b["loglikelihoods"][c].get<double>()).margin(1e-3));  // float16 rows
    }
  }
}

TEST_CASE("an interrupted task goes on behind the scores of its book", "[choices]") {
  const Tokenizer bytes = test::byte_tokenizer();
  const TaskFiles files;
  test::FakeKv kv(KvPolicy{0, 4, 4});
  FakeEngine engine(256, 2.0);
  engine.forks = true;
  const TempFile file("");
  const auto run = [&](ScoreBook* book) {
    engine.calls.clear();
    Subject subject{engine, &kv, nullptr, bytes, {}, book};
    Outcome outcome = choices(subject, files.settings(Regime::prefill_exact), {});
    for (const char* key : {"seconds", "tokens_per_second", "tokens_per_second_why"})
      outcome.metrics.erase(key);
    return outcome;
  };
  const Outcome undisturbed = run(nullptr);
  const size_t calls = engine.calls.size();
  {
    ScoreBook book(file.path, ScoreBook::Use::extend);
    run(&book);
    CHECK(book.size() == 24);
  }
  // Cut in the middle of a line.
  std::string text = read_text_file(file.path, 1 << 20);
  text.resize(text.size() / 2);
  write_file_atomic(file.path, text);
  const size_t left = size_t(std::count(text.begin(), text.end(), '\n'));
  REQUIRE(left > 5);
  {
    ScoreBook book(file.path, ScoreBook::Use::extend);
    CHECK(book.size() == left);
    const Outcome resumed = run(&book);
    CHECK(book.size() == 24);
    CHECK(engine.calls.size() < calls);
    CHECK(resumed.metrics == undisturbed.metrics);
    CHECK(resumed.samples == undisturbed.samples);
  }
  const ScoreBook whole(file.path, ScoreBook::Use::read);
  CHECK(whole.size() == 24);
}

TEST_CASE("the reference's kept scores stand for the reference", "[choices]") {
  const Tokenizer bytes = test::byte_tokenizer();
  const TaskFiles files;
  test::FakeKv kv(KvPolicy{0, 4, 4});
  FakeEngine engine(256, 4.0);
  engine.forks = true;
  const TempFile file("");
  ScoreBook book(file.path, ScoreBook::Use::extend);
  Subject alone{engine, nullptr, nullptr, bytes, {}, &book};
  choices(alone, files.settings(), {});
  FakeEngine never(256, 4.0);
  never.forks = true;
  Subject each{engine, &kv, &engine, bytes}, kept{engine, &kv, &never, bytes, {}, nullptr, &book};
  const Outcome a = choices(each, files.settings(), {}), b = choices(kept, files.settings(), {});
  CHECK(never.calls.empty());
  CHECK(a.samples == b.samples);
  CHECK(a.metrics["flips"] == b.metrics["flips"]);
  CHECK(b.metrics["reference_seconds"].get<double>() >= 0);
}

TEST_CASE("a plan knows the tokens of a task beforehand", "[choices]") {
  const Tokenizer bytes = test::byte_tokenizer();
  const TaskFiles files;
  FakeEngine engine(256);
  for (const Regime regime : {Regime::streaming, Regime::prefill_exact, Regime::independent}) {
    INFO(regime_word(regime));
    engine.forks = true;
    engine.calls.clear();
    Subject subject{engine, nullptr, nullptr, bytes};
    const Outcome outcome = choices(subject, files.settings(regime), {});
    const ChoicesCost cost = choices_cost(bytes, engine.config(), files.settings(regime));
    int64_t fed = 0;
    for (const FakeEngine::Call& call : engine.calls) fed += call.tokens;
    CHECK(cost.questions == 24);
    CHECK(cost.tokens == fed);
    CHECK(outcome.metrics["tokens_computed"] == fed);
    CHECK(outcome.metrics["tokens_one_pass_per_choice"] == cost.tokens_single);
  }
}
