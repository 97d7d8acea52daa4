// The rows of a weight matrix as the kernels read them: in the form in which they are stored.
#pragma once

#include <cstdint>
#include <string_view>

#include "ptq/encoding/affine.hpp"
#include "ptq/encoding/blocks.hpp"
#include "ptq/encoding/dense.hpp"

// In front of a loop over registers, which have to be named by constants.
#define PTQ_PRAGMA(text) _Pragma(#text)
#ifdef __CUDACC__  // whose front end does not know it
#define PTQ_UNROLL(n)
#else
#define PTQ_UNROLL(n) PTQ_PRAGMA(GCC unroll n)
#endif

namespace ptq::cpu {

// Columns of a row whose sums are kept together, see kernels/products.inl.
inline constexpr int64_t kDepth = 1024;
// A panel of `wide` rows and `depth` columns: numbers from the columns of one of its 16 sums to
// those of the next, and in all. With the 16 more the sums' columns do not fall into one set of the
// first-level cache.
inline int64_t panel_lane(int64_t wide, int64_t depth) { return (depth + 15) / 16 * wide + 16; }
inline int64_t panel_size(int64_t wide, int64_t depth) { return 16 * panel_lane(wide, depth); }

// `codes`: affine, 2 to 8 bits, with groups of 16, 32 or a multiple of 64 numbers along the
// row, or one group; `q*`: blocks of GGUF files; `other`: what no kernel reads, its rows are
// decoded first.
enum class Form : uint8_t { f32, f16, bf16, codes, q4_0, q4_1, q5_0, q5_1, q8_0, other };

// W [rows, columns]. A view: what it was made of must outlive it.
class WeightRows {
 public:
  WeightRows() = default;
  explicit WeightRows(const AffineRows& rows)
      : form_(kernel_reads(rows) ? Form::codes : Form::other),
        columns_(rows.columns()),
        affine_(&rows) {}
  explicit WeightRows(const StoredRows& rows)
      : form_(form_of(rows)), columns_(rows.columns), stored_(rows) {}
  explicit WeightRows(const DenseRows& rows)
      : WeightRows(
            StoredRows{static_cast<const uint8_t*>(rows.data()), rows.columns(), rows.dtype()}) {}
  // float32, row behind row.
  WeightRows(const float* rows, int64_t columns)
      : WeightRows(StoredRows{reinterpret_cast<const uint8_t*>(rows), columns, DType::f32}) {}

  Form form() const { return form_; }
  int64_t columns() const { return columns_; }
  const uint8_t* row(int64_t r) const { return affine_ ? affine_->row_codes(r) : stored_.row(r); }
  // Rows [begin, end) as float32 to out [end - begin, columns].
  void decode(int64_t begin, int64_t end, float* out) const {
    if (affine_)
      affine_->decode(begin, end, out, columns_);
    else
      stored_.decode(begin, end, out);
  }
  // Columns that a kernel reads with one set of parameters; those of small groups and of blocks it
  // sets itself.
  int64_t unit() const {
    return form_ == Form::codes && affine_->group() % 64 == 0 ? affine_->group() : columns_;
  }
  // Of Form::codes, and of codes that no kernel reads.
  bool is_affine() const { return affine_ != nullptr; }
  const AffineRows& affine() const { return *affine_; }

 private:
  static bool kernel_reads(const AffineRows& rows) {
    const int64_t group = rows.group();
    return rows.format().axis == 1 && rows.format().bits > 1 &&
           (rows.groups() == 1 || group == 16 || group == 32 || group % 64 == 0);
  }
  static Form form_of(const StoredRows& rows) {
    if (!rows.blocks) {
      switch (rows.dtype) {
        case DType::f32: return Form::f32;
        case DType::f16: return Form::f16;
        case DType::bf16: return Form::bf16;
        default: return Form::other;
      }
    }
    const std::string_view name = rows.blocks->name;
    if (name == "Q4_0") return Form::q4_0;
    if (name == "Q4_1") return Form::q4_1;
    if (name == "Q5_0") return Form::q5_0;
    if (name == "Q5_1") return Form::q5_1;
    if (name == "Q8_0") return Form::q8_0;
    return Form::other;
  }

  Form form_ = Form::other;
  int64_t columns_ = 0;
  const AffineRows* affine_ = nullptr;
  StoredRows stored_;
};

}  // namespace ptq::cpu
