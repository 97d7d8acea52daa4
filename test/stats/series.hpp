// Series with known means and known dependence, for simulations.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "ptq/stats/dependence.hpp"

namespace ptq::test {

enum class Tails { normal, heavy, skewed };  // of single values: normal, Student's t3, lognormal

// What a simulated evaluation looks like.
struct SeriesPlan {
  const char* name;
  double memory;  // correlation of neighbours
  Tails tails;
  size_t clusters, length;
  double alike = 0;  // share of the variance that is of whole clusters
};

struct Series {
  std::vector<float> values;
  std::vector<stats::Run> runs;
};

inline double true_mean(const SeriesPlan& plan) {
  return plan.tails == Tails::skewed ? std::exp(0.5) : 0;
}

inline Series draw_series(const SeriesPlan& plan, std::mt19937_64& random) {
  std::normal_distribution<double> normal;
  std::student_t_distribution<double> heavy(3);
  Series out;
  for (size_t c = 0; c < plan.clusters; ++c) {
    out.runs.push_back({uint32_t(c), plan.length});
    const double own = std::sqrt(plan.alike / (1 - plan.alike)) * normal(random);
    double x = normal(random);
    for (size_t i = 0; i < plan.length; ++i) {
      x = plan.memory * x + std::sqrt(1 - plan.memory * plan.memory) * normal(random);
      double value = x;
      if (plan.tails == Tails::heavy) value += heavy(random);
      if (plan.tails == Tails::skewed) value = std::exp(x);
      out.values.push_back(float(value + own));
    }
  }
  return out;
}

}  // namespace ptq::test
