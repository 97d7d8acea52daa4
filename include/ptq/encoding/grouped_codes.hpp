// Codes into a table of levels with a scale per group of columns: x = level[code] * scale, and a
// scale of the whole matrix where there is one. For weights.
//
// NF4 (QLoRA, arXiv 2305.14314), FP8 (256 levels of E4M3), MXFP4 and NVFP4 (16 levels of E2M1, OCP
// Microscaling 1.0) are this encoding with different tables and types of scales.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/small_float.hpp"
#include "ptq/encoding/affine.hpp"
#include "ptq/encoding/codebook.hpp"
#include "ptq/encoding/encoding.hpp"

namespace ptq {

inline int64_t scale_bytes(ScaleType type) {
  return type == ScaleType::f32 ? 4 : type == ScaleType::f16 ? 2 : 1;
}

// The nearest number that the type can store. Errors: none is near.
inline float stored_scale(ScaleType type, float s, const std::string& where) {
  const auto refuse = [&](const char* why) {
    return usage_error("scale " + std::to_string(s) + " " + why, where,
                       "scale the group, or choose another scale_type");
  };
  if (!std::isfinite(s)) throw refuse("is not finite");
  switch (type) {
    case ScaleType::f16:
      if (!std::isfinite(round_f16(s))) throw refuse("does not fit float16");
      return round_f16(s);
    case ScaleType::f32: return s;
    case ScaleType::e4m3:
      if (std::abs(s) > kLargestE4m3) throw refuse("does not fit E4M3, whose largest is 448");
      return round_e4m3(s);
    case ScaleType::e8m0:
      if (!(s > 0)) throw refuse("is no power of two");
      return e8m0_to_float(e8m0_byte(s));
  }
  throw usage_error("unknown scale type " + std::to_string(int(type)), where);
}

// A matrix [rows, columns], made once. Codes row-major, each row padded to a byte; levels and the
// matrix's scale float32.
class GroupedCodes {
 public:
  // codes [rows, columns], one per byte; levels [2^bits]; scale [rows, groups].
  GroupedCodes(const GroupedFormat& format, int64_t rows, int64_t columns, const uint8_t* codes,
               const float* levels, const float* scale, const std::string& where)
      : format_(format), rows_(rows), columns_(columns) {
    const int bits = format.bits;
    if (!(bits == 1 || bits == 2 || bits == 3 || bits == 4 || bits == 8))
      throw usage_error("codebook encoding with bits = " + std::to_string(bits), where,
                        "bits is 1, 2, 3, 4 or 8");
    if (format.group_size < 0 || int(format.scale) < 0 || int(format.scale) > 3)
      throw usage_error("codebook encoding with group_size = " + std::to_string(format.group_size) +
                            ", scale_type = " + std::to_string(int(format.scale)),
                        where, "group_size is 0 (a row) or positive; scale_type is PTQ_SCALE_*");
    if (!std::isfinite(format.tensor_scale) || format.tensor_scale < 0)
      throw usage_error("tensor_scale is not a positive number", where, "0 = none");
    group_ = format.group_size == 0 ? columns : std::min(format.group_size, columns);
    groups_ = (columns + group_ - 1) / group_;
    row_bytes_ = packed_bytes(columns, bits);
    levels_.assign(levels, levels + (1 << bits));
    for (const float level : levels_)
      if (!std::isfinite(level)) throw usage_error("a level is not finite", where);
    for (int64_t i = 0; i < rows * columns; ++i)
      if (codes[i] >> bits != 0)
        throw usage_error(
            "code " + std::to_string(codes[i]) + " does not fit " + std::to_string(bits) + " bits",
            where + ", row " + std::to_string(i / columns) + ", column " +
                std::to_string(i % columns));
    scales_.resize(size_t(rows * groups_ * scale_bytes(format.scale)));
    for (int64_t i = 0; i < rows * groups_; ++i)
      put_scale(i, stored_scale(format.scale, scale[i],
                                where + ", row " + std::to_string(i / groups_) + ", group " +
                                    std::to_string(i % groups_)));
    codes_.resize(size_t(rows * row_bytes_) + kSlack);
    for (int64_t r = 0; r < rows; ++r)
      pack_row(codes + r * columns, columns, bits, codes_.data() + r * row_bytes_);
  }

  const GroupedFormat& format() const { return format_; }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  int64_t group() const { return group_; }
  const uint8_t* row_codes(int64_t r) const { return codes_.data() + r * row_bytes_; }
  const float* levels() const { return levels_.data(); }
  // Of a group, the matrix's scale included.
  float scale(int64_t row, int64_t group) const {
    const float s = stored(row * groups_ + group);
    return format_.tensor_scale > 0 ? s * format_.tensor_scale : s;
  }

  // Rows [begin, end) to out [end - begin, columns].
  void decode(int64_t begin, int64_t end, float* out) const {
    with_bits(format_.bits, [&](auto bits) {
      if constexpr (bits() <= 4) {
        const LevelTable<bits()> table(levels_.data());
        decode_rows(begin, end, out,
                    [&](const uint8_t* src, float* to) { table.look_up(src, columns_, to); });
      } else {
        decode_rows(begin, end, out, [&](const uint8_t* src, float* to) {
          look_up_bytes(src, columns_, levels_.data(), to);
        });
      }
    });
  }
  uint64_t bytes() const {
    return uint64_t(rows_ * row_bytes_) + scales_.size() + 4 * levels_.size() +
           (format_.tensor_scale > 0 ? 4 : 0);
  }

 private:
  static constexpr size_t kSlack = 4;  // LevelTable reads whole words

  template <class LookUp>
  void decode_rows(int64_t begin, int64_t end, float* out, const LookUp& look_up) const {
    for (int64_t r = begin; r < end; ++r, out += columns_) {
      look_up(row_codes(r), out);
      for (int64_t g = 0; g < groups_; ++g) {
        const float s = scale(r, g);
        for (int64_t c = g * group_; c < std::min((g + 1) * group_, columns_); ++c) out[c] *= s;
      }
    }
  }

  void put_scale(int64_t i, float s) {
    switch (format_.scale) {
      case ScaleType::f16: {
        const uint16_t h = float_to_f16(s);
        std::memcpy(scales_.data() + 2 * i, &h, 2);
        break;
      }
      case ScaleType::f32: std::memcpy(scales_.data() + 4 * i, &s, 4); break;
      case ScaleType::e4m3: scales_[size_t(i)] = e4m3_byte(s); break;
      case ScaleType::e8m0: scales_[size_t(i)] = e8m0_byte(s); break;
    }
  }
  float stored(int64_t i) const {
    switch (format_.scale) {
      case ScaleType::f16: {
        uint16_t h;
        std::memcpy(&h, scales_.data() + 2 * i, 2);
        return f16_to_float(h);
      }
      case ScaleType::f32: {
        float s;
        std::memcpy(&s, scales_.data() + 4 * i, 4);
        return s;
      }
      case ScaleType::e4m3: return e4m3_to_float(scales_[size_t(i)]);
      case ScaleType::e8m0: return e8m0_to_float(scales_[size_t(i)]);
    }
    return 0;
  }

  GroupedFormat format_;
  int64_t rows_, columns_, group_ = 0, groups_ = 0, row_bytes_ = 0;
  std::vector<uint8_t> codes_;   // [rows, row_bytes]
  std::vector<uint8_t> scales_;  // [rows, groups], of the format's type
  std::vector<float> levels_;
};

}  // namespace ptq
