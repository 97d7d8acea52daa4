// The dense encoding: plain numbers, row-major.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#ifdef __F16C__
#include <immintrin.h>
#endif

#include "ptq/core/dtype.hpp"

namespace ptq {

// n numbers of a stored dtype as float32. src may be unaligned (weights in a file).
inline void to_float(DType dtype, const void* src, int64_t n, float* __restrict out) {
  const auto* __restrict p = static_cast<const uint8_t*>(src);
  int64_t i = 0;
  if (dtype == DType::f32) {
    std::memcpy(out, src, size_t(n) * 4);
    return;
  }
  if (dtype == DType::bf16) {
    for (; i < n; ++i) {
      uint16_t h;
      std::memcpy(&h, p + 2 * i, 2);
      out[i] = bf16_to_float(h);
    }
    return;
  }
#ifdef __F16C__
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 2 * i))));
#endif
  for (; i < n; ++i) {
    uint16_t h;
    std::memcpy(&h, p + 2 * i, 2);
    out[i] = f16_to_float(h);
  }
}

// n float32 as numbers of a stored dtype, round to nearest even.
inline void from_float(DType dtype, const float* x, int64_t n, void* out) {
  auto* p = static_cast<uint8_t*>(out);
  int64_t i = 0;
  if (dtype == DType::f32) {
    std::memcpy(out, x, size_t(n) * 4);
    return;
  }
#ifdef __F16C__
  if (dtype == DType::f16)
    for (; i + 8 <= n; i += 8)
      _mm_storeu_si128((__m128i*)(p + 2 * i),
                       _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
#endif
  for (; i < n; ++i) {
    const uint16_t h = dtype == DType::f16 ? float_to_f16(x[i]) : float_to_bf16(x[i]);
    std::memcpy(p + 2 * i, &h, 2);
  }
}

// A matrix [rows, columns] of float16, bfloat16 or float32 that grows and shrinks by whole rows.
class DenseRows {
 public:
  DenseRows() = default;
  DenseRows(DType dtype, int64_t columns)
      : dtype_(dtype), columns_(columns), row_bytes_(columns * dtype_bytes(dtype)) {}

  DType dtype() const { return dtype_; }
  int64_t rows() const { return row_bytes_ ? int64_t(data_.size()) / row_bytes_ : 0; }
  int64_t columns() const { return columns_; }
  const void* data() const { return data_.data(); }

  void append(const float* x, int64_t n) { append(x, n, columns_); }
  // x [n, stride].
  void append(const float* x, int64_t n, int64_t stride) {
    if (n == 0) return;
    const size_t old = data_.size();
    data_.resize(old + size_t(n * row_bytes_));
    uint8_t* to = data_.data() + old;
    if (stride == columns_) return from_float(dtype_, x, n * columns_, to);
    for (int64_t r = 0; r < n; ++r)
      from_float(dtype_, x + r * stride, columns_, to + r * row_bytes_);
  }
  // Rows [begin, end) to out [end - begin, stride].
  void decode(int64_t begin, int64_t end, float* out, int64_t stride) const {
    if (stride == columns_ && begin < end)
      return to_float(dtype_, data_.data() + begin * row_bytes_, (end - begin) * columns_, out);
    for (int64_t r = begin; r < end; ++r, out += stride) decode_part(r, 0, columns_, out);
  }
  // n numbers of one row from `column` on.
  void decode_part(int64_t row, int64_t column, int64_t n, float* out) const {
    to_float(dtype_, data_.data() + row * row_bytes_ + column * dtype_bytes(dtype_), n, out);
  }
  // Removes the first n rows.
  void drop_front(int64_t n) { data_.erase(data_.begin(), data_.begin() + n * row_bytes_); }
  void shrink() { data_.shrink_to_fit(); }

  uint64_t bytes() const { return data_.size(); }
  uint64_t allocated() const { return data_.capacity(); }

 private:
  DType dtype_ = DType::f16;
  int64_t columns_ = 0, row_bytes_ = 0;
  std::vector<uint8_t> data_;
};

}  // namespace ptq
