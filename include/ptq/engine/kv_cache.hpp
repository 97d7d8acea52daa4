// The KV cache: `sink` first rows dense, encoded blocks, a dense tail. There is no other copy.
//
// KIVI, KVQuant and FORGE are settings of this one mechanism. Rows enter as float16; when the
// policy says so, whole blocks go through the method's encoder and their dense rows are freed.
#pragma once

#include <cmath>
#include <limits>
#include <string>
#include <variant>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/encoding/affine.hpp"
#include "ptq/encoding/dense.hpp"
#include "ptq/engine/engine.hpp"

namespace ptq {

// Where attention takes rows from: keys or values of one layer, dense or encoded.
class RowSource {
 public:
  virtual ~RowSource() = default;
  // Rows [begin, end) (absolute positions) of one kv head to out [end - begin, stride], head_dim
  // numbers each.
  virtual void read(int64_t head, int64_t begin, int64_t end, float* out, int64_t stride) const = 0;
};

// The encoded rows of one layer and side: per kv head one growing matrix [rows, head_dim].
class EncodedRows final : public RowSource, public RowSink {
 public:
  EncodedRows(int64_t kv_heads, int64_t head_dim, int64_t block, int64_t first, std::string where)
      : heads_(kv_heads), dim_(head_dim), block_(block), first_(first), where_(std::move(where)) {}

  // Prepares for one call of an encoder that has to deliver n rows.
  void expect(int64_t n) {
    expected_ = n;
    filled_ = false;
  }

  void affine(const AffineFormat& format, int64_t batch, int64_t rows, int64_t columns,
              const float* x) override {
    accept(batch, rows, columns);
    for (int64_t h = 0; h < heads_; ++h) matrix(h, format).append(x + h * rows * dim_, rows);
    rows_ += rows;
  }
  void affine_codes(const AffineFormat& format, int64_t batch, int64_t rows, int64_t columns,
                    const uint8_t* codes, const float* scale, const float* zero) override {
    accept(batch, rows, columns);
    const AffineFormat f = resolved(format);
    const auto groups = [](int64_t n, int64_t g) { return g == 0 ? 1 : (n + g - 1) / g; };
    const int64_t per_head =
        f.axis == 1 ? rows * groups(columns, f.group_size) : groups(rows, f.group_size) * columns;
    for (int64_t h = 0; h < heads_; ++h)
      matrix(h, format).append_codes(codes + h * rows * dim_, scale + h * per_head,
                                     zero ? zero + h * per_head : nullptr, rows, where_);
    rows_ += rows;
  }
  void dense(DType dtype, int64_t batch, int64_t rows, int64_t columns, const float* x) override {
    accept(batch, rows, columns);
    if (!affine_.empty()) throw mixed_formats();
    if (dense_.empty()) dense_.assign(size_t(heads_), DenseRows(dtype, dim_));
    if (dense_[0].dtype() != dtype) throw mixed_formats();
    for (int64_t h = 0; h < heads_; ++h) dense_[size_t(h)].append(x + h * rows * dim_, rows);
    rows_ += rows;
  }
  bool filled() const override { return filled_; }

  void read(int64_t head, int64_t begin, int64_t end, float* out, int64_t stride) const override {
    if (!affine_.empty())
      affine_[size_t(head)].decode(begin - first_, end - first_, out, stride);
    else
      dense_[size_t(head)].decode(begin - first_, end - first_, out, stride);
  }

  int64_t rows() const { return rows_; }
  bool is_dense() const { return !dense_.empty(); }
  uint64_t bytes() const {
    uint64_t sum = 0;
    for (const auto& m : affine_) sum += m.bytes();
    for (const auto& m : dense_) sum += m.bytes();
    return sum;
  }
  uint64_t allocated() const {
    uint64_t sum = 0;
    for (const auto& m : affine_) sum += m.allocated();
    for (const auto& m : dense_) sum += m.allocated();
    return sum;
  }

  // One stored matrix, for tests that tamper with codes. Only for affine encodings.
  AffineRows& affine_matrix(int64_t head) { return affine_.at(size_t(head)); }

 private:
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
  // Groups over a whole block of rows are spelled out, because one call may bring several blocks.
  AffineFormat resolved(AffineFormat f) const {
    if (f.axis == 0 && (f.group_size == 0 || f.group_size > block_)) f.group_size = block_;
    return f;
  }
  AffineRows& matrix(int64_t head, const AffineFormat& format) {
    const AffineFormat f = resolved(format);
    check_format(f, where_);
    if (f.axis == 0 && block_ % f.group_size != 0)
      throw usage_error(
          "a block of " + std::to_string(block_) +
              " rows is not a multiple of group_size = " + std::to_string(f.group_size),
          where_, "choose a residual length that is a multiple of the group size");
    if (!dense_.empty()) throw mixed_formats();
    if (affine_.empty()) affine_.assign(size_t(heads_), AffineRows(f, dim_));
    if (!(affine_[size_t(head)].format() == f)) throw mixed_formats();
    return affine_[size_t(head)];
  }
  Error mixed_formats() const {
    return Error(ExitCode::cells_failed, "blocks of one layer and side in different formats",
                 where_, "a method uses one encoding for all blocks of a layer and side");
  }

  int64_t heads_, dim_, block_, first_, rows_ = 0, expected_ = 0;
  std::string where_;
  bool filled_ = true;
  std::vector<AffineRows> affine_;  // one per kv head, or
  std::vector<DenseRows> dense_;    // one per kv head
};

// One side of one layer.
class KvRows final : public RowSource {
 public:
  KvRows(int64_t kv_heads, int64_t head_dim, KvSide side, int layer, KvMethod* method, DType dense)
      : heads_(kv_heads),
        dim_(head_dim),
        side_(side),
        layer_(layer),
        method_(method),
        policy_(method ? method->policy(side) : KvPolicy{}),
        where_("layer " + std::to_string(layer) + (side == KvSide::keys ? ", keys" : ", values")),
        sinks_(dense, kv_heads * head_dim),
        tail_(dense, kv_heads * head_dim),
        encoded_(kv_heads, head_dim, policy_.block, policy_.sink, where_),
        tail_begin_(policy_.sink) {}

  int64_t length() const { return length_; }

  // First position that a query with t tokens before it reads dense (the sinks apart).
  int64_t boundary(int64_t t) const { return policy_.sink + (method_ ? policy_.encoded(t) : 0); }
  int64_t sink() const { return policy_.sink; }
  const EncodedRows& encoded() const { return encoded_; }
  EncodedRows& encoded() { return encoded_; }

  // Appends n rows [n, kv_heads * head_dim].
  void append(const float* x, int64_t n) {
    const int64_t to_sink = std::min(n, std::max<int64_t>(0, policy_.sink - length_));
    sinks_.append(x, to_sink);
    tail_.append(x + to_sink * heads_ * dim_, n - to_sink);
    length_ += n;
  }

  // Encodes the rows below boundary(length()). Their dense copies stay for the queries of the
  // current pass that came before the boundary moved; release() frees them.
  void encode() {
    const int64_t begin = policy_.sink + encoded_.rows(), end = boundary(length_);
    if (end <= begin) return;
    const int64_t n = end - begin;
    std::vector<float> x(size_t(heads_ * n * dim_));  // [kv_heads, n, head_dim]
    for (int64_t h = 0; h < heads_; ++h) read(h, begin, end, x.data() + h * n * dim_, dim_);
    for (size_t i = 0; i < x.size(); ++i)
      if (!std::isfinite(x[i]))
        throw Error(ExitCode::cells_failed, "a number to be cached is not finite",
                    where_ + ", position " + std::to_string(begin + int64_t(i) / dim_ % n),
                    "the model overflows the cache's number format here");
    encoded_.expect(n);
    method_->encode(side_, layer_, begin, n, x.data(), encoded_);
    if (!encoded_.filled())
      throw Error(ExitCode::cells_failed, "the method returned without an encoding", where_,
                  "call one function of ptq.encode/1 for every block");
  }

  // Frees the dense rows that have an encoding.
  void release() {
    const int64_t begin = policy_.sink + encoded_.rows();
    if (begin <= tail_begin_) return;
    tail_.drop_front(begin - tail_begin_);
    tail_begin_ = begin;
    if (tail_.allocated() > 2 * tail_.bytes() + 65536) tail_.shrink();
  }

  // Dense rows: sinks, and everything from the last release()d boundary on.
  void read(int64_t head, int64_t begin, int64_t end, float* out, int64_t stride) const override {
    for (int64_t r = begin; r < end; ++r, out += stride) {
      const bool in_sink = r < policy_.sink;
      const DenseRows& rows = in_sink ? sinks_ : tail_;
      rows.decode_part(in_sink ? r : r - tail_begin_, head * dim_, dim_, out);
    }
  }

  void add_bytes(CacheBytes& sum) const {
    sum.encoded += encoded_.bytes();
    sum.window += tail_.bytes();
    sum.sink += sinks_.bytes();
    sum.reserved += encoded_.allocated() + tail_.allocated() + sinks_.allocated() -
                    encoded_.bytes() - tail_.bytes() - sinks_.bytes();
    sum.scalars += length_ * heads_ * dim_;
    if (encoded_.is_dense()) sum.encoded_is_dense = true;
  }

 private:
  int64_t heads_, dim_;
  KvSide side_;
  int layer_;
  KvMethod* method_;  // nullptr: every row stays dense
  KvPolicy policy_;
  std::string where_;
  DenseRows sinks_;      // positions [0, sink)
  DenseRows tail_;       // positions [tail_begin_, length)
  EncodedRows encoded_;  // positions [sink, sink + encoded_.rows())
  int64_t tail_begin_ = 0, length_ = 0;
};

// Keys and values of one layer.
struct KvLayer {
  KvRows keys, values;
  KvLayer(int64_t kv_heads, int64_t head_dim, int layer, KvMethod* method, DType dense)
      : keys(kv_heads, head_dim, KvSide::keys, layer, method, dense),
        values(kv_heads, head_dim, KvSide::values, layer, method, dense) {}
};

// The cache of one sequence.
class KvCache {
 public:
  // dense: the dtype of rows that are not encoded; float16 but in tests of the mechanism itself.
  KvCache(const ModelConfig& c, KvMethod* method, DType dense = DType::f16) {
    layers_.reserve(size_t(c.num_hidden_layers));
    for (int l = 0; l < int(c.num_hidden_layers); ++l)
      layers_.emplace_back(c.num_key_value_heads, c.head_dim, l, method, dense);
  }
  KvLayer& layer(int64_t l) { return layers_[size_t(l)]; }
  void reserve(int64_t) {}  // rows to come; the containers grow by themselves
  int64_t length() const { return layers_.empty() ? 0 : layers_[0].keys.length(); }
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

}  // namespace ptq
