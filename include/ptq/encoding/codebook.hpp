// The codebook encoding: b-bit codes into a table of levels, x = level[code] * scale + offset.
//
// Used by KVQuant (arXiv 2401.18079): levels from calibration, scales per channel (keys) or per
// token of all heads (values); and by FP8 (E4M3): 256 fixed levels.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/dtype.hpp"
#include "ptq/core/error.hpp"
#include "ptq/core/small_float.hpp"
#include "ptq/encoding/affine.hpp"
#include "ptq/encoding/dense.hpp"
#include "ptq/encoding/encoding.hpp"

namespace ptq {

// ---- arithmetic, host and device ---------------------------------------------------------------

PTQ_HD inline float codebook_value(float level, float scale, float offset) {
  return level * scale + offset;
}

// A table of 2^Bits levels, Bits 1 to 4. Codes are looked up by a shuffle of vector lanes.
template <int Bits>
class LevelTable {
 public:
  explicit LevelTable(const float* levels) {
    float table[2 * kLanes] = {};
    std::memcpy(table, levels, sizeof(float) << Bits);
    std::memcpy(&low_, table, sizeof low_);
    std::memcpy(&high_, table + kLanes, sizeof high_);
  }
  // The table of codebook_value(level, scale, offset).
  LevelTable scaled(float scale, float offset) const {
    LevelTable other = *this;
    other.low_ = low_ * scale + offset;
    other.high_ = high_ * scale + offset;
    return other;
  }
  // Levels of n packed codes (layout: pack_row). Reads whole 32-bit words: up to 3 bytes behind the
  // row must be readable.
  void look_up(const uint8_t* __restrict src, int64_t n, float* __restrict out) const {
    constexpr uint32_t mask = (1u << Bits) - 1;
    const int64_t full = n / kPer;
    Words shift{};
    for (int j = 0; j < kLanes; ++j) shift[j] = uint32_t(Bits * j);
    for (int64_t i = 0; i < full; ++i) {
      uint32_t w;
      std::memcpy(&w, src + i * kBytes, 4);
      for (int part = 0; part < kPer / kLanes; ++part) {
        const Words codes = ((Words{} + (w >> (Bits * kLanes * part))) >> shift) & mask;
        const Floats x = levels_of((Index)codes);
        std::memcpy(out + i * kPer + part * kLanes, &x, sizeof x);
      }
    }
    for (int64_t i = full * kPer; i < n; ++i) {
      const int code = int(code_at<Bits>(src, i));
      out[i] = code < kLanes ? low_[code] : high_[code - kLanes];
    }
  }

 private:
  static constexpr int kPer = Bits == 3 ? 8 : 32 / Bits;  // codes of a word
  static constexpr int kBytes = Bits == 3 ? 3 : 4, kLanes = kPer < 16 ? kPer : 16;
  using Words = typename VectorOf<uint32_t, kLanes>::type;
  using Floats = typename VectorOf<float, kLanes>::type;
  using Index = typename VectorOf<int32_t, kLanes>::type;

  Floats levels_of(Index codes) const {
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
    return __builtin_shuffle(low_, high_, codes);
#else  // no shuffle by a variable
    Floats x{};
    for (int j = 0; j < kLanes; ++j) {
      const int code = codes[j];
      x[j] = code < kLanes ? low_[code] : high_[code - kLanes];
    }
    return x;
#endif
  }

  Floats low_, high_;
};

// The same for codes of 8 bits, of which any 256 levels are looked up one at a time.
inline void look_up_bytes(const uint8_t* __restrict src, int64_t n, const float* __restrict levels,
                          float* __restrict out) {
  for (int64_t i = 0; i < n; ++i) out[i] = levels[src[i]];
}
// The numbers of E4M3 by arithmetic, without its two codes of NaN: core/small_float.hpp.
inline void look_up_e4m3(const uint8_t* __restrict src, int64_t n, float* __restrict out) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t code = src[i], magnitude = code & 0x7F;
    const float normal = bits_float((magnitude << 20) + (uint32_t{120} << 23));
    const float x = magnitude < 8 ? (normal - 0x1p-7f) * 2 : normal;  // a subnormal number
    out[i] = bits_float(float_bits(x) | (code & 0x80) << 24);
  }
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
    if (first) {
      levels_.assign(levels, levels + (1 << format_.bits));
      e4m3_ = levels_are_e4m3();
    }
    e4m3_ = e4m3_ && std::none_of(codes, codes + batch_ * n * columns_, is_e4m3_nan);
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
    with_bits(format_.bits, [&](auto bits) {
      if constexpr (bits() <= 4) {
        const LevelTable<bits()> table(levels_.data());
        if (format_.scale == ScaleOf::column) {
          decode_scaled_columns(
              matrix, begin, end, out, stride,
              [&](const uint8_t* src, int64_t n, float* to) { table.look_up(src, n, to); });
          return;
        }
        for (int64_t r = begin; r < end; ++r, out += stride) {  // scale the table, not the row
          fetch_ahead(matrix, r);
          const auto [scale, offset] = scale_of(matrix, r);
          table.scaled(scale, offset).look_up(code_row(r, matrix), columns_, out);
        }
      } else if constexpr (bits() == 8) {
        const auto look_up = [&](const uint8_t* src, int64_t n, float* to) {
          if (e4m3_) return look_up_e4m3(src, n, to);
          look_up_bytes(src, n, levels_.data(), to);
        };
        if (format_.scale == ScaleOf::column)
          return decode_scaled_columns(matrix, begin, end, out, stride, look_up);
        for (int64_t r = begin; r < end; ++r, out += stride) {
          fetch_ahead(matrix, r);
          const auto [scale, offset] = scale_of(matrix, r);
          look_up(code_row(r, matrix), columns_, out);
          for (int64_t c = 0; c < columns_; ++c) out[c] = codebook_value(out[c], scale, offset);
        }
      }
    });
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
  static constexpr size_t kSlack = 4;  // LevelTable reads whole words

  // Rows of a matrix lie a distance apart along which the processor does not fetch ahead.
  void fetch_ahead(int64_t matrix, int64_t row) const {
    constexpr int64_t kAhead = 16;  // rows
    __builtin_prefetch(codes_.data() + ((row + kAhead) * batch_ + matrix) * row_bytes_);
  }
  // Of a row that has one of its own.
  std::pair<float, float> scale_of(int64_t matrix, int64_t row) const {
    const size_t i = size_t(format_.scale == ScaleOf::row ? row * batch_ + matrix : row);
    return {f16_to_float(scales_[i]), format_.has_offset ? f16_to_float(offsets_[i]) : 0.0f};
  }
  // look_up(codes, n, out): the levels of n codes.
  template <class LookUp>
  void decode_scaled_columns(int64_t matrix, int64_t begin, int64_t end, float* out, int64_t stride,
                             const LookUp& look_up) const {
    constexpr int64_t kChunk = 256;
    float scale[kChunk], offset[kChunk] = {};
    for (int64_t c = 0; c < columns_; c += kChunk) {
      const int64_t n = std::min(kChunk, columns_ - c);
      to_float(DType::f16, scales_.data() + matrix * columns_ + c, n, scale);
      if (format_.has_offset)
        to_float(DType::f16, offsets_.data() + matrix * columns_ + c, n, offset);
      for (int64_t r = begin; r < end; ++r) {
        float* row = out + (r - begin) * stride + c;
        fetch_ahead(matrix, r);
        look_up(code_row(r, matrix) + packed_bytes(c, format_.bits), n, row);
        for (int64_t i = 0; i < n; ++i) row[i] = codebook_value(row[i], scale[i], offset[i]);
      }
    }
  }
  static bool is_e4m3_nan(uint8_t code) { return (code & 0x7F) == 0x7F; }
  // But for those of NaN, which look_up_e4m3() does not know.
  bool levels_are_e4m3() const {
    if (format_.bits != 8) return false;
    for (int code = 0; code < 256; ++code)
      if (!is_e4m3_nan(uint8_t(code)) &&
          float_bits(levels_[size_t(code)]) != float_bits(e4m3_to_float(uint8_t(code))))
        return false;
    return true;
  }

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
  bool e4m3_ = false;                       // are all stored numbers of E4M3?
  std::vector<uint16_t> scales_, offsets_;  // float16
};

}  // namespace ptq
