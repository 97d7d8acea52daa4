// Do 95 % intervals of dependent, heavy-tailed and clustered series hold 95 % of the time?
#include <catch2/catch.hpp>
#include <cstdio>
#include <random>

#include "ptq/stats/bootstrap.hpp"
#include "ptq/stats/quantiles.hpp"
#include "test/stats/series.hpp"

namespace {

using namespace ptq;
using namespace ptq::test;

struct Coverage {
  double share = 0;    // of the 95 % intervals that hold the truth
  double false_p = 0;  // share of p < 0.05 of the truth
  double width = 0;    // mean
};

Coverage simulate(const SeriesPlan& plan, int repetitions) {
  std::mt19937_64 random(12);
  const double truth = true_mean(plan);
  int inside = 0, rejected = 0;
  double width = 0;
  for (int r = 0; r < repetitions; ++r) {
    const Series series = draw_series(plan, random);
    const stats::Units units = stats::cut(series.values, series.runs);
    const stats::MeanEstimate mean = stats::estimate_mean(series.values, units);
    const Interval interval = mean.interval(0.95);
    inside += interval.contains(truth);
    rejected += mean.p(truth) < 0.05;
    width += interval.high - interval.low;
  }
  return {inside / double(repetitions), rejected / double(repetitions), width / repetitions};
}

}  // namespace

TEST_CASE("95 % intervals cover 93 to 97 % on dependent, heavy and clustered series", "[stats]") {
  const SeriesPlan plan = GENERATE(SeriesPlan{"independent", 0, Tails::normal, 2, 400},
                                   SeriesPlan{"half", 0.5, Tails::normal, 2, 1000},
                                   SeriesPlan{"long memory", 0.8, Tails::normal, 2, 1000},
                                   SeriesPlan{"heavy tails", 0.3, Tails::heavy, 2, 500},
                                   SeriesPlan{"skewed", 0.3, Tails::skewed, 4, 500},
                                   SeriesPlan{"texts", 0.3, Tails::normal, 40, 50, 0.05});
  INFO(plan.name);
  const Coverage coverage = simulate(plan, 600);
  CHECK(coverage.share >= 0.93);
  CHECK(coverage.share <= 0.97);
  CHECK(coverage.false_p == Approx(1 - coverage.share).margin(1e-9));  // p and interval agree
}

// By hand: ptq-tests "[full]" prints a table.
TEST_CASE("coverage of intervals, full size", "[.][full]") {
  const SeriesPlan plans[] = {{"independent, 2 x 1000", 0, Tails::normal, 2, 1000},
                              {"memory 0.5, 2 x 1000", 0.5, Tails::normal, 2, 1000},
                              {"memory 0.8, 2 x 2000", 0.8, Tails::normal, 2, 2000},
                              {"memory 0.8, 4 x 25000", 0.8, Tails::normal, 4, 25000},
                              {"memory 0.95, 2 x 10000", 0.95, Tails::normal, 2, 10000},
                              {"t3, memory 0.3, 2 x 1000", 0.3, Tails::heavy, 2, 1000},
                              {"lognormal, memory 0.3, 2 x 1000", 0.3, Tails::skewed, 2, 1000},
                              {"lognormal, memory 0.3, 4 x 25000", 0.3, Tails::skewed, 4, 25000},
                              {"5 texts x 400, alike 0.02", 0.3, Tails::normal, 5, 400, 0.02},
                              {"10 texts x 400, alike 0.02", 0.3, Tails::normal, 10, 400, 0.02},
                              {"10 texts x 400, alike 0.1", 0.3, Tails::normal, 10, 400, 0.1},
                              {"40 texts x 100, alike 0.05", 0.3, Tails::normal, 40, 100, 0.05},
                              {"40 texts x 100, lognormal", 0.3, Tails::skewed, 40, 100, 0.05},
                              {"200 texts x 100, lognormal", 0.3, Tails::skewed, 200, 100, 0.02}};
  for (const SeriesPlan& plan : plans) {
    const Coverage coverage = simulate(plan, 4000);
    std::printf("%-34s %.1f %%, width %.4f\n", plan.name, 100 * coverage.share, coverage.width);
    std::fflush(stdout);
    CHECK(coverage.share >= 0.90);
  }
}

TEST_CASE("intervals of quantiles and of rare shares cover", "[stats]") {
  const SeriesPlan plan = {"", 0.3, Tails::skewed, 2, 1000};
  std::mt19937_64 random(5);
  int median = 0, high = 0, rare = 0;
  constexpr int kTimes = 200;
  for (int r = 0; r < kTimes; ++r) {
    const Series series = draw_series(plan, random);
    const stats::Units units = stats::cut(series.values, series.runs);
    std::vector<float> sorted = series.values, above;
    std::sort(sorted.begin(), sorted.end());
    // The quantiles of exp(x): x is standard normal.
    median += stats::quantile_interval(series.values, sorted, 0.5, units).contains(1.0);
    high += stats::quantile_interval(series.values, sorted, 0.9, units)
                .contains(std::exp(1.2815515655));
    for (const float v : series.values) above.push_back(v > std::exp(2.3263478740));  // 1 %
    rare += stats::share_interval(stats::estimate_mean(above, units), double(above.size()))
                .contains(0.01);
  }
  for (const int inside : {median, high}) {
    CHECK(inside >= 0.92 * kTimes);
    CHECK(inside <= 0.98 * kTimes);
  }
  CHECK(rare >= 0.93 * kTimes);  // that of Clopper and Pearson is wide on purpose
  const std::vector<float> none(1000, 0.0f);
  const std::vector<stats::Run> run = {{0, 1000}};
  const stats::Units units = stats::cut(none, run);
  const Interval zero = stats::share_interval(stats::estimate_mean(none, units), 1000);
  CHECK(zero.low == 0);
  CHECK(zero.high == Approx(0.004).margin(0.001));  // 3.7 in 1000
}

TEST_CASE("the detectable effect is found in 80 % of the runs", "[stats]") {
  const SeriesPlan plan = {"", 0.5, Tails::normal, 2, 500};
  std::mt19937_64 random(3);
  double detectable = 0;
  for (int r = 0; r < 50; ++r) {
    const Series series = draw_series(plan, random);
    detectable +=
        stats::estimate_mean(series.values, stats::cut(series.values, series.runs)).detectable() /
        50;
  }
  int found = 0;
  for (int r = 0; r < 400; ++r) {
    Series series = draw_series(plan, random);
    for (float& value : series.values) value += float(detectable);
    found +=
        stats::estimate_mean(series.values, stats::cut(series.values, series.runs)).p(0) < 0.05;
  }
  CHECK(found > 0.75 * 400);
  CHECK(found < 0.87 * 400);
}

TEST_CASE("a ratio over units of uneven size is that of the sums", "[stats]") {
  const std::vector<double> sums = {2, 0, 6, 5, 3, 8, 1, 0, 4, 7},
                            sizes = {1, 0, 3, 2, 2, 4, 1, 0, 2, 3};
  const stats::MeanEstimate ratio = stats::estimate_ratio(sums, sizes);
  CHECK(ratio.value == Approx(2.0));
  CHECK(ratio.units == 8);
  // Residuals 0 0 0 1 -1 0 -1 0 0 1 by hand: sqrt(4 * 10 / 9) / 18.
  CHECK(ratio.standard_error == Approx(std::sqrt(40.0 / 9) / 18));
  CHECK(ratio.interval(0.95).contains(2.0));
  CHECK(ratio.interval(0.9).low > ratio.interval(0.95).low);
  CHECK_FALSE(stats::estimate_ratio(std::vector<double>{1, 2, 3, 4}, std::vector<double>(4, 1.0))
                  .interval(0.95)
                  .known());
}
