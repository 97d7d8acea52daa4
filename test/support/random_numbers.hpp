// Numbers for a test, the same with every compiler.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace ptq::test {

// n numbers, uniform in [-1, 1).
inline std::vector<float> numbers(int64_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = float(random() >> 8) / float(1 << 23) - 1;
  return x;
}

// n token ids of a vocabulary, spread over it.
inline std::vector<int32_t> ids(int64_t n, int64_t vocab) {
  std::vector<int32_t> result;
  for (int64_t i = 0; i < n; ++i) result.push_back(int32_t((i * i * 31 + 7 * i + 3) % vocab));
  return result;
}

}  // namespace ptq::test
