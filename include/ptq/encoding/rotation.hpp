// The rotation of one pair of channels, written once for every device and number format.
#pragma once

#include "ptq/core/dtype.hpp"

namespace ptq {

// (a, b) turned by the angle whose cosine and sine are c and s (arXiv 2104.09864; the pairs of a
// head of `dim` channels are i and i + dim/2, as in Hugging Face checkpoints). `round`: what the
// number format does to each product; the callers round the sums when they store them.
template <class Real, class Round>
PTQ_HD void rotate_pair(Real& a, Real& b, Real c, Real s, const Round& round) {
  const Real low = round(a * c) - round(b * s), high = round(b * c) + round(a * s);
  a = low;
  b = high;
}
// Cosine and sine by reference: they are read anew for the second line, as in a loop over arrays,
// which decides how a compiler fuses products and sums, and so the last bit.
template <class Real>
PTQ_HD void rotate_pair(Real& a, Real& b, const Real& c, const Real& s) {
  const Real x = a, y = b;
  a = x * c - y * s;
  b = y * c + x * s;
}

}  // namespace ptq
