// The passkey test: prompts token for token, scoring and statistics against hand calculation.
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "ptq/core/mt19937.hpp"
#include "ptq/eval/exercised.hpp"
#include "ptq/eval/passkey.hpp"
#include "test/support/fake_engine.hpp"

using namespace ptq;
using namespace ptq::eval;
using ptq::test::FakeEngine;
using ptq::test::FakeKv;

TEST_CASE("the generator repeats CPython's random", "[passkey]") {
  PythonRandom raw(42);
  CHECK(raw.next() == 2746317213u);
  CHECK(raw.next() == 478163327u);
  CHECK(raw.next() == 107420369u);
  // random.seed(42); [random.randint(10000, 99999) for _ in range(20)]
  CHECK(passkey_keys(42, 20) ==
        std::vector<int64_t>{93810, 24592, 13278, 46048, 42098, 39256, 28289, 23434, 98696, 81482,
                             21395, 87397, 65302, 14165, 13905, 22280, 38657, 40495, 76237, 88907});
  // random.seed(2**40 + 7): a key of two words; getrandbits(32), getrandbits(50), randint(5, 5).
  PythonRandom wide((uint64_t{1} << 40) + 7);
  CHECK(wide.bits(32) == 2635837658u);
  CHECK(wide.bits(50) == 917515598341218u);
  CHECK(wide.randint(5, 5) == 5);
  CHECK(wide.randint(-3, 3) == -1);
  for (int i = 0; i < 1000; ++i) wide.next();  // past a refill
  CHECK(wide.next() == 3583272695u);
}

TEST_CASE("passkey prompts have the published lengths", "[passkey]") {
  struct Published {
    const char* folder;
    std::vector<size_t> tokens;
  };
  const std::vector<Published> published = {{"qwen2.5", {1940, 1919, 1919, 1919}},
                                            {"mistral-v0.3", {1944, 1923, 1923, 1923}}};
  for (const auto& [folder, tokens] : published) {
    const auto path = std::filesystem::path(PTQ_SHARED_DIR) / "data/tokenizers" / folder;
    if (!std::filesystem::exists(path / "tokenizer.json")) {
      WARN("skipped: no " << path);
      continue;
    }
    const Tokenizer tokenizer = Tokenizer::load(path);
    const std::vector<double> depths = {0.1, 0.25, 0.5, 0.75};
    for (size_t d = 0; d < depths.size(); ++d) {
      INFO(folder << ", depth " << depths[d]);
      const PasskeyPrompt prompt = make_passkey_prompt(tokenizer, 93810, depths[d], 2048);
      CHECK(prompt.ids.size() == tokens[d]);
      // The question's tokens are the question's text and nothing of the key.
      const std::vector<int32_t> question(prompt.ids.begin() + prompt.question_begin,
                                          prompt.ids.end());
      const std::string text = tokenizer.decode(question, true);
      CHECK(text.find("What is the passkey? The passkey is") != std::string::npos);
      CHECK(text.find("93810") == std::string::npos);
      CHECK(text.size() < 50);
    }
  }
}

TEST_CASE("the passkey prompt's text and its borders", "[passkey]") {
  const Tokenizer bytes = test::byte_tokenizer();
  const std::string unit =
      "The grass is green. The sky is blue. The sun is yellow. Today is a beautiful day. ";
  const std::string needle = "\nThe passkey to remember is 12345. Remember it.\n";
  const std::string question = "\nWhat is the passkey? The passkey is ";
  const auto expected = [&](int before, int after) {
    std::string text;
    for (int i = 0; i < before; ++i) text += unit;
    text += needle;
    for (int i = 0; i < after; ++i) text += unit;
    return text + question;
  };
  // 500 - 37 - 48 = 415 bytes of filler; int(415 * 0.25) = 103 in front, 312 behind; units of 82.
  REQUIRE(unit.size() == 82);
  REQUIRE(question.size() == 37);
  REQUIRE(needle.size() == 48);
  const PasskeyPrompt prompt = make_passkey_prompt(bytes, 12345, 0.25, 500);
  CHECK(prompt.text == expected(1, 3));
  CHECK(prompt.question_begin == int64_t(expected(1, 3).size() - question.size()));
  // At least one unit on each side, also where a depth leaves none there.
  CHECK(make_passkey_prompt(bytes, 12345, 0.0, 500).text == expected(1, 5));
  CHECK(make_passkey_prompt(bytes, 12345, 1.0, 500).text == expected(5, 1));
  CHECK(make_passkey_prompt(bytes, 12345, 0.5, 86).text == expected(1, 1));
  CHECK_THROWS_WITH(make_passkey_prompt(bytes, 12345, 0.5, 85),
                    Catch::Contains("context_length is 85") && Catch::Contains("need 85 tokens"));
}

namespace {

// Knows the key and writes it, then full stops. With more than half of the past encoded it reads
// the first digit wrong (one more) if the key lies in the first third of the text.
void keyed_logits(std::span<const int32_t> history, double share, float* logits) {
  std::fill(logits, logits + 256, 0.0f);
  const std::string text(history.begin(), history.end());
  const std::string mark = "remember is ", ask = "The passkey is ";
  const size_t asked = text.rfind(ask), at = text.find(mark);
  if (asked == std::string::npos) return;  // all equal: the lowest id wins
  const size_t place = text.size() - asked - ask.size();
  std::string answer = text.substr(at + mark.size(), 5) + "....";
  if (share > 0.5 && at < text.size() / 3) answer[0] = answer[0] == '9' ? '1' : char(answer[0] + 1);
  logits[int(answer.at(place))] = 5;
}

// Prompts of 700 tokens with three keys at two depths, answered by rule.
struct Keys {
  Keys() {
    engine.logits = keyed_logits;
    settings.keys = 3;
    settings.depths = {0.1, 0.5};
    settings.context_length = 700;
  }
  const Tokenizer bytes = test::byte_tokenizer();
  FakeEngine engine{256};
  FakeKv kv{KvPolicy{0, 32, 16}};
  PasskeySettings settings;
};

}  // namespace

TEST_CASE_METHOD(Keys, "passkey scores, intervals, agreement and divergence", "[passkey]") {
  SECTION("full precision") {
    Subject subject{engine, nullptr, nullptr, bytes};
    int calls = 0;
    const Outcome outcome =
        passkey(subject, settings, [&](double fraction, const std::string& note) {
          ++calls;
          CHECK(fraction == Approx(calls / 6.0));
          CHECK(note == std::to_string(calls) + " of " + std::to_string(calls) + " correct");
        });
    const Json& m = outcome.metrics;
    CHECK(calls == 6);
    CHECK(m["correct"] == 6);
    CHECK(m["accuracy"] == 1.0);
    CHECK(m["ci95_low"].get<double>() == Approx(std::pow(0.025, 1.0 / 6)));
    CHECK(m["ci95_high"] == 1.0);
    CHECK(m["exposure"] == 0.0);
    CHECK_FALSE(m.contains("kl_mean"));
    CHECK(m["first_token_nll"].get<double>() == Approx(std::log(1 + 255 * std::exp(-5.0))));
    REQUIRE(outcome.samples.size() == 6);
    CHECK(outcome.samples[0]["key"] == 93810);
    CHECK(outcome.samples[0]["answer"] == "93810...");
    CHECK(outcome.samples[1]["key"] == 93810);
    CHECK(outcome.samples[2]["key"] == 24592);
    // One prompt: context, question, 7 tokens one by one.
    REQUIRE(engine.calls.size() == 6 * 9);
    CHECK(engine.calls[0].regime == Regime::prefill_exact);
    CHECK(engine.calls[0].first_row == engine.calls[0].tokens);
    CHECK(engine.calls[1].regime == Regime::streaming);
    CHECK(engine.calls[1].tokens == 37);
    CHECK(engine.calls[1].first_row == 36);
    CHECK(engine.calls[2].tokens == 1);
    CHECK(engine.calls[8].begin == outcome.samples[0]["tokens"].get<int64_t>() + 6);
    double tokens = 0;
    for (const auto& sample : outcome.samples) tokens += sample["tokens"].get<double>() + 7;
    CHECK(m["cache"]["sequences"] == 6);
    CHECK(m["cache"]["tokens"].get<double>() == Approx(tokens / 6));
    CHECK(m["cache"]["effective_bits"] == 16.0);
    CHECK(m["cache"]["compression_ratio"] == 1.0);
    CHECK(m["cache"]["bytes_per_token_fp16"] == 16.0);
  }

  SECTION("a cache that loses early keys, against the reference") {
    Subject subject{engine, &kv, &engine, bytes};
    const Outcome outcome = passkey(subject, settings, {});
    const Json& m = outcome.metrics;
    CHECK(m["correct"] == 3);
    CHECK(m["accuracy"] == 0.5);
    CHECK(m["accuracy_reference"] == 1.0);
    CHECK(m["depths"][0]["accuracy"] == 0.0);
    CHECK(m["depths"][1]["accuracy"] == 1.0);
    CHECK(m["depths"][0]["ci95_low"] == 0.0);
    CHECK(m["depths"][0]["ci95_high"].get<double>() == Approx(1 - std::pow(0.025, 1.0 / 3)));
    CHECK(m["lost"] == 3);
    CHECK(m["gained"] == 0);
    CHECK(m["flips"] == 0.5);
    CHECK(m["agreement"] == 0.5);
    CHECK(m["top1_agreement"] == 0.5);
    // One logit of 5 in two different places: KL = 5 (p - q) with p, q the two probabilities.
    const double z = std::exp(5.0) + 255, p = std::exp(5.0) / z, q = 1 / z;
    CHECK(m["kl_mean"].get<double>() == Approx(0.5 * 5 * (p - q)));
    CHECK(m["kl_max"].get<double>() == Approx(5 * (p - q)));
    CHECK(m["kl_tokens"] == 6);
    CHECK(m["delta_p_mean"].get<double>() == Approx(0.5 * (q - p)));
    CHECK(m["first_token_nll"].get<double>() == Approx(0.5 * (std::log(z) + std::log(z) - 5)));
    CHECK(outcome.samples[0]["answer_reference"] == "93810...");
    CHECK(outcome.samples[0]["answer"] == "13810...");
    CHECK(m["exposure"].get<double>() > 0.9);  // of question and answer alone
    CHECK(check_exercised(outcome, {.kv = true, .first_encoded_length = 48}).empty());
  }
}

TEST_CASE_METHOD(Keys, "passkey: questions, settings and answers that are odd", "[passkey]") {
  SECTION("a prefilled question reads the prompt densely") {
    settings.question = "prefilled";
    Subject subject{engine, &kv, &engine, bytes};
    const Outcome outcome = passkey(subject, settings, {});
    CHECK(outcome.metrics["accuracy"] ==
          1.0);  // the first digit is decided before the cache is read
    CHECK(outcome.metrics["kl_mean"].is_null());
    CHECK(outcome.metrics["kl_mean_why"].is_string());
    CHECK(outcome.metrics["exposure"].get<double>() > 0.9);
    CHECK(check_exercised(outcome, {.kv = true, .first_encoded_length = 48}).empty());
    settings.regime = Regime::streaming;
    CHECK(passkey(subject, settings, {}).metrics["accuracy"] == 0.5);
  }

  SECTION("hostile settings and logits") {
    Subject subject{engine, nullptr, nullptr, bytes};
    settings.question = "cache";
    CHECK_THROWS_WITH(passkey(subject, settings, {}), Catch::Contains("cached"));
    settings.question = "cached";
    settings.depths = {0.5, std::nan("")};
    CHECK_THROWS_AS(passkey(subject, settings, {}), Error);
    settings.depths = {};
    CHECK_THROWS_AS(passkey(subject, settings, {}), Error);
    settings.depths = {0.5};
    settings.regime = Regime::independent;
    CHECK_THROWS_AS(passkey(subject, settings, {}), Error);
    settings.regime = Regime::prefill_exact;
    engine.logits = [](std::span<const int32_t>, double, float* logits) {
      std::fill(logits, logits + 256, 0.0f);
      logits[7] = std::nanf("");
    };
    CHECK_THROWS_WITH(passkey(subject, settings, {}),
                      Catch::Contains("not finite") && Catch::Contains("token id 7"));
  }

  SECTION("answers without text") {
    FakeEngine padded(300);  // ids 256.. are padding rows without a token
    padded.logits = [](std::span<const int32_t>, double, float* logits) {
      std::fill(logits, logits + 300, 0.0f);
      logits[299] = 1;
    };
    Subject subject{padded, nullptr, nullptr, bytes};
    settings.keys = 1;
    settings.max_new_tokens = 1;
    const Outcome outcome = passkey(subject, settings, {});
    CHECK(outcome.samples[0]["answer"] == "");
    CHECK(outcome.metrics["correct"] == 0);
    CHECK(outcome.metrics["decode_tokens_per_second"].is_null());
  }
}
