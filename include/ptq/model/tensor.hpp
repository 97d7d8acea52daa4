// A tensor in a file of weights.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ptq/core/dtype.hpp"
#include "ptq/encoding/blocks.hpp"

namespace ptq {

// A tensor inside a mapped file, row-major, little-endian. `data` may have any alignment: use
// memcpy or check the address before reading wider types.
struct TensorInfo {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  const uint8_t* data;
  uint64_t bytes;
  // Of GGUF files, see StoredRows; dtype is f32 where there are blocks.
  const BlockFormat* blocks = nullptr;
  int64_t paired = 0;

  // A vector is a matrix of one column.
  StoredRows rows() const { return {data, shape.size() > 1 ? shape[1] : 1, dtype, blocks, paired}; }
  std::string_view format() const { return blocks ? blocks->name : dtype_name(dtype); }
  // Rows [first, first + count) of a matrix.
  TensorInfo slice(int64_t first, int64_t count) const {
    TensorInfo part = *this;
    part.shape[0] = count;
    part.data += first * rows().row_bytes();
    part.bytes = uint64_t(count * rows().row_bytes());
    return part;
  }
};

inline std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

}  // namespace ptq
