// What an interval and a margin allow to say of a difference, and how many samples would say more.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

namespace ptq::stats {

enum class Verdict {
  none,        // nothing was compared
  identical,   // not one difference
  better,      // in quality, whichever direction the figure has
  worse,       //
  equivalent,  // within the margin
  too_few,     // samples
};

// For files.
inline const char* verdict_key(Verdict verdict) {
  switch (verdict) {
    case Verdict::none: return "none";
    case Verdict::identical: return "identical";
    case Verdict::better: return "better";
    case Verdict::worse: return "worse";
    case Verdict::equivalent: return "equivalent";
    case Verdict::too_few: break;
  }
  return "too_few";
}

inline constexpr double kAlpha = 0.05;

// Margins of equivalence. Losses: nats per token, 1 % of perplexity, which is what seeds and
// protocols move it by. Answers: two in a hundred.
inline constexpr double kLossMargin = 0.01;
inline constexpr double kAnswerMargin = 0.02;

// harm: the difference, positive where the method is worse. p: two-sided, of no difference;
// p_equivalence: of a difference of the margin or more (two one-sided tests, Schuirmann 1987); both
// corrected for the number of comparisons. A difference that is shown is named even where it is
// smaller than the margin.
inline Verdict verdict_of(double harm, double p, double p_equivalence) {
  if (p < kAlpha) return harm > 0 ? Verdict::worse : Verdict::better;
  if (p_equivalence < kAlpha) return Verdict::equivalent;
  return Verdict::too_few;
}

// About how many samples would decide with a power of 80 %, when the n there are gave this
// difference and this standard error: enough to tell it from 0 or from the margin, whichever is
// less. 0 where nothing can be said.
inline double samples_needed(double n, double delta, double standard_error, double margin) {
  constexpr double kTwoSided = 1.96 + 0.842, kOneSided = 1.645 + 0.842;  // normal quantiles
  if (!(standard_error > 0) || !(n > 0)) return 0;
  const double from_zero = std::abs(delta), from_margin = std::abs(margin - std::abs(delta));
  const auto times = [&](double quantiles, double distance) {
    return distance > 0 ? std::pow(quantiles * standard_error / distance, 2)
                        : std::numeric_limits<double>::infinity();
  };
  double factor = times(kTwoSided, from_zero);
  if (std::abs(delta) < margin) factor = std::min(factor, times(kOneSided, from_margin));
  return std::isfinite(factor) ? n * std::max(factor, 1.0) : 0;
}

}  // namespace ptq::stats
