// Teacher-forced decoding against hand calculation in float64.
#include <catch2/catch.hpp>
#include <cmath>
#include <string>
#include <vector>

#include "ptq/eval/exercised.hpp"
#include "ptq/eval/generation.hpp"
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

namespace {

// Quarters of a continuation of 20 tokens, two texts.
void check_quarters(const Json& quarters, const std::vector<double>& nll,
                    const std::vector<double>& kl) {
  REQUIRE(quarters.size() == 4);
  for (size_t q = 0; q < 4; ++q) {
    const Json& row = quarters[q];
    CHECK(row["first"] == 5 * q);
    CHECK(row["last"] == 5 * q + 4);
    CHECK(row["nll"].get<double>() == Approx(nll[q]).epsilon(1e-12));
    CHECK(row["kl_mean"].get<double>() == Approx(kl[q]).epsilon(1e-10));
    CHECK(row["tokens"] == 10);
    CHECK(row["flips"].get<double>() == Approx(1 - row["top1_agreement"].get<double>()));
  }
}

}  // namespace

TEST_CASE("generation by hand", "[eval]") {
  const std::string first = some_text(60), second = some_text(90).substr(20);
  const TempFile file("{\"text\":\"" + first + "\"}\n{\"text\":\"" + second + "\"}\n");
  const Tokenizer bytes = test::byte_tokenizer();
  const double noise = 0.5;
  FakeEngine engine(256, noise);
  const KvPolicy policy{0, 8, 4};
  FakeKv kv(policy);
  Subject subject{engine, &kv, &engine, bytes};
  GenerationSettings settings;
  settings.texts = file.path;
  settings.samples = 2;
  settings.prompt_tokens = 30;
  settings.continuation_tokens = 20;

  std::vector<double> means, reference_means, quarter_sums(4), kl_quarters(4);
  long double shares = 0;
  for (const std::string& text : {first, second}) {
    double loss = 0, loss_ref = 0;
    for (int64_t i = 30; i < 50; ++i) {
      // The first score comes from the prompt, which read itself densely.
      const int64_t t = i - 1;
      const double share = i == 30 ? 0 : double(policy.encoded(t)) / double(t + 1);
      shares += share;
      const auto row = fake_row(text, 0, t, share, noise), ref = fake_row(text, 0, t, 0, 0);
      const double nll = -double(log_probs(row)[uint8_t(text[size_t(i)])]);
      loss += nll / 20;
      loss_ref -= double(log_probs(ref)[uint8_t(text[size_t(i)])]) / 20;
      quarter_sums[size_t(i - 30) / 5] += nll / 10;
      kl_quarters[size_t(i - 30) / 5] += double(plain_kl(ref, row)) / 10;
    }
    means.push_back(loss);
    reference_means.push_back(loss_ref);
  }

  const Outcome outcome = generation(subject, settings, {});
  const Json& m = outcome.metrics;
  CHECK(m["tokens_scored"] == 40);
  CHECK(m["nll"].get<double>() == Approx(mean(means)).epsilon(1e-12));
  CHECK(m["ppl_pooled"].get<double>() == Approx(std::exp(mean(means))).epsilon(1e-12));
  CHECK(m["mean_ppl"].get<double>() ==
        Approx((std::exp(means[0]) + std::exp(means[1])) / 2).epsilon(1e-12));
  const double d0 = means[0] - reference_means[0], d1 = means[1] - reference_means[1];
  CHECK(m["delta_nll"].get<double>() == Approx((d0 + d1) / 2).epsilon(1e-10));
  CHECK(m["delta_nll_se"].get<double>() == Approx(std::abs(d0 - d1) / 2).epsilon(1e-9));
  CHECK(m["delta_nll_se_blocks"].get<double>() == Approx(std::abs(d0 - d1) / 2).epsilon(1e-9));
  CHECK(m["exposure"].get<double>() == Approx(double(shares) / 38).epsilon(1e-12));
  check_quarters(m["quarters"], quarter_sums, kl_quarters);
  REQUIRE(outcome.samples.size() == 2);
  CHECK(outcome.samples[1]["nll"].get<double>() == Approx(means[1]).epsilon(1e-12));
  CHECK(outcome.samples[1]["line"] == 2);
  CHECK(outcome.samples[0]["quarters"][3]["tokens"] == 5);
  CHECK(outcome.samples[0]["quarters"][1]["nll"].get<double>() +
            outcome.samples[1]["quarters"][1]["nll"].get<double>() ==
        Approx(2 * m["quarters"][1]["nll"].get<double>()));

  // Side by side, the numbers are the same.
  settings.batch = 2;
  Json side_by_side = generation(subject, settings, {}).metrics;
  for (const char* same : {"nll", "mean_ppl", "delta_nll", "kl_mean", "quarters", "exposure"}) {
    CHECK(side_by_side[same] == m[same]);
  }
  settings.batch = 1;
  CHECK(m["cache"]["tokens"] == 49);  // the last token is scored, never fed
  CHECK(m["regime"] == "prefill-exact");
  CHECK(check_exercised(outcome, {.kv = true, .first_encoded_length = 12}).empty());

  SECTION("fewer scores than quarters, one text, no reference") {
    settings.samples = 1;
    settings.continuation_tokens = 1;
    subject.reference = nullptr;
    const Json one = generation(subject, settings, {}).metrics;
    CHECK(one["quarters"].size() == 1);
    CHECK(one["quarters"][0]["first"] == 0);
    CHECK(one["quarters"][0]["last"] == 0);
    CHECK(one["tokens_scored"] == 1);
    CHECK_FALSE(one.contains("delta_nll"));
    CHECK(one["decode_tokens_per_second_why"] == "no token was fed back");
  }
  SECTION("hostile") {
    settings.samples = 3;
    CHECK_THROWS_WITH(generation(subject, settings, {}), Catch::Contains("holds 2 texts, 3"));
    settings.samples = 2;
    settings.continuation_tokens = 31;
    CHECK_THROWS_WITH(generation(subject, settings, {}),
                      Catch::Contains("60 tokens found, 61 needed") && Catch::Contains(":1"));
    settings.continuation_tokens = 0;
    CHECK_THROWS_AS(generation(subject, settings, {}), Error);
    settings.continuation_tokens = 5;
    settings.regime = Regime::independent;
    CHECK_THROWS_AS(generation(subject, settings, {}), Error);
  }
}
