// How the figures of a decision are written.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <string>

#include "analysis/decide/standing.hpp"
#include "analysis/write/language.hpp"
#include "analysis/write/numbers.hpp"

namespace ptq::report {

// "[0.028, 0.034]" behind a value; nothing where it is not known.
template <class Write>
std::string interval_text(const Interval& interval, Write write) {
  if (!interval.known()) return {};
  return fmt::format(" [{}, {}]", write(interval.low), write(interval.high));
}

// Decimals that a percentage or points of this size are worth.
inline std::string short_signed(double value, double size) {
  if (!std::isfinite(value)) return value > 0 ? "> +1e308" : "< -1e308";
  if (std::abs(size) >= 1e5) return fmt::format("{:+.1e}", value);
  const int decimals = std::abs(size) < 1 ? 2 : std::abs(size) < 100 ? 1 : 0;
  if (std::abs(value) < 0.5 * std::pow(10.0, -decimals)) value = 0;  // no "-0.00"
  return fmt::format("{:+.{}f}", value, decimals);
}

// "+3.5 % [+2.1, +4.9]" of the perplexity, a factor from threefold: "12.1x [11.8, 12.5]".
inline std::string loss_text(double delta, const Interval& interval) {
  const double factor = std::exp(delta);
  if (factor < 3) {
    const double size = 100 * (factor - 1);
    const auto percent = [&](double d) { return short_signed(100 * (std::exp(d) - 1), size); };
    return percent(delta) + " %" + interval_text(interval, percent);
  }
  const auto times = [](double d) {
    const double f = std::exp(d);
    return !std::isfinite(f) ? std::string("> 1e308")
           : f < 100         ? fmt::format("{:.1f}", f)
                             : fmt::format("{:.3g}", f);
  };
  return times(delta) + "x" + interval_text(interval, times);
}

// "-30.0 points [-45.0, -15.0]" of the right answers.
inline std::string points_text(double delta, const Interval& interval, Language language) {
  const auto points = [](double d) { return fmt::format("{:+.1f}", 100 * d); };
  return points(delta) + in(language, " points", " 个百分点") + interval_text(interval, points);
}

inline std::string change_text(const Comparison& c, Language language) {
  return c.answers ? points_text(c.delta, c.interval, language) : loss_text(c.delta, c.interval);
}

// "0.031 [0.028, 0.034]" nats.
inline std::string kl_text(const Estimate& kl) {
  const auto nats = [](double value) { return fmt::format("{:.3g}", value); };
  return nats(kl.value) + interval_text(kl.interval, nats);
}

// The damage as a table shows it.
inline std::string damage_text(const Estimate& estimate, Damage damage, Language language) {
  if (damage == Damage::divergence) return kl_text(estimate);
  if (damage == Damage::loss) return loss_text(estimate.value, estimate.interval);
  return points_text(-estimate.value, {-estimate.interval.high, -estimate.interval.low}, language);
}

inline std::string mebibytes_text(double bytes) {
  const double size = bytes / (1 << 20);
  return size < 100 ? fmt::format("{:.2f}", size) : thousands_text(size);
}

// "397" bytes per token, "3.81" MiB
inline std::string number_text(double bytes, Bytes kind) {
  return kind == Bytes::cache ? thousands_text(bytes) : mebibytes_text(bytes);
}

// "397 B/token", "3.81 MiB"
inline std::string size_text(double bytes, Bytes kind) {
  return number_text(bytes, kind) + (kind == Bytes::cache ? " B/token" : " MiB");
}

// A forecast of tokens or answers, to two digits: "36,000".
inline std::string forecast_text(double count) {
  const double digits = std::pow(10, std::floor(std::log10(count)) - 1);
  const double rounded = std::ceil(count / digits) * digits;
  return rounded < 1e9 ? thousands_text(rounded) : fmt::format("{:.1e}", rounded);
}

// "1 %", "2 points": of equivalence.
inline std::string margin_text(const Comparison& c, Language language) {
  return c.answers ? fmt::format("{:.3g}{}", 100 * c.margin, in(language, " points", " 个百分点"))
                   : fmt::format("{:.2g} %", 100 * std::expm1(c.margin));
}

// The verdict of a comparison: compare/'s own words, or the same in Chinese.
std::string verdict_words(const Comparison& comparison, Language language);
// The same without the numbers behind it, for a narrow table.
std::string verdict_word(const Comparison& comparison, Language language);

}  // namespace ptq::report
