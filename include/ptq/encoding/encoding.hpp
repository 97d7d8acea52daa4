// What a method may answer with, and who stores it.
#pragma once

#include <cstdint>
#include <string>

#include "ptq/core/dtype.hpp"
#include "ptq/core/error.hpp"

namespace ptq {

// How the range of a group becomes scale and zero point: docs/abi.md, "What is stored". The numbers
// are those of PTQ_GRID_* in plugin.h.
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

// To what a scale (and an offset) of a codebook encoding belongs; PTQ_SCALE_* in plugin.h.
enum class ScaleOf : int {
  row = 1,     // one row of one matrix
  token = 2,   // one row of all matrices of the batch
  column = 3,  // one column of one matrix, in all rows: given once
};

// Codes into a table of levels; see ptq_codebook in plugin.h.
struct CodebookFormat {
  int bits = 4;
  ScaleOf scale = ScaleOf::row;
  bool has_offset = false;
  bool operator==(const CodebookFormat&) const = default;
};

// How the scales of grouped codes are stored; PTQ_SCALE_* in plugin.h.
enum class ScaleType : int { f16 = 0, f32 = 1, e4m3 = 2, e8m0 = 3 };

// Codes into a table of levels with a scale per group of columns; see ptq_codebook in plugin.h.
struct GroupedFormat {
  int bits = 4;
  int64_t group_size = 0;  // 0: a whole row
  ScaleType scale = ScaleType::f16;
  float tensor_scale = 0;  // of the whole matrix; 0: none
  bool operator==(const GroupedFormat&) const = default;
};

// How chunks of rows are factorised; see ptq_lowrank in plugin.h.
struct LowRankFormat {
  static constexpr int kRaw = 255;  // in the place of a rank: the rows of the chunk as they are
  int64_t chunk = 16, min_rank = 0, max_rank = 0;  // max_rank 0: no limit
  double energy = 0.95;
  bool center = false, shared_rank = false, raw_fallback = false;
  bool operator==(const LowRankFormat&) const = default;
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

  // The sinks that cannot store the following kinds leave them as they are here.

  // Codes (one per byte) into levels [2^bits], x = level * scale + offset (nullptr: none). scale
  // and offset: [batch, rows], [rows] or [batch, columns], as format.scale says.
  virtual void codebook(const CodebookFormat&, int64_t /*batch*/, int64_t /*rows*/,
                        int64_t /*columns*/, const uint8_t* /*codes*/, const float* /*levels*/,
                        const float* /*scale*/, const float* /*offset*/) {
    throw not_here("codebook");
  }
  // Chunks of rows as products of two thin matrices.
  virtual void lowrank(const LowRankFormat&, int64_t /*batch*/, int64_t /*rows*/,
                       int64_t /*columns*/, const float* /*x*/) {
    throw not_here("low-rank");
  }
  // Exact values on top of the encoding that was just filled in: index, value [batch, rows, k], the
  // column of each value, or -1 for an unused place; with `fixed` every place is used.
  virtual void outliers(bool /*fixed*/, int64_t /*batch*/, int64_t /*rows*/, int64_t /*k*/,
                        const int32_t* /*index*/, const float* /*value*/) {
    throw not_here("outlier");
  }
  // affine_codes whose column j is column order[j] of the matrix.
  virtual void ordered_codes(const AffineFormat&, const int32_t* /*order*/, int64_t /*rows*/,
                             int64_t /*columns*/, const uint8_t* /*codes*/, const float* /*scale*/,
                             const float* /*zero*/) {
    throw not_here("ordered affine");
  }
  // Codes (one per byte) into levels [2^bits]; scale [rows, groups].
  virtual void grouped_codes(const GroupedFormat&, int64_t /*rows*/, int64_t /*columns*/,
                             const uint8_t* /*codes*/, const float* /*levels*/,
                             const float* /*scale*/) {
    throw not_here("grouped codebook");
  }
  virtual bool filled() const = 0;

 private:
  static Error not_here(const char* kind) {
    return usage_error(std::string("the ") + kind + " encoding cannot be stored here", {},
                       "the cache takes affine, dense, codebook, lowrank and outliers; weights "
                       "take affine, dense and codebook with a scale per group");
  }
};

}  // namespace ptq
