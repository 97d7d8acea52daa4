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
#include "ptq/engine/engine.hpp"
#include "ptq/engine/pass/rotary.hpp"

namespace ptq {

// One side of one layer.
class KvRows final : public RowSource {
 public:
  // rotary: of this cache; used for keys of a policy with pre_rope, must outlive the rows.
  KvRows(int64_t kv_heads, int64_t head_dim, KvSide side, int layer, KvMethod* method, DType dense,
         Rotary* rotary)
      : heads_(kv_heads),
        dim_(head_dim),
        side_(side),
        layer_(layer),
        method_(method),
        policy_(method ? method->policy(side) : KvPolicy{}),
        where_("layer " + std::to_string(layer) + (side == KvSide::keys ? ", keys" : ", values")),
        rotary_(policy_.pre_rope && side == KvSide::keys ? rotary : nullptr),
        sinks_(dense, kv_heads * head_dim),
        tail_(dense, kv_heads * head_dim),
        encoded_(empty(policy_.block)),
        tail_begin_(policy_.sink) {
    if (policy_.hadamard && (head_dim & (head_dim - 1)) != 0)
      throw usage_error("a Hadamard rotation of " + std::to_string(head_dim) + " channels", where_,
                        "head_dim must be a power of two; switch the rotation off");
  }

  int64_t length() const { return length_; }
  const KvPolicy& policy() const { return policy_; }
  // Are rows given to append() before their rotation, and rotated when they are read?
  bool pre_rope() const { return rotary_ != nullptr; }

  // First position that a query with t tokens before it reads dense (the sinks apart).
  int64_t boundary(int64_t t) const { return held(policy_.current ? t + 1 : t); }
  // First position that is dense once the cache has settled at a length.
  int64_t held(int64_t length) const {
    return policy_.sink + (method_ ? policy_.encoded(length) : 0);
  }
  int64_t sink() const { return policy_.sink; }
  const EncodedRows& encoded() const { return encoded_; }
  EncodedRows& encoded() { return encoded_; }

  // Appends n rows [n, kv_heads * head_dim].
  void append(const float* x, int64_t n) {
    const int64_t to_sink = std::min(n, std::max<int64_t>(0, policy_.sink - length_));
    sinks_.append(x, to_sink);
    tail_.append(x + to_sink * heads_ * dim_, n - to_sink);
    length_ += n;
    if (rotary_) rotary_->extend(length_);
  }

  // Encodes the rows below held(length()). Their dense copies stay for the queries of the current
  // pass that came before the boundary moved; release() frees them.
  void encode() {
    if (policy_.evicts) return;
    const int64_t begin = policy_.sink + encoded_.rows(), end = held(length_);
    if (end <= begin) return;
    const int64_t first = policy_.rewrites ? policy_.sink : begin, n = end - first;
    std::vector<float> x(size_t(heads_ * n * dim_));  // [kv_heads, n, head_dim]
    for (int64_t h = 0; h < heads_; ++h) {
      float* rows = x.data() + h * n * dim_;
      if (first < begin) encoded_.decode(h, first, begin, rows, dim_);
      stored(h, begin, end, rows + (begin - first) * dim_, dim_);
    }
    for (size_t i = 0; i < x.size(); ++i)
      if (!std::isfinite(x[i]))
        throw Error(ExitCode::cells_failed, "a number to be cached is not finite",
                    where_ + ", position " + std::to_string(first + int64_t(i) / dim_ % n),
                    "the model overflows the cache's number format here");
    if (policy_.hadamard)
      for (int64_t r = 0; r < heads_ * n; ++r) hadamard(x.data() + r * dim_, dim_);
    if (policy_.rewrites) encoded_ = empty(n);
    encoded_.expect(n);
    method_->encode(side_, layer_, first, n, x.data(), encoded_);
    if (!encoded_.filled())
      throw Error(ExitCode::cells_failed, "the method returned without an encoding", where_,
                  "call one function that fills it for every block");
    verbatim_ = verbatim_ && encoded_.is_dense() && holds(first, n, x);
  }

  // Frees the dense rows that have an encoding, or are evicted.
  void release() {
    const int64_t begin = policy_.evicts ? held(length_) : policy_.sink + encoded_.rows();
    if (begin <= tail_begin_) return;
    tail_.drop_front(begin - tail_begin_);
    tail_begin_ = begin;
    if (tail_.allocated() > 2 * tail_.bytes() + 65536) tail_.shrink();
  }

  // Dense rows: sinks, and everything from the last release()d boundary on.
  void read(int64_t head, int64_t begin, int64_t end, float* out, int64_t stride) const override {
    stored(head, begin, end, out, stride);
    if (!rotary_) return;
    // Positions count inside what eviction left: the sinks move up to the window. Only differences
    // of positions matter, so the window and the queries keep theirs.
    const int64_t sinks = std::clamp(policy_.sink, begin, end);
    const int64_t shift = policy_.evicts ? tail_begin_ - policy_.sink : 0;
    rotary_->rotate(begin + shift, sinks + shift, out, stride);
    rotary_->rotate(sinks, end, out + (sinks - begin) * stride, stride);
  }

  void add_bytes(CacheBytes& sum) const {
    if (encoded_.bytes() > 0)
      sum.encoded_is_dense = verbatim_ && (sum.encoded_is_dense || sum.encoded == 0);
    sum.encoded += encoded_.bytes();
    sum.window += tail_.bytes();
    sum.sink += sinks_.bytes();
    sum.reserved += encoded_.allocated() + tail_.allocated() + sinks_.allocated() -
                    encoded_.bytes() - tail_.bytes() - sinks_.bytes();
    sum.scalars += length_ * heads_ * dim_;
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
    for (int64_t r = begin; r < end; ++r, out += stride) {
      const bool in_sink = r < policy_.sink;
      const DenseRows& rows = in_sink ? sinks_ : tail_;
      rows.decode_part(in_sink ? r : r - tail_begin_, head * dim_, dim_, out);
    }
  }

  int64_t heads_, dim_;
  KvSide side_;
  int layer_;
  KvMethod* method_;  // nullptr: every row stays dense
  KvPolicy policy_;
  std::string where_;
  Rotary* rotary_;       // nullptr: rows are read as they are stored
  DenseRows sinks_;      // positions [0, sink)
  DenseRows tail_;       // positions [tail_begin_, length)
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
  KvCache(const ModelConfig& c, KvMethod* method, DType dense = DType::f16)
      : rotary_(std::make_shared<Rotary>(rope_of(c), dense == DType::bf16)) {
    layers_.reserve(size_t(c.num_hidden_layers));
    for (int l = 0; l < int(c.num_hidden_layers); ++l)
      layers_.emplace_back(c.num_key_value_heads, c.head_dim, l, method, dense, rotary_.get());
  }
  KvLayer& layer(int64_t l) { return layers_[size_t(l)]; }
  void reserve(int64_t) {}  // rows to come; the containers grow by themselves
  int64_t length() const { return layers_.empty() ? 0 : layers_[0].keys.length(); }
  // Must tokens be streamed one at a time? (KvPolicy)
  bool step_by_step() const {
    return !layers_.empty() &&
           (layers_[0].keys.policy().step_by_step() || layers_[0].values.policy().step_by_step());
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
  std::shared_ptr<Rotary> rotary_;  // the rows point to it, those of copies too
  std::vector<KvLayer> layers_;
};

}  // namespace ptq
