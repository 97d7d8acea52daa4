// Attention on the CPU: causal, grouped heads, sliding window, rows read dense or encoded.
//
// Scores are kept in float32 and never stored as a whole: keys come in tiles of 64 rows, each tile
// is decoded into a buffer of the first-level caches, and the softmax runs along (streaming
// softmax, arXiv 2205.14135) for spans of 512 keys, which are joined in their order. Tiles and
// spans are counted from position 0, so that a query's result does not depend on which others stand
// beside it, on where a sequence is cut into passes, or on the threads. A query takes row s from
// encoded storage exactly when sink <= s < boundary of that query, so that a whole window is
// evaluated as token-by-token decoding would.
#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "ptq/core/threads.hpp"
#include "ptq/engine/cpu/kernels/table.hpp"
#include "ptq/engine/cpu/kv_cache.hpp"
#include "ptq/engine/cpu/simd.hpp"

namespace ptq::cpu {

// Keys or values of one layer as the queries of a pass see them.
struct AttentionSide {
  const RowSource* encoded;  // rows [sink, largest boundary); may be nullptr when there are none
  const RowSource* dense;    // rows below sink, and from the smallest boundary on
  int64_t sink;
  std::vector<int64_t> boundary;                     // per query, nondecreasing
  std::shared_ptr<const RowSource> owned = nullptr;  // keeps a source of this pass alive
  bool evicts = false;  // rows [sink, boundary) are gone: no query sees them
  // Keys below sink stand, for a query, boundary - sink positions later; nullptr: where they are.
  const Rotary* moves_sinks = nullptr;
};

struct AttentionShape {
  int64_t queries, first;  // query i stands at absolute position first + i
  int64_t heads, kv_heads, head_dim;
  int64_t window;  // keys visible to a query, itself included; 0 = all
  // q and dense rows are of bfloat16. Encoded rows are rounded to it, and exp(score - maximum)
  // before the product with the values, as the fused attention of the reference does for bfloat16
  // inputs; the sum of exponentials is taken before.
  bool bf16 = false;
};

namespace attention_detail {

inline constexpr int64_t kTile = 64;     // keys per tile
inline constexpr int64_t kFewRows = 16;  // with fewer, threads share the keys
// Keys whose softmax runs along. Where few queries look back far (decoding), a task: what all heads
// need to read them (angles of positions) stays in the second-level cache from head to head.
inline constexpr int64_t kSpan = 8 * kTile;

// Which of the two sources a tile [begin, end) needs for queries with boundaries low .. high.
struct Need {
  bool encoded, dense;
};
inline Need need(const AttentionSide& side, int64_t begin, int64_t end, int64_t low, int64_t high) {
  return {!side.evicts && std::max(begin, side.sink) < std::min(end, high),
          begin < std::min(end, side.sink) || std::max(begin, low) < end};
}

// Reads the part of a tile that a source has into rows of `out` [kTile, stride]; other rows become
// zero. Columns behind head_dim are left alone.
inline void read_tile(const AttentionSide& side, bool encoded, int64_t head, int64_t begin,
                      int64_t end, int64_t low, int64_t high, float* out, int64_t stride) {
  int64_t done = begin;  // rows of the tile that are written, as a position
  const auto zero_until = [&](int64_t position) {
    if (position > done)
      std::fill(out + (done - begin) * stride, out + (position - begin) * stride, 0.0f);
    done = std::max(done, position);
  };
  const auto read = [&](const RowSource& source, int64_t from, int64_t to) {
    if (from >= to) return;
    zero_until(from);
    source.read(head, from, to, out + (from - begin) * stride, stride);
    done = to;
  };
  if (encoded) {
    read(*side.encoded, std::max(begin, side.sink), std::min(end, high));
  } else {
    read(*side.dense, begin, std::min(end, side.sink));
    read(*side.dense, std::max({begin, low, side.sink}), end);
  }
  zero_until(begin + kTile);
}

// The running softmax of a block's rows: row r is query i0 + r / group, head-in-group r % group.
struct State {
  float* o;  // [rows, width] sum of exp(score - m) value
  float* m;  // [rows] largest score
  float* l;  // [rows] sum of exp(score - m)
};

inline constexpr float kLowest = -std::numeric_limits<float>::infinity();

// One call of attention(), and the steps that a task takes for its rows.
class Attention {
 public:
  Attention(const Kernels& kernels, const AttentionShape& shape, const float* q,
            const AttentionSide& keys, const AttentionSide& values, float* out)
      : kernels_(kernels), shape_(shape), q_(q), keys_(keys), values_(values), out_(out) {}

  int64_t per_block() const { return std::max<int64_t>(1, 128 / group_); }
  int64_t blocks() const { return (shape_.queries + per_block() - 1) / per_block(); }
  int64_t most_rows() const { return std::min(per_block(), shape_.queries) * group_; }
  int64_t scratch_size() const {
    return most_rows() * (2 * width_ + 2 * kTile) + 2 * kTile * width_;
  }
  int64_t state_size() const { return most_rows() * (width_ + 2); }
  State state_at(float* p) const {
    return {p, p + most_rows() * width_, p + most_rows() * (width_ + 1)};
  }
  int64_t first_key(int64_t i) const {
    return shape_.window > 0 ? std::max<int64_t>(0, shape_.first + i + 1 - shape_.window) : 0;
  }

  // The first tile that queries from i on see, of the keys from `begin` on, which begins a tile.
  int64_t first_tile(int64_t i, int64_t begin) const {
    return std::max(begin, first_key(i) / kTile * kTile);
  }

  // Queries [i0, i1) of one head over the keys [from, to) that they see; from begins a tile.
  void look(int64_t head, int64_t i0, int64_t i1, int64_t from_key, int64_t to_key, float* scratch,
            const State& state) const {
    Block b{head, i0, i1, (i1 - i0) * group_};
    b.qs = scratch;
    b.s = b.qs + b.rows * width_;
    b.s2 = b.s + b.rows * kTile;
    b.tile = b.s2 + b.rows * kTile;
    b.tile_t = b.tile + kTile * width_;
    b.back = b.tile_t + kTile * width_;
    std::fill(state.o, state.o + b.rows * width_, 0.0f);
    std::fill(state.m, state.m + b.rows, kLowest);
    std::fill(state.l, state.l + b.rows, 0.0f);
    for (int64_t r = 0; r < b.rows; ++r) {
      const float* src =
          q_ + ((i0 + r / group_) * shape_.heads + head * group_ + r % group_) * shape_.head_dim;
      float* to = b.qs + r * width_;
      for (int64_t d = 0; d < shape_.head_dim; ++d) to[d] = pairs_ ? src[d] : src[d] * scale_;
    }
    if (keys_.moves_sinks && from_key < keys_.sink) {
      std::copy_n(b.qs, b.rows * width_, b.back);
      for (int64_t r = 0; r < b.rows; ++r)
        keys_.moves_sinks->turn_back(keys_.boundary[i0 + r / group_] - keys_.sink,
                                     b.back + r * width_);
      pack(b.back, b.rows, width_);
    }
    pack(b.qs, b.rows, width_);
    const int64_t last = std::min(to_key, shape_.first + i1);  // one behind the newest visible key
    for (int64_t begin = from_key; begin < last; begin += kTile) {
      const int64_t end = std::min(begin + kTile, last);
      if (keys_.evicts && begin >= keys_.sink && end <= keys_.boundary[i0]) continue;
      score(b, begin, end);
      for (int64_t r = 0; r < b.rows; ++r) soften(b, r, begin, state);
      add_values(b, begin, end, state);
    }
  }

  void finish(int64_t head, int64_t i0, int64_t i1, const State& state) const {
    for (int64_t r = 0; r < (i1 - i0) * group_; ++r) {
      float* dst =
          out_ + ((i0 + r / group_) * shape_.heads + head * group_ + r % group_) * shape_.head_dim;
      const float inverse = 1.0f / state.l[r];
      for (int64_t d = 0; d < shape_.head_dim; ++d) dst[d] = state.o[r * width_ + d] * inverse;
    }
  }

  // Adds what `part` saw to `all`: the same rows over later keys.
  void merge(const State& all, const State& part, int64_t rows) const {
    for (int64_t r = 0; r < rows; ++r) {
      if (part.m[r] == kLowest) continue;  // this row sees none of them
      if (all.m[r] == kLowest) {
        all.m[r] = part.m[r];
        all.l[r] = part.l[r];
        std::copy_n(part.o + r * width_, width_, all.o + r * width_);
        continue;
      }
      const float top = std::max(all.m[r], part.m[r]);
      const float a = exp_nonpositive(all.m[r] - top), b = exp_nonpositive(part.m[r] - top);
      all.m[r] = top;
      all.l[r] = all.l[r] * a + part.l[r] * b;
      for (int64_t d = 0; d < width_; ++d)
        all.o[r * width_ + d] = all.o[r * width_ + d] * a + part.o[r * width_ + d] * b;
    }
  }

 private:
  // Queries [i0, i1) of a head, and where a task works on them.
  struct Block {
    int64_t head, i0, i1, rows;
    float* qs = nullptr;      // [rows, width], scaled, or half of them pairs; zeros behind dim
    float* s = nullptr;       // [rows, kTile] scores, then probabilities
    float* s2 = nullptr;      // the same from the other source, in tiles that need both
    float* tile = nullptr;    // [kTile, width]; zeros behind dim
    float* tile_t = nullptr;  // [dim, kTile]
    float* back = nullptr;    // [rows, width] qs turned back to where the sinks stand
  };

  // With pairs: each of `rows` rows of n numbers becomes n / 2 pairs, at the same place.
  void pack(float* x, int64_t rows, int64_t n) const {
    if (!pairs_) return;
    for (int64_t r = 0; r < rows; ++r) kernels_.pairs->pack(x + r * n, n, x + r * n);
  }
  // Rows [depth, columns] of a tile, which a product goes down along: the same.
  void pack_rows(float* b, int64_t depth, int64_t columns) const {
    if (pairs_) kernels_.pairs->pack_rows(b, columns, depth, columns, b);
  }
  // y [rows, columns] (+)= x [rows, depth] b [depth, columns], packed before where there are pairs.
  void multiply(int64_t rows, const float* x, int64_t ldx, const float* b, int64_t depth,
                int64_t columns, float* y, bool add) const {
    const auto product = pairs_ ? kernels_.pairs->multiply : kernels_.multiply;
    product(x, rows, ldx, b, columns, pairs_ ? depth / 2 : depth, columns, y, columns, add);
  }
  void read(const AttentionSide& side, const Block& b, bool encoded, int64_t begin,
            int64_t end) const {
    read_tile(side, encoded, b.head, begin, end, side.boundary[b.i0], side.boundary[b.i1 - 1],
              b.tile, width_);
    if (shape_.bf16 && !pairs_ && encoded)
      for (int64_t i = 0; i < kTile * width_; ++i)
        b.tile[i] = bf16_to_float(float_to_bf16(b.tile[i]));
  }

  // s = scores of a tile: every row against the source that holds the key for it.
  void score(const Block& b, int64_t begin, int64_t end) const {
    const int64_t low = keys_.boundary[b.i0], high = keys_.boundary[b.i1 - 1];
    const auto scores = [&](const float* q, float* to) {
      multiply(b.rows, q, width_, b.tile_t, shape_.head_dim, kTile, to, false);
      if (pairs_)
        for (int64_t j = 0; j < b.rows * kTile; ++j) to[j] *= scale_;
    };
    const auto scores_of = [&](bool encoded, float* to) {
      read(keys_, b, encoded, begin, end);
      kernels_.turn(b.tile, width_, kTile, width_, b.tile_t);
      pack_rows(b.tile_t, width_, kTile);
      scores(b.qs, to);
    };
    const Need needed = need(keys_, begin, end, low, high);
    scores_of(needed.encoded, b.s);
    if (keys_.moves_sinks && begin < keys_.sink) {  // nothing is encoded: the tile is there still
      scores(b.back, b.s2);
      const int64_t sinks = std::min(kTile, keys_.sink - begin);
      for (int64_t r = 0; r < b.rows; ++r) std::copy_n(b.s2 + r * kTile, sinks, b.s + r * kTile);
    }
    if (!needed.encoded || !needed.dense) return;
    scores_of(false, b.s2);
    for (int64_t r = 0; r < b.rows; ++r) {
      const int64_t boundary = keys_.boundary[b.i0 + r / group_];
      for (int64_t j = 0; j < kTile; ++j) {
        const int64_t key = begin + j;
        if (key < keys_.sink || key >= boundary) b.s[r * kTile + j] = b.s2[r * kTile + j];
      }
    }
  }

  // Streaming softmax: the scores of row r become probabilities, relative to the largest so far.
  void soften(const Block& b, int64_t r, int64_t begin, const State& state) const {
    const int64_t i = b.i0 + r / group_, width = width_;
    float* p = b.s + r * kTile;
    float* o = state.o + r * width;
    const int64_t from = std::clamp<int64_t>(first_key(i) - begin, 0, kTile);
    const int64_t to = std::clamp<int64_t>(shape_.first + i + 1 - begin, 0, kTile);
    if (from >= to) {
      std::fill(p, p + kTile, 0.0f);
      return;
    }
    for (int64_t j = 0; j < from; ++j) p[j] = kLowest;
    for (int64_t j = to; j < kTile; ++j) p[j] = kLowest;
    if (keys_.evicts)
      for (int64_t j = std::max<int64_t>(0, keys_.sink - begin);
           j < std::min(kTile, keys_.boundary[i] - begin); ++j)
        p[j] = kLowest;
    const float top = std::max(state.m[r], largest(p, kTile));
    if (top == kLowest) {  // no visible key so far
      std::fill(p, p + kTile, 0.0f);
      return;
    }
    const float shrink = top == state.m[r] ? 1.0f : exp_nonpositive(state.m[r] - top);
    for (int64_t j = 0; j < kTile; ++j) p[j] = exp_nonpositive(p[j] - top);
    state.l[r] = state.l[r] * shrink + total(p, kTile);
    state.m[r] = top;
    if (shape_.bf16 && !pairs_)
      for (int64_t j = 0; j < kTile; ++j) p[j] = bf16_to_float(float_to_bf16(p[j]));
    if (shrink != 1.0f)
      for (int64_t d = 0; d < width; ++d) o[d] *= shrink;
  }

  // Output: probabilities times the source that holds the value for the row.
  void add_values(const Block& b, int64_t begin, int64_t end, const State& state) const {
    const Need needed =
        need(values_, begin, end, values_.boundary[b.i0], values_.boundary[b.i1 - 1]);
    const auto add = [&](bool encoded, float* p) {
      read(values_, b, encoded, begin, end);
      pack_rows(b.tile, kTile, width_);
      pack(p, b.rows, kTile);
      multiply(b.rows, p, kTile, b.tile, kTile, width_, state.o, true);
    };
    if (needed.encoded && needed.dense) {
      for (int64_t r = 0; r < b.rows; ++r) {
        const int64_t boundary = values_.boundary[b.i0 + r / group_];
        for (int64_t j = 0; j < kTile; ++j) {
          const int64_t key = begin + j;
          const bool dense = key < values_.sink || key >= boundary;
          b.s2[r * kTile + j] = dense ? b.s[r * kTile + j] : 0.0f;
          if (dense) b.s[r * kTile + j] = 0.0f;
        }
      }
      add(false, b.s2);
    }
    add(needed.encoded, b.s);
  }

  const Kernels& kernels_;
  const AttentionShape& shape_;
  const float* q_;
  const AttentionSide &keys_, &values_;
  float* out_;
  const int64_t group_ = shape_.heads / shape_.kv_heads;
  const int64_t width_ = (shape_.head_dim + 15) / 16 * 16;  // columns, padded
  const float scale_ = 1.0f / std::sqrt(float(shape_.head_dim));
  // Products of pairs of bfloat16 (PairKernels)? Then scores are scaled behind their product.
  const bool pairs_ = shape_.bf16 && kernels_.pairs && shape_.head_dim % 2 == 0;
};

}  // namespace attention_detail

// q [queries, heads * head_dim] -> out of the same shape: softmax(q k^T / sqrt(head_dim)) v.
inline void attention(ThreadPool& pool, const AttentionShape& shape, const float* q,
                      const AttentionSide& keys, const AttentionSide& values, float* out,
                      const Kernels& kernels = chosen_kernels()) {
  using namespace attention_detail;
  const Attention work(kernels, shape, q, keys, values, out);
  const int64_t blocks = work.blocks(), per_block = work.per_block(),
                scratch_size = work.scratch_size(), state_size = work.state_size();
  const int64_t group = shape.heads / shape.kv_heads, stop = shape.first + shape.queries;
  const auto span_of = [](int64_t key) { return key / kSpan; };
  const int64_t first_span = span_of(work.first_key(0)), spans = span_of(stop - 1) + 1 - first_span;
  // A bfloat16 probability depends on the largest score so far: there, one sweep as the reference.
  if (blocks > 1 || work.most_rows() >= kFewRows || spans < 2 || shape.bf16) {
    pool.for_each(blocks * shape.kv_heads, [&](int64_t task) {
      // Later blocks read more rows: they go first, so that the threads finish together.
      const int64_t head = task % shape.kv_heads, block = blocks - 1 - task / shape.kv_heads;
      const int64_t i0 = block * per_block, i1 = std::min(i0 + per_block, shape.queries);
      std::vector<float> buffer(size_t(scratch_size + 2 * state_size + kLine));
      float* const scratch = next_line(buffer.data());
      const State all = work.state_at(scratch + scratch_size),
                  part = work.state_at(scratch + scratch_size + state_size);
      const int64_t begin = span_of(work.first_key(i0)), last = span_of(shape.first + i1 - 1);
      if (shape.bf16) {
        work.look(head, i0, i1, work.first_tile(i0, 0), stop, scratch, all);
      } else {
        for (int64_t span = begin; span <= last; ++span) {
          work.look(head, i0, i1, work.first_tile(i0, span * kSpan), (span + 1) * kSpan, scratch,
                    span == begin ? all : part);
          if (span > begin) work.merge(all, part, (i1 - i0) * group);
        }
      }
      work.finish(head, i0, i1, all);
    });
    return;
  }

  std::vector<float> states(size_t(spans * shape.kv_heads * state_size));
  const auto state_of = [&](int64_t span, int64_t head) {
    return work.state_at(states.data() + (span * shape.kv_heads + head) * state_size);
  };
  pool.for_each(spans, [&](int64_t task) {
    std::vector<float> buffer(size_t(scratch_size + kLine));
    float* const scratch = next_line(buffer.data());
    const int64_t span = first_span + task;
    for (int64_t head = 0; head < shape.kv_heads; ++head)
      work.look(head, 0, shape.queries, work.first_tile(0, span * kSpan), (span + 1) * kSpan,
                scratch, state_of(task, head));
  });
  for (int64_t head = 0; head < shape.kv_heads; ++head) {
    for (int64_t span = 1; span < spans; ++span)
      work.merge(state_of(0, head), state_of(span, head), shape.queries * group);
    work.finish(head, 0, shape.queries, state_of(0, head));
  }
}

}  // namespace ptq::cpu
