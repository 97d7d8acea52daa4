// A weight matrix of a checkpoint in FP8: w = code * scale, the codes E4M3 numbers (OCP 8-bit
// Floating Point Specification 1.0), one scale for a block of rows and columns.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/dtype.hpp"
#include "ptq/core/error.hpp"
#include "ptq/core/small_float.hpp"
#include "ptq/model/tensor.hpp"

namespace ptq {

// The numbers of all 256 codes; 0x7F and 0xFF are NaN.
inline const std::array<float, 256>& e4m3_numbers() {
  static const std::array<float, 256> table = [] {
    std::array<float, 256> t{};
    for (size_t code = 0; code < t.size(); ++code)
      t[code] = (code & 0x7F) == 0x7F ? std::nanf("") : e4m3_to_float(uint8_t(code));
    return t;
  }();
  return table;
}

// The codes stay where the file is mapped; the scales are held as float32.
class Fp8Matrix {
 public:
  Fp8Matrix() = default;
  // codes [rows, columns] F8_E4M3; scales: one for every block of row_block x column_block numbers,
  // the last of a side may be cut short. Errors: other shapes, a scale that is not finite.
  Fp8Matrix(const TensorInfo& codes, const TensorInfo& scales, int64_t rows, int64_t columns,
            int64_t row_block, int64_t column_block)
      : codes_(codes.data),
        rows_(rows),
        columns_(columns),
        row_block_(row_block),
        column_block_(column_block),
        blocks_((columns + column_block - 1) / column_block) {
    if (codes.dtype != DType::f8_e4m3 || codes.shape != std::vector<int64_t>{rows, columns})
      throw environment_error("the tensor `" + codes.name + "` has " + std::string(codes.format()) +
                              " " + shape_text(codes.shape) + ", expected f8_e4m3 " +
                              shape_text({rows, columns}));
    // [row blocks, blocks], or without the sides of one: [row blocks], [].
    std::vector<int64_t> shape = scales.shape;
    while (shape.size() < 2) shape.push_back(1);
    const std::vector<int64_t> expected = {(rows + row_block - 1) / row_block, blocks_};
    const bool number =
        scales.dtype == DType::f32 || scales.dtype == DType::f16 || scales.dtype == DType::bf16;
    if (!number || shape != expected)
      throw environment_error("the tensor `" + scales.name + "` has " +
                              std::string(scales.format()) + " " + shape_text(scales.shape) +
                              ", expected numbers " + shape_text(expected));
    scales_.resize(size_t(expected[0] * expected[1]));
    to_float(scales.dtype, scales.data, int64_t(scales_.size()), scales_.data());
    for (const float s : scales_)
      if (!std::isfinite(s))
        throw environment_error("a scale of `" + scales.name + "` is not finite");
  }

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  uint64_t bytes() const { return uint64_t(rows_ * columns_) + 4 * scales_.size(); }

  // Rows [begin, end) to w [end - begin, columns].
  void decode(int64_t begin, int64_t end, float* w) const {
    const auto& number = e4m3_numbers();
    for (int64_t r = begin; r < end; ++r, w += columns_) {
      const uint8_t* codes = codes_ + r * columns_;
      const float* scale = scales_.data() + r / row_block_ * blocks_;
      for (int64_t c = 0; c < columns_; c += column_block_, ++scale) {
        const int64_t last = std::min(c + column_block_, columns_);
        for (int64_t j = c; j < last; ++j) w[j] = number[codes[j]] * *scale;
      }
    }
  }

 private:
  const uint8_t* codes_ = nullptr;
  int64_t rows_ = 0, columns_ = 0, row_block_ = 1, column_block_ = 1, blocks_ = 0;
  std::vector<float> scales_;  // [row blocks, blocks]
};

}  // namespace ptq
