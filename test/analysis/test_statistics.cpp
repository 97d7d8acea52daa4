// Statistics of comparisons against scipy and plain loops (fixtures/report/make_statistics.py).
#include <catch2/catch.hpp>
#include <fstream>

#include "analysis/compare/statistics.hpp"
#include "ptq/results/record.hpp"

namespace {

using namespace ptq;
using namespace ptq::report;

const Json& reference() {
  static const Json json = [] {
    std::ifstream in(PTQ_SOURCE_DIR "/test/fixtures/report/statistics.json");
    return Json::parse(in);
  }();
  return json;
}

std::vector<double> numbers(const Json& json) { return json.get<std::vector<double>>(); }

}  // namespace

TEST_CASE("McNemar, exact and mid-p", "[statistics]") {
  for (const Json& row : reference()["mcnemar"]) {
    const McNemar p = mcnemar(row["gained"].get<int64_t>(), row["lost"].get<int64_t>());
    INFO(row.dump());
    CHECK(p.exact == Approx(row["exact"].get<double>()).epsilon(1e-10));
    CHECK(p.mid == Approx(row["mid"].get<double>()).epsilon(1e-10));
  }
  // Worked by hand.
  CHECK(mcnemar(6, 0).exact == Approx(0.03125));
  CHECK(mcnemar(10, 10).exact == 1.0);
  CHECK(mcnemar(0, 0).mid == 1.0);
  CHECK(PairedCounts{1267, 30, 24}.standard_error() == Approx(0.0058).margin(5e-5));
}

TEST_CASE("paired bootstrap of answers, by stratum", "[statistics]") {
  for (const Json& row : reference()["bootstrap"]) {
    std::vector<PairedCounts> strata;
    PairedCounts all;
    for (const Json& s : row["strata"]) {
      strata.push_back({s[0].get<int64_t>(), s[1].get<int64_t>(), s[2].get<int64_t>()});
      all.n += strata.back().n;
      all.gained += strata.back().gained;
      all.lost += strata.back().lost;
    }
    INFO(row.dump());
    const double error = row["standard_error"].get<double>();
    CHECK(all.delta() == Approx(row["delta"].get<double>()));
    CHECK(all.standard_error() == Approx(error).epsilon(1e-9));
    // The 2.5 % point of 10,000 resamples lies within 0.08 standard errors of that of 20,000: four
    // standard deviations of an order statistic, sqrt(q (1 - q) / B) / density(q).
    const Interval interval = bootstrap_counts(strata);
    CHECK(std::abs(interval.low - row["low"].get<double>()) < 0.13 * error);
    CHECK(std::abs(interval.high - row["high"].get<double>()) < 0.13 * error);
    CHECK(bootstrap_counts(strata).low == interval.low);  // seeded
  }
}

TEST_CASE("paired bootstrap and t test of means", "[statistics]") {
  for (const Json& row : reference()["means"]) {
    const std::vector<double> values = numbers(row["values"]);
    const double error = row["standard_error"].get<double>();
    CHECK(mean_of(values) == Approx(row["mean"].get<double>()));
    CHECK(standard_error_of(values) == Approx(error));
    CHECK(paired_t(values) == Approx(row["p"].get<double>()));
    const Interval interval = bootstrap_of(values.size()).mean(values);
    CHECK(std::abs(interval.low - row["low"].get<double>()) < 0.13 * error);
    CHECK(std::abs(interval.high - row["high"].get<double>()) < 0.13 * error);
  }
  // More units than blocks: neighbours stay together, so equal neighbours widen the interval.
  std::vector<double> alternating(8000), blocks(8000);
  for (size_t i = 0; i < alternating.size(); ++i) {
    alternating[i] = i % 2 ? 1 : -1;
    blocks[i] = i / 20 % 2 ? 1 : -1;
  }
  CHECK(bootstrap_of(8000).block() == 20);
  CHECK(bootstrap_of(8000).mean(alternating).high == Approx(0).margin(1e-6));
  // 400 independent blocks of +-1: 1.96 / sqrt(400).
  CHECK(bootstrap_of(8000).mean(blocks).high == Approx(0.098).margin(0.01));
}

TEST_CASE("Holm's correction and shared ranks", "[statistics]") {
  for (const Json& row : reference()["holm"]) {
    const std::vector<double> adjusted = holm(numbers(row["p"])),
                              expected = numbers(row["adjusted"]);
    for (size_t i = 0; i < adjusted.size(); ++i) CHECK(adjusted[i] == Approx(expected[i]));
  }
  const std::vector<int> ranks = shared_ranks(5, [](size_t, size_t worse) { return worse == 2; });
  CHECK(ranks == std::vector<int>{1, 2, 2, 4, 5});
}

TEST_CASE("correlations say how many pairs they rest on", "[statistics]") {
  for (const Json& row : reference()["correlation"]) {
    std::vector<double> x = numbers(row["x"]), y = numbers(row["y"]);
    CHECK(pearson(x, y) == Approx(row["pearson"].get<double>()));
    CHECK(spearman(x, y) == Approx(row["spearman"].get<double>()));
    CHECK(within_groups(x, y, row["group"].get<std::vector<int>>()) ==
          Approx(row["within"].get<double>()));
    const size_t n = x.size();
    x.push_back(HUGE_VAL);
    y.push_back(0);
    const FiniteCorrelation finite = finite_correlation(x, y);
    CHECK(finite.r == Approx(row["pearson"].get<double>()));
    CHECK(finite.pairs == n);
    CHECK(finite.left_out == 1);
    CHECK(finite.interval.contains(finite.r));
  }
}
