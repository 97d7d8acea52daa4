// The encoded rows of one layer and side in device memory: the counterpart of
// engine/cpu/encoded_rows.hpp.
//
// Affine and dense rows are encoded by kernels and lie per head as AffineRows and DenseRows lay
// them out; the other encodings come from the CPU's classes (copied_rows.hpp). Bytes are the same
// numbers.
#pragma once

#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "ptq/encoding/affine.hpp"
#include "ptq/encoding/answer.hpp"
#include "ptq/engine/cuda/copied_rows.hpp"
#include "ptq/engine/cuda/kernels/affine_encode.cuh"
#include "ptq/engine/cuda/kernels/kv_rows.cuh"

namespace ptq::cuda {

// The encoded rows of one layer and side, and where a method's answers go.
class EncodedRows final : public RowSink {
 public:
  EncodedRows(CacheHome& home, int64_t kv_heads, int64_t head_dim, int64_t block, int64_t first,
              std::string where)
      : home_(&home),
        heads_(kv_heads),
        dim_(head_dim),
        block_(block),
        first_(first),
        answer_(std::move(where), "block", kv_heads, head_dim) {}

  // Prepares for one call of an encoder that has to deliver n rows. on_device: where the tensors
  // that come back live.
  void expect(int64_t n, bool on_device) {
    if (outliers_ && outliers_->rows() != rows_)
      throw answer_.mixed_formats();  // all rows have some or none
    answer_.expect(n);
    on_device_ = on_device;
  }
  bool filled() const override { return answer_.filled(); }
  int64_t rows() const { return rows_; }

  void affine(const AffineFormat& format, int64_t batch, int64_t rows, int64_t columns,
              const float* x) override {
    answer_.accept(batch, rows, columns);
    prepare(format, rows);
    const Staged<float> values(*this, x, heads_ * rows * dim_);
    encode_affine(home_->queue, values.data(), target(), rows, heads_);
    finish(rows);
  }
  void affine_codes(const AffineFormat& format, int64_t batch, int64_t rows, int64_t columns,
                    const uint8_t* codes, const float* scale, const float* zero) override {
    answer_.accept(batch, rows, columns);
    expect_on_host("codes");
    prepare(format, rows);
    // AffineRows checks codes, scales and zeros; what it stored is never looked at.
    const int64_t per_head = groups_of(rows);
    for (int64_t h = 0; h < heads_; ++h)
      AffineRows(format_, dim_)
          .append_codes(codes + h * rows * dim_, scale + h * per_head,
                        zero ? zero + h * per_head : nullptr, rows, answer_.where());
    const Staged<uint8_t> c(*this, codes, heads_ * rows * dim_);
    const Staged<float> s(*this, scale, heads_ * per_head),
        z(*this, zero, zero ? heads_ * per_head : 0);
    pack_affine(home_->queue, c.data(), s.data(), zero ? z.data() : nullptr, target(), rows,
                heads_);
    finish(rows);
  }
  void dense(DType dtype, int64_t batch, int64_t rows, int64_t columns, const float* x) override {
    answer_.accept(batch, rows, columns);
    store(Stored::dense);
    if (rows_ > 0 && dense_dtype_ != dtype) throw answer_.mixed_formats();
    dense_dtype_ = dtype;
    if (rows_ == 0) capacity_ = 0;  // a first answer of another form may have been refused
    grow(rows);
    const Staged<float> values(*this, x, heads_ * rows * dim_);
    store_rows(home_->queue, values.data(), dense_view(), rows_, rows, heads_, dim_);
    finish(rows);
  }

  void codebook(const CodebookFormat& format, int64_t batch, int64_t rows, int64_t columns,
                const uint8_t* codes, const float* levels, const float* scale,
                const float* offset) override {
    answer_.accept(batch, rows, columns);
    expect_on_host("codes");
    store(Stored::codebook);
    if (rows_ == 0) codebook_.emplace(*home_, format, heads_, dim_);
    if (!(codebook_->format() == format)) throw answer_.mixed_formats();
    codebook_->append(codes, levels, scale, offset, rows, answer_.where());
    finish(rows);
  }
  // Factorised on the host, wherever the rows are.
  void lowrank(const LowRankFormat& format, int64_t batch, int64_t rows, int64_t columns,
               const float* x) override {
    answer_.accept(batch, rows, columns);
    check_format(format, rows, answer_.where());
    store(Stored::lowrank);
    if (rows_ == 0) lowrank_.emplace(*home_, format, heads_, dim_);
    if (!(lowrank_->format() == format)) throw answer_.mixed_formats();
    std::vector<float> copy;
    if (on_device_) {
      copy.resize(size_t(batch * rows * columns));
      home_->queue.copy(copy.data(), x, copy.size() * sizeof(float), cudaMemcpyDeviceToHost);
      home_->queue.synchronize();
      x = copy.data();
    }
    lowrank_->append(x, rows);
    finish(rows);
  }
  void outliers(bool fixed, int64_t batch, int64_t rows, int64_t k, const int32_t* index,
                const float* value) override {
    answer_.accept_outliers(batch, rows);
    expect_on_host("outliers");
    answer_.overlay(
        outliers_, fixed, k, rows_, [&] { return DeviceOutliers(*home_, fixed, heads_, dim_, k); },
        [&](DeviceOutliers& s) { s.append(index, value, rows, k, answer_.where()); });
  }

  // Writes what kernels read of it.
  void describe(SideView& v) const {
    v.stored = stored_;
    if (stored_ == Stored::dense) v.dense = dense_view();
    if (stored_ == Stored::affine) v.affine = affine_view();
    if (stored_ == Stored::codebook) v.codebook = codebook_->view(first_);
    if (stored_ == Stored::lowrank) v.lowrank = lowrank_->view(first_);
    if (outliers_) v.outliers = outliers_->view(first_);
  }
  DenseView dense_view() const {
    return {codes_.data(), dense_dtype_, first_, dim_, capacity_ * dim_};
  }
  AffineView affine_view() const {
    AffineView v;
    v.codes = codes_.data();
    v.scales = scales_.data();
    v.zeros = zeros_.data();
    v.bits = format_.bits;
    v.axis = format_.axis;
    v.grid = format_.grid;
    v.first = first_;
    v.columns = dim_;
    v.set_group(group_);
    v.groups = groups_;
    v.row_bytes = row_bytes();
    v.head_codes = capacity_ * row_bytes();
    v.head_params = groups_of(capacity_);
    v.head_zeros = zero_bytes(capacity_);
    return v;
  }

  bool is_dense() const { return stored_ == Stored::dense && !outliers_; }
  uint64_t bytes() const { return row_data_bytes() + (outliers_ ? outliers_->bytes() : 0); }
  uint64_t allocated() const {
    return uint64_t(codes_.size() + 2 * scales_.size() + zeros_.size()) +
           (codebook_ ? codebook_->allocated() : 0) + (lowrank_ ? lowrank_->allocated() : 0) +
           (outliers_ ? outliers_->allocated() : 0);
  }

 private:
  // A tensor of the encoder where kernels can read it.
  template <class V>
  class Staged {
   public:
    Staged(EncodedRows& owner, const V* x, int64_t n) : data_(x) {
      if (owner.on_device_ || n == 0) return;
      copy_ = Memory<V>(owner.home_->arena, Region::workspace, n);
      owner.home_->queue.copy(copy_.data(), x, size_t(n) * sizeof(V), cudaMemcpyHostToDevice);
      owner.home_->queue.synchronize();  // the method may free its tensor at once
      data_ = copy_.data();
    }
    const V* data() const { return data_; }

   private:
    const V* data_;
    Memory<V> copy_;
  };

  // Are the method's own numbers where the CPU's classes check them?
  void expect_on_host(const char* what) const {
    if (on_device_)
      throw Error(ExitCode::cells_failed, std::string(what) + " in device memory", answer_.where(),
                  "this host checks a method's own codes and outliers on the CPU: give them there");
  }
  void store(Stored kind) {
    if (rows_ > 0 && stored_ != kind) throw answer_.mixed_formats();
    stored_ = kind;
  }
  // Takes over the format of the first block and makes room.
  void prepare(const AffineFormat& format, int64_t rows) {
    const AffineFormat f = answer_.block_format(format, block_);
    store(Stored::affine);
    if (rows_ > 0 && !(format_ == f)) throw answer_.mixed_formats();
    format_ = f;
    group_ = f.axis == 1 && (f.group_size == 0 || f.group_size > dim_) ? dim_ : f.group_size;
    groups_ = f.axis == 1 ? ceil_div(dim_, group_) : 0;
    if (rows_ == 0) capacity_ = 0;  // a first answer of another form may have been refused
    grow(rows);
  }
  void finish(int64_t rows) {
    rows_ += rows;
    answer_.fill();
  }
  AffineTarget target() const { return {affine_view(), rows_}; }

  int64_t row_bytes() const {
    return stored_ == Stored::dense ? dim_ * dtype_bytes(dense_dtype_)
                                    : packed_bytes(dim_, format_.bits);
  }
  uint64_t row_data_bytes() const {
    if (stored_ == Stored::nothing) return 0;
    if (stored_ == Stored::codebook) return codebook_->bytes();
    if (stored_ == Stored::lowrank) return lowrank_->bytes();
    if (stored_ == Stored::dense) return uint64_t(heads_ * rows_ * row_bytes());
    return uint64_t(heads_) * affine_bytes(format_, dim_, rows_, groups_of(rows_));
  }
  // Groups of one head in `rows` rows.
  int64_t groups_of(int64_t rows) const {
    return format_.axis == 1 ? rows * groups_ : ceil_div(rows, group_) * dim_;
  }
  // Bytes for the zero points of one head; whole words, since they are written by atomics.
  int64_t zero_bytes(int64_t rows) const {
    if (stored_ != Stored::affine) return 0;
    if (format_.grid == Grid::min) return 2 * groups_of(rows);
    if (!grid_has_zero(format_.grid)) return 0;
    return (packed_bytes(groups_of(rows), format_.bits) + 7) / 4 * 4;
  }

  void grow(int64_t n) {
    if (rows_ + n <= capacity_) return;
    const int64_t old = capacity_;
    const int64_t wanted = rows_ + n + (rows_ + n) / 2;
    capacity_ = ceil_div(wanted, std::max<int64_t>(block_, 16)) * std::max<int64_t>(block_, 16);
    // What is written of each head moves; what lies behind it never was.
    const auto bigger = [&](auto& memory, int64_t per_head, int64_t old_per_head, int64_t written,
                            bool clear) {
      using V = std::remove_pointer_t<decltype(memory.data())>;
      if (per_head == 0) return;
      Memory<V> fresh(home_->arena, Region::cache, heads_ * per_head);
      if (clear)
        home_->queue.enqueue([&](cudaStream_t s) {
          check(cudaMemsetAsync(fresh.data(), 0, size_t(fresh.size()) * sizeof(V), s),
                "cudaMemsetAsync");
        });
      for (int64_t h = 0; rows_ > 0 && h < heads_; ++h)
        home_->queue.copy(fresh.data() + h * per_head, memory.data() + h * old_per_head,
                          size_t(written) * sizeof(V), cudaMemcpyDeviceToDevice);
      memory = std::move(fresh);
    };
    bigger(codes_, capacity_ * row_bytes(), old * row_bytes(), rows_ * row_bytes(), false);
    if (stored_ == Stored::affine) {
      bigger(scales_, groups_of(capacity_), groups_of(old), groups_of(rows_), false);
      bigger(zeros_, zero_bytes(capacity_), zero_bytes(old), zero_bytes(rows_),
             format_.grid != Grid::min);
    }
  }

  CacheHome* home_;
  int64_t heads_, dim_, block_, first_, rows_ = 0, capacity_ = 0;
  Answer answer_;
  bool on_device_ = false;
  Stored stored_ = Stored::nothing;
  AffineFormat format_;
  DType dense_dtype_ = DType::f16;
  int64_t group_ = 1, groups_ = 0;
  Memory<uint8_t> codes_;    // [heads, capacity, row_bytes]
  Memory<uint16_t> scales_;  // [heads, groups]
  Memory<uint8_t> zeros_;    // [heads, zero_bytes]
  std::optional<DeviceCodebook> codebook_;
  std::optional<DeviceLowRank> lowrank_;
  std::optional<DeviceOutliers> outliers_;
};

}  // namespace ptq::cuda
