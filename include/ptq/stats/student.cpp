#include "ptq/stats/student.hpp"

#include <boost/math/distributions/fisher_f.hpp>
#include <boost/math/distributions/normal.hpp>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <limits>

namespace ptq::stats {
namespace {

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
constexpr double kNearlyNormal = 1e7;  // degrees of freedom

}  // namespace

double t_quantile(double probability, double df) {
  if (!(df > 0)) return kUnknown;
  if (df > kNearlyNormal) return boost::math::quantile(boost::math::normal(), probability);
  return boost::math::quantile(boost::math::students_t(df), probability);
}

double t_upper(double t, double df) {
  if (!(df > 0) || std::isnan(t)) return kUnknown;
  if (std::isinf(t)) return t > 0 ? 0 : 1;
  if (df > kNearlyNormal) return boost::math::cdf(complement(boost::math::normal(), t));
  return boost::math::cdf(complement(boost::math::students_t(df), t));
}

double f_upper(double f, double df1, double df2) {
  if (!(df1 > 0) || !(df2 > 0) || std::isnan(f)) return kUnknown;
  if (std::isinf(f)) return 0;
  return boost::math::cdf(complement(boost::math::fisher_f(df1, df2), f));
}

}  // namespace ptq::stats
