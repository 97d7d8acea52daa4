#include <catch2/catch.hpp>

#include "ptq/core/binomial.hpp"

using namespace ptq;

TEST_CASE("the interval of a share is that of Clopper and Pearson", "[binomial]") {
  // 1 - 0.025^(1/20) for none and all of 20.
  CHECK(clopper_pearson95(0, 20).high == Approx(1 - 0.8316).margin(5e-5));
  CHECK(clopper_pearson95(20, 20).low == Approx(0.8316).margin(5e-5));
  CHECK(clopper_pearson95(0, 20).low == 0);
  CHECK(clopper_pearson95(20, 20).high == 1);
}

TEST_CASE("intervals of records stay equal to the last bit", "[binomial]") {
  struct Case {
    int64_t successes, trials;
    double low, high;
  };
  for (const Case& c : {Case{10, 20, 0x1.167c1e57042fep-2, 0x1.74c1f0d47de81p-1},
                        Case{1, 3, 0x1.135fd64da2387p-7, 0x1.cfb7ffbe56accp-1},
                        Case{19, 20, 0x1.80a6196ce69cbp-1, 0x1.ff5a2ea3f5a76p-1},
                        Case{7, 80, 0x1.262517b283d02p-5, 0x1.6045e86138bdbp-3},
                        Case{163, 2000, 0x1.1e39d543fe421p-4, 0x1.8283ee586422fp-4},
                        Case{6024, 10042, 0x1.2e3167740f771p-1, 0x1.380e12a7dfb11p-1},
                        Case{1, 100000, 0x1.0fd90d46cd3f6p-22, 0x1.d35f6552a7da8p-15}}) {
    INFO(c.successes << " of " << c.trials);
    CHECK(clopper_pearson95(c.successes, c.trials).low == c.low);
    CHECK(clopper_pearson95(c.successes, c.trials).high == c.high);
  }
}

TEST_CASE("counts that are none say nothing about a share", "[binomial]") {
  for (const auto& [successes, trials] : {std::pair{0, 0}, std::pair{-1, 3}, std::pair{4, 3}}) {
    CHECK(clopper_pearson95(successes, trials).low == 0);
    CHECK(clopper_pearson95(successes, trials).high == 1);
  }
}
