// Codebook, low-rank and outlier encodings in device memory.
//
// The method worked on the host, so the CPU's classes check and pack its answer a block at a time;
// what they hold is appended here in the same layout and then forgotten. Bits and bytes are the
// CPU's by construction, and only reading needs kernels (encoded_read.cuh).
#pragma once

#include <string>
#include <vector>

#include "ptq/encoding/codebook.hpp"
#include "ptq/encoding/lowrank.hpp"
#include "ptq/encoding/outliers.hpp"
#include "ptq/engine/cuda/cache_memory.hpp"
#include "ptq/engine/cuda/row_views.hpp"

namespace ptq::cuda {

// Reference: CodebookRows.
class DeviceCodebook {
 public:
  DeviceCodebook(CacheHome& home, const CodebookFormat& format, int64_t heads, int64_t dim)
      : home_(&home),
        heads_(heads),
        dim_(dim),
        block_(format, heads, dim),
        codes_(home),
        levels_(home),
        scales_(home),
        offsets_(home) {}

  const CodebookFormat& format() const { return block_.format(); }

  // As CodebookRows::append; everything in host memory.
  void append(const uint8_t* codes, const float* levels, const float* scale, const float* offset,
              int64_t n, const std::string& where) {
    block_.append(codes, levels, scale, offset, n, where);
    const CodebookRows::Parts p = block_.stored();
    const bool first = levels_.bytes() == 0;
    codes_.append(p.codes);
    if (first) levels_.append(p.levels);
    if (first || format().scale != ScaleOf::column) {
      scales_.append(p.scales);
      offsets_.append(p.offsets);
    }
    home_->queue.synchronize();
    block_.drop_rows();
  }

  CodebookView view(int64_t first) const {
    CodebookView v;
    v.codes = codes_.data();
    v.levels = levels_.as<float>();
    v.scales = scales_.as<uint16_t>();
    v.offsets = format().has_offset ? offsets_.as<uint16_t>() : nullptr;
    v.first = first;
    v.columns = dim_;
    v.row_bytes = packed_bytes(dim_, format().bits);
    v.heads = int(heads_);
    v.bits = format().bits;
    v.scale = format().scale;
    return v;
  }
  uint64_t bytes() const {
    return codes_.bytes() + levels_.bytes() + scales_.bytes() + offsets_.bytes();
  }
  uint64_t allocated() const {
    return codes_.allocated() + levels_.allocated() + scales_.allocated() + offsets_.allocated();
  }

 private:
  CacheHome* home_;
  int64_t heads_, dim_;
  CodebookRows block_;  // no rows between calls, only levels and scales per column
  Growing codes_, levels_, scales_, offsets_;
};

// Reference: LowRankRows.
class DeviceLowRank {
 public:
  DeviceLowRank(CacheHome& home, const LowRankFormat& format, int64_t heads, int64_t dim)
      : home_(&home),
        heads_(heads),
        dim_(dim),
        format_(format),
        ranks_(home),
        offsets_(home),
        data_(home) {}

  const LowRankFormat& format() const { return format_; }

  // x [heads, n, dim] in host memory, n a multiple of the chunk.
  void append(const float* x, int64_t n) {
    LowRankRows block(format_, heads_, dim_);
    block.append(x, n);
    const LowRankRows::Parts p = block.stored();
    std::vector<uint64_t> offsets(p.offsets.begin(), p.offsets.end());
    for (uint64_t& offset : offsets) offset += data_.bytes() / sizeof(uint16_t);
    ranks_.append(p.ranks);
    offsets_.append(std::span<const uint64_t>(offsets));
    data_.append(p.data);
    home_->queue.synchronize();
  }

  LowRankView view(int64_t first) const {
    LowRankView v;
    v.ranks = ranks_.data();
    v.offsets = offsets_.as<uint64_t>();
    v.data = data_.as<uint16_t>();
    v.first = first;
    v.heads = int(heads_);
    v.columns = int(dim_);
    v.chunk = int(format_.chunk);
    v.center = format_.center;
    return v;
  }
  // As on the CPU, offsets follow from ranks and are no part of the encoding.
  uint64_t bytes() const { return ranks_.bytes() + data_.bytes(); }
  uint64_t allocated() const {
    return ranks_.allocated() + offsets_.allocated() + data_.allocated();
  }

 private:
  CacheHome* home_;
  int64_t heads_, dim_;
  LowRankFormat format_;
  Growing ranks_, offsets_, data_;
};

// Reference: OutlierRows.
class DeviceOutliers {
 public:
  DeviceOutliers(CacheHome& home, bool fixed, int64_t heads, int64_t dim, int64_t k)
      : home_(&home),
        heads_(heads),
        dim_(dim),
        k_(fixed ? k : 0),
        fixed_(fixed),
        indices_(home),
        values_(home),
        begin_(home) {}

  bool fixed() const { return fixed_; }
  int64_t k() const { return k_; }
  int64_t rows() const { return rows_; }

  // As OutlierRows::append; everything in host memory.
  void append(const int32_t* index, const float* value, int64_t n, int64_t k,
              const std::string& where) {
    OutlierRows block(fixed_, heads_, dim_, k);
    block.append(index, value, n, k, where);
    const OutlierRows::Parts p = block.stored();
    index_bytes_ = p.index_bytes;
    std::vector<uint32_t> begin(p.begin.begin(), p.begin.end());
    for (uint32_t& b : begin) b += uint32_t(values_.bytes() / sizeof(uint16_t));
    // The end of the last block is the beginning of this one.
    begin_.append(std::span<const uint32_t>(begin).subspan(!fixed_ && rows_ > 0 ? 1 : 0));
    indices_.append(p.indices);
    values_.append(p.values);
    rows_ += n;
    home_->queue.synchronize();
  }

  OutlierView view(int64_t first) const {
    OutlierView v;
    v.indices = indices_.data();
    v.values = values_.as<uint16_t>();
    v.begin = fixed_ ? nullptr : begin_.as<uint32_t>();
    v.first = first;
    v.heads = int(heads_);
    v.columns = int(dim_);
    v.k = int(k_);
    v.index_bytes = index_bytes_;
    v.present = rows_ > 0;
    return v;
  }
  uint64_t bytes() const {
    return indices_.bytes() + values_.bytes() + (fixed_ ? 0 : 4 * uint64_t(rows_));
  }
  uint64_t allocated() const {
    return indices_.allocated() + values_.allocated() + begin_.allocated();
  }

 private:
  CacheHome* home_;
  int64_t heads_, dim_, k_, rows_ = 0;
  bool fixed_;
  int index_bytes_ = 1;
  Growing indices_, values_, begin_;
};

}  // namespace ptq::cuda
