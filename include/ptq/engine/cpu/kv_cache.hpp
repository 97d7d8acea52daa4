// The KV cache: `sink` first rows dense, encoded blocks, a dense tail. There is no other copy.
//
// KIVI, KVQuant and FORGE are settings of this one mechanism. Rows enter as float16; when the
// policy says so, whole blocks go through the method's encoder and their dense rows are freed.
// Keys are stored as the policy says: rotated, or (pre_rope) as they come from k_proj, dense rows
// too, and rotated by their position whenever they are read.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "ptq/core/dtype.hpp"
#include "ptq/core/error.hpp"
#include "ptq/encoding/dense.hpp"
#include "ptq/encoding/hadamard.hpp"
#include "ptq/engine/cpu/encoded_rows.hpp"
#include "ptq/engine/pass/cache_rules.hpp"
#include "ptq/engine/pass/rotary.hpp"
#include "ptq/model/anatomy.hpp"

namespace ptq {

// Dense rows, those of a head one behind the other: what attention reads of one head has no gaps,
// or the processor would not fetch ahead.
class HeadRows {
 public:
  HeadRows(DType dtype, int64_t heads, int64_t dim)
      : dim_(dim), rows_(size_t(heads), DenseRows(dtype, dim)) {}

  // x [n, heads * dim].
  void append(const float* x, int64_t n) {
    for (size_t h = 0; h < rows_.size(); ++h)
      rows_[h].append(x + int64_t(h) * dim_, n, int64_t(rows_.size()) * dim_);
  }
  // Rows [begin, end) of a head to out [end - begin, stride].
  void decode(int64_t head, int64_t begin, int64_t end, float* out, int64_t stride) const {
    rows_[size_t(head)].decode(begin, end, out, stride);
  }
  // Removes the first n rows of every head.
  void drop_front(int64_t n) {
    for (DenseRows& rows : rows_) rows.drop_front(n);
  }
  void shrink() {
    for (DenseRows& rows : rows_) rows.shrink();
  }
  uint64_t bytes() const { return sum(&DenseRows::bytes); }
  uint64_t allocated() const { return sum(&DenseRows::allocated); }

 private:
  uint64_t sum(uint64_t (DenseRows::*of)() const) const {
    uint64_t all = 0;
    for (const DenseRows& rows : rows_) all += (rows.*of)();
    return all;
  }

  int64_t dim_;
  std::vector<DenseRows> rows_;
};

// One side of one layer.
class KvRows final : public RowSource, public CacheRules {
 public:
  // rotary: of this cache; used for keys of a policy with pre_rope, must outlive the rows.
  KvRows(int64_t kv_heads, int64_t head_dim, KvSide side, int layer, KvMethod* method, DType dense,
         Rotary* rotary)
      : CacheRules(side, layer, head_dim, method),
        heads_(kv_heads),
        dim_(head_dim),
        rotary_(pre_rope() ? rotary : nullptr),
        sinks_(dense, kv_heads, head_dim),
        tail_(dense, kv_heads, head_dim),
        encoded_(empty(policy_.block)),
        tail_begin_(policy_.sink) {}

  int64_t length() const { return length_; }
  const EncodedRows& encoded() const { return encoded_; }
  EncodedRows& encoded() { return encoded_; }

  // Appends n rows [n, kv_heads * head_dim].
  void append(const float* x, int64_t n) {
    const int64_t to_sink = sinks_of(length_, n);
    sinks_.append(x, to_sink);
    tail_.append(x + to_sink * heads_ * dim_, n - to_sink);
    length_ += n;
    if (rotary_) rotary_->extend(length_);
  }

  // n rows of a layer without heads: they are counted and nothing is stored.
  void pass_over(int64_t n) { length_ += n; }

  // Encodes the rows that are due. Their dense copies stay for the queries of the current pass that
  // came before the boundary moved; release() frees them.
  void encode() {
    const Block block = due(encoded_.rows(), length_);
    if (block.empty()) return;
    const auto [first, begin, end] = block;
    const int64_t n = block.rows();
    std::vector<float> x(size_t(heads_ * n * dim_));  // [kv_heads, n, head_dim]
    for (int64_t h = 0; h < heads_; ++h) {
      float* rows = x.data() + h * n * dim_;
      if (first < begin) encoded_.decode(h, first, begin, rows, dim_);
      stored(h, begin, end, rows + (begin - first) * dim_, dim_);
    }
    for (size_t i = 0; i < x.size(); ++i)
      if (!std::isfinite(x[i])) throw not_finite(first + int64_t(i) / dim_ % n);
    if (policy_.hadamard)
      for (int64_t r = 0; r < heads_ * n; ++r) hadamard(x.data() + r * dim_, dim_);
    if (policy_.rewrites) encoded_ = empty(n);
    encoded_.expect(n);
    method_->encode(side_, layer_, first, n, x.data(), encoded_);
    require_filled(encoded_);
    verbatim_ = verbatim_ && encoded_.is_dense() && holds(first, n, x);
  }

  // Frees the dense rows that have an encoding, or are evicted.
  void release() {
    const int64_t begin = kept_from(encoded_.rows(), length_);
    if (begin <= tail_begin_) return;
    tail_.drop_front(begin - tail_begin_);
    tail_begin_ = begin;
    if (tail_.allocated() > 2 * tail_.bytes() + 65536) tail_.shrink();
  }

  // Dense rows: sinks, and everything from the last release()d boundary on.
  void read(int64_t head, int64_t begin, int64_t end, float* out, int64_t stride) const override {
    stored(head, begin, end, out, stride);
    if (rotary_) rotary_->rotate(begin, end, out, stride);
  }
  // Positions count inside what eviction left: for a query the sinks move up to its window, which
  // is the query turned back to them. nullptr: nothing moves.
  const Rotary* moves_sinks() const { return policy_.evicts ? rotary_ : nullptr; }

  void add_bytes(CacheBytes& sum) const {
    ptq::add_bytes(sum, encoded_, verbatim_, sinks_, tail_, length_ * heads_ * dim_);
  }

 private:
  // Are the rows from `first` on those of x [kv_heads, n, head_dim], at most rounded to float16?
  bool holds(int64_t first, int64_t n, const std::vector<float>& x) const {
    std::vector<float> row(static_cast<size_t>(dim_));
    for (int64_t i = 0; i < heads_ * n; ++i) {
      encoded_.decode(i / n, first + i % n, first + i % n + 1, row.data(), dim_);
      const float* from = x.data() + i * dim_;
      for (size_t c = 0; c < row.size(); ++c)
        if (row[c] != from[c] && row[c] != f16_to_float(float_to_f16(from[c]))) return false;
    }
    return true;
  }
  EncodedRows empty(int64_t block) const {
    return EncodedRows(heads_, dim_, block, policy_.sink, where_, rotary_, policy_.hadamard);
  }
  // Dense rows as they are stored.
  void stored(int64_t head, int64_t begin, int64_t end, float* out, int64_t stride) const {
    const int64_t sinks = std::clamp(policy_.sink, begin, end);
    sinks_.decode(head, begin, sinks, out, stride);
    tail_.decode(head, sinks - tail_begin_, end - tail_begin_, out + (sinks - begin) * stride,
                 stride);
  }

  int64_t heads_, dim_;
  Rotary* rotary_;       // nullptr: rows are read as they are stored
  HeadRows sinks_;       // positions [0, sink)
  HeadRows tail_;        // positions [tail_begin_, length)
  EncodedRows encoded_;  // positions [sink, sink + encoded_.rows())
  int64_t tail_begin_ = 0, length_ = 0;
  bool verbatim_ = true;  // what is encoded is the dense rows themselves
};

// Keys and values of one layer.
struct KvLayer {
  KvRows keys, values;
  KvLayer(int64_t kv_heads, int64_t head_dim, int layer, KvMethod* method, DType dense,
          Rotary* rotary)
      : keys(kv_heads, head_dim, KvSide::keys, layer, method, dense, rotary),
        values(kv_heads, head_dim, KvSide::values, layer, method, dense, rotary) {}
};

// The cache of one sequence.
class KvCache {
 public:
  // dense: the dtype of rows that are not encoded; float16 but in tests of the mechanism itself.
  // rotary: the device's table of angles.
  KvCache(const Anatomy& anatomy, KvMethod* method, DType dense, std::shared_ptr<Rotary> rotary)
      : rotary_(std::move(rotary)) {
    layers_.reserve(anatomy.layers.size());
    for (const LayerPlan& layer : anatomy.layers)
      layers_.emplace_back(layer.shape.kv_heads, layer.shape.head_dim, int(layers_.size()), method,
                           dense, rotary_.get());
  }
  KvLayer& layer(int64_t l) { return layers_[size_t(l)]; }
  void reserve(int64_t) {}  // rows to come; the containers grow by themselves
  int64_t length() const { return layers_.empty() ? 0 : layers_[0].keys.length(); }
  // Rows that a step rewrites; what eviction leaves to a query, it sees in any pass.
  bool step_by_step() const {
    return !layers_.empty() &&
           (layers_[0].keys.policy().rewrites || layers_[0].values.policy().rewrites);
  }
  CacheBytes bytes() const { return cache_bytes(layers_, length()); }

 private:
  std::shared_ptr<Rotary> rotary_;  // the rows point to it, those of copies too
  std::vector<KvLayer> layers_;
};

}  // namespace ptq
