#include "ptq/core/binomial.hpp"

#include <boost/math/distributions/beta.hpp>

namespace ptq {

// Through quantiles of the beta distribution.
Interval clopper_pearson95(int64_t successes, int64_t trials) {
  if (trials < 1 || successes < 0 || successes > trials) return {0, 1};
  const double k = double(successes), n = double(trials);
  const auto beta = [](double a, double b, double probability) {
    return boost::math::quantile(boost::math::beta_distribution<double>(a, b), probability);
  };
  return {successes == 0 ? 0.0 : beta(k, n - k + 1, 0.025),
          successes == trials ? 1.0 : beta(k + 1, n - k, 0.975)};
}

}  // namespace ptq
