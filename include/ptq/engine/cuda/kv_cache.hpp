// The KV cache on the device: the rules of engine/cpu/kv_cache.hpp, the storage in device memory.
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
    if (policy_.rewrites)
      throw Error(ExitCode::cells_failed, "this method's cache rewrites its blocks", where_,
                  "the CUDA engine does not; --device cpu runs it");
    if (policy_.hadamard && (head_dim & (head_dim - 1)) != 0)
      throw usage_error("a Hadamard rotation of " + std::to_string(head_dim) + " channels", where_,
                        "head_dim must be a power of two; switch the rotation off");
    if (pre_rope() && head_dim % 16 != 0)
      throw usage_error("keys before rotation with head_dim " + std::to_string(head_dim), where_,
                        "the CUDA engine takes multiples of 16; --device cpu takes all");
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
  // Are rows given before their rotation, and rotated when they are read?
  bool pre_rope() const { return policy_.pre_rope && side_ == KvSide::keys; }
  bool plain() const { return !pre_rope() && view(-1).plain(); }

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
    encoded_.describe(v);
    v.policy = policy_;
    if (pre_rope()) {
      v.cosine = home_->cosine;
      v.sine = home_->sine;
      if (policy_.evicts) v.shift = tail_begin_ - policy_.sink;
    }
    v.fixed = method_ ? fixed : policy_.sink;
    return v;
  }

  // Encodes the rows below held(length). Their dense copies stay for the queries of the current
  // pass that came before the boundary moved; release() drops them.
  void encode() {
    if (policy_.evicts) return;
    const int64_t begin = policy_.sink + encoded_.rows(), end = held(length_);
    if (end <= begin) return;
    const int64_t n = end - begin, size = heads_ * n * dim_;
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
    if (!encoded_.filled())
      throw Error(ExitCode::cells_failed, "the method returned without an encoding", where_,
                  "call one function of ptq.encode/1 for every block");
  }

  // Drops the dense rows that have an encoding, or are evicted.
  void release() {
    const int64_t begin = policy_.evicts ? held(length_) : policy_.sink + encoded_.rows();
    if (begin <= tail_begin_) return;
    tail_.drop_front(begin - tail_begin_);
    tail_begin_ = begin;
    if (home_->queue.mode() == Queue::Mode::eager) tail_.shrink();
  }

  void add_bytes(CacheBytes& sum) const {
    if (encoded_.bytes() > 0)
      sum.encoded_is_dense = encoded_.is_dense() && (sum.encoded_is_dense || sum.encoded == 0);
    sum.encoded += encoded_.bytes();
    sum.window += tail_.bytes();
    sum.sink += sinks_.bytes();
    sum.reserved += encoded_.allocated() + tail_.allocated() + sinks_.allocated() -
                    encoded_.bytes() - tail_.bytes() - sinks_.bytes();
    sum.scalars += length_ * heads_ * dim_;
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
  KvCache(CacheHome& home, const ModelConfig& c, KvMethod* method, DType dense) : home_(&home) {
    layers_.reserve(size_t(c.num_hidden_layers));
    for (int l = 0; l < int(c.num_hidden_layers); ++l)
      layers_.emplace_back(home, c.num_key_value_heads, c.head_dim, l, method, dense);
  }
  KvLayer& layer(int64_t l) { return layers_[size_t(l)]; }
  bool step_by_step() const { return !layers_.empty() && layers_[0].keys.policy().step_by_step(); }
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
  CacheHome* home_;
  std::vector<KvLayer> layers_;
};

}  // namespace ptq::cuda
