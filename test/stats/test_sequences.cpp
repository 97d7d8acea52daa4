// Intervals that hold at every moment: looking after each sample must not make more errors.
#include <catch2/catch.hpp>
#include <random>

#include "ptq/stats/confidence_sequence.hpp"
#include "ptq/stats/dependence.hpp"
#include "test/stats/series.hpp"

namespace {

using namespace ptq;
using namespace ptq::test;

}  // namespace

TEST_CASE("betting: the truth is excluded at any time in 5 % of the runs at most", "[stats]") {
  struct Truth {
    double gained, lost;
  };
  const Truth truth = GENERATE(Truth{0.02, 0.02}, Truth{0.2, 0.05}, Truth{0.3, 0.3});
  std::mt19937_64 random(9);
  std::uniform_real_distribution<double> uniform(0, 1);
  int wrong = 0;
  for (int r = 0; r < 60; ++r) {
    stats::BettingSequence sequence(0.05);
    bool ever = false;
    for (int i = 0; i < 150; ++i) {
      const double u = uniform(random);
      sequence.add(u < truth.gained ? 1 : u < truth.gained + truth.lost ? -1 : 0);
      ever = ever || !sequence.interval().contains(truth.gained - truth.lost);
    }
    wrong += ever;
  }
  CHECK(wrong <= 6);  // 3 and two standard deviations
}

TEST_CASE("betting: the interval narrows to the truth", "[stats]") {
  stats::BettingSequence sequence(0.05);
  CHECK(sequence.interval().low == Approx(-1));
  for (int i = 0; i < 2000; ++i) sequence.add(i % 10 == 0 ? -1 : 0);
  CHECK(sequence.interval().contains(-0.1));
  CHECK(sequence.interval().high < -0.05);
  CHECK(sequence.interval().low > -0.2);
}

TEST_CASE("the anytime quantile grows with looks and is sharpest where it is asked to be",
          "[stats]") {
  CHECK(stats::anytime_quantile(1, 0.05) > 1.96);
  CHECK(stats::anytime_quantile(1, 0.05) < 3.2);
  CHECK(stats::anytime_quantile(0.05, 0.05) > stats::anytime_quantile(1, 0.05));
  CHECK(stats::anytime_quantile(1, 0.01) > stats::anytime_quantile(1, 0.05));
}

TEST_CASE("autocovariance and block length follow the memory of a series", "[stats]") {
  std::mt19937_64 random(2);
  const Series none = draw_series({"", 0, Tails::normal, 2, 20000}, random),
               half = draw_series({"", 0.5, Tails::normal, 2, 20000}, random),
               much = draw_series({"", 0.9, Tails::normal, 2, 20000}, random);
  const auto of = [](const Series& s) { return stats::dependence_of(s.values, s.runs); };
  CHECK(of(none).block <= 4);
  CHECK(of(much).block ==
        Approx(170).epsilon(0.35));  // arch 8.0 (Python): 149 to 228 on 20 of them
  CHECK(of(half).block > of(none).block);
  CHECK(of(much).block > 2 * of(half).block);
  // (1 + r) / (1 - r) of an AR(1) process.
  CHECK(of(none).long_run_variance == Approx(1).epsilon(0.1));
  CHECK(of(half).long_run_variance == Approx(3).epsilon(0.1));
  CHECK(of(much).long_run_variance == Approx(19).epsilon(0.15));
  // Pairs do not cross the border of runs: 1 2 | 5 has (1 - m)(2 - m) alone.
  const std::vector<float> centred = {-1.5f, -0.5f, 2.0f};
  const std::vector<stats::Run> runs = {{0, 2}, {1, 1}};
  CHECK(stats::dependence_detail::autocovariance(centred, runs, 1) == Approx(0.75 / 3));
  const std::vector<float> equal(50, 2.0f);
  CHECK(stats::dependence_of(equal, std::vector<stats::Run>{{0, 50}}).block == 1);
}
