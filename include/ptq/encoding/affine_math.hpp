// The arithmetic of the affine encoding, written once as host/device inline functions: the storage,
// the CUDA kernels and the methods that choose their own codes call them. Grids and rounding:
// plugin.h (PTQ_GRID_*). Sources: KIVI (arXiv 2402.02750, quant/new_pack.py), GPTQ (IST-DASLab/gptq
// quant.py), AWQ (llm-awq quantizer.py).
#pragma once

#include <cmath>

#include "ptq/core/dtype.hpp"
#include "ptq/encoding/encoding.hpp"

namespace ptq {

// Plain comparisons instead of fmin and fmax: they compile to single vector instructions. Values
// are finite here.
PTQ_HD inline float smaller(float a, float b) { return a < b ? a : b; }
PTQ_HD inline float larger(float a, float b) { return a > b ? a : b; }

// Scale and zero point of one group as they are stored: scale and the float zero of Grid::min are
// float16 values, the others' zero is an integer in 0 .. 2^bits-1.
struct AffineParams {
  float scale, zero;
};

PTQ_HD inline float affine_max_code(int bits) { return float((1 << bits) - 1); }

// Does the grid store a zero point per group? (The symmetric ones have the constant 2^(bits-1).)
PTQ_HD constexpr bool grid_has_zero(Grid g) {
  return g == Grid::min || g == Grid::asym_gptq || g == Grid::asym_awq;
}

// A scale as float16, kept inside the normal and subnormal range so that it never becomes 0 or inf.
PTQ_HD inline float stored_scale(float s) {
  return round_f16(smaller(larger(s, 5.9604644775390625e-8f), 65504.0f));
}

// Scale and zero point of a group whose values lie in [lo, hi].
PTQ_HD inline AffineParams affine_params(float lo, float hi, int bits, Grid grid) {
  const float n = affine_max_code(bits), half = float(1 << (bits - 1));
  const float magnitude = larger(-lo, hi);
  switch (grid) {
    case Grid::min: {
      const float zero = round_f16(smaller(larger(lo, -65504.0f), 65504.0f));
      return {hi > lo ? stored_scale((hi - lo) / n) : 0.0f, zero};
    }
    case Grid::sym_narrow:
      return {magnitude == 0 ? 1.0f : stored_scale(magnitude / (half - 1)), half};
    case Grid::sym_full:
      return {magnitude == 0 ? 1.0f : stored_scale(larger(magnitude, 1e-5f) / (half - 1)), half};
    case Grid::sym_gptq: {
      const float low = lo < 0 ? -magnitude : 0.0f;
      return {magnitude == 0 ? 1.0f : stored_scale((magnitude - low) / n), half};
    }
    case Grid::asym_gptq: {
      const float low = smaller(lo, 0.0f), high = larger(hi, 0.0f);
      if (low == high) return {1.0f, half};
      const float s = stored_scale((high - low) / n);
      return {s, smaller(rintf(-low / s), n)};
    }
    case Grid::asym_awq: {
      if (lo == 0 && hi == 0) return {1.0f, half};
      const float s = stored_scale(larger(hi - lo, 1e-5f) / n);
      return {s, smaller(larger(-rintf(lo / s), 0.0f), n)};
    }
  }
  return {1.0f, 0.0f};
}

// The stored code of x, 0 .. 2^bits-1. x must be finite.
PTQ_HD inline float affine_code(float x, AffineParams p, int bits, Grid grid) {
  const float n = affine_max_code(bits);
  if (grid == Grid::min) {
    // The quotient is clamped before rounding, as KIVI does it.
    return p.scale == 0 ? 0.0f : rintf(smaller(larger((x - p.zero) / p.scale, 0.0f), n));
  }
  const float lowest = grid == Grid::sym_narrow ? 1.0f : 0.0f;
  return smaller(larger(rintf(x / p.scale) + p.zero, lowest), n);
}

// What has to be added to code * scale. Exact in float: scale has 11 bits, zero at most 8.
PTQ_HD inline float affine_offset(AffineParams p, Grid grid) {
  return grid == Grid::min ? p.zero : -p.zero * p.scale;
}

}  // namespace ptq
