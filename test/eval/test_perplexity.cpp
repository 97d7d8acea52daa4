// Perplexity against hand calculation in float64.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/hash.hpp"
#include "ptq/eval/exercised.hpp"
#include "ptq/eval/perplexity.hpp"
#include "test/eval/fake_rows.hpp"
#include "test/support/fake_engine.hpp"
#include "test/support/plain_scores.hpp"
#include "test/support/temporary_file.hpp"

using namespace ptq;
using namespace ptq::eval;
using ptq::test::fake_row;
using ptq::test::FakeEngine;
using ptq::test::FakeKv;
using ptq::test::log_probs;
using ptq::test::plain_kl;
using ptq::test::some_text;
using ptq::test::TempFile;

TEST_CASE("windows of the protocols", "[eval]") {
  // Counts of the published runs: W = ceil((T - L) / S).
  CHECK(perplexity_windows("half_overlap", 299009, 2048).size() == 291);
  CHECK(perplexity_windows("half_overlap", 300032, 2048).size() == 291);
  CHECK(perplexity_windows("half_overlap", 300033, 2048).size() == 292);
  CHECK(perplexity_windows("half_overlap", 2048, 2048).empty());
  CHECK(perplexity_windows("half_overlap", 2049, 2048).size() == 1);
  CHECK(perplexity_windows("disjoint", 2047, 2048).empty());
  CHECK(perplexity_windows("disjoint", 2048, 2048).size() == 1);
  const auto windows = perplexity_windows("half_overlap", 30, 8);
  REQUIRE(windows.size() == 6);
  CHECK(windows[0].first_target == 1);
  CHECK(windows[1].first_token == 4);
  CHECK(windows[1].first_target == 4);
  CHECK(perplexity_windows("llamacpp", 1023, 512).empty());
  const auto chunks = perplexity_windows("llamacpp", 1537, 512);
  REQUIRE(chunks.size() == 3);
  CHECK(chunks[2].first_token == 1024);
  CHECK(chunks[2].first_target == 257);  // 255 targets: positions 256 to 510 predict 257 to 511
}

namespace {

// 16 tokens: 1 in the sink, E(16) = 10 encoded (2 bytes a side), 5 dense (8 bytes a side).
void check_cache(const Json& cache) {
  CHECK(cache["tokens"] == 16);
  CHECK(cache["bytes_sink"] == 16);
  CHECK(cache["bytes_encoded"] == 40);
  CHECK(cache["bytes_window"] == 80);
  CHECK(cache["bytes_total"] == 136);
  CHECK(cache["bytes_per_token"] == 8.5);
  CHECK(cache["bytes_per_token_fp16"] == 16.0);
  CHECK(cache["effective_bits"] == 8.5);
  CHECK(cache["compression_ratio"].get<double>() == Approx(16 / 8.5));
}

}  // namespace

TEST_CASE("perplexity by hand", "[eval]") {
  const std::string text = some_text(70);
  const TempFile file(text);
  const Tokenizer bytes = test::byte_tokenizer();
  const double noise = 0.8;
  FakeEngine engine(256, noise), reference(256);
  const KvPolicy policy{1, 4, 2};
  FakeKv kv(policy);
  PerplexitySettings settings;
  settings.text = file.path;
  settings.window = 16;
  settings.protocol = GENERATE(std::string("disjoint"), std::string("half_overlap"));
  const bool overlap = settings.protocol == "half_overlap";
  const bool with_cache = GENERATE(false, true);
  CAPTURE(settings.protocol, with_cache);

  // The same by definition: windows begin at 0, 8, 16, ... < 54 or at 0, 16, 32, 48.
  std::vector<int64_t> begins;
  if (overlap) {
    for (int64_t b = 0; b < 54; b += 8) begins.push_back(b);
  } else {
    begins = {0, 16, 32, 48};
  }
  long double sum_means = 0, sum_tokens = 0, sum_means_ref = 0, kl = 0, share_sum = 0;
  std::vector<double> differences;
  int64_t count = 0, agree = 0;
  for (const int64_t b : begins) {
    long double loss = 0, loss_ref = 0;
    const int64_t first = overlap && b > 0 ? 8 : 1;
    for (int64_t t = 0; t < 16; ++t) share_sum += (long double)(policy.encoded(t)) / (t + 1);
    for (int64_t i = b + first; i < b + 16; ++i) {
      const int64_t t = i - 1 - b;
      const double share = with_cache ? double(policy.encoded(t)) / double(t + 1) : 0;
      const auto row = fake_row(text, b, i - 1, share, noise);
      const auto row_ref = fake_row(text, b, i - 1, 0, 0);
      loss -= log_probs(row)[uint8_t(text[size_t(i)])];
      loss_ref -= log_probs(row_ref)[uint8_t(text[size_t(i)])];
      kl += plain_kl(row_ref, row);
      agree += std::max_element(row.begin(), row.end()) - row.begin() ==
               std::max_element(row_ref.begin(), row_ref.end()) - row_ref.begin();
      ++count;
    }
    sum_tokens += loss;
    sum_means += loss / (16 - first);
    sum_means_ref += loss_ref / (16 - first);
    differences.push_back(double((loss - loss_ref) / (16 - first)));
  }
  const double windows = double(begins.size());

  Subject subject{engine, with_cache ? &kv : nullptr, with_cache ? &reference : nullptr, bytes};
  double last = 0;
  const Outcome outcome =
      perplexity(subject, settings, [&](double fraction, const std::string&) { last = fraction; });
  const Json& m = outcome.metrics;
  CHECK(last == 1);
  CHECK(m["protocol"] == settings.protocol);
  CHECK(m["window"] == 16);
  CHECK(m["stride"] == (overlap ? 8 : 16));
  CHECK(m["windows"] == begins.size());
  CHECK(m["tokens_text"] == 70);
  CHECK(m["tokens_scored"] == count);
  CHECK(m["nll"].get<double>() == Approx(double(sum_means) / windows).epsilon(1e-12));
  CHECK(m["ppl"].get<double>() == Approx(std::exp(double(sum_means) / windows)).epsilon(1e-12));
  CHECK(m["ppl_tok"].get<double>() ==
        Approx(std::exp(double(sum_tokens) / double(count))).epsilon(1e-12));
  // One byte per token.
  CHECK(m["bits_per_byte"].get<double>() ==
        Approx(double(sum_tokens) / double(count) / std::numbers::ln2).epsilon(1e-12));
  CHECK(m["regime"] == "streaming");
  REQUIRE(outcome.samples.size() == begins.size());
  CHECK(outcome.samples[1]["first_token"] == begins[1]);
  CHECK(outcome.samples[1]["targets"] == (overlap ? 8 : 15));
  if (!with_cache) {
    CHECK_FALSE(m.contains("kl_mean"));
    CHECK(m["exposure"] == 0.0);
    CHECK(check_exercised(outcome, {.lossless = true}).empty());
    return;
  }
  CHECK(m["ppl_reference"].get<double>() ==
        Approx(std::exp(double(sum_means_ref) / windows)).epsilon(1e-12));
  CHECK(m["kl_mean"].get<double>() == Approx(double(kl) / double(count)).epsilon(1e-11));
  CHECK(m["top1_agreement"].get<double>() == Approx(double(agree) / double(count)));
  CHECK(m["delta_nll"].get<double>() == Approx(mean(differences)).epsilon(1e-10));
  CHECK(m["delta_nll_se"].get<double>() == Approx(standard_error(differences)).epsilon(1e-9));
  CHECK(m["exposure"].get<double>() == Approx(double(share_sum) / (16 * windows)).epsilon(1e-12));
  check_cache(m["cache"]);
  CHECK(check_exercised(outcome, {.kv = true, .first_encoded_length = 7}).empty());
  // The reference never sees the method's cache and always streams.
  for (const auto& call : reference.calls) {
    CHECK(call.full_precision);
    CHECK(call.regime == Regime::streaming);
  }
}

TEST_CASE("perplexity: llamacpp pools the second halves over tokens", "[eval]") {
  const std::string text = some_text(70);
  const TempFile file(text);
  const Tokenizer bytes = test::byte_tokenizer();
  FakeEngine engine(256, 0.8);
  Subject subject{engine, nullptr, nullptr, bytes};
  PerplexitySettings settings;
  settings.text = file.path;
  settings.protocol = "llamacpp";
  settings.window = 16;
  const Outcome outcome = perplexity(subject, settings, {});
  long double sum = 0, squares = 0;
  for (const int64_t b : {0, 16, 32, 48})
    for (int64_t i = b + 9; i < b + 16; ++i) {
      const auto row = fake_row(text, b, i - 1, 0, 0);
      const long double loss = -log_probs(row)[uint8_t(text[size_t(i)])];
      sum += loss;
      squares += loss * loss;
    }
  const double nll = double(sum) / 28, ppl = std::exp(nll);
  const Json& m = outcome.metrics;
  CHECK(m["windows"] == 4);
  CHECK(m["tokens_scored"] == 28);
  CHECK(m["ppl"].get<double>() == Approx(ppl).epsilon(1e-12));
  CHECK(m["ppl"].get<double>() == Approx(m["ppl_tok"].get<double>()).epsilon(1e-12));
  CHECK(m["ppl_error"].get<double>() ==
        Approx(ppl * std::sqrt((double(squares) / 28 - nll * nll) / 27)).epsilon(1e-9));
  settings.window = 36;
  CHECK_THROWS_WITH(perplexity(subject, settings, {}),
                    Catch::Contains("70 tokens found, 72 needed"));
  settings.window = 2;
  CHECK_THROWS_WITH(perplexity(subject, settings, {}), Catch::Contains("scores nothing"));
}

TEST_CASE("perplexity: under llamacpp every window begins with the begin-of-text token", "[eval]") {
  const TempFile file(some_text(400));
  const Tokenizer tokenizer = Tokenizer::load(std::string(PTQ_SOURCE_DIR) + "/models/tiny-llama");
  REQUIRE(tokenizer.bos_id() == 3070);
  FakeEngine engine(3072);
  std::vector<int32_t> first, second;
  const auto logits = engine.logits;
  engine.logits = [&](std::span<const int32_t> history, double share, float* out) {
    if (history.size() == 16) first.push_back(history[0]), second.push_back(history[1]);
    logits(history, share, out);
  };
  Subject subject{engine, nullptr, nullptr, tokenizer};
  PerplexitySettings settings;
  settings.text = file.path;
  settings.window = 16;
  settings.max_windows = 3;
  perplexity(subject, settings, {});
  const auto disjoint = std::exchange(first, {}), then = std::exchange(second, {});
  settings.protocol = "llamacpp";
  perplexity(subject, settings, {});
  CHECK(first == std::vector<int32_t>(3, 3070));
  CHECK(second == then);  // replaced, not put in front
  CHECK(disjoint[0] == 3070);
  CHECK(disjoint[1] != 3070);
}

TEST_CASE("perplexity: limits, regimes, hostile input", "[eval]") {
  const TempFile file(some_text(70));
  const Tokenizer bytes = test::byte_tokenizer();
  FakeEngine engine(256, 1.0);
  FakeKv kv(KvPolicy{0, 4, 4});
  Subject subject{engine, &kv, &engine, bytes};
  PerplexitySettings settings;
  settings.text = file.path;
  settings.window = 16;

  SECTION("max_windows, and one window has no spread") {
    settings.max_windows = 1;
    const Json m = perplexity(subject, settings, {}).metrics;
    CHECK(m["windows"] == 1);
    CHECK(m["windows_available"] == 4);
    CHECK(m["delta_nll_se"].is_null());
    CHECK(m["delta_nll_se_why"] == "one window has no spread");
  }
  SECTION("without a cache the result says so") {
    settings.regime = Regime::independent;
    const Outcome outcome = perplexity(subject, settings, {});
    CHECK(outcome.metrics["regime"] == "independent");
    CHECK(outcome.metrics["kl_max"] == 0.0);
    const auto findings = check_exercised(outcome, {.kv = true, .first_encoded_length = 8});
    REQUIRE(findings.size() == 1);
    CHECK(findings[0].severity == Severity::warning);
    CHECK(findings[0].sentence.find("cache not read") == 0);
  }
  SECTION("a join changes the text") {
    const TempFile rows("abcdefgh\nabcdefgh\n");  // 9 + 2 + 9 bytes
    settings.text = rows.path;
    settings.join = "wikitext2";
    CHECK(perplexity(subject, settings, {}).metrics["tokens_text"] == 20);
  }
  SECTION("too short") {
    settings.window = 71;
    CHECK_THROWS_WITH(perplexity(subject, settings, {}),
                      Catch::Contains("70 tokens found, 71 needed") && Catch::Contains("hint"));
    settings.protocol = "half_overlap";
    settings.window = 70;
    CHECK_THROWS_WITH(perplexity(subject, settings, {}), Catch::Contains("71 needed"));
  }
  SECTION("settings") {
    settings.protocol = "disjont";
    CHECK_THROWS_WITH(perplexity(subject, settings, {}),
                      Catch::Contains("did you mean `disjoint`"));
    settings.protocol = "half_overlap";
    settings.window = 15;
    CHECK_THROWS_WITH(perplexity(subject, settings, {}), Catch::Contains("even"));
    settings.window = 1;
    CHECK_THROWS_AS(perplexity(subject, settings, {}), Error);
    settings.window = 16;
    settings.join = "wikitext";
    CHECK_THROWS_WITH(perplexity(subject, settings, {}), Catch::Contains("wikitext2"));
    settings.join = "raw";
    settings.max_windows = -1;
    CHECK_THROWS_AS(perplexity(subject, settings, {}), Error);
  }
  SECTION("logits that are not finite") {
    engine.logits = [](std::span<const int32_t> history, double share, float* logits) {
      std::fill(logits, logits + 256, 0.0f);
      if (history.size() == 13 && share > 0) logits[200] = INFINITY;
    };
    // Four windows of 16 tokens; in each the token at 13 is void.
    const Outcome outcome = perplexity(subject, settings, {});
    CHECK(outcome.metrics["nonfinite_tokens"] == 4);
    CHECK(outcome.metrics["tokens_scored"] == 4 * 14);
    CHECK(outcome.metrics["nll"].get<double>() == Approx(std::log(256.0)));
    CHECK(outcome.metrics["kl_max"] == 0.0);
    CHECK(outcome.metrics["bits_per_byte"].is_null());
    REQUIRE(outcome.tokens.tokens.size() == 4 * 15);
    for (size_t i = 0; i < outcome.tokens.tokens.size(); ++i) {
      const TokenScore& token = outcome.tokens.tokens[i];
      CHECK(token.finite() == (i % 15 != 12));
      CHECK(std::isnan(token.nll) == (i % 15 == 12));
      CHECK(double(token.nll_reference) == Approx(std::log(256.0)));
    }
    REQUIRE(outcome.samples.size() == 4);
    CHECK(outcome.samples[0]["targets"] == 14);
    CHECK(outcome.samples[0]["nonfinite_tokens"] == 1);
  }
  SECTION("no logit that is finite") {
    engine.logits = [](std::span<const int32_t>, double share, float* logits) {
      std::fill(logits, logits + 256, share > 0 ? std::nanf("") : 0.0f);
    };
    kv.policies[0] = kv.policies[1] = KvPolicy{0, 0, 1};
    const Outcome outcome = perplexity(subject, settings, {});
    CHECK(outcome.metrics["tokens_scored"].get<int>() +
              outcome.metrics["nonfinite_tokens"].get<int>() ==
          60);
    CHECK(outcome.metrics["nonfinite_tokens"].get<int>() >= 56);
  }
  SECTION("a reference that is not finite is an error") {
    FakeEngine broken(256);
    broken.logits = [](std::span<const int32_t> history, double, float* logits) {
      std::fill(logits, logits + 256, 0.0f);
      if (history.size() == 13) logits[200] = INFINITY;
    };
    subject.reference = &broken;
    CHECK_THROWS_WITH(
        perplexity(subject, settings, {}),
        Catch::Contains("reference model") && Catch::Contains("position 12, token id 200"));
  }
  SECTION("certain predictions of the wrong token") {
    engine.logits = [](std::span<const int32_t>, double, float* logits) {
      std::fill(logits, logits + 256, -3e38f);
      logits[0] = 3e38f;
    };
    const Outcome outcome = perplexity(subject, settings, {});
    CHECK(outcome.metrics["ppl"].is_null());
    CHECK(outcome.metrics["ppl_why"].is_string());
  }
}
