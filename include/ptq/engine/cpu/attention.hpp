// Attention on the CPU: causal, grouped heads, sliding window, rows read dense or encoded.
//
// Scores are kept in float32 and never stored as a whole: keys come in tiles of 64 rows, each tile
// is decoded into a buffer of the first-level caches, and the softmax runs along (streaming
// softmax, arXiv 2205.14135); few queries over many keys are split over the keys and joined. A
// query takes row s from encoded storage exactly when sink <= s < boundary of that query, so that a
// whole window is evaluated as token-by-token decoding would.
#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "ptq/core/threads.hpp"
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
};

struct AttentionShape {
  int64_t queries, first;  // query i stands at absolute position first + i
  int64_t heads, kv_heads, head_dim;
  int64_t window;  // keys visible to a query, itself included; 0 = all
  // Rounds exp(score - maximum) to bfloat16 before the product with the values, as the fused
  // attention of the reference does for bfloat16 inputs; their sum is taken before.
  bool bf16 = false;
};

namespace attention_detail {

inline constexpr int64_t kTile = 64;           // keys per tile
inline constexpr int64_t kTransposeRows = 16;  // with fewer, a tile of keys is not turned around
// Keys per task where few queries look back far (decoding): threads share the keys, and what all
// heads need to read them (angles of positions) stays in the second-level cache from head to head.
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

inline void transpose(const float* in, int64_t stride, int64_t columns, float* out) {
  for (int64_t c = 0; c < columns; ++c)
    for (int64_t r = 0; r < kTile; ++r) out[c * kTile + r] = in[r * stride + c];
}

}  // namespace attention_detail

// q [queries, heads * head_dim] -> out of the same shape: softmax(q k^T / sqrt(head_dim)) v.
inline void attention(ThreadPool& pool, const AttentionShape& shape, const float* q,
                      const AttentionSide& keys, const AttentionSide& values, float* out) {
  using namespace attention_detail;
  const int64_t group = shape.heads / shape.kv_heads, dim = shape.head_dim;
  const int64_t width = (dim + kLanes - 1) / kLanes * kLanes;  // value columns, padded
  const int64_t per_block = std::max<int64_t>(1, 128 / group);
  const int64_t blocks = (shape.queries + per_block - 1) / per_block;
  const float scale = 1.0f / std::sqrt(float(dim));
  const float lowest = -std::numeric_limits<float>::infinity();

  const int64_t most_rows = std::min(per_block, shape.queries) * group;
  const int64_t scratch_size = most_rows * (width + 2 * kTile) + 2 * kTile * width;
  const int64_t state_size = most_rows * (width + 2);

  const auto first_key = [&](int64_t i) {
    return shape.window > 0 ? std::max<int64_t>(0, shape.first + i + 1 - shape.window) : 0;
  };
  // The running softmax of a block's rows: row r is query i0 + r / group, head-in-group r % group.
  struct State {
    float* o;  // [rows, width] sum of exp(score - m) value
    float* m;  // [rows] largest score
    float* l;  // [rows] sum of exp(score - m)
  };
  const auto state_at = [&](float* p) {
    return State{p, p + most_rows * width, p + most_rows * (width + 1)};
  };

  // Queries [i0, i1) of one head over the keys [from, to) that they see; from begins a tile.
  const auto look = [&](int64_t head, int64_t i0, int64_t i1, int64_t from_key, int64_t to_key,
                        float* scratch, const State& state) {
    const int64_t rows = (i1 - i0) * group;
    const auto [o, m, l] = state;
    float* qs = scratch;              // [rows, width], scaled; zeros behind dim
    float* s = qs + rows * width;     // [rows, kTile] scores, then probabilities
    float* s2 = s + rows * kTile;     // the same from the other source, in tiles that need both
    float* tile = s2 + rows * kTile;  // [kTile, width]; zeros behind dim
    float* tile_t = tile + kTile * width;  // [dim, kTile]
    std::fill(o, o + rows * width, 0.0f);
    std::fill(m, m + rows, lowest);
    std::fill(l, l + rows, 0.0f);
    for (int64_t r = 0; r < rows; ++r) {
      const float* src = q + ((i0 + r / group) * shape.heads + head * group + r % group) * dim;
      for (int64_t d = 0; d < dim; ++d) qs[r * width + d] = src[d] * scale;
    }

    const int64_t k_low = keys.boundary[i0], k_high = keys.boundary[i1 - 1];
    const int64_t v_low = values.boundary[i0], v_high = values.boundary[i1 - 1];
    const int64_t last = std::min(to_key, shape.first + i1);  // one behind the newest visible key
    for (int64_t begin = from_key; begin < last; begin += kTile) {
      const int64_t end = std::min(begin + kTile, last);
      if (keys.evicts && begin >= keys.sink && end <= k_low) continue;

      // Scores: every row against the source that holds the key for it.
      const Need kn = need(keys, begin, end, k_low, k_high);
      const auto scores = [&](bool encoded, float* to) {
        read_tile(keys, encoded, head, begin, end, k_low, k_high, tile, width);
        if (rows < kTransposeRows) {
          small_gemm_nt(qs, width, tile, width, to, kTile, rows, kTile, width);
        } else {
          transpose(tile, width, dim, tile_t);
          small_gemm(qs, width, tile_t, kTile, to, kTile, rows, kTile, dim, false);
        }
      };
      scores(kn.encoded, s);
      if (kn.encoded && kn.dense) {
        scores(false, s2);
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t b = keys.boundary[i0 + r / group];
          for (int64_t j = 0; j < kTile; ++j) {
            const int64_t key = begin + j;
            if (key < keys.sink || key >= b) s[r * kTile + j] = s2[r * kTile + j];
          }
        }
      }

      // Streaming softmax.
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t i = i0 + r / group;
        float* p = s + r * kTile;
        const int64_t from = std::clamp<int64_t>(first_key(i) - begin, 0, kTile);
        const int64_t to = std::clamp<int64_t>(shape.first + i + 1 - begin, 0, kTile);
        if (from >= to) {
          std::fill(p, p + kTile, 0.0f);
          continue;
        }
        for (int64_t j = 0; j < from; ++j) p[j] = lowest;
        for (int64_t j = to; j < kTile; ++j) p[j] = lowest;
        if (keys.evicts)
          for (int64_t j = std::max<int64_t>(0, keys.sink - begin);
               j < std::min(kTile, keys.boundary[i] - begin); ++j)
            p[j] = lowest;
        const float top = std::max(m[r], largest(p, kTile));
        if (top == lowest) {  // no visible key so far
          std::fill(p, p + kTile, 0.0f);
          continue;
        }
        const float shrink = exp_nonpositive(m[r] - top);
        for (int64_t j = 0; j < kTile; ++j) p[j] = exp_nonpositive(p[j] - top);
        l[r] = l[r] * shrink + total(p, kTile);
        m[r] = top;
        if (shape.bf16)
          for (int64_t j = 0; j < kTile; ++j) p[j] = bf16_to_float(float_to_bf16(p[j]));
        if (shrink != 1.0f)
          for (int64_t d = 0; d < width; ++d) o[r * width + d] *= shrink;
      }

      // Output: probabilities times the source that holds the value for the row.
      const Need vn = need(values, begin, end, v_low, v_high);
      if (vn.encoded && vn.dense) {
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t b = values.boundary[i0 + r / group];
          for (int64_t j = 0; j < kTile; ++j) {
            const int64_t key = begin + j;
            const bool dense = key < values.sink || key >= b;
            s2[r * kTile + j] = dense ? s[r * kTile + j] : 0.0f;
            if (dense) s[r * kTile + j] = 0.0f;
          }
        }
        read_tile(values, false, head, begin, end, v_low, v_high, tile, width);
        small_gemm(s2, kTile, tile, width, o, width, rows, width, kTile, true);
      }
      read_tile(values, vn.encoded, head, begin, end, v_low, v_high, tile, width);
      small_gemm(s, kTile, tile, width, o, width, rows, width, kTile, true);
    }
  };
  const auto finish = [&](int64_t head, int64_t i0, int64_t i1, const State& state) {
    for (int64_t r = 0; r < (i1 - i0) * group; ++r) {
      float* dst = out + ((i0 + r / group) * shape.heads + head * group + r % group) * dim;
      const float inverse = 1.0f / state.l[r];
      for (int64_t d = 0; d < dim; ++d) dst[d] = state.o[r * width + d] * inverse;
    }
  };

  const int64_t start = first_key(0) / kTile * kTile, stop = shape.first + shape.queries;
  const int64_t spans = (stop - start + kSpan - 1) / kSpan;
  // A bfloat16 probability depends on the largest score so far: there, one sweep as the reference.
  if (blocks > 1 || most_rows >= kTransposeRows || spans < 2 || shape.bf16) {
    pool.for_each(blocks * shape.kv_heads, [&](int64_t task) {
      // Later blocks read more rows: they go first, so that the threads finish together.
      const int64_t head = task % shape.kv_heads, block = blocks - 1 - task / shape.kv_heads;
      const int64_t i0 = block * per_block, i1 = std::min(i0 + per_block, shape.queries);
      std::vector<float> buffer(size_t(scratch_size + state_size));
      const State state = state_at(buffer.data() + scratch_size);
      look(head, i0, i1, first_key(i0) / kTile * kTile, stop, buffer.data(), state);
      finish(head, i0, i1, state);
    });
    return;
  }

  std::vector<float> states(size_t(spans * shape.kv_heads * state_size));
  const auto state_of = [&](int64_t span, int64_t head) {
    return state_at(states.data() + (span * shape.kv_heads + head) * state_size);
  };
  pool.for_each(spans, [&](int64_t span) {
    std::vector<float> scratch(static_cast<size_t>(scratch_size));
    const int64_t from = start + span * kSpan;
    for (int64_t head = 0; head < shape.kv_heads; ++head)
      look(head, 0, shape.queries, from, from + kSpan, scratch.data(), state_of(span, head));
  });
  for (int64_t head = 0; head < shape.kv_heads; ++head) {
    const State all = state_of(0, head);
    for (int64_t span = 1; span < spans; ++span) {
      const State part = state_of(span, head);
      for (int64_t r = 0; r < most_rows; ++r) {
        const float top = std::max(all.m[r], part.m[r]);
        if (top == lowest) continue;  // this row sees no key so far
        const float a = exp_nonpositive(all.m[r] - top), b = exp_nonpositive(part.m[r] - top);
        all.m[r] = top;
        all.l[r] = all.l[r] * a + part.l[r] * b;
        for (int64_t d = 0; d < width; ++d)
          all.o[r * width + d] = all.o[r * width + d] * a + part.o[r * width + d] * b;
      }
    }
    finish(head, 0, shape.queries, all);
  }
}

}  // namespace ptq::cpu
