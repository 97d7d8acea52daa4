// Cosines and sines of the rotary angles (arXiv 2104.09864), the one place that computes them.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "ptq/core/dtype.hpp"
#include "ptq/encoding/rotation.hpp"
#include "ptq/model/rope.hpp"

namespace ptq {

// Of positions 0, 1, 2, ..., as far as they were asked for. The angle is the float32 product of
// position and frequency, as the reference computes it.
template <class Real>
class RotaryTable {
 public:
  // bf16: cos and sin are rounded to bfloat16, as the engine's compute mode of that name does.
  explicit RotaryTable(Rope rope, bool bf16 = false) : rope_(std::move(rope)), bf16_(bf16) {}

  int64_t half() const { return int64_t(rope_.inv_freq.size()); }
  int64_t length() const { return int64_t(cosine_.size()) / half(); }

  // Makes positions below `length` available; not while others read.
  void extend(int64_t length) {
    for (int64_t p = this->length(); p < length; ++p)
      for (const float frequency : rope_.inv_freq) {
        const Real angle = float(p) * frequency;
        cosine_.push_back(stored(std::cos(angle) * rope_.attention_factor));
        sine_.push_back(stored(std::sin(angle) * rope_.attention_factor));
      }
  }

  // [half] numbers of a position.
  const Real* cosine(int64_t position) const { return cosine_.data() + position * half(); }
  const Real* sine(int64_t position) const { return sine_.data() + position * half(); }

  // Rotates rows of positions [begin, end) in place; x [end - begin, stride].
  void rotate(int64_t begin, int64_t end, Real* x, int64_t stride) const {
    for (int64_t p = begin; p < end; ++p, x += stride) {
      const Real* __restrict c = cosine(p), * __restrict s = sine(p);
      Real* __restrict low = x, * __restrict high = x + half();
      for (int64_t d = 0; d < half(); ++d) rotate_pair(low[d], high[d], c[d], s[d]);
    }
  }
  // Turns a rotated row back by so many positions.
  void turn_back(int64_t positions, Real* x) const {
    const Real* __restrict c = cosine(positions), * __restrict s = sine(positions);
    const Real scale = 1 / Real(rope_.attention_factor);
    Real* __restrict low = x, * __restrict high = x + half();
    for (int64_t d = 0; d < half(); ++d) {
      rotate_pair(low[d], high[d], c[d], Real(-s[d]));
      low[d] *= scale;
      high[d] *= scale;
    }
  }

 private:
  Real stored(Real x) const { return bf16_ ? Real(bf16_to_float(float_to_bf16(float(x)))) : x; }

  Rope rope_;
  bool bf16_;
  std::vector<Real> cosine_, sine_;  // [positions, head_dim / 2]
};

using Rotary = RotaryTable<float>;

}  // namespace ptq
