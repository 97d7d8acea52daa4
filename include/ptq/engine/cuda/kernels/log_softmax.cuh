// What scoring needs of rows of logits, where the logits are: log-sum-exp, the largest, the
// target's, and the divergence from a reference. Reference: eval/log_softmax.hpp.
//
// One block a row; sums in float64, as on the host. A row of 152,064 logits becomes 40 bytes.
#pragma once

#include "ptq/engine/cuda/kernels/numbers.cuh"
#include "ptq/engine/cuda/queue.hpp"
#include "ptq/engine/scores.hpp"

namespace ptq::cuda {

// ---- kernels ----

namespace softmax_detail {

inline constexpr int kThreads = 512;

__device__ __forceinline__ double block_sum_double(double x) {
  __shared__ double partial[kThreads / kWarpLanes];
  const int warp = int(threadIdx.x) / kWarpLanes, lane = int(threadIdx.x) % kWarpLanes;
  for (int step = kWarpLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(kFullMask, x, step);
  __syncthreads();
  if (lane == 0) partial[warp] = x;
  __syncthreads();
  x = 0;
  for (int w = 0; w < kThreads / kWarpLanes; ++w) x += partial[w];
  return x;
}

// The largest value and the first place where it stands.
__device__ __forceinline__ void block_argmax(float& value, int& at) {
  __shared__ float values[kThreads / kWarpLanes];
  __shared__ int places[kThreads / kWarpLanes];
  const int warp = int(threadIdx.x) / kWarpLanes, lane = int(threadIdx.x) % kWarpLanes;
  const auto take = [&](float v, int p) {
    if (v > value || (v == value && p < at)) {
      value = v;
      at = p;
    }
  };
  for (int step = kWarpLanes / 2; step > 0; step /= 2) {
    const float v = __shfl_xor_sync(kFullMask, value, step);
    const int p = __shfl_xor_sync(kFullMask, at, step);
    take(v, p);
  }
  __syncthreads();
  if (lane == 0) {
    values[warp] = value;
    places[warp] = at;
  }
  __syncthreads();
  for (int w = 0; w < kThreads / kWarpLanes; ++w) take(values[w], places[w]);
}

// Log-sum-exp of a row; `finite` is false where a logit is not.
template <class T>
__device__ RowScore score_row(const T* row, int64_t vocab) {
  RowScore s;
  float top = -3.4e38f;
  int at = 0x7FFFFFFF, bad = 0;
  for (int64_t v = threadIdx.x; v < vocab; v += kThreads) {
    const float x = to_float(row[v]);
    bad |= !(fabsf(x) <= 3.4028234663852886e38f);
    if (x > top) {
      top = x;
      at = int(v);
    }
  }
  s.finite = !__syncthreads_or(bad);
  block_argmax(top, at);
  double sum = 0;
  for (int64_t v = threadIdx.x; v < vocab; v += kThreads)
    sum += double(expf(to_float(row[v]) - top));
  s.argmax = at;
  s.log_sum_exp = double(top) + log(block_sum_double(sum));
  return s;
}

}  // namespace softmax_detail

// method, reference [rows, vocab] (reference may be nullptr); targets [rows]; out, out_reference
// [rows]. grid (rows)
template <class T>
__global__ void score_rows_kernel(const T* method, const T* reference, const int32_t* targets,
                                  int64_t vocab, RowScore* out, RowScore* out_reference) {
  using namespace softmax_detail;
  const T* q = method + int64_t(blockIdx.x) * vocab;
  RowScore s = score_row(q, vocab);
  const int32_t target = targets[blockIdx.x];
  s.target = to_float(q[target]);
  if (reference) {
    const T* p = reference + int64_t(blockIdx.x) * vocab;
    RowScore r = score_row(p, vocab);
    r.target = to_float(p[target]);
    double sum = 0;
    for (int64_t v = threadIdx.x; v < vocab; v += kThreads) {
      const double log_p = double(to_float(p[v])) - r.log_sum_exp,
                   log_q = double(to_float(q[v])) - s.log_sum_exp;
      sum += double(expf(float(log_p))) * (log_p - log_q);
    }
    const double kl = block_sum_double(sum);
    s.kl = kl > 0 ? kl : 0;
    if (threadIdx.x == 0) out_reference[blockIdx.x] = r;
  }
  if (threadIdx.x == 0) out[blockIdx.x] = s;
}

// ---- launcher ----

template <class T>
void score_rows(Queue& queue, const T* method, const T* reference, const int32_t* targets,
                int64_t rows, int64_t vocab, RowScore* out, RowScore* out_reference) {
  queue.launch("score_rows", score_rows_kernel<T>, dim3(unsigned(rows)),
               dim3(softmax_detail::kThreads), 0, method, reference, targets, vocab, out,
               out_reference);
}

}  // namespace ptq::cuda
