// Log-softmax, divergence and the statistics against hand calculation in extended precision.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "ptq/eval/divergence.hpp"
#include "ptq/eval/log_softmax.hpp"
#include "ptq/eval/statistics.hpp"
#include "test/support/plain_scores.hpp"

using namespace ptq;
using namespace ptq::eval;
using ptq::test::log_probs;
using ptq::test::plain_kl;

TEST_CASE("log-softmax of a row", "[eval]") {
  for (double x = 0; x > -745; x -= 0.37) {
    const double want = std::exp(std::max(x, -700.0));
    CHECK(std::abs(exp_nonpositive(x) - want) <= 1e-15 * want);
  }
  CHECK(exp_nonpositive(0) == 1);

  const float three[] = {std::log(1.0f), std::log(2.0f), std::log(5.0f)};
  LogitRow row = read_logits(three, 3, 0, "model");
  CHECK(row.argmax == 2);
  CHECK(row.nll(1) == Approx(std::log(4.0)).epsilon(1e-7));
  CHECK(row.log_sum_exp == Approx(std::log(8.0)).epsilon(1e-7));

  // Any length, also where vector lanes end; shifts of the logits change nothing.
  for (const int vocab : {1, 7, 16, 17, 333}) {
    std::vector<float> logits(static_cast<size_t>(vocab));
    for (int v = 0; v < vocab; ++v) logits[size_t(v)] = float((v * 37 % 101) / 8.0 - 3);
    const auto want = log_probs(logits);
    row = read_logits(logits.data(), vocab, 0, "model");
    for (int v = 0; v < vocab; ++v) {
      CHECK(row.log_prob(v) == Approx(double(want[size_t(v)])).epsilon(1e-14).margin(1e-15));
    }
    const double nll = row.nll(0);
    for (float& x : logits) x += 1024;
    const LogitRow shifted = read_logits(logits.data(), vocab, 0, "model");
    CHECK(shifted.nll(0) == Approx(nll).epsilon(1e-12).margin(1e-12));
    CHECK(shifted.argmax == row.argmax);
  }

  SECTION("ties go to the lowest id") {
    const std::vector<float> tie = {0, 3, 1, 3, 3};
    CHECK(read_logits(tie.data(), 5, 0, "model").argmax == 1);
  }
  SECTION("extremes") {
    const float big = std::numeric_limits<float>::max();
    const float logits[] = {big, -big, 0};
    row = read_logits(logits, 3, 0, "model");
    CHECK(row.nll(0) == 0);
    CHECK(std::isfinite(row.nll(1)));
  }
  SECTION("what is not finite is an error with its place") {
    for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
      for (const int at : {0, 5, 16, 18}) {
        std::vector<float> logits(19, 1.0f);
        logits[size_t(at)] = bad;
        CHECK_THROWS_WITH(read_logits(logits.data(), 19, 77, "model under test"),
                          Catch::Contains("model under test") &&
                              Catch::Contains("position 77, token id " + std::to_string(at)));
      }
    }
  }
}

TEST_CASE("divergence of two rows", "[eval]") {
  // p = (1/2, 1/2), q = (1/4, 3/4): KL = 1/2 ln 2 + 1/2 ln (2/3).
  const std::vector<float> p = {0, 0}, q = {0, std::log(3.0f)};
  const LogitRow rp = read_logits(p.data(), 2, 0, "r"), rq = read_logits(q.data(), 2, 0, "m");
  CHECK(kl_divergence(rp, rq) == Approx(0.5 * std::log(4.0 / 3)).epsilon(1e-7));
  CHECK(kl_divergence(rp, rp) == 0);
  CHECK(kl_divergence(rq, rq) == 0);

  std::vector<float> a(1000), b(1000);
  for (int v = 0; v < 1000; ++v) {
    a[size_t(v)] = float(v * 7919 % 1000) / 100;
    b[size_t(v)] = a[size_t(v)] + float(v % 13) / 50;
  }
  const LogitRow ra = read_logits(a.data(), 1000, 0, "r"), rb = read_logits(b.data(), 1000, 0, "m");
  CHECK(kl_divergence(ra, rb) == Approx(double(plain_kl(a, b))).epsilon(1e-12));
  CHECK(kl_divergence(ra, ra) == 0);

  // The same with kept exponentials; the others by definition.
  std::vector<double> kept(1000);
  const LogitRow keeping = scan_logits(b.data(), 1000, kept.data());
  CHECK(keeping.log_sum_exp == rb.log_sum_exp);
  const auto log_p = log_probs(a), log_q = log_probs(b);
  long double overlap = 0;
  int above = 0;
  for (size_t v = 0; v < 1000; ++v) {
    overlap += std::min(std::exp(log_p[v]), std::exp(log_q[v]));
    above += b[v] > b[17];
  }
  for (const LogitRow& method : {rb, keeping}) {
    const RowDivergence all = row_divergence(ra, method, b[17]);
    CHECK(all.kl == kl_divergence(ra, rb));
    CHECK(all.kl_reverse == Approx(double(plain_kl(b, a))).epsilon(1e-11));
    CHECK(all.overlap == Approx(double(overlap)).epsilon(1e-13));
    CHECK(all.above == above);
  }
  const RowDivergence same = row_divergence(ra, ra, a[17]);
  CHECK(same.kl_reverse == 0);
  CHECK(same.overlap == Approx(1).epsilon(1e-13));

  Divergence d;
  d.add(rp, rq, 1);  // p 1/2 -> 3/4; first maxima: 0 and 1
  d.add(rp, rp, 1);
  Json m;
  d.write(m);
  const double kl = 0.5 * std::log(4.0 / 3);
  CHECK(m["kl_tokens"] == 2);
  CHECK(m["kl_mean"].get<double>() == Approx(kl / 2).epsilon(1e-7));
  CHECK(m["kl_median"].get<double>() == Approx(kl / 2).epsilon(1e-7));
  CHECK(m["kl_p90"].get<double>() == Approx(kl * 0.9).epsilon(1e-7));
  // KL(q || p) = 1/4 ln 1/2 + 3/4 ln 3/2; sum of min(p, q) = 1/4 + 1/2.
  CHECK(m["kl_reverse_mean"].get<double>() ==
        Approx((0.25 * std::log(0.5) + 0.75 * std::log(1.5)) / 2).epsilon(1e-6));
  CHECK(m["ear_mean"].get<double>() == Approx((0.75 + 1) / 2).epsilon(1e-6));
  CHECK(m["kl_p99"].get<double>() == Approx(kl * 0.99).epsilon(1e-7));
  CHECK(m["kl_max"].get<double>() == Approx(kl).epsilon(1e-7));
  CHECK(m["top1_agreement"] == 0.5);
  CHECK(m["delta_p_mean"].get<double>() == Approx(0.125).epsilon(1e-6));
  CHECK(m["delta_p_rms"].get<double>() == Approx(std::sqrt(0.0625 / 2)).epsilon(1e-6));
  Json none;
  Divergence().write(none);
  CHECK(none["kl_mean"].is_null());
  CHECK(none["kl_mean_why"] == "no position was compared with the reference");
}

TEST_CASE("the scores of one token", "[eval]") {
  const std::vector<float> p = {0, 0, 1, -1}, q = {0, 2, 1, -1};
  const LogitRow reference = read_logits(p.data(), 4, 0, "r"),
                 method = read_logits(q.data(), 4, 0, "m");
  const ScoredToken token = score_token(method, &reference, 0);
  CHECK(token.finite);
  CHECK(token.flip);
  CHECK(token.rank == 2);
  CHECK(token.confidence == Approx(double(std::exp(log_probs(p)[2]))));
  CHECK(token.kl == kl_divergence(reference, method));
  const TokenScore packed = token.packed();
  CHECK(double(packed.nll) == Approx(double(-log_probs(q)[0])).epsilon(1e-6));
  CHECK(double(packed.nll_reference) == Approx(double(-log_probs(p)[0])).epsilon(1e-6));
  CHECK(double(packed.kl) == Approx(token.kl).epsilon(1e-6));
  CHECK(double(packed.kl_reverse) == Approx(token.kl_reverse).epsilon(1e-6));
  CHECK(packed.overlap_share() == Approx(token.overlap).margin(1e-5));
  CHECK(packed.confidence_share() == Approx(token.confidence).margin(1e-5));
  CHECK(packed.delta_p() == Approx(token.delta_p).margin(1e-7));
  CHECK(packed.rank() == 2);
  CHECK(packed.flip());
  CHECK(packed.finite());

  // The baseline itself: its own confidence, and no divergence.
  const TokenScore alone = score_token(method, nullptr, 2).packed();
  CHECK_FALSE(alone.has_reference());
  CHECK(std::isnan(alone.kl));
  CHECK(std::isnan(alone.kl_reverse));
  CHECK(alone.overlap == 0);
  CHECK(alone.rank() == 1);
  CHECK(alone.confidence_share() == Approx(double(std::exp(log_probs(q)[1]))).margin(1e-5));

  const std::vector<float> bad = {0, INFINITY, 1, -1};
  const TokenScore none = score_token(scan_logits(bad.data(), 4), &reference, 0).packed();
  CHECK_FALSE(none.finite());
  CHECK(std::isnan(none.nll));
  CHECK(double(none.nll_reference) == Approx(double(-log_probs(p)[0])).epsilon(1e-6));
}

TEST_CASE("statistics", "[eval]") {
  CHECK(clopper_pearson95(80, 80).low == Approx(0.9549).margin(5e-5));
  CHECK(clopper_pearson95(20, 20).low == Approx(0.8316).margin(5e-5));
  CHECK(clopper_pearson95(20, 20).high == 1);
  CHECK(clopper_pearson95(0, 20).high == Approx(1 - 0.8316).margin(5e-5));
  CHECK(clopper_pearson95(0, 20).low == 0);
  // 10 of 20: (0.2720, 0.7280) in every table.
  CHECK(clopper_pearson95(10, 20).low == Approx(0.2720).margin(5e-5));
  CHECK(clopper_pearson95(10, 20).high == Approx(0.7280).margin(5e-5));
  const std::vector<double> values = {4, 1, 3, 2};
  CHECK(mean(values) == 2.5);
  CHECK(standard_error(values) == Approx(std::sqrt(5.0 / 3 / 4)));
  CHECK(std::isnan(standard_error(std::vector<double>{1})));
  CHECK(std::isnan(mean({})));
  CHECK(quantile({4, 1, 3, 2}, 0.5) == 2.5);
  CHECK(quantile({4, 1, 3, 2}, 0) == 1);
  CHECK(quantile({4, 1, 3, 2}, 1) == 4);
  CHECK(quantile({7}, 0.99) == 7);
}
