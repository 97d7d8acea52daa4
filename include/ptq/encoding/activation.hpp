// Rounding of the inputs of a linear layer: int8 codes and E4M3 numbers with a scale per token.
//
// Sources: SmoothQuant (arXiv 2211.10438), fake_quant.py: max|x| / 127 of a token; FP8 formats
// (arXiv 2209.05433): max|x| / 448. Written once for the host and the device.
#pragma once

#include <cmath>

#include "ptq/core/small_float.hpp"

namespace ptq {

// How the inputs of a linear layer are rounded before the product; the numbers are those of
// PTQ_ACTIVATION_* in plugin.h.
enum class ActivationKind : int {
  full = 0,
  int8_token = 1,   // a scale per token, max|x| / 127
  int8_static = 2,  // one scale for all tokens
  fp8_token = 3,    // E4M3, max|x| / 448
  fp8_static = 4,
};
struct Activation {
  ActivationKind kind = ActivationKind::full;
  float scale = 0;              // of the static kinds
  float outlier_threshold = 0;  // int8: numbers of this size enter exactly; 0: none
  bool operator==(const Activation&) const = default;
};

// What a code, or an E4M3 number, is multiplied by when the largest |x| of its token is `largest`.
PTQ_HD inline float activation_step(ActivationKind kind, float largest) {
  const float floor = largest > 1e-5f ? largest : 1e-5f;
  return floor / (kind == ActivationKind::int8_token ? 127.0f : kLargestE4m3);
}

// The code of x, -127 .. 127, half to even.
PTQ_HD inline float int8_code(float x, float step) {
  const float code = rintf(x / step);
  return code > 127.0f ? 127.0f : code < -127.0f ? -127.0f : code;
}

// x as it enters the product; numbers of at least `threshold` (0: none) enter as they are.
PTQ_HD inline float rounded_activation(float x, ActivationKind kind, float step, float threshold) {
  if (threshold > 0 && (x >= threshold || x <= -threshold)) return x;
  const bool int8 = kind == ActivationKind::int8_token || kind == ActivationKind::int8_static;
  return int8 ? int8_code(x, step) * step : round_e4m3(x / step) * step;
}

PTQ_HD constexpr bool is_int8(const Activation& a) {
  return a.kind == ActivationKind::int8_token || a.kind == ActivationKind::int8_static;
}
PTQ_HD constexpr bool step_per_token(ActivationKind kind) {
  return kind == ActivationKind::int8_token || kind == ActivationKind::fp8_token;
}

}  // namespace ptq
