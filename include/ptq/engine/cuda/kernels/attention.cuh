// Attention: causal, grouped heads, sliding window, sequences packed without padding, rows read
// from the cache as it stores them. References: cpu::attention and
// test/support/reference_attention.hpp.
//
// One block takes a few queries of one sequence and one kv head: its rows are (query, head of the
// group), 16 per warp. Keys and values come in tiles of 64 rows, decoded into shared memory once
// for all rows of the block; scores stay in registers in float32 and the softmax runs along
// (streaming softmax, arXiv 2205.14135). A tile that lies on both sides of some query's boundary is
// read from both sources and each (row, key) takes its own. With few rows the keys of a tile are
// divided among the warps and the context among blocks; the parts, each with the logarithm of its
// sum, are merged exactly. Scores are in units of log 2.
//
// Every kernel exists twice: kPlain for caches of dense and affine rows that are read as they are
// stored, and one for all that a cache can hold (SideView::plain), whose registers are its own.
#pragma once

#include <algorithm>

#include "ptq/engine/cuda/kernels/encoded_read.cuh"
#include "ptq/engine/cuda/kernels/mma.cuh"
#include "ptq/engine/cuda/queue.hpp"
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

// ---- kernels ----

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

}  // namespace attention_detail

// kRowWarps x kKeyWarps = 4 warps: how many of them lie along the rows, how many along the keys.
// grid (items, kv_heads, splits)
template <class T, int D, int kRowWarps, bool kPlain>
__global__ void __launch_bounds__(kAttentionWarps* kWarpLanes, 2)
    attention_kernel(AttentionArguments<T> a) {
  constexpr int kKeyWarps = kAttentionWarps / kRowWarps, kRows = 16 * kRowWarps;
  constexpr int kKeys = kKeyTile / kKeyWarps;  // of a tile, per warp
  constexpr int kStride = D + kTilePad<T>, kPStride = kKeyTile + kTilePad<T>;
  constexpr int kAtOnce = kPlain && kRowWarps == 1 ? 4 : 1;
  using namespace attention_detail;

  T* q_tile = reinterpret_cast<T*>(dynamic_shared());  // [kRows, kStride]
  T* k_tile = q_tile + kRows * kStride;                // [64, kStride]
  T* v_tile = k_tile + kKeyTile * kStride;             // [64, kStride]
  const int warp = int(threadIdx.x) / kWarpLanes;
  T* p_tile = v_tile + kKeyTile * kStride + warp * 16 * kPStride;  // [16, kPStride], own
  const int row_warp = warp % kRowWarps, key_warp = warp / kRowWarps;

  const AttentionItem item = a.items[blockIdx.x];
  const SegmentView& s = a.segments[item.segment];
  const int head = int(blockIdx.y), group = int(a.heads / a.kv_heads), dim = int(a.dim);
  const int rows = item.count * group;
  const int first_query = int(s.position) + item.first;  // absolute
  const int last_query = first_query + item.count - 1;

  for (int i = int(threadIdx.x); i < kRows * D; i += kAttentionWarps * kWarpLanes) {
    const int r = i / D, c = i % D;
    float x = 0;
    if (r < rows && c < dim) {
      const int64_t row = s.row + item.first + r / group;
      x = to_float(a.q[(row * a.heads + head * group + r % group) * dim + c]);
    }
    q_tile[r * kStride + c] = from_float<T>(x);
  }

  // The two rows of this lane.
  int key_bound[2], value_bound[2], oldest[2], newest[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int r = row_warp * 16 + fragment_row() + 8 * i;
    const int t = first_query + (r < rows ? r / group : item.count - 1);
    key_bound[i] = int(s.keys.boundary(t));
    value_bound[i] = int(s.values.boundary(t));
    newest[i] = t;
    oldest[i] = a.window > 0 ? max(0, t + 1 - int(a.window)) : 0;
  }
  const BlockSide keys = block_side<kPlain>(s.keys, first_query, last_query),
                  values = block_side<kPlain>(s.values, first_query, last_query);
  const bool evicts = !kPlain && s.keys.policy.evicts;  // and so do the values

  float m[2] = {kLowest, kLowest}, l[2] = {0, 0};
  float o[D / 8][4];
#pragma unroll
  for (int j = 0; j < D / 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) o[j][i] = 0;

  // This block's share of the tiles.
  const int first_tile = (a.window > 0 ? max(0, first_query + 1 - int(a.window)) : 0) / kKeyTile;
  int tiles = last_query / kKeyTile + 1 - first_tile;
  // Whole tiles of evicted rows are left out.
  int gone_from = 0, gone = 0;
  if (evicts) {
    gone_from = max(first_tile, (keys.sink + kKeyTile - 1) / kKeyTile);
    gone = max(0, keys.low / kKeyTile - gone_from);
    tiles -= gone;
  }
  const int share = (tiles + int(gridDim.z) - 1) / int(gridDim.z);
  const int tile_begin = first_tile + share * int(blockIdx.z);
  const int tile_end = min(tile_begin + share, first_tile + tiles);
  for (int tile = tile_begin; tile < tile_end; ++tile) {
    const int begin = (tile + (evicts && tile >= gone_from ? gone : 0)) * kKeyTile;
    const int end = min(begin + kKeyTile, last_query + 1);
    const bool k_enc = needs(keys, true, begin, end), k_dense = needs(keys, false, begin, end);
    const bool v_enc = needs(values, true, begin, end), v_dense = needs(values, false, begin, end);

    __syncthreads();  // the tiles of the round before are used up
    load_tile<T, D, kAtOnce, kPlain>(s.keys, keys, k_enc, head, dim, begin, end, k_tile);
    load_tile<T, D, kAtOnce, kPlain>(s.values, values, v_enc, head, dim, begin, end, v_tile);
    __syncthreads();

    const T* my_q = q_tile + row_warp * 16 * kStride;
    float p[kKeys / 8][4];
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) p[j][i] = 0;
    multiply_nt<D, kKeys>(my_q, kStride, k_tile + key_warp * kKeys * kStride, kStride, p);
    if (k_enc && k_dense) {
      __syncthreads();
      load_tile<T, D, kAtOnce, kPlain>(s.keys, keys, false, head, dim, begin, end, k_tile);
      __syncthreads();
#pragma unroll
      for (int j = 0; j < kKeys / 8; j += 2) {
        float other[2][4] = {{0, 0, 0, 0}, {0, 0, 0, 0}};
        multiply_nt<D, 16>(my_q, kStride, k_tile + (key_warp * kKeys + j * 8) * kStride, kStride,
                           other);
#pragma unroll
        for (int jj = 0; jj < 2; ++jj)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int key = begin + key_warp * kKeys + (j + jj) * 8 + fragment_column() + i % 2;
            if (key < keys.sink || key >= key_bound[i / 2]) p[j + jj][i] = other[jj][i];
          }
      }
    }

    // Streaming softmax over the keys of this warp.
    float top[2] = {m[0], m[1]};
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = begin + key_warp * kKeys + j * 8 + fragment_column() + i % 2;
        const bool dropped = evicts && key >= keys.sink && key < key_bound[i / 2];
        p[j][i] =
            key >= oldest[i / 2] && key <= newest[i / 2] && !dropped ? p[j][i] * a.scale : kLowest;
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
      shrink[i] = exp2f(m[i] - top[i]);
      m[i] = top[i];
    }
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        // A masked key counts nothing, also where the whole row is masked so far.
        p[j][i] = p[j][i] <= kLowest ? 0.0f : exp2f(p[j][i] - m[i / 2]);
        sum[i / 2] += p[j][i];
      }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int step = 1; step < 4; step *= 2) sum[i] += __shfl_xor_sync(kFullMask, sum[i], step);
      l[i] = l[i] * shrink[i] + sum[i];
    }
#pragma unroll
    for (int j = 0; j < D / 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) o[j][i] *= shrink[i / 2];

    // Output: probabilities times the source that holds the value for the row.
    const bool both = v_enc && v_dense;
    for (int pass = 0; pass < (both ? 2 : 1); ++pass) {
      if (pass == 1) {
        __syncthreads();
        load_tile<T, D, kAtOnce, kPlain>(s.values, values, false, head, dim, begin, end, v_tile);
        __syncthreads();
      }
      __syncwarp();
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int column = j * 8 + fragment_column() + i % 2;
          float x = p[j][i];
          if (both) {
            const int key = begin + key_warp * kKeys + column;
            const bool dense = key < values.sink || key >= value_bound[i / 2];
            if (dense != (pass == 1)) x = 0;
          }
          p_tile[(fragment_row() + i / 2 * 8) * kPStride + column] = from_float<T>(x);
        }
      __syncwarp();
      multiply_nn<kKeys, D>(p_tile, kPStride, v_tile + key_warp * kKeys * kStride, kStride, o);
    }
  }

  // Merge the warps along the keys.
  if constexpr (kKeyWarps > 1) {
    // The tiles are used up: [warps, 16, D] outputs, then [warps, 16] maxima and sums.
    float* parts = reinterpret_cast<float*>(k_tile);
    __shared__ float states[2][kAttentionWarps][16];
    __syncthreads();
#pragma unroll
    for (int j = 0; j < D / 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        parts[(warp * 16 + fragment_row() + i / 2 * 8) * D + j * 8 + fragment_column() + i % 2] =
            o[j][i];
    if (threadIdx.x % 4 == 0)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        states[0][warp][fragment_row() + 8 * i] = m[i];
        states[1][warp][fragment_row() + 8 * i] = l[i];
      }
    __syncthreads();
    if (key_warp > 0) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = fragment_row() + 8 * i;
      float top = kLowest, sum = 0, weight[kKeyWarps];
#pragma unroll
      for (int w = 0; w < kKeyWarps; ++w) {
        const float x = states[0][w * kRowWarps + row_warp][r];
        top = x > top ? x : top;
      }
#pragma unroll
      for (int w = 0; w < kKeyWarps; ++w) {
        weight[w] = exp2f(states[0][w * kRowWarps + row_warp][r] - top);
        sum += weight[w] * states[1][w * kRowWarps + row_warp][r];
      }
      m[i] = top;
      l[i] = sum;
#pragma unroll
      for (int j = 0; j < D / 8; ++j)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float x = 0;
#pragma unroll
          for (int w = 0; w < kKeyWarps; ++w)
            x += weight[w] *
                 parts[((w * kRowWarps + row_warp) * 16 + r) * D + j * 8 + fragment_column() + c];
          o[j][2 * i + c] = x;
        }
    }
  }

#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int r = row_warp * 16 + fragment_row() + 8 * i;
    if (r >= rows) continue;
    const int64_t row = s.row + item.first + r / group, query_head = head * group + r % group;
    const int64_t at = row * a.heads + query_head;
    const float inverse = l[i] > 0 ? 1.0f / l[i] : 0.0f;
    const int64_t part = blockIdx.z * a.rows * a.heads + at;
    if (gridDim.z > 1 && threadIdx.x % 4 == 0)
      a.partial_lse[part] = l[i] > 0 ? m[i] + log2f(l[i]) : kLowest;
#pragma unroll
    for (int j = 0; j < D / 8; ++j)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int column = j * 8 + fragment_column() + c;
        if (column >= dim) continue;
        const float x = o[j][2 * i + c] * inverse;
        if (gridDim.z > 1)
          a.partial[part * dim + column] = x;
        else
          a.out[at * dim + column] = from_float<T>(x);
      }
  }
}

// out = sum over splits of 2^(lse - max) partial / sum of 2^(lse - max). grid (rows * heads)
template <class T>
__global__ void merge_attention_kernel(AttentionArguments<T> a, int splits) {
  const int64_t at = blockIdx.x, stride = a.rows * a.heads;
  float top = kLowest, sum = 0;
  for (int s = 0; s < splits; ++s) {
    const float x = a.partial_lse[s * stride + at];
    top = x > top ? x : top;
  }
  for (int s = 0; s < splits; ++s) sum += exp2f(a.partial_lse[s * stride + at] - top);
  for (int64_t c = threadIdx.x; c < a.dim; c += blockDim.x) {
    float x = 0;
    for (int s = 0; s < splits; ++s) {
      const float weight = exp2f(a.partial_lse[s * stride + at] - top);
      if (weight > 0) x += weight * a.partial[(s * stride + at) * a.dim + c];
    }
    a.out[at * a.dim + c] = from_float<T>(x / sum);
  }
}

// ---- launchers ----

// How a pass is divided: queries per block, and blocks along the context.
struct AttentionPlan {
  bool few;  // the rows of one warp: decoding, short questions
  int64_t queries_per_block;
  int splits;
};

// longest: queries of the longest segment. The plan does not depend on the context, because a
// captured graph outlives it.
inline AttentionPlan plan_attention(int64_t segments, int64_t longest, int64_t heads,
                                    int64_t kv_heads, int processors) {
  const int64_t group = heads / kv_heads;
  AttentionPlan plan{longest * group <= 16, 1, 1};
  plan.queries_per_block = plan.few ? longest : (group > 64 ? 0 : 64 / group);
  if (plan.queries_per_block == 0)
    throw usage_error("more than 64 query heads share one key head", "the CUDA engine");
  // Enough blocks to fill the card twice.
  const int64_t blocks = segments * kv_heads * ceil_div(longest, plan.queries_per_block);
  const int64_t wanted = 2 * int64_t(processors);
  // With 4 key heads and one query, 66 parts fill 132 processors twice.
  constexpr int64_t kMostSplits = 128;
  if (blocks < wanted) plan.splits = int(std::min(ceil_div(wanted, blocks), kMostSplits));
  return plan;
}

template <class T, int D, int kRowWarps, bool kPlain>
void launch_attention(Queue& queue, const AttentionArguments<T>& a, int64_t items, int splits) {
  queue.launch("attention", attention_kernel<T, D, kRowWarps, kPlain>,
               dim3(unsigned(items), unsigned(a.kv_heads), unsigned(splits)),
               dim3(kAttentionWarps * kWarpLanes), attention_shared_bytes<T, D>(16 * kRowWarps), a);
}

// Heads of up to D columns. plain: are the views of all segments?
template <class T, int D>
void attention_of_width(Queue& queue, const AttentionArguments<T>& a, int64_t items,
                        const AttentionPlan& plan, bool plain) {
  if (plain && plan.few)
    launch_attention<T, D, 1, true>(queue, a, items, plan.splits);
  else if (plain)
    launch_attention<T, D, 4, true>(queue, a, items, plan.splits);
  else if (plan.few)
    launch_attention<T, D, 1, false>(queue, a, items, plan.splits);
  else
    launch_attention<T, D, 4, false>(queue, a, items, plan.splits);
  if (plan.splits > 1)
    queue.launch("merge_attention", merge_attention_kernel<T>, dim3(unsigned(a.rows * a.heads)),
                 dim3(128), 0, a, plan.splits);
}

// Half of all compiling goes into these kernels. The engine compiles them in files of their own and
// with PTQ_CUDA_KERNELS_APART, which keeps every other file from doing it again. `how`: empty or
// extern.
#define PTQ_ATTENTION(how, T, D)                                                            \
  how template void attention_of_width<T, D>(Queue&, const AttentionArguments<T>&, int64_t, \
                                             const AttentionPlan&, bool);
#ifdef PTQ_CUDA_KERNELS_APART
PTQ_ATTENTION(extern, Bf16, 32)
PTQ_ATTENTION(extern, Bf16, 64)
PTQ_ATTENTION(extern, Bf16, 128)
PTQ_ATTENTION(extern, float, 32)
PTQ_ATTENTION(extern, float, 64)
PTQ_ATTENTION(extern, float, 128)
#endif

template <class T>
void attention(Queue& queue, const AttentionArguments<T>& a, int64_t items,
               const AttentionPlan& plan, bool plain) {
  if (a.dim <= 32)
    attention_of_width<T, 32>(queue, a, items, plan, plain);
  else if (a.dim <= 64)
    attention_of_width<T, 64>(queue, a, items, plan, plain);
  else if (a.dim <= 128)
    attention_of_width<T, 128>(queue, a, items, plan, plain);
  else
    throw usage_error("head_dim " + std::to_string(a.dim), "the CUDA engine",
                      "it has attention for head_dim up to 128; use --device cpu");
}

}  // namespace ptq::cuda
