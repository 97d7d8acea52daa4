// Outliers: exact values (float16) at a few places on top of another encoding.
//
// Two layouts. Fixed: every row of every matrix has k values, with an index of one byte (two above
// 256 columns); no pointers. Sparse: compressed rows over all matrices of the batch, as KVQuant's
// dense-and-sparse form (arXiv 2401.18079, section 3.4): a 32-bit pointer per row, and per value a
// 16-bit index into batch * columns (32-bit above 65536).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "ptq/core/dtype.hpp"
#include "ptq/core/error.hpp"

namespace ptq {

class OutlierRows {
 public:
  // k is used by the fixed layout only.
  OutlierRows(bool fixed, int64_t batch, int64_t columns, int64_t k)
      : fixed_(fixed), batch_(batch), columns_(columns), k_(fixed ? k : 0) {
    const int64_t largest = fixed ? columns : batch * columns;
    index_bytes_ = largest <= (fixed ? 256 : 65536) ? (fixed ? 1 : 2) : (fixed ? 2 : 4);
    if (!fixed) begin_.push_back(0);
  }

  bool fixed() const { return fixed_; }
  int64_t k() const { return k_; }
  int64_t rows() const { return rows_; }

  // index, value [batch, n, k]; see RowSink::outliers.
  void append(const int32_t* index, const float* value, int64_t n, int64_t k,
              const std::string& where) {
    for (int64_t i = 0; i < batch_ * n * k; ++i) {
      if (index[i] < (fixed_ ? 0 : -1) || index[i] >= columns_)
        throw usage_error(
            "outlier at column " + std::to_string(index[i]) + " of " + std::to_string(columns_),
            where);
      if (index[i] >= 0 && !(std::abs(value[i]) < 65520.0f))
        throw usage_error("outlier " + std::to_string(value[i]) + " does not fit float16", where);
    }
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t b = 0; b < batch_; ++b)
        for (int64_t i = (b * n + r) * k; i < (b * n + r + 1) * k; ++i) {
          if (index[i] < 0) continue;
          push_index(uint32_t(fixed_ ? index[i] : b * columns_ + index[i]));
          values_.push_back(float_to_f16(value[i]));
        }
      if (!fixed_) begin_.push_back(uint32_t(values_.size()));
    }
    rows_ += n;
  }

  // Puts the values of rows [begin, end) of one matrix into out [end - begin, stride].
  void apply(int64_t matrix, int64_t begin, int64_t end, float* out, int64_t stride) const {
    if (fixed_ && index_bytes_ == 1 && k_ == 1) {  // common, and worth a loop of its own
      for (int64_t r = begin; r < end; ++r, out += stride)
        out[indices_[size_t(r * batch_ + matrix)]] =
            f16_to_float(values_[size_t(r * batch_ + matrix)]);
      return;
    }
    for (int64_t r = begin; r < end; ++r, out += stride) {
      if (fixed_) {
        const int64_t first = (r * batch_ + matrix) * k_;
        for (int64_t i = first; i < first + k_; ++i)
          out[index(i)] = f16_to_float(values_[size_t(i)]);
      } else {  // the entries of a row are in the order of the matrices
        for (int64_t i = begin_[size_t(r)]; i < begin_[size_t(r) + 1]; ++i) {
          const int64_t column = int64_t(index(i)) - matrix * columns_;
          if (column >= 0 && column < columns_) out[column] = f16_to_float(values_[size_t(i)]);
        }
      }
    }
  }

  int64_t count() const { return int64_t(values_.size()); }
  uint64_t bytes() const {
    return indices_.size() + 2 * values_.size() + (fixed_ ? 0 : 4 * uint64_t(rows_));
  }
  uint64_t allocated() const {
    return indices_.capacity() + 2 * values_.capacity() + 4 * begin_.capacity();
  }

  // What is stored, for a device that keeps a copy. begin: empty in the fixed layout.
  struct Parts {
    std::span<const uint8_t> indices;  // index_bytes each, little endian
    std::span<const uint16_t> values;
    std::span<const uint32_t> begin;
    int index_bytes;
  };
  Parts stored() const { return {indices_, values_, begin_, index_bytes_}; }

 private:
  void push_index(uint32_t i) {
    for (int b = 0; b < index_bytes_; ++b) indices_.push_back(uint8_t(i >> (8 * b)));
  }
  uint32_t index(int64_t i) const {
    uint32_t v = 0;
    for (int b = 0; b < index_bytes_; ++b)
      v |= uint32_t(indices_[size_t(i * index_bytes_ + b)]) << (8 * b);
    return v;
  }

  bool fixed_;
  int64_t batch_, columns_, k_, rows_ = 0;
  int index_bytes_;
  std::vector<uint8_t> indices_;
  std::vector<uint16_t> values_;  // float16
  std::vector<uint32_t> begin_;   // sparse: first entry of each row, and the end
};

}  // namespace ptq
