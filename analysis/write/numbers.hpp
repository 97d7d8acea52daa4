// How numbers are written in tables.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <string>

namespace ptq::report {

// A perplexity, or another figure that an evaluation is judged by.
inline std::string figure_text(double value) {
  if (!std::isfinite(value)) return "> 1e308";
  const double size = std::abs(value);
  if (size < 0.1 && size > 0) return fmt::format("{:.3g}", value);
  if (size < 100) return fmt::format("{:.3f}", value);
  return size < 1e5 ? fmt::format("{:.1f}", value) : fmt::format("{:.2e}", value);
}

// "+3.1 %": the relative difference to the baseline; empty where there is no number for it.
inline std::string change_text(double value, double baseline) {
  const double ratio = value / baseline, percent = 100.0 * (ratio - 1.0);
  if (!std::isfinite(ratio)) return {};
  if (std::abs(percent) < 1e4) return fmt::format("{:+.1f} %", percent);
  return ratio < 1e6 ? fmt::format("{:.0f}x", ratio) : fmt::format("{:.1e}x", ratio);
}

// "+3.10" with a sign, and few digits however large it is.
inline std::string signed_text(double value) {
  if (!std::isfinite(value)) return value > 0 ? "> +1e308" : "< -1e308";
  return std::abs(value) < 1e6 ? fmt::format("{:+.2f}", value) : fmt::format("{:+.2e}", value);
}

inline std::string divergence_text(double nats) {
  return nats != 0 && std::abs(nats) < 1e-4 ? fmt::format("{:.1e}", nats)
                                            : fmt::format("{:.4f}", nats);
}

inline std::string share_text(double share) { return fmt::format("{:.1f} %", 100.0 * share); }

inline std::string seconds_text(double seconds) {
  if (seconds < 10) return fmt::format("{:.1f} s", seconds);
  if (seconds < 120) return fmt::format("{:.0f} s", seconds);
  return fmt::format("{} min {:02} s", int64_t(seconds) / 60, int64_t(seconds) % 60);
}

// "57,344"
inline std::string thousands_text(double number) {
  std::string digits = fmt::format("{:.0f}", number);
  for (int64_t at = int64_t(digits.size()) - 3; at > 0; at -= 3) digits.insert(size_t(at), ",");
  return digits;
}

// 0.7 M, 7.62 B
inline std::string count_text(int64_t count) {
  if (count >= 1000000000) return fmt::format("{:.2f} B", double(count) / 1e9);
  if (count >= 100000) return fmt::format("{:.2f} M", double(count) / 1e6);
  return std::to_string(count);
}

}  // namespace ptq::report
