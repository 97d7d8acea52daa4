// What a method may answer with, and who stores it.
#pragma once

#include <cstdint>

#include "ptq/core/dtype.hpp"

namespace ptq {

// How the range of a group becomes scale and zero point (methods.md 2.1, 4.2); the numbers are
// those of PTQ_GRID_* in plugin.h.
enum class Grid : int {
  min = 1,
  sym_narrow = 2,
  sym_full = 3,
  sym_gptq = 4,
  asym_gptq = 5,
  asym_awq = 6,
};

// Layout of an affine encoding; see ptq_affine in plugin.h.
struct AffineFormat {
  int bits = 4;
  Grid grid = Grid::asym_gptq;
  int axis = 1;
  int64_t group_size = 0;
  bool operator==(const AffineFormat&) const = default;
};

// Where an encoding goes: the weight of a layer, or the rows of a cache. Exactly one function is
// called, once. `batch` matrices of [rows, columns] lie one behind the other (weights: 1, cache:
// kv_heads). Errors are thrown as ptq::Error.
class RowSink {
 public:
  virtual ~RowSink() = default;
  // Round to nearest on the format's grid.
  virtual void affine(const AffineFormat& format, int64_t batch, int64_t rows, int64_t columns,
                      const float* x) = 0;
  // The method's own codes (one per byte), scales and zero points (nullptr for symmetric grids),
  // shaped as in ptq_encode_service::affine_codes.
  virtual void affine_codes(const AffineFormat& format, int64_t batch, int64_t rows,
                            int64_t columns, const uint8_t* codes, const float* scale,
                            const float* zero) = 0;
  // 16-bit numbers.
  virtual void dense(DType dtype, int64_t batch, int64_t rows, int64_t columns, const float* x) = 0;
  virtual bool filled() const = 0;
};

}  // namespace ptq
