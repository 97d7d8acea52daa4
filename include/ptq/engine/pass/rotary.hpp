// Rotation of keys when they are read, for caches that hold them before rotation.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "ptq/core/dtype.hpp"
#include "ptq/model/rope.hpp"

namespace ptq {

// Cosines and sines of the rotary angles (arXiv 2104.09864) of positions 0, 1, 2, ...; the same
// float32 numbers as the forward pass uses.
class Rotary {
 public:
  // bf16: cos and sin are rounded to bfloat16, as the engine's compute mode of that name does.
  Rotary(Rope rope, bool bf16) : rope_(std::move(rope)), bf16_(bf16) {}

  // Makes positions below `length` available; not while others read.
  void extend(int64_t length) {
    const size_t half = rope_.inv_freq.size(), have = cosine_.size() / half;
    for (size_t p = have; p < size_t(length); ++p)
      for (size_t d = 0; d < half; ++d) {
        const float angle = float(p) * rope_.inv_freq[d];
        cosine_.push_back(stored(std::cos(angle) * rope_.attention_factor));
        sine_.push_back(stored(std::sin(angle) * rope_.attention_factor));
      }
  }

  // Rotates rows of positions [begin, end) in place; x [end - begin, stride], half-split pairs.
  void rotate(int64_t begin, int64_t end, float* x, int64_t stride) const {
    const int64_t half = int64_t(rope_.inv_freq.size());
    for (int64_t p = begin; p < end; ++p, x += stride) {
      const float* __restrict c = cosine_.data() + p * half, * __restrict s =
                                                                 sine_.data() + p * half;
      float* __restrict lo = x, * __restrict hi = x + half;
      for (int64_t d = 0; d < half; ++d) {
        const float a = lo[d], b = hi[d];
        lo[d] = a * c[d] - b * s[d];
        hi[d] = b * c[d] + a * s[d];
      }
    }
  }

 private:
  float stored(float x) const { return bf16_ ? bf16_to_float(float_to_bf16(x)) : x; }

  Rope rope_;
  bool bf16_;
  std::vector<float> cosine_, sine_;  // [positions, head_dim / 2]
};

}  // namespace ptq
