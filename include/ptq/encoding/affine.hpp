// The affine encoding: b-bit codes with a scale, and on most grids a zero point, per group.
//
// The storage; affine_math.hpp has the arithmetic.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "ptq/core/dtype.hpp"
#include "ptq/core/error.hpp"
#include "ptq/encoding/affine_math.hpp"
#include "ptq/encoding/dense.hpp"
#include "ptq/encoding/encoding.hpp"
#include "ptq/encoding/packed_codes.hpp"

namespace ptq {

// ---- storage -----------------------------------------------------------------------------------

// Throws when a format cannot be stored; `where` names the layer or side. weights: else the cache,
// whose kernels read no codes of 5 to 7 bits.
inline void check_format(const AffineFormat& f, const std::string& where, bool weights = false) {
  const bool bits_ok =
      (f.bits >= 1 && f.bits <= 4) || f.bits == 8 || (weights && f.bits >= 5 && f.bits <= 7);
  if (!bits_ok)
    throw usage_error("affine encoding with bits = " + std::to_string(f.bits), where,
                      weights ? "bits is 1 to 8" : "bits is 1, 2, 3, 4 or 8");
  if (f.axis != 0 && f.axis != 1)
    throw usage_error("affine encoding with axis = " + std::to_string(f.axis), where,
                      "axis is 0 (groups along rows) or 1 (groups along columns)");
  if (f.group_size < 0)
    throw usage_error("affine encoding with group_size = " + std::to_string(f.group_size), where,
                      "group_size is 0 (one group) or positive");
  if (int(f.grid) < 1 || int(f.grid) > 6)
    throw usage_error("unknown grid " + std::to_string(int(f.grid)), where);
  if (f.bits == 1 && (f.grid == Grid::sym_narrow || f.grid == Grid::sym_full))
    throw usage_error("grids sym_narrow and sym_full need at least 2 bits", where);
}

// Bytes of a matrix of `rows` rows with `groups` groups in all: codes, each row padded to a byte;
// float16 scales; zero points as float16 (Grid::min), as packed integers, or none.
inline uint64_t affine_bytes(const AffineFormat& f, int64_t columns, int64_t rows, int64_t groups) {
  const int64_t zeros = f.grid == Grid::min     ? 2 * groups
                        : grid_has_zero(f.grid) ? packed_bytes(groups, f.bits)
                                                : 0;
  return uint64_t(rows * packed_bytes(columns, f.bits) + 2 * groups + zeros);
}

// A matrix [rows, columns] that grows by whole rows and is stored packed: row-major codes, each row
// padded to a byte; float16 scales; zero points as float16 (Grid::min) or packed integers.
//   axis 1: scales [rows, groups], groups = ceil(columns / group_size)
//   axis 0: scales [row groups, columns]; every append begins a new row group
class AffineRows {
 public:
  static constexpr size_t kSlack = 4;  // whole words are read

  AffineRows() = default;
  AffineRows(const AffineFormat& format, int64_t columns) : format_(format), columns_(columns) {
    const int64_t g = format.group_size;
    group_ = format.axis == 1 && (g == 0 || g > columns) ? columns : g;
    groups_ = format.axis == 1 ? (columns + group_ - 1) / group_ : 0;
    row_bytes_ = packed_bytes(columns, format.bits);
    codes_.resize(kSlack);
  }

  const AffineFormat& format() const { return format_; }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  // Axis 1: columns that share a scale, and how many such groups a row has.
  int64_t group() const { return group_; }
  int64_t groups() const { return groups_; }
  // The packed codes of a row; up to kSlack bytes behind the last one may be read.
  const uint8_t* row_codes(int64_t row) const { return codes_.data() + row * row_bytes_; }

  // Rounds x [n, columns] to nearest on the format's grid and appends it.
  void append(const float* x, int64_t n) {
    grow(n);
    std::vector<uint8_t> codes(static_cast<size_t>(columns_));
    if (format_.axis == 1) {
      std::vector<AffineParams> params(static_cast<size_t>(groups_));
      for (int64_t r = 0; r < n; ++r) {
        const float* row = x + r * columns_;
        for (int64_t g = 0; g < groups_; ++g) {
          const int64_t begin = g * group_, end = std::min(begin + group_, columns_);
          float lo = row[begin], hi = row[begin];
          for (int64_t c = begin; c < end; ++c) {
            lo = row[c] < lo ? row[c] : lo;
            hi = row[c] > hi ? row[c] : hi;
          }
          const AffineParams p = affine_params(lo, hi, format_.bits, format_.grid);
          for (int64_t c = begin; c < end; ++c)
            codes[c] = uint8_t(int(affine_code(row[c], p, format_.bits, format_.grid)));
          params[g] = p;
        }
        push_params(params.data(), groups_);
        store_row(codes.data());
      }
    } else {
      const int64_t group = row_group(n);
      std::vector<float> lo(columns_), hi(columns_);
      std::vector<AffineParams> params(static_cast<size_t>(columns_));
      for (int64_t begin = 0; begin < n; begin += group) {
        const int64_t end = std::min(begin + group, n);
        for (int64_t c = 0; c < columns_; ++c) lo[c] = hi[c] = x[begin * columns_ + c];
        for (int64_t r = begin + 1; r < end; ++r) {
          const float* row = x + r * columns_;
          for (int64_t c = 0; c < columns_; ++c) {
            lo[c] = row[c] < lo[c] ? row[c] : lo[c];
            hi[c] = row[c] > hi[c] ? row[c] : hi[c];
          }
        }
        for (int64_t c = 0; c < columns_; ++c)
          params[c] = affine_params(lo[c], hi[c], format_.bits, format_.grid);
        push_params(params.data(), columns_);
        for (int64_t r = begin; r < end; ++r) {
          const float* row = x + r * columns_;
          for (int64_t c = 0; c < columns_; ++c)
            codes[c] = uint8_t(int(affine_code(row[c], params[c], format_.bits, format_.grid)));
          store_row(codes.data());
        }
      }
    }
  }

  // Appends codes [n, columns] with scale and zero (or nullptr) [n, groups] or [row groups,
  // columns] that a method chose. Throws on codes or zero points outside 0 .. 2^bits-1 and on
  // numbers that are not finite.
  void append_codes(const uint8_t* codes, const float* scale, const float* zero, int64_t n,
                    const std::string& where) {
    append_checked(codes, checked_params(codes, scale, zero, n, where), n);
  }
  // The two halves of append_codes, for several matrices that take all or nothing.
  std::vector<AffineParams> checked_params(const uint8_t* codes, const float* scale,
                                           const float* zero, int64_t n,
                                           const std::string& where) const {
    if (grid_has_zero(format_.grid) != (zero != nullptr))
      throw usage_error(zero ? "zero points given for a symmetric grid" : "zero points missing",
                        where, "pass zero exactly for the grids min, asym_gptq and asym_awq");
    const int64_t per_append =
        format_.axis == 1 ? n * groups_ : (n + row_group(n) - 1) / row_group(n) * columns_;
    const float max_code = affine_max_code(format_.bits);
    std::vector<AffineParams> params(static_cast<size_t>(per_append));
    for (int64_t i = 0; i < per_append; ++i) {
      const float z = zero ? zero[i] : float(1 << (format_.bits - 1));
      if (!std::isfinite(round_f16(scale[i])) || !std::isfinite(round_f16(z)))
        throw usage_error(
            "scale or zero point is not finite as float16 at group " + std::to_string(i), where);
      if (format_.grid != Grid::min && (z < 0 || z > max_code || z != std::rint(z)))
        throw usage_error("zero point " + std::to_string(z) + " at group " + std::to_string(i),
                          where, "zero points of this grid are integers in 0 .. 2^bits-1");
      params[i] = {round_f16(scale[i]), format_.grid == Grid::min ? round_f16(z) : z};
    }
    for (int64_t i = 0; i < n * columns_; ++i)
      if (float(codes[i]) > max_code)
        throw usage_error("code " + std::to_string(codes[i]) + " does not fit " +
                              std::to_string(format_.bits) + " bits",
                          where + ", row " + std::to_string(i / columns_) + ", column " +
                              std::to_string(i % columns_));
    return params;
  }
  void append_checked(const uint8_t* codes, const std::vector<AffineParams>& params, int64_t n) {
    grow(n);
    push_params(params.data(), int64_t(params.size()));
    for (int64_t r = 0; r < n; ++r) store_row(codes + r * columns_);
  }

  // Decodes rows [begin, end) to out [end - begin, stride].
  void decode(int64_t begin, int64_t end, float* out, int64_t stride) const {
    with_bits(format_.bits, [&](auto bits) { decode_bits<bits()>(begin, end, out, stride); });
  }

  // Scale and offset (what is added to code * scale) of groups [first, first + n); on axis 1 those
  // of row r begin at r * groups().
  void read_params(int64_t first, int64_t n, float* scale, float* offset) const {
    to_float(DType::f16, scales_.data() + first, n, scale);
    if (format_.grid == Grid::min) {
      to_float(DType::f16, zeros_f16_.data() + first, n, offset);
      return;
    }
    if (grid_has_zero(format_.grid))
      with_bits(format_.bits, [&](auto bits) { read_zeros<bits()>(first, n, offset); });
    else
      std::fill(offset, offset + n, float(1 << (format_.bits - 1)));
    for (int64_t i = 0; i < n; ++i) offset[i] = affine_offset({scale[i], offset[i]}, format_.grid);
  }

  // Bytes of codes, scales and zero points.
  uint64_t bytes() const { return affine_bytes(format_, columns_, rows_, int64_t(scales_.size())); }
  // What the containers hold in all.
  uint64_t allocated() const {
    return codes_.capacity() + 2 * scales_.capacity() + 2 * zeros_f16_.capacity() +
           zeros_int_.capacity();
  }

  // The containers as they are, for a device that keeps a copy.
  struct Bytes {
    const void *codes, *scales, *zeros;
    size_t codes_bytes, scales_bytes, zeros_bytes;
  };
  Bytes stored() const {
    const bool floats = format_.grid == Grid::min;
    return {codes_.data(),
            scales_.data(),
            floats ? static_cast<const void*>(zeros_f16_.data()) : zeros_int_.data(),
            codes_.size(),
            2 * scales_.size(),
            floats ? 2 * zeros_f16_.size() : zeros_int_.size()};
  }

  // Flips one bit of the code of an element: for the test that the cache is really read.
  void flip_code_bit(int64_t row, int64_t column, int bit) {
    const int64_t position = column * format_.bits + bit;
    codes_[row * row_bytes_ + position / 8] ^= uint8_t(1u << (position % 8));
  }

 private:
  // Rows per group on axis 0; group_size 0 makes one group of each append.
  int64_t row_group(int64_t n) const { return group_ == 0 ? std::max<int64_t>(n, 1) : group_; }

  int64_t group_of_row(int64_t r) const { return group_ == 0 ? r / rows_per_append_ : r / group_; }

  void grow(int64_t n) {
    if (format_.axis == 0) {
      if (group_ == 0 && rows_ > 0 && n != rows_per_append_)
        throw usage_error("groups of a whole block need blocks of one size",
                          "rows " + std::to_string(rows_) + " to " + std::to_string(rows_ + n));
      if (group_ > 0 && rows_ % group_ != 0)
        throw usage_error("rows appended behind a short group",
                          "row " + std::to_string(rows_) + ", group_size " + std::to_string(group_),
                          "choose a block that is a multiple of group_size");
      if (group_ == 0) rows_per_append_ = n;
    }
    const size_t need = size_t((rows_ + n) * row_bytes_) + kSlack;
    if (need > codes_.capacity()) codes_.reserve(need + need / 8);
    codes_.resize(need);
  }
  void store_row(const uint8_t* codes) {
    pack_row(codes, columns_, format_.bits, codes_.data() + rows_ * row_bytes_);
    ++rows_;
    // The bytes behind the last row stay zero for the next pack_row.
  }
  void push_params(const AffineParams* p, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      scales_.push_back(float_to_f16(p[i].scale));
      if (format_.grid == Grid::min) {
        zeros_f16_.push_back(float_to_f16(p[i].zero));
      } else if (grid_has_zero(format_.grid)) {
        const int64_t bit = n_zeros_++ * format_.bits;
        zeros_int_.resize(size_t(packed_bytes(n_zeros_, format_.bits)) + kSlack);
        const unsigned v = unsigned(p[i].zero) << (bit & 7);
        zeros_int_[bit >> 3] |= uint8_t(v);
        if (v > 0xFF) zeros_int_[(bit >> 3) + 1] |= uint8_t(v >> 8);
      }
    }
  }
  template <int Bits>
  void decode_bits(int64_t begin, int64_t end, float* out, int64_t stride) const {
    // Scales and offsets are read a chunk at a time; a chunk of columns begins at a whole byte.
    constexpr int64_t kChunk = 128;
    float scale[kChunk], offset[kChunk];
    const auto row = [&](int64_t r, int64_t column) {
      return codes_.data() + r * row_bytes_ + column * Bits / 8;
    };
    if (Bits <= 4 && format_.axis == 1 && group_ % 32 == 0 && columns_ % group_ == 0 &&
        groups_ <= kChunk) {
      const int64_t most = kChunk / groups_;
      const uint8_t* src = row(begin, 0);
      for (int64_t r = begin; r < end; r += most) {
        const int64_t n = std::min(most, end - r);
        read_params(r * groups_, n * groups_, scale, offset);
        const float *s = scale, *o = offset;
        for (int64_t i = 0; i < n; ++i) {
          float* to = out + (r + i - begin) * stride;
          for (int64_t g = 0; g < groups_; ++g, ++s, ++o)
            for (int64_t c = 0; c < group_; c += 32, to += 32, src += 4 * Bits)
              decode_row<Bits, false>(src, 32, s, o, to);
        }
      }
      return;
    }
    if (format_.axis == 1 && group_ % 8 == 0) {
      int64_t r = begin, column = 0;
      for (int64_t i = begin * groups_; i < end * groups_; i += kChunk) {
        const int64_t n = std::min(kChunk, end * groups_ - i);
        read_params(i, n, scale, offset);
        for (int64_t k = 0; k < n; ++k) {
          decode_row<Bits, false>(row(r, column), std::min(group_, columns_ - column), scale + k,
                                  offset + k, out + (r - begin) * stride + column);
          column += group_;
          if (column >= columns_) {
            column = 0;
            ++r;
          }
        }
      }
      return;
    }
    if (format_.axis == 1) {  // groups begin anywhere in a byte
      for (int64_t r = begin; r < end; ++r)
        for (int64_t c = 0; c < columns_; c += kChunk) {
          const int64_t n = std::min(kChunk, columns_ - c);
          for (int64_t k = 0; k < n; ++k)
            read_params(r * groups_ + (c + k) / group_, 1, scale + k, offset + k);
          decode_row<Bits, true>(row(r, c), n, scale, offset, out + (r - begin) * stride + c);
        }
      return;
    }
    for (int64_t r = begin; r < end;) {  // one row group at a time
      const int64_t group = group_of_row(r), rows = group_ == 0 ? rows_per_append_ : group_;
      const int64_t last = std::min((group + 1) * rows, end);
      for (int64_t c = 0; c < columns_; c += kChunk) {
        const int64_t n = std::min(kChunk, columns_ - c);
        read_params(group * columns_ + c, n, scale, offset);
        for (int64_t q = r; q < last; ++q)
          decode_row<Bits, true>(row(q, c), n, scale, offset, out + (q - begin) * stride + c);
      }
      r = last;
    }
  }

  // Packed zero points of groups [first, first + n).
  template <int Bits>
  void read_zeros(int64_t first, int64_t n, float* zero) const {
    int64_t i = 0;
    for (; i < n && (first + i) * Bits % 8 != 0; ++i) {  // up to a whole byte
      const int64_t bit = (first + i) * Bits;
      const unsigned v = zeros_int_[bit >> 3] | unsigned(zeros_int_[(bit >> 3) + 1]) << 8;
      zero[i] = float((v >> (bit & 7)) & ((1u << Bits) - 1));
    }
    const float one = 1, none = 0;
    decode_row<Bits, false>(zeros_int_.data() + (first + i) * Bits / 8, n - i, &one, &none,
                            zero + i);
  }

  AffineFormat format_;
  int64_t columns_ = 0, rows_ = 0, group_ = 0, groups_ = 0, row_bytes_ = 0, rows_per_append_ = 1;
  int64_t n_zeros_ = 0;
  std::vector<uint8_t> codes_;       // [rows, row_bytes]
  std::vector<uint16_t> scales_;     // float16
  std::vector<uint16_t> zeros_f16_;  // float16, Grid::min only
  std::vector<uint8_t> zeros_int_;   // packed, the asymmetric integer grids only
};

}  // namespace ptq
