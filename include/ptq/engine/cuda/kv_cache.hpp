// The KV cache on the device: the rules of engine/pass/cache_rules.hpp, the storage in device
// memory.
//
// Dense rows lie [rows, kv_heads * head_dim], encoded rows as encoded_rows.hpp says. Buffers grow
// between passes; what kernels see of them is a SideView, written anew for every pass.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "ptq/engine/cuda/cache_memory.hpp"
#include "ptq/engine/cuda/encoded_rows.hpp"
#include "ptq/engine/cuda/kernels/kv_rows.cuh"
#include "ptq/engine/pass/cache_rules.hpp"
#include "ptq/model/anatomy.hpp"

namespace ptq::cuda {

// Dense rows.
class GrowingRows {
 public:
  GrowingRows(CacheHome& home, DType dtype, int64_t columns)
      : memory_(home), dtype_(dtype), columns_(columns), row_bytes_(columns * dtype_bytes(dtype)) {}

  uint64_t bytes() const { return memory_.bytes(); }
  uint64_t allocated() const { return memory_.allocated(); }
  void reserve(int64_t n) { memory_.reserve(n * row_bytes_); }
  void extend(int64_t n) { memory_.extend(n * row_bytes_); }
  void drop_front(int64_t n) { memory_.drop_front(n * row_bytes_); }
  void shrink() { memory_.shrink(); }
  // first: absolute position of the first row; heads of `dim` columns.
  DenseView view(int64_t first, int64_t dim) const {
    return {memory_.data(), dtype_, first, columns_, dim};
  }

 private:
  Growing memory_;
  DType dtype_;
  int64_t columns_, row_bytes_;
};

// One side of one layer.
class KvRows : public CacheRules {
 public:
  KvRows(CacheHome& home, int64_t kv_heads, int64_t head_dim, KvSide side, int layer,
         KvMethod* method, DType dense)
      : CacheRules(side, layer, head_dim, method),
        home_(&home),
        heads_(kv_heads),
        dim_(head_dim),
        sinks_(home, dense, kv_heads * head_dim),
        tail_(home, dense, kv_heads * head_dim),
        encoded_(home, kv_heads, head_dim, policy_.block, policy_.sink, where_),
        tail_begin_(policy_.sink) {
    if (policy_.rewrites)
      throw Error(ExitCode::cells_failed, "this method's cache rewrites its blocks", where_,
                  "the CUDA engine does not; --device cpu runs it");
    if (pre_rope() && head_dim % 16 != 0)
      throw usage_error("keys before rotation with head_dim " + std::to_string(head_dim), where_,
                        "the CUDA engine takes multiples of 16; --device cpu takes all");
  }

  const EncodedRows& encoded() const { return encoded_; }
  bool plain() const { return !pre_rope() && view(-1).plain(); }

  // Room for n more rows, before the pass that appends them.
  void reserve(int64_t n) {
    const int64_t to_sink = sinks_of(length_, n);
    if (to_sink > 0) sinks_.reserve(to_sink);
    if (n > to_sink) tail_.reserve(n - to_sink);
  }
  // n rows are about to be written by append_rows.
  void extend(int64_t n) {
    const int64_t to_sink = sinks_of(length_, n);
    sinks_.extend(to_sink);
    tail_.extend(n - to_sink);
    length_ += n;
  }

  // n rows of a layer without heads: they are counted and nothing is stored.
  void pass_over(int64_t n) { length_ += n; }

  // What queries read. fixed: the boundary of all of them, or -1 for the policy's.
  SideView view(int64_t fixed) const {
    SideView v;
    v.sinks = sinks_.view(0, dim_);
    v.tail = tail_.view(tail_begin_, dim_);
    encoded_.describe(v);
    v.policy = policy_;
    if (pre_rope()) {
      v.cosine = home_->cosine;
      v.sine = home_->sine;
      // Of the newest query: without a fixed boundary a pass of such a cache has no other.
      if (policy_.evicts)
        v.shift = std::max<int64_t>(0, (fixed >= 0 ? fixed : boundary(length_ - 1)) - policy_.sink);
    }
    v.fixed = method_ ? fixed : policy_.sink;
    return v;
  }

  // Encodes the rows that are due. Their dense copies stay for the queries of the current pass that
  // came before the boundary moved; release() drops them.
  void encode() {
    const Block block = due(encoded_.rows(), length_);
    if (block.empty()) return;
    const int64_t begin = block.first, n = block.rows(), size = heads_ * n * dim_;
    const Memory<float> x(home_->arena, Region::workspace, size);
    const bool on_device = method_->on_cuda();
    read_rows(home_->queue, view(-1), begin, n, heads_, dim_, x.data(),
              on_device ? home_->not_finite + layer_ * 2 + int(side_) : nullptr);
    if (policy_.hadamard) hadamard_rows(home_->queue, x.data(), heads_ * n, dim_);
    encoded_.expect(n, on_device);
    if (on_device) {
      home_->unchecked = true;
      method_->encode_on(home_->place, side_, layer_, begin, n, x.data(), encoded_);
    } else {
      std::vector<float> host(static_cast<size_t>(size));
      home_->queue.copy(host.data(), x.data(), host.size() * 4, cudaMemcpyDeviceToHost);
      home_->queue.synchronize();
      for (size_t i = 0; i < host.size(); ++i)
        if (!std::isfinite(host[i])) throw not_finite(begin + int64_t(i) / dim_ % n);
      method_->encode(side_, layer_, begin, n, host.data(), encoded_);
    }
    require_filled(encoded_);
  }

  // Drops the dense rows that have an encoding, or are evicted.
  void release() {
    const int64_t begin = kept_from(encoded_.rows(), length_);
    if (begin <= tail_begin_) return;
    tail_.drop_front(begin - tail_begin_);
    tail_begin_ = begin;
    if (home_->queue.mode() == Queue::Mode::eager) tail_.shrink();
  }

  void add_bytes(CacheBytes& sum) const {
    ptq::add_bytes(sum, encoded_, encoded_.is_dense(), sinks_, tail_, length_ * heads_ * dim_);
  }
  int64_t length() const { return length_; }

 private:
  CacheHome* home_;
  int64_t heads_, dim_;
  GrowingRows sinks_, tail_;
  EncodedRows encoded_;
  int64_t tail_begin_ = 0, length_ = 0;  // tail_: positions [tail_begin_, length)
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
  KvCache(CacheHome& home, const Anatomy& anatomy, KvMethod* method, DType dense) : home_(&home) {
    layers_.reserve(anatomy.layers.size());
    for (const LayerPlan& layer : anatomy.layers)
      layers_.emplace_back(home, layer.shape.kv_heads, layer.shape.head_dim, int(layers_.size()),
                           method, dense);
  }
  KvLayer& layer(int64_t l) { return layers_[size_t(l)]; }
  bool step_by_step() const { return ptq::step_by_step(layers_); }
  int64_t length() const { return layers_.empty() ? 0 : layers_[0].keys.length(); }
  // n rows are to come in the next pass.
  void reserve(int64_t n) {
    ComingPass& coming = home_->coming;
    ++coming.sequences;
    for (KvLayer& layer : layers_) {
      layer.keys.reserve(n);
      layer.values.reserve(n);
      coming.plain = coming.plain && layer.keys.plain() && layer.values.plain();
    }
  }
  CacheBytes bytes() const { return cache_bytes(layers_, length()); }

 private:
  CacheHome* home_;
  std::vector<KvLayer> layers_;
};

}  // namespace ptq::cuda
