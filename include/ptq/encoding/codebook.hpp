// The codebook encoding: b-bit codes into a table of levels, x = level[code] * scale + offset.
//
// Used by KVQuant (arXiv 2401.18079): levels from calibration, scales per channel (keys) or per
// token of all heads (values); and by FP8 (E4M3): 256 fixed levels.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "ptq/core/dtype.hpp"
#include "ptq/core/error.hpp"
#include "ptq/encoding/affine.hpp"
#include "ptq/encoding/dense.hpp"
#include "ptq/encoding/encoding.hpp"

namespace ptq {

// ---- arithmetic, host and device ---------------------------------------------------------------

PTQ_HD inline float codebook_value(float level, float scale, float offset) {
  return level * scale + offset;
}

// levels[code] of n packed codes (layout: pack_row). `levels` has 2^Bits entries. As decode_row,
// reads up to 3 bytes behind the row; the table is looked up by a shuffle of vector lanes.
template <int Bits>
inline void unpack_levels(const uint8_t* __restrict src, int64_t n, const float* __restrict levels,
                          float* __restrict out) {
  if constexpr (Bits == 8) {
    for (int64_t i = 0; i < n; ++i) out[i] = levels[src[i]];
    return;
  }
  constexpr int per = Bits == 3 ? 8 : 32 / Bits, bytes = Bits == 3 ? 3 : 4;
  constexpr uint32_t mask = (1u << Bits) - 1;
  const int64_t full = n / per;
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
  constexpr int lanes = per < 16 ? per : 16;
  using Words = typename VectorOf<uint32_t, lanes>::type;
  using Floats = typename VectorOf<float, lanes>::type;
  using Index = typename VectorOf<int32_t, lanes>::type;
  // The table as two vectors, so that 16 levels fit 8 lanes.
  float table[2 * lanes] = {};
  std::memcpy(table, levels, sizeof(float) * (1u << Bits));
  Floats low, high;
  std::memcpy(&low, table, sizeof low);
  std::memcpy(&high, table + lanes, sizeof high);
  Words shift;
  for (int j = 0; j < lanes; ++j) shift[j] = uint32_t(Bits * j);
  for (int64_t i = 0; i < full; ++i) {
    uint32_t w;
    std::memcpy(&w, src + i * bytes, 4);
    for (int part = 0; part < per / lanes; ++part) {
      const Words codes = ((Words{} + (w >> (Bits * lanes * part))) >> shift) & mask;
      const Floats x = __builtin_shuffle(low, high, (Index)codes);
      std::memcpy(out + i * per + part * lanes, &x, sizeof x);
    }
  }
#else  // no shuffle by a variable
  for (int64_t i = 0; i < full; ++i) {
    uint32_t w;
    std::memcpy(&w, src + i * bytes, 4);
    for (int j = 0; j < per; ++j) out[i * per + j] = levels[(w >> (Bits * j)) & mask];
  }
#endif
  if (full * per < n) {
    uint32_t w;
    std::memcpy(&w, src + full * bytes, 4);
    for (int64_t j = 0; full * per + j < n; ++j)
      out[full * per + j] = levels[(w >> (Bits * j)) & mask];
  }
}

inline void unpack_levels(const uint8_t* src, int64_t n, int bits, const float* levels,
                          float* out) {
  with_bits(bits, [&](auto b) {
    if constexpr (b() <= 4 || b() == 8) unpack_levels<b()>(src, n, levels, out);
  });
}

// ---- storage -----------------------------------------------------------------------------------

// `batch` matrices (heads) [rows, columns] that grow together by whole rows. Codes [row, matrix,
// packed columns], each padded to a byte; levels float32; scales and offsets float16.
class CodebookRows {
 public:
  CodebookRows(const CodebookFormat& format, int64_t batch, int64_t columns)
      : format_(format),
        batch_(batch),
        columns_(columns),
        row_bytes_(packed_bytes(columns, format.bits)),
        codes_(kSlack) {}

  const CodebookFormat& format() const { return format_; }
  int64_t rows() const { return rows_; }

  // codes [batch, n, columns]; levels, scale and offset as in RowSink::codebook.
  void append(const uint8_t* codes, const float* levels, const float* scale, const float* offset,
              int64_t n, const std::string& where) {
    check(codes, levels, scale, offset, n, where);
    const size_t need = size_t((rows_ + n) * batch_ * row_bytes_) + kSlack;
    if (need > codes_.capacity()) codes_.reserve(need + need / 8);
    codes_.resize(need);
    for (int64_t r = 0; r < n; ++r)
      for (int64_t b = 0; b < batch_; ++b)
        pack_row(codes + (b * n + r) * columns_, columns_, format_.bits,
                 codes_.data() + ((rows_ + r) * batch_ + b) * row_bytes_);
    const bool first = levels_.empty();
    if (first) levels_.assign(levels, levels + (1 << format_.bits));
    const auto keep = [&](std::vector<uint16_t>& to, const float* from) {
      switch (format_.scale) {
        case ScaleOf::row:
          for (int64_t r = 0; r < n; ++r)
            for (int64_t b = 0; b < batch_; ++b) to.push_back(float_to_f16(from[b * n + r]));
          break;
        case ScaleOf::token:
          for (int64_t r = 0; r < n; ++r) to.push_back(float_to_f16(from[r]));
          break;
        case ScaleOf::column:
          if (first)
            for (int64_t i = 0; i < batch_ * columns_; ++i) to.push_back(float_to_f16(from[i]));
          break;
      }
    };
    keep(scales_, scale);
    if (offset) keep(offsets_, offset);
    rows_ += n;
  }

  // Rows [begin, end) of one matrix to out [end - begin, stride].
  void decode(int64_t matrix, int64_t begin, int64_t end, float* out, int64_t stride) const {
    const int64_t entries = int64_t(levels_.size());
    if (format_.scale == ScaleOf::column) {
      constexpr int64_t kChunk = 256;
      float scale[kChunk], offset[kChunk] = {};
      for (int64_t c = 0; c < columns_; c += kChunk) {
        const int64_t n = std::min(kChunk, columns_ - c);
        to_float(DType::f16, scales_.data() + matrix * columns_ + c, n, scale);
        if (format_.has_offset)
          to_float(DType::f16, offsets_.data() + matrix * columns_ + c, n, offset);
        for (int64_t r = begin; r < end; ++r) {
          float* row = out + (r - begin) * stride + c;
          unpack_levels(code_row(r, matrix) + packed_bytes(c, format_.bits), n, format_.bits,
                        levels_.data(), row);
          for (int64_t i = 0; i < n; ++i) row[i] = codebook_value(row[i], scale[i], offset[i]);
        }
      }
      return;
    }
    std::array<float, 256> table;
    for (int64_t r = begin; r < end; ++r) {
      const int64_t p = format_.scale == ScaleOf::row ? r * batch_ + matrix : r;
      const float scale = f16_to_float(scales_[size_t(p)]);
      const float offset = format_.has_offset ? f16_to_float(offsets_[size_t(p)]) : 0.0f;
      float* row = out + (r - begin) * stride;
      if (entries <= 16) {  // few levels: scale the table, not the row
        for (int64_t i = 0; i < entries; ++i)
          table[size_t(i)] = codebook_value(levels_[size_t(i)], scale, offset);
        unpack_levels(code_row(r, matrix), columns_, format_.bits, table.data(), row);
      } else {
        unpack_levels(code_row(r, matrix), columns_, format_.bits, levels_.data(), row);
        for (int64_t c = 0; c < columns_; ++c) row[c] = codebook_value(row[c], scale, offset);
      }
    }
  }

  uint64_t bytes() const {
    return uint64_t(rows_ * batch_ * row_bytes_) + 4 * levels_.size() + 2 * scales_.size() +
           2 * offsets_.size();
  }
  uint64_t allocated() const {
    return codes_.capacity() + 4 * levels_.capacity() + 2 * scales_.capacity() +
           2 * offsets_.capacity();
  }

  // What is stored, for a device that keeps a copy.
  struct Parts {
    std::span<const uint8_t> codes;
    std::span<const float> levels;
    std::span<const uint16_t> scales, offsets;
  };
  Parts stored() const {
    return {{codes_.data(), size_t(rows_ * batch_ * row_bytes_)}, levels_, scales_, offsets_};
  }
  // Forgets the rows, but not what all rows share: levels, and scales per column.
  void drop_rows() {
    rows_ = 0;
    codes_ = std::vector<uint8_t>(kSlack);
    if (format_.scale == ScaleOf::column) return;
    scales_ = {};
    offsets_ = {};
  }

  // Flips one bit of the code of an element: for the test that the cache is really read.
  void flip_code_bit(int64_t matrix, int64_t row, int64_t column, int bit) {
    const int64_t position = column * format_.bits + bit;
    codes_[size_t((row * batch_ + matrix) * row_bytes_ + position / 8)] ^=
        uint8_t(1u << (position % 8));
  }

 private:
  static constexpr size_t kSlack = 4;  // unpack_levels reads whole words

  const uint8_t* code_row(int64_t row, int64_t matrix) const {
    return codes_.data() + (row * batch_ + matrix) * row_bytes_;
  }

  void check(const uint8_t* codes, const float* levels, const float* scale, const float* offset,
             int64_t n, const std::string& where) const {
    const int bits = format_.bits;
    if (bits != 1 && bits != 2 && bits != 3 && bits != 4 && bits != 8)
      throw usage_error("codebook encoding with bits = " + std::to_string(bits), where,
                        "bits is 1, 2, 3, 4 or 8");
    const int64_t count = format_.scale == ScaleOf::row     ? batch_ * n
                          : format_.scale == ScaleOf::token ? n
                                                            : batch_ * columns_;
    const auto finite = [&](const float* x, int64_t size, const char* name, float limit) {
      for (int64_t i = 0; i < size; ++i)
        if (!(std::abs(x[i]) < limit))
          throw usage_error(std::string(name) + " " + std::to_string(x[i]) + " at index " +
                                std::to_string(i) + " cannot be stored",
                            where, "it must be finite, and scale and offset fit float16");
    };
    finite(levels, 1 << bits, "level", std::numeric_limits<float>::infinity());
    finite(scale, count, "scale", 65520.0f);
    if (offset) finite(offset, count, "offset", 65520.0f);
    const int max_code = (1 << bits) - 1;
    for (int64_t i = 0; i < batch_ * n * columns_; ++i)
      if (codes[i] > max_code)
        throw usage_error(
            "code " + std::to_string(codes[i]) + " does not fit " + std::to_string(bits) + " bits",
            where);
    if (levels_.empty()) return;
    bool same = std::equal(levels_.begin(), levels_.end(), levels);
    if (format_.scale == ScaleOf::column)
      for (int64_t i = 0; i < count; ++i)
        same = same && scales_[size_t(i)] == float_to_f16(scale[i]) &&
               (!offset || offsets_[size_t(i)] == float_to_f16(offset[i]));
    if (!same)
      throw usage_error("levels, or scales per column, differ between blocks", where,
                        "they are stored once for a layer and side");
  }

  CodebookFormat format_;
  int64_t batch_, columns_, row_bytes_, rows_ = 0;
  std::vector<uint8_t> codes_;
  std::vector<float> levels_;
  std::vector<uint16_t> scales_, offsets_;  // float16
};

}  // namespace ptq
