// Student's t distribution. student.cpp is compiled once (library ptq_core), so that only it
// includes Boost.Math.
#pragma once

namespace ptq::stats {

// The value that t with `df` degrees of freedom stays below with this probability, 0 < p < 1.
// df <= 0: NaN; df may be infinite (the normal distribution).
double t_quantile(double probability, double df);

// The probability of a value above t.
double t_upper(double t, double df);

// The probability that F with these degrees of freedom is above f.
double f_upper(double f, double df1, double df2);

}  // namespace ptq::stats
