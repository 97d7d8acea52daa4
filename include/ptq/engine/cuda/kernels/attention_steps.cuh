// The steps of the attention kernel (attention.cuh): a tile of keys to shared memory, scores,
// running softmax, values, and the merging of warps.
#pragma once

#include "ptq/engine/cuda/kernels/encoded_read.cuh"
#include "ptq/engine/cuda/kernels/mma.cuh"
#include "ptq/engine/cuda/row_views.hpp"

namespace ptq::cuda {

inline constexpr int kKeyTile = 64;
inline constexpr int kAttentionWarps = 4;
inline constexpr float kLowest = -3.0e38f;  // below every score; exp2 of a difference to it is 0

// Queries [first, first + count) of a segment, for one block.
struct AttentionItem {
  int32_t segment, first, count;
};

template <class T>
struct AttentionArguments {
  const T* q;          // [rows of the pass, heads, dim]
  T* out;              // the same shape
  float* partial;      // [splits, rows of the pass, heads, dim], only with splits > 1
  float* partial_lse;  // [splits, rows of the pass, heads], log2 of the sum of exponentials
  const SegmentView* segments;
  const AttentionItem* items;
  int64_t rows, heads, kv_heads, dim, window;
  float scale;  // log2(e) / sqrt(dim)
};

// Bytes of dynamic shared memory of a block with kRows rows and heads padded to D columns.
template <class T, int D>
constexpr size_t attention_shared_bytes(int rows) {
  const int stride = D + kTilePad<T>, p_stride = kKeyTile + kTilePad<T>;
  return sizeof(T) * size_t((rows + 2 * kKeyTile) * stride + kAttentionWarps * 16 * p_stride);
}

namespace attention_detail {

// The side of a sequence that a block reads, in 32-bit positions: registers are scarce here.
// low, high: boundaries of the block's first and last query; they do not fall in between.
struct BlockSide {
  int sink, low, high;
};
template <bool kPlain>
__device__ __forceinline__ BlockSide block_side(const SideView& side, int64_t first, int64_t last) {
  BlockSide b{int(side.policy.sink), int(side.boundary(first)), int(side.boundary(last))};
  if (!kPlain && side.policy.evicts) b.high = b.sink;  // nothing is encoded
  return b;
}

// Which of the two sources a tile [begin, end) needs.
__device__ __forceinline__ bool needs(BlockSide b, bool encoded, int begin, int end) {
  if (encoded) return max(begin, b.sink) < min(end, b.high);
  return begin < min(end, b.sink) || max(begin, b.low) < end;
}

// Eight columns of an encoded row in any encoding.
__device__ __forceinline__ void read_encoded8(const SideView& side, int head, int dim, int position,
                                              int column, float* x) {
  if (side.stored == Stored::affine)
    AffineReader(side.affine, head).read8(position, column, x);
  else if (side.stored == Stored::dense)
    read_dense8(side.dense, head, position, column, dim, x);
  else if (side.stored == Stored::codebook)
    read_codebook8(side.codebook, head, position, column, x);
  else
    read_lowrank8(side.lowrank, head, position, column, x);
  if (side.outliers.present) put_outliers8(side.outliers, head, position, column, x);
}

// Rows [begin, begin + 64) of one source to shared memory; rows that it does not hold are zero.
// kAtOnce: rows per thread whose loads are in flight together; registers set the limit.
template <class T, int D, int kAtOnce, bool kPlain>
__device__ __forceinline__ void load_tile(const SideView& side, BlockSide b, bool encoded, int head,
                                          int dim, int begin, int end, T* tile) {
  constexpr int kUnits = D / 8, kStride = D + kTilePad<T>;
  constexpr int kRowStep = kAttentionWarps * kWarpLanes / kUnits;
  const int column = int(threadIdx.x) % kUnits * 8;
  AffineReader reader(side.affine, head);
#pragma unroll(kAtOnce)
  for (int r = int(threadIdx.x) / kUnits; r < kKeyTile; r += kRowStep) {
    const int position = begin + r;
    float x[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    int stands = 0;  // where the row counts itself, for its rotation
    if (position < end && column < dim) {
      if (encoded) {
        if (position >= b.sink && position < b.high) {
          if constexpr (!kPlain)
            read_encoded8(side, head, dim, position, column, x);
          else if (side.stored == Stored::affine)
            reader.read8(position, column, x);
          else
            read_dense8(side.dense, head, position, column, dim, x);
          stands = position;
        }
      } else if (position < b.sink) {
        read_dense8(side.sinks, head, position, column, dim, x);
        stands = position + int(side.shift);
      } else if (position >= b.low) {
        read_dense8(side.tail, head, position, column, dim, x);
        stands = position;
      }
    }
    if constexpr (!kPlain) {  // all lanes, rows of zeros too: they exchange
      if (encoded && side.policy.hadamard) hadamard8(x, column, dim);
      if (side.cosine) {
        const int64_t angle = int64_t(stands) * (dim / 2);
        rotate8(x, column, dim, side.cosine + angle, side.sine + angle);
      }
    }
    T* to = tile + r * kStride + column;
    if constexpr (sizeof(T) == 2) {
      uint4 word;
      word.x = pack_bf16(x[0], x[1]);
      word.y = pack_bf16(x[2], x[3]);
      word.z = pack_bf16(x[4], x[5]);
      word.w = pack_bf16(x[6], x[7]);
      *reinterpret_cast<uint4*>(to) = word;
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) to[i] = from_float<T>(x[i]);
    }
  }
}

// Where a block and a warp of it stand. kRowWarps x kKeyWarps = 4 warps: how many of them lie along
// the rows, how many along the keys.
template <class T, int D, int kRowWarps>
struct Place {
  static constexpr int kKeyWarps = kAttentionWarps / kRowWarps, kRows = 16 * kRowWarps;
  static constexpr int kKeys = kKeyTile / kKeyWarps;  // of a tile, per warp
  static constexpr int kStride = D + kTilePad<T>, kPStride = kKeyTile + kTilePad<T>;

  T *q_tile, *k_tile, *v_tile;  // [kRows, kStride], [64, kStride], [64, kStride]
  T* p_tile;                    // [16, kPStride], the warp's own
  int warp, row_warp, key_warp;
  int head, group, dim, rows;
  int first_query, last_query;  // absolute

  __device__ __forceinline__ Place(const AttentionArguments<T>& a, const SegmentView& s,
                                   const AttentionItem& item) {
    q_tile = reinterpret_cast<T*>(dynamic_shared());
    k_tile = q_tile + kRows * kStride;
    v_tile = k_tile + kKeyTile * kStride;
    warp = int(threadIdx.x) / kWarpLanes;
    p_tile = v_tile + kKeyTile * kStride + warp * 16 * kPStride;
    row_warp = warp % kRowWarps;
    key_warp = warp / kRowWarps;
    head = int(blockIdx.y);
    group = int(a.heads / a.kv_heads);
    dim = int(a.dim);
    rows = item.count * group;
    first_query = int(s.position) + item.first;
    last_query = first_query + item.count - 1;
  }
  // The i-th of the two rows of this lane.
  __device__ __forceinline__ int row(int i) const { return row_warp * 16 + fragment_row() + 8 * i; }
  // The key, counted from the tile's first, of element i of the warp's j-th fragment.
  __device__ __forceinline__ int key(int j, int i) const {
    return key_warp * kKeys + j * 8 + fragment_column() + i % 2;
  }
};

// What the two rows of a lane see.
struct RowBounds {
  int keys[2], values[2];    // boundaries
  int oldest[2], newest[2];  // keys
};
template <class P, class T>
__device__ __forceinline__ RowBounds row_bounds(const P& at, const SegmentView& s,
                                                const AttentionItem& item,
                                                const AttentionArguments<T>& a) {
  RowBounds bounds;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int r = at.row(i), t = at.first_query + (r < at.rows ? r / at.group : item.count - 1);
    bounds.keys[i] = int(s.keys.boundary(t));
    bounds.values[i] = int(s.values.boundary(t));
    bounds.newest[i] = t;
    bounds.oldest[i] = a.window > 0 ? max(0, t + 1 - int(a.window)) : 0;
  }
  return bounds;
}

// The tiles that a block of a split context reads; whole tiles of evicted rows are left out.
struct TileRange {
  int begin, end, gone_from = 0, gone = 0;
  __device__ __forceinline__ int first_key(int tile) const {
    return (tile + (gone > 0 && tile >= gone_from ? gone : 0)) * kKeyTile;
  }
};
__device__ __forceinline__ TileRange tile_range(int oldest_key, int last_query, bool evicts,
                                                BlockSide keys) {
  TileRange range;
  const int first = oldest_key / kKeyTile;
  int tiles = last_query / kKeyTile + 1 - first;
  if (evicts) {
    range.gone_from = max(first, (keys.sink + kKeyTile - 1) / kKeyTile);
    range.gone = max(0, keys.low / kKeyTile - range.gone_from);
    tiles -= range.gone;
  }
  const int share = (tiles + int(gridDim.z) - 1) / int(gridDim.z);
  range.begin = first + share * int(blockIdx.z);
  range.end = min(range.begin + share, first + tiles);
  return range;
}

// The running softmax of a lane's two rows.
template <int D>
struct Running {
  float m[2] = {kLowest, kLowest}, l[2] = {0, 0};  // largest score, sum of 2^(score - m)
  float o[D / 8][4];                               // sum of 2^(score - m) value

  __device__ __forceinline__ Running() {
#pragma unroll
    for (int j = 0; j < D / 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) o[j][i] = 0;
  }
};

template <class T, class P>
__device__ __forceinline__ void load_queries(const P& at, const AttentionArguments<T>& a,
                                             const SegmentView& s, const AttentionItem& item) {
  constexpr int D = P::kStride - kTilePad<T>;
  for (int i = int(threadIdx.x); i < P::kRows * D; i += kAttentionWarps * kWarpLanes) {
    const int r = i / D, c = i % D;
    float x = 0;
    if (r < at.rows && c < at.dim) {
      const int64_t row = s.row + item.first + r / at.group;
      x = to_float(a.q[(row * a.heads + at.head * at.group + r % at.group) * at.dim + c]);
    }
    at.q_tile[r * P::kStride + c] = from_float<T>(x);
  }
}

// p = q k^T of a tile that lies in shared memory. reload(): the dense rows of the tile take the
// place of the encoded ones, where some rows read these and some those.
template <class T, int D, class P, class Reload>
__device__ __forceinline__ void score(const P& at, int begin, bool both, int sink,
                                      const RowBounds& bounds, const Reload& reload,
                                      float (&p)[P::kKeys / 8][4]) {
  const T* my_q = at.q_tile + at.row_warp * 16 * P::kStride;
#pragma unroll
  for (int j = 0; j < P::kKeys / 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) p[j][i] = 0;
  multiply_nt<D, P::kKeys>(my_q, P::kStride, at.k_tile + at.key_warp * P::kKeys * P::kStride,
                           P::kStride, p);
  if (!both) return;
  reload();
#pragma unroll
  for (int j = 0; j < P::kKeys / 8; j += 2) {
    float other[2][4] = {{0, 0, 0, 0}, {0, 0, 0, 0}};
    multiply_nt<D, 16>(my_q, P::kStride, at.k_tile + (at.key_warp * P::kKeys + j * 8) * P::kStride,
                       P::kStride, other);
#pragma unroll
    for (int jj = 0; jj < 2; ++jj)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = begin + at.key(j + jj, i);
        if (key < sink || key >= bounds.keys[i / 2]) p[j + jj][i] = other[jj][i];
      }
  }
}

// Streaming softmax over the keys of this warp: scores become 2^(score - m), what was summed before
// shrinks to the new m.
template <int D, class P>
__device__ __forceinline__ void soften(const P& at, int begin, bool evicts, int sink,
                                       const RowBounds& bounds, float scale, Running<D>& run,
                                       float (&p)[P::kKeys / 8][4]) {
  float top[2] = {run.m[0], run.m[1]};
#pragma unroll
  for (int j = 0; j < P::kKeys / 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = begin + at.key(j, i);
      const bool dropped = evicts && key >= sink && key < bounds.keys[i / 2];
      p[j][i] = key >= bounds.oldest[i / 2] && key <= bounds.newest[i / 2] && !dropped
                    ? p[j][i] * scale
                    : kLowest;
      top[i / 2] = p[j][i] > top[i / 2] ? p[j][i] : top[i / 2];
    }
  float shrink[2], sum[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int step = 1; step < 4; step *= 2) {
      const float x = __shfl_xor_sync(kFullMask, top[i], step);
      top[i] = x > top[i] ? x : top[i];
    }
    shrink[i] = exp2f(run.m[i] - top[i]);
    run.m[i] = top[i];
  }
#pragma unroll
  for (int j = 0; j < P::kKeys / 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // A masked key counts nothing, also where the whole row is masked so far.
      p[j][i] = p[j][i] <= kLowest ? 0.0f : exp2f(p[j][i] - run.m[i / 2]);
      sum[i / 2] += p[j][i];
    }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int step = 1; step < 4; step *= 2) sum[i] += __shfl_xor_sync(kFullMask, sum[i], step);
    run.l[i] = run.l[i] * shrink[i] + sum[i];
  }
#pragma unroll
  for (int j = 0; j < D / 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) run.o[j][i] *= shrink[i / 2];
}

// o += p v of a tile, each probability times the source that holds the value for the row; reload()
// as in score().
template <class T, int D, class P, class Reload>
__device__ __forceinline__ void add_values(const P& at, int begin, bool both, int sink,
                                           const RowBounds& bounds, const Reload& reload,
                                           const float (&p)[P::kKeys / 8][4], Running<D>& run) {
  for (int pass = 0; pass < (both ? 2 : 1); ++pass) {
    if (pass == 1) reload();
    __syncwarp();
#pragma unroll
    for (int j = 0; j < P::kKeys / 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = j * 8 + fragment_column() + i % 2;
        float x = p[j][i];
        if (both) {
          const int key = begin + at.key_warp * P::kKeys + column;
          const bool dense = key < sink || key >= bounds.values[i / 2];
          if (dense != (pass == 1)) x = 0;
        }
        at.p_tile[(fragment_row() + i / 2 * 8) * P::kPStride + column] = from_float<T>(x);
      }
    __syncwarp();
    multiply_nn<P::kKeys, D>(at.p_tile, P::kPStride,
                             at.v_tile + at.key_warp * P::kKeys * P::kStride, P::kStride, run.o);
  }
}

// Merges the warps along the keys into the first of them; false for the others, which are done.
template <int D, int kRowWarps, class P>
__device__ __forceinline__ bool merge_key_warps(const P& at, Running<D>& run) {
  constexpr int kKeyWarps = P::kKeyWarps;
  // The tiles are used up: [warps, 16, D] outputs, then [warps, 16] maxima and sums.
  float* parts = reinterpret_cast<float*>(at.k_tile);
  __shared__ float states[2][kAttentionWarps][16];
  __syncthreads();
#pragma unroll
  for (int j = 0; j < D / 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      parts[(at.warp * 16 + fragment_row() + i / 2 * 8) * D + j * 8 + fragment_column() + i % 2] =
          run.o[j][i];
  if (threadIdx.x % 4 == 0)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      states[0][at.warp][fragment_row() + 8 * i] = run.m[i];
      states[1][at.warp][fragment_row() + 8 * i] = run.l[i];
    }
  __syncthreads();
  if (at.key_warp > 0) return false;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int r = fragment_row() + 8 * i;
    float top = kLowest, sum = 0, weight[kKeyWarps];
#pragma unroll
    for (int w = 0; w < kKeyWarps; ++w) {
      const float x = states[0][w * kRowWarps + at.row_warp][r];
      top = x > top ? x : top;
    }
#pragma unroll
    for (int w = 0; w < kKeyWarps; ++w) {
      weight[w] = exp2f(states[0][w * kRowWarps + at.row_warp][r] - top);
      sum += weight[w] * states[1][w * kRowWarps + at.row_warp][r];
    }
    run.m[i] = top;
    run.l[i] = sum;
#pragma unroll
    for (int j = 0; j < D / 8; ++j)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float x = 0;
#pragma unroll
        for (int w = 0; w < kKeyWarps; ++w)
          x += weight[w] *
               parts[((w * kRowWarps + at.row_warp) * 16 + r) * D + j * 8 + fragment_column() + c];
        run.o[j][2 * i + c] = x;
      }
  }
  return true;
}

// Rows to the output, or to this block's part of it.
template <class T, int D, class P>
__device__ __forceinline__ void store_rows(const P& at, const AttentionArguments<T>& a,
                                           int64_t first_row, const Running<D>& run) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int r = at.row(i);
    if (r >= at.rows) continue;
    const int64_t row = first_row + r / at.group, head = at.head * at.group + r % at.group;
    const int64_t to = row * a.heads + head, part = blockIdx.z * a.rows * a.heads + to;
    const float inverse = run.l[i] > 0 ? 1.0f / run.l[i] : 0.0f;
    if (gridDim.z > 1 && threadIdx.x % 4 == 0)
      a.partial_lse[part] = run.l[i] > 0 ? run.m[i] + log2f(run.l[i]) : kLowest;
#pragma unroll
    for (int j = 0; j < D / 8; ++j)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int column = j * 8 + fragment_column() + c;
        if (column >= at.dim) continue;
        const float x = run.o[j][2 * i + c] * inverse;
        if (gridDim.z > 1)
          a.partial[part * at.dim + column] = x;
        else
          a.out[to * at.dim + column] = from_float<T>(x);
      }
  }
}

}  // namespace attention_detail

}  // namespace ptq::cuda
