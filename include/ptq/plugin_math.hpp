// ptq/plugin_math.hpp: arithmetic that several methods share: a copy of the rows, the largest
// numbers of a row, float16 as the host rounds it. Optional, as plugin.hpp is.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "ptq/plugin.hpp"

namespace ptq::plugin {

// Throws unless x is float32 [batch, rows, columns] on the CPU: what a cache method that looks at
// the numbers itself can work on.
inline void require_float3(const ptq_tensor& x) {
  if (x.dtype.code != PTQ_FLOAT || x.dtype.bits != 32 || x.dtype.lanes != 1)
    throw Invalid("x is not float32");
  if (x.ndim != 3)
    throw Invalid("x has " + std::to_string(x.ndim) + " axes, expected [heads, tokens, head_dim]");
  if (x.device_type != PTQ_CPU) throw Invalid("x is not on the CPU");
}

// A contiguous copy of x [batch, rows, columns].
inline std::vector<float> copy_of(const ptq_tensor& x) {
  require_float3(x);
  std::vector<float> out;
  out.reserve(size_t(x.shape[0] * x.shape[1] * x.shape[2]));
  for (int64_t b = 0; b < x.shape[0]; ++b)
    for (int64_t r = 0; r < x.shape[1]; ++r)
      for (int64_t c = 0; c < x.shape[2]; ++c)
        out.push_back(
            static_cast<const float*>(x.data)[b * x.stride[0] + r * x.stride[1] + c * x.stride[2]]);
  return out;
}

// The k numbers of largest |x| of each of n rows, in falling order (the first of equals first).
struct Outliers {
  std::vector<int32_t> index;  // [n, k], the column
  std::vector<float> value;    // [n, k]
};
// Takes them out of `rows` [n, columns], where 0 takes their place.
inline Outliers take_largest(float* rows, int64_t n, int64_t columns, int64_t k) {
  Outliers out;
  const auto size = [](float x) { return x < 0 ? -x : x; };
  for (float* row = rows; row < rows + n * columns; row += columns) {
    const size_t first = out.index.size();
    for (int64_t i = 0; i < k; ++i) {
      int64_t top = -1;
      for (int64_t c = 0; c < columns; ++c)
        if (row[c] == row[c] && (top < 0 || size(row[c]) > size(row[top]))) top = c;
      if (top < 0) top = i;  // NaN only
      out.index.push_back(int32_t(top));
      out.value.push_back(row[top]);
      row[top] = std::numeric_limits<float>::quiet_NaN();  // compares as not larger
    }
    for (size_t i = first; i < out.index.size(); ++i) row[out.index[i]] = 0;
  }
  return out;
}

// To the nearest float16, half to even, as the host stores scales; infinity above 65519.99.
inline float round_float16(float x) {
  const float size = x < 0 ? -x : x;
  if (!(size < 65520.0f)) return size == size ? x * 1e38f * 1e38f : x;
  // Adding and subtracting a number of the right size cuts the mantissa to 10 bits.
  uint32_t bits;
  std::memcpy(&bits, &size, sizeof bits);
  uint32_t exponent = bits >> 23;
  if (exponent < 113) exponent = 113;  // below 2^-14 the steps stay 2^-24
  const uint32_t magic = (exponent + 13) << 23;
  float big;
  std::memcpy(&big, &magic, sizeof big);
  const float sum = size + big;
  const float rounded = sum - big;
  return x < 0 ? -rounded : rounded;
}

}  // namespace ptq::plugin
