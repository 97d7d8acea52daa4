// The KV cache on the device: the rules of engine/kv_cache.hpp, the storage in device memory.
//
// Dense rows lie [rows, kv_heads * head_dim], encoded rows per head as AffineRows lays them out, so
// bytes are the same numbers. Buffers grow by doubling, between passes; what kernels see of them is
// a SideView, written anew for every pass.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ptq/encoding/affine.hpp"
#include "ptq/engine/cuda/affine_encode.cuh"
#include "ptq/engine/cuda/arena.hpp"
#include "ptq/engine/cuda/elementwise.cuh"
#include "ptq/engine/cuda/kv_rows.cuh"
#include "ptq/engine/cuda/queue.hpp"
#include "ptq/engine/cuda/row_views.hpp"
#include "ptq/engine/engine.hpp"

namespace ptq::cuda {

// What a cache needs of its engine.
struct CacheHome {
  Arena& arena;
  Queue& queue;
  CudaPlace place;
  // [layers * 2] on the device: set where a number to be cached is not finite.
  int32_t* not_finite;
};

// A device buffer of rows that grows behind and is dropped in front.
class GrowingRows {
 public:
  GrowingRows(CacheHome& home, DType dtype, int64_t columns)
      : home_(&home), dtype_(dtype), row_bytes_(columns * dtype_bytes(dtype)), columns_(columns) {}

  int64_t rows() const { return rows_; }
  uint64_t bytes() const { return uint64_t(rows_ * row_bytes_); }
  uint64_t allocated() const { return uint64_t(memory_.size()); }

  // Room for n more rows. Old rows move; kernels of this pass must not have been told of them.
  void reserve(int64_t n) {
    if ((begin_ + rows_ + n) * row_bytes_ <= memory_.size()) return;
    const int64_t need = rows_ + n;
    // A window that slides needs twice its rows, a cache that only grows half as much again.
    Memory<uint8_t> bigger(home_->arena, Region::cache, (need + need / 2 + 16) * row_bytes_);
    if (rows_ > 0)
      home_->queue.copy(bigger.data(), memory_.data() + begin_ * row_bytes_,
                        size_t(rows_ * row_bytes_), cudaMemcpyDeviceToDevice);
    memory_ = std::move(bigger);
    begin_ = 0;
  }
  void extend(int64_t n) { rows_ += n; }
  void drop_front(int64_t n) {
    begin_ += n;
    rows_ -= n;
    if (rows_ == 0) begin_ = 0;
  }
  // first: absolute position of the first row; heads of `dim` columns.
  DenseView view(int64_t first, int64_t dim) const {
    return {memory_.data() ? memory_.data() + begin_ * row_bytes_ : nullptr, dtype_, first,
            columns_, dim};
  }

 private:
  CacheHome* home_;
  DType dtype_;
  int64_t row_bytes_, columns_, begin_ = 0, rows_ = 0;
  Memory<uint8_t> memory_;
};

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
        where_(std::move(where)) {}

  // Prepares for one call of an encoder that has to deliver n rows. on_device: where the tensors
  // that come back live.
  void expect(int64_t n, bool on_device) {
    expected_ = n;
    filled_ = false;
    on_device_ = on_device;
  }
  bool filled() const override { return filled_; }
  int64_t rows() const { return rows_; }
  Stored stored() const { return stored_; }

  void affine(const AffineFormat& format, int64_t batch, int64_t rows, int64_t columns,
              const float* x) override {
    accept(batch, rows, columns);
    prepare(format, rows);
    const Staged<float> values(*this, x, heads_ * rows * dim_);
    encode_affine(home_->queue, values.data(), target(), rows, heads_);
    finish(rows);
  }
  void affine_codes(const AffineFormat& format, int64_t batch, int64_t rows, int64_t columns,
                    const uint8_t* codes, const float* scale, const float* zero) override {
    accept(batch, rows, columns);
    if (on_device_)
      throw Error(ExitCode::cells_failed, "codes in device memory", where_,
                  "this host checks a method's own codes on the CPU: give them there");
    prepare(format, rows);
    // AffineRows checks codes, scales and zeros; what it stored is never looked at.
    const int64_t per_head = groups_of(rows);
    for (int64_t h = 0; h < heads_; ++h)
      AffineRows(format_, dim_)
          .append_codes(codes + h * rows * dim_, scale + h * per_head,
                        zero ? zero + h * per_head : nullptr, rows, where_);
    const Staged<uint8_t> c(*this, codes, heads_ * rows * dim_);
    const Staged<float> s(*this, scale, heads_ * per_head),
        z(*this, zero, zero ? heads_ * per_head : 0);
    pack_affine(home_->queue, c.data(), s.data(), zero ? z.data() : nullptr, target(), rows,
                heads_);
    finish(rows);
  }
  void dense(DType dtype, int64_t batch, int64_t rows, int64_t columns, const float* x) override {
    accept(batch, rows, columns);
    if (stored_ == Stored::affine || (stored_ == Stored::dense && dense_dtype_ != dtype))
      throw mixed_formats();
    stored_ = Stored::dense;
    dense_dtype_ = dtype;
    grow(rows);
    const Staged<float> values(*this, x, heads_ * rows * dim_);
    store_rows(home_->queue, values.data(), dense_view(), rows_, rows, heads_, dim_);
    finish(rows);
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

  // Bytes of codes, scales and zero points: the formula of AffineRows::bytes().
  uint64_t bytes() const {
    if (stored_ == Stored::nothing) return 0;
    if (stored_ == Stored::dense)
      return uint64_t(heads_ * rows_ * dim_ * dtype_bytes(dense_dtype_));
    const int64_t n = groups_of(rows_);
    int64_t per_head = rows_ * row_bytes() + 2 * n;
    if (format_.grid == Grid::min)
      per_head += 2 * n;
    else if (grid_has_zero(format_.grid))
      per_head += packed_bytes(n, format_.bits);
    return uint64_t(heads_ * per_head);
  }
  uint64_t allocated() const {
    return uint64_t(codes_.size() + 2 * scales_.size() + zeros_.size());
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

  void accept(int64_t batch, int64_t rows, int64_t columns) {
    if (filled_)
      throw Error(ExitCode::cells_failed, "the encoding was filled twice", where_,
                  "call exactly one function of ptq.encode/1 per block");
    if (batch != heads_ || rows != expected_ || columns != dim_)
      throw Error(ExitCode::cells_failed,
                  "encoding of shape [" + std::to_string(batch) + ", " + std::to_string(rows) +
                      ", " + std::to_string(columns) + "], expected [" + std::to_string(heads_) +
                      ", " + std::to_string(expected_) + ", " + std::to_string(dim_) + "]",
                  where_);
    filled_ = true;
  }
  Error mixed_formats() const {
    return Error(ExitCode::cells_failed, "blocks of one layer and side in different formats",
                 where_, "a method uses one encoding for all blocks of a layer and side");
  }

  // Takes over the format of the first block and makes room.
  void prepare(AffineFormat f, int64_t rows) {
    // Groups over a whole block of rows are spelled out: one call may bring several blocks.
    if (f.axis == 0 && (f.group_size == 0 || f.group_size > block_)) f.group_size = block_;
    check_format(f, where_);
    if (f.axis == 0 && block_ % f.group_size != 0)
      throw usage_error(
          "a block of " + std::to_string(block_) +
              " rows is not a multiple of group_size = " + std::to_string(f.group_size),
          where_, "choose a residual length that is a multiple of the group size");
    if (stored_ == Stored::dense || (stored_ == Stored::affine && !(format_ == f)))
      throw mixed_formats();
    stored_ = Stored::affine;
    format_ = f;
    group_ = f.axis == 1 && (f.group_size == 0 || f.group_size > dim_) ? dim_ : f.group_size;
    groups_ = f.axis == 1 ? ceil_div(dim_, group_) : 0;
    grow(rows);
  }
  void finish(int64_t rows) { rows_ += rows; }
  AffineTarget target() const { return {affine_view(), rows_}; }

  int64_t row_bytes() const {
    return stored_ == Stored::dense ? dim_ * dtype_bytes(dense_dtype_)
                                    : packed_bytes(dim_, format_.bits);
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
    const auto bigger = [&](auto& memory, int64_t per_head, int64_t old_per_head, bool clear) {
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
                          size_t(old_per_head) * sizeof(V), cudaMemcpyDeviceToDevice);
      memory = std::move(fresh);
    };
    bigger(codes_, capacity_ * row_bytes(), old * row_bytes(), false);
    if (stored_ == Stored::affine) {
      bigger(scales_, groups_of(capacity_), groups_of(old), false);
      bigger(zeros_, zero_bytes(capacity_), zero_bytes(old), format_.grid != Grid::min);
    }
  }

  CacheHome* home_;
  int64_t heads_, dim_, block_, first_, rows_ = 0, capacity_ = 0, expected_ = 0;
  std::string where_;
  bool filled_ = true, on_device_ = false;
  Stored stored_ = Stored::nothing;
  AffineFormat format_;
  DType dense_dtype_ = DType::f16;
  int64_t group_ = 1, groups_ = 0;
  Memory<uint8_t> codes_;    // [heads, capacity, row_bytes]
  Memory<uint16_t> scales_;  // [heads, groups]
  Memory<uint8_t> zeros_;    // [heads, zero_bytes]
};

// One side of one layer.
class KvRows {
 public:
  KvRows(CacheHome& home, int64_t kv_heads, int64_t head_dim, KvSide side, int layer,
         KvMethod* method, DType dense)
      : home_(&home),
        heads_(kv_heads),
        dim_(head_dim),
        side_(side),
        layer_(layer),
        method_(method),
        policy_(method ? method->policy(side) : KvPolicy{}),
        where_("layer " + std::to_string(layer) + (side == KvSide::keys ? ", keys" : ", values")),
        sinks_(home, dense, kv_heads * head_dim),
        tail_(home, dense, kv_heads * head_dim),
        encoded_(home, kv_heads, head_dim, policy_.block, policy_.sink, where_),
        tail_begin_(policy_.sink) {
    const char* missing = policy_.pre_rope && side == KvSide::keys ? "keys before rotation"
                          : policy_.hadamard                       ? "a Hadamard rotation"
                          : policy_.evicts                         ? "eviction"
                          : policy_.rewrites                       ? "rewritten blocks"
                                                                   : nullptr;
    if (missing)
      throw Error(ExitCode::cells_failed,
                  std::string("this method's cache uses ") + missing +
                      ", which the CUDA engine does not have yet",
                  where_, "--device cpu runs it");
  }

  const KvPolicy& policy() const { return policy_; }
  // First dense position once the cache has settled at a length, and for a query with t tokens
  // before it.
  int64_t held(int64_t length) const {
    return policy_.sink + (method_ ? policy_.encoded(length) : 0);
  }
  int64_t boundary(int64_t t) const { return held(policy_.current ? t + 1 : t); }
  int64_t sink() const { return policy_.sink; }
  const EncodedRows& encoded() const { return encoded_; }

  // Room for n more rows, before the pass that appends them.
  void reserve(int64_t n) {
    const int64_t to_sink = std::min(n, std::max<int64_t>(0, policy_.sink - length_));
    if (to_sink > 0) sinks_.reserve(to_sink);
    if (n > to_sink) tail_.reserve(n - to_sink);
  }
  // n rows are about to be written by append_rows.
  void extend(int64_t n) {
    const int64_t to_sink = std::min(n, std::max<int64_t>(0, policy_.sink - length_));
    sinks_.extend(to_sink);
    tail_.extend(n - to_sink);
    length_ += n;
  }

  // What queries read. fixed: the boundary of all of them, or -1 for the policy's.
  SideView view(int64_t fixed) const {
    SideView v;
    v.sinks = sinks_.view(0, dim_);
    v.tail = tail_.view(tail_begin_, dim_);
    v.stored = encoded_.stored();
    if (v.stored == Stored::affine) v.affine = encoded_.affine_view();
    if (v.stored == Stored::dense) v.dense = encoded_.dense_view();
    v.policy = policy_;
    v.fixed = method_ ? fixed : policy_.sink;
    return v;
  }

  // Encodes the rows below held(length). Their dense copies stay for the queries of the current
  // pass that came before the boundary moved; release() drops them.
  void encode() {
    const int64_t begin = policy_.sink + encoded_.rows(), end = held(length_);
    if (end <= begin) return;
    const int64_t n = end - begin, size = heads_ * n * dim_;
    const Memory<float> x(home_->arena, Region::workspace, size);
    read_rows(home_->queue, view(-1), begin, n, heads_, dim_, x.data(),
              home_->not_finite + layer_ * 2 + int(side_));
    const bool on_device = method_->on_cuda();
    encoded_.expect(n, on_device);
    if (on_device) {
      method_->encode_on(home_->place, side_, layer_, begin, n, x.data(), encoded_);
    } else {
      std::vector<float> host(static_cast<size_t>(size));
      home_->queue.copy(host.data(), x.data(), host.size() * 4, cudaMemcpyDeviceToHost);
      home_->queue.synchronize();
      for (size_t i = 0; i < host.size(); ++i)
        if (!std::isfinite(host[i])) throw not_finite(begin + int64_t(i) / dim_ % n);
      method_->encode(side_, layer_, begin, n, host.data(), encoded_);
    }
    if (!encoded_.filled())
      throw Error(ExitCode::cells_failed, "the method returned without an encoding", where_,
                  "call one function of ptq.encode/1 for every block");
  }

  // Drops the dense rows that have an encoding.
  void release() {
    const int64_t begin = policy_.sink + encoded_.rows();
    if (begin <= tail_begin_) return;
    tail_.drop_front(begin - tail_begin_);
    tail_begin_ = begin;
  }

  void add_bytes(CacheBytes& sum) const {
    sum.encoded += encoded_.bytes();
    sum.window += tail_.bytes();
    sum.sink += sinks_.bytes();
    sum.reserved += encoded_.allocated() + tail_.allocated() + sinks_.allocated() -
                    encoded_.bytes() - tail_.bytes() - sinks_.bytes();
    sum.scalars += length_ * heads_ * dim_;
    if (encoded_.stored() == Stored::dense) sum.encoded_is_dense = true;
  }
  int64_t length() const { return length_; }

 private:
  Error not_finite(int64_t position) const {
    return Error(ExitCode::cells_failed, "a number to be cached is not finite",
                 where_ + ", position " + std::to_string(position),
                 "the model overflows the cache's number format here");
  }

  CacheHome* home_;
  int64_t heads_, dim_;
  KvSide side_;
  int layer_;
  KvMethod* method_;
  KvPolicy policy_;
  std::string where_;
  GrowingRows sinks_, tail_;
  EncodedRows encoded_;
  int64_t tail_begin_ = 0, length_ = 0;
};

struct KvLayer {
  KvRows keys, values;
  KvLayer(CacheHome& home, int64_t kv_heads, int64_t head_dim, int layer, KvMethod* method,
          DType dense)
      : keys(home, kv_heads, head_dim, KvSide::keys, layer, method, dense),
        values(home, kv_heads, head_dim, KvSide::values, layer, method, dense) {}
};

// The cache of one sequence.
class KvCache {
 public:
  KvCache(CacheHome& home, const ModelConfig& c, KvMethod* method, DType dense) {
    layers_.reserve(size_t(c.num_hidden_layers));
    for (int l = 0; l < int(c.num_hidden_layers); ++l)
      layers_.emplace_back(home, c.num_key_value_heads, c.head_dim, l, method, dense);
  }
  KvLayer& layer(int64_t l) { return layers_[size_t(l)]; }
  bool step_by_step() const { return false; }
  int64_t length() const { return layers_.empty() ? 0 : layers_[0].keys.length(); }
  void reserve(int64_t n) {
    for (KvLayer& layer : layers_) {
      layer.keys.reserve(n);
      layer.values.reserve(n);
    }
  }
  CacheBytes bytes() const {
    CacheBytes sum;
    for (const KvLayer& layer : layers_) {
      layer.keys.add_bytes(sum);
      layer.values.add_bytes(sum);
    }
    sum.tokens = length();
    return sum;
  }

 private:
  std::vector<KvLayer> layers_;
};

}  // namespace ptq::cuda
