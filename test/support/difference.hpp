// How far two lists of numbers are apart.
#pragma once

#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

namespace ptq::test {

// Largest difference; NaN where one of the two is.
inline double difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(double(a[i]) - double(b[i]));
    if (!(d <= worst)) worst = d;
  }
  return worst;
}

}  // namespace ptq::test
