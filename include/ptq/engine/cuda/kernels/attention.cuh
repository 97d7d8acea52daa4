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

#include "ptq/engine/cuda/kernels/attention_steps.cuh"
#include "ptq/engine/cuda/queue.hpp"

namespace ptq::cuda {

// ---- kernels ----

// grid (items, kv_heads, splits)
template <class T, int D, int kRowWarps, bool kPlain>
__global__ void __launch_bounds__(kAttentionWarps* kWarpLanes, 2)
    attention_kernel(AttentionArguments<T> a) {
  using namespace attention_detail;
  constexpr int kAtOnce = kPlain && kRowWarps == 1 ? 4 : 1;
  const AttentionItem item = a.items[blockIdx.x];
  const SegmentView& s = a.segments[item.segment];
  const Place<T, D, kRowWarps> at(a, s, item);
  load_queries<T>(at, a, s, item);
  const RowBounds bounds = row_bounds(at, s, item, a);
  const BlockSide keys = block_side<kPlain>(s.keys, at.first_query, at.last_query),
                  values = block_side<kPlain>(s.values, at.first_query, at.last_query);
  const bool evicts = !kPlain && s.keys.policy.evicts;  // and so do the values
  const int oldest = a.window > 0 ? max(0, at.first_query + 1 - int(a.window)) : 0;
  const TileRange range = tile_range(oldest, at.last_query, evicts, keys);

  Running<D> run;
  for (int tile = range.begin; tile < range.end; ++tile) {
    const int begin = range.first_key(tile), end = min(begin + kKeyTile, at.last_query + 1);
    const auto load_keys = [&](bool encoded) {
      load_tile<T, D, kAtOnce, kPlain>(s.keys, keys, encoded, at.head, at.dim, begin, end,
                                       at.k_tile);
    };
    const auto load_values = [&](bool encoded) {
      load_tile<T, D, kAtOnce, kPlain>(s.values, values, encoded, at.head, at.dim, begin, end,
                                       at.v_tile);
    };
    const bool k_encoded = needs(keys, true, begin, end),
               k_both = k_encoded && needs(keys, false, begin, end);
    const bool v_encoded = needs(values, true, begin, end),
               v_both = v_encoded && needs(values, false, begin, end);

    __syncthreads();  // the tiles of the round before are used up
    load_keys(k_encoded);
    load_values(v_encoded);
    __syncthreads();
    float p[Place<T, D, kRowWarps>::kKeys / 8][4];
    score<T, D>(
        at, begin, k_both, keys.sink, bounds,
        [&] {
          __syncthreads();
          load_keys(false);
          __syncthreads();
        },
        p);
    soften<D>(at, begin, evicts, keys.sink, bounds, a.scale, run, p);
    add_values<T, D>(
        at, begin, v_both, values.sink, bounds,
        [&] {
          __syncthreads();
          load_values(false);
          __syncthreads();
        },
        p, run);
  }
  if constexpr (Place<T, D, kRowWarps>::kKeyWarps > 1)
    if (!merge_key_warps<D, kRowWarps>(at, run)) return;
  store_rows<T, D>(at, a, s.row + item.first, run);
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
