// Answers to the same questions: the sign-flip test, Tango's interval, clusters; what is said.
#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "analysis/compare/statistics.hpp"
#include "ptq/stats/answers.hpp"
#include "ptq/stats/verdict.hpp"

namespace {

using namespace ptq;

std::vector<int> singles(int gained, int lost) {
  std::vector<int> out(size_t(gained), 1);
  out.insert(out.end(), size_t(lost), -1);
  out.push_back(0);
  return out;
}

}  // namespace

TEST_CASE("the sign-flip test of single answers is McNemar's", "[stats]") {
  for (const auto& [gained, lost] :
       {std::pair(6, 0), {10, 10}, {0, 0}, {3, 11}, {1, 0}, {30, 24}}) {
    const stats::SignFlip p = stats::sign_flip(singles(gained, lost));
    const report::McNemar reference = report::mcnemar(gained, lost);
    INFO(gained << " " << lost);
    CHECK(p.exact == Approx(reference.exact).epsilon(1e-9));
    CHECK(p.mid == Approx(reference.mid).epsilon(1e-9));
  }
  // Two prompts lost at all three depths: of the sums -6, 0, 0, 6 half are as far away.
  CHECK(stats::sign_flip(std::vector<int>{-3, -3}).exact == Approx(0.5));
  // Many answers go by the normal approximation, which agrees.
  const std::vector<int> many = singles(1100, 950);
  CHECK(stats::sign_flip(many).exact == Approx(report::mcnemar(1100, 950).mid).epsilon(0.02));
}

TEST_CASE("Tango's interval: limits, constrained estimate, answers that all agree", "[stats]") {
  // Without a difference the score is n d / (1 - d): the limit solves it for 1.96^2.
  const double z2 = 1.96 * 1.96;
  const Interval none = stats::tango_interval(20, 0, 0, 1.96);
  CHECK(none.high == Approx(z2 / (20 + z2)).epsilon(1e-6));
  CHECK(none.low == Approx(-none.high).epsilon(1e-6));
  const Interval lost = stats::tango_interval(50, 2, 9, 1.96);
  CHECK(stats::tango_score(50, 2, 9, lost.high) == Approx(-1.96).epsilon(1e-6));
  CHECK(lost.high < 0);
  CHECK(stats::tango_score(50, 2, 9, 0) == Approx(-7 / std::sqrt(11.0)));  // McNemar's statistic
  // The variance is at the likeliest share of losses under the difference, found here by search.
  const double n = 50, gained = 2, other = 9, difference = 0.05;
  double best = -1e300, at = 0;
  for (double q = 1e-6; q < (1 - difference) / 2; q += 1e-6) {
    const double likelihood = gained * std::log(q + difference) + other * std::log(q) +
                              (n - gained - other) * std::log(1 - 2 * q - difference);
    if (likelihood > best) {
      best = likelihood;
      at = q;
    }
  }
  const double variance = n * (2 * at + difference * (1 - difference));
  CHECK(stats::tango_score(n, gained, other, difference) ==
        Approx((gained - other - n * difference) / std::sqrt(variance)).epsilon(1e-4));
}

TEST_CASE("answers of one prompt at several depths count as one cluster", "[stats]") {
  // No method is better, but a prompt is lost or gained at all four depths at once.
  std::mt19937_64 random(4);
  int by_answer = 0, by_cluster = 0, covered = 0;
  constexpr int kTimes = 400;
  for (int r = 0; r < kTimes; ++r) {
    std::vector<int> sums, sizes(40, 4);
    double gained = 0, lost = 0;
    for (size_t c = 0; c < sizes.size(); ++c) {
      const uint64_t draw = random() % 10;
      sums.push_back(draw < 2 ? 4 : draw < 4 ? -4 : 0);
      gained += draw < 2 ? 4 : 0;
      lost += draw >= 2 && draw < 4 ? 4 : 0;
    }
    by_answer += report::mcnemar(int64_t(gained), int64_t(lost)).mid < 0.05;
    by_cluster += stats::sign_flip(sums).mid < 0.05;
    const double effect = stats::design_effect(sums, sizes, gained, lost);
    covered +=
        stats::tango_interval(160 / effect, gained / effect, lost / effect, 1.96).contains(0);
  }
  CHECK(by_answer > 0.2 * kTimes);
  CHECK(by_cluster <= 0.06 * kTimes);
  CHECK(covered >= 0.93 * kTimes);
}

TEST_CASE("a verdict names what is shown, and how much would show it", "[stats]") {
  using stats::Verdict;
  CHECK(stats::verdict_of(0.1, 0.001, 1) == Verdict::worse);
  CHECK(stats::verdict_of(-0.1, 0.001, 1) == Verdict::better);
  CHECK(stats::verdict_of(0.001, 0.3, 0.01) == Verdict::equivalent);
  CHECK(stats::verdict_of(0.001, 0.3, 0.2) == Verdict::too_few);
  // 2.8 standard errors are needed, there is one: 2.8^2 as many. Closer to the margin than to 0 the
  // margin decides.
  CHECK(stats::samples_needed(100, 0.02, 0.02, 0.01) == Approx(785).margin(1));
  CHECK(stats::samples_needed(100, 0.001, 0.009, 0.01) == Approx(618.5).margin(1));
  CHECK(stats::samples_needed(100, 0, 0, 0.01) == 0);
}
