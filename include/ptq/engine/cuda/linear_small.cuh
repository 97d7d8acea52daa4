// y = x W^T + b for a few rows of x: decoding. Bound by reading W once, whatever its encoding.
// Reference: cpu::Device::linear.
//
// A warp takes two output rows and walks along the inputs, 8 weights a lane at a time; the weights
// are decoded in registers and multiplied with up to 8 rows of x, which stay in the first-level
// cache. A group of packed weights costs one multiply-add: sum (q s + z) x = s sum q x + z sum x.
#pragma once

#include "ptq/engine/cuda/queue.hpp"
#include "ptq/engine/cuda/row_views.hpp"

namespace ptq::cuda {

inline constexpr int kSmallRows = 8;  // most rows of x
inline constexpr int kOutputsPerWarp = 2;
inline constexpr int kLinearWarps = 4;  // of a block

// A dense weight [out, in] of element type W.
template <class W>
struct DenseWeight {
  const W* data;
  int64_t in;
  bool aligned;  // rows begin at multiples of 16 bytes
};

// ---- kernels ----

namespace linear_detail {

__device__ __forceinline__ void load8(const float* p, float* out) {
  const float4 a = *reinterpret_cast<const float4*>(p), b = *reinterpret_cast<const float4*>(p + 4);
  out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
  out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
}
template <class H>
__device__ __forceinline__ void load8(const H* p, float* out) {
  const uint4 word = *reinterpret_cast<const uint4*>(p);
  const uint32_t words[4] = {word.x, word.y, word.z, word.w};
#pragma unroll
  for (int i = 0; i < 8; ++i) out[i] = to_float(H{uint16_t(words[i / 2] >> (i % 2 * 16))});
}
// Up to 8 numbers from column c on; the rest is zero.
template <class H>
__device__ __forceinline__ void load8(const H* row, int64_t c, int64_t n, bool aligned,
                                      float* out) {
  if (aligned && c + 8 <= n) return load8(row + c, out);
#pragma unroll
  for (int i = 0; i < 8; ++i) out[i] = c + i < n ? to_float(row[c + i]) : 0.0f;
}

// An integer below 2^23 as float with full-rate instructions.
__device__ __forceinline__ float code_to_float(uint32_t code) {
  return bits_float(0x4B000000u | code) - 8388608.0f;
}

// Dot products of 8 weights with each row of x, added to acc.
template <int N, class W>
__device__ __forceinline__ void multiply8(const DenseWeight<W>& w, int64_t row, int64_t c,
                                          const float (*x)[8], float* acc) {
  float v[8];
  load8(w.data + row * w.in, c, w.in, w.aligned, v);
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int i = 0; i < 8; ++i) acc[n] += v[i] * x[n][i];
}

template <int N>
__device__ __forceinline__ void multiply8(const AffineView& w, int64_t row, int64_t c,
                                          const float (*x)[8], float* acc) {
  uint32_t low = 0, high = 0;
  const uint8_t* p = w.codes + row * w.row_bytes + c * w.bits / 8;
  if (w.bits == 4 && w.row_bytes % 4 == 0) {
    low = *reinterpret_cast<const uint32_t*>(p);
  } else if (w.bits == 8 && w.row_bytes % 8 == 0) {
    const uint2 both = *reinterpret_cast<const uint2*>(p);
    low = both.x;
    high = both.y;
  } else if (w.bits == 2 && w.row_bytes % 2 == 0) {
    low = *reinterpret_cast<const uint16_t*>(p);
  } else {
    const int64_t left = w.row_bytes - c * w.bits / 8;
    const int bytes = int(left < w.bits ? left : int64_t(w.bits));
    for (int i = 0; i < bytes; ++i) (i < 4 ? low : high) |= uint32_t(p[i]) << (i % 4 * 8);
  }
  float scale, offset;
  read_affine_params(w, 0, row * w.groups + c / w.group, scale, offset);
  float sum[N], dot[N];
#pragma unroll
  for (int n = 0; n < N; ++n) sum[n] = dot[n] = 0;
  const uint32_t mask = (1u << w.bits) - 1;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint32_t code =
        w.bits == 8 ? ((i < 4 ? low : high) >> (i % 4 * 8)) & mask : (low >> (w.bits * i)) & mask;
    const float q = code_to_float(code);  // columns behind the row meet x = 0
#pragma unroll
    for (int n = 0; n < N; ++n) {
      dot[n] += q * x[n][i];
      sum[n] += x[n][i];
    }
  }
#pragma unroll
  for (int n = 0; n < N; ++n) acc[n] += scale * dot[n] + offset * sum[n];
}

}  // namespace linear_detail

// x [n, in], y [n, out]; rows of x beyond n are not read. Weight: DenseWeight or AffineView (axis
// 1, groups of a multiple of 8, or one group per row). grid (ceil(out / 8))
template <class T, int N, class Weight>
__global__ void linear_small_kernel(Weight w, const T* bias, const T* x, int64_t in, int64_t out,
                                    int n, bool x_aligned, T* y) {
  using namespace linear_detail;
  const int lane = int(threadIdx.x) % kWarpLanes;
  const int64_t first =
      (int64_t(blockIdx.x) * kLinearWarps + int(threadIdx.x) / kWarpLanes) * kOutputsPerWarp;
  if (first >= out) return;
  float acc[kOutputsPerWarp][N];
#pragma unroll
  for (int r = 0; r < kOutputsPerWarp; ++r)
#pragma unroll
    for (int i = 0; i < N; ++i) acc[r][i] = 0;
  for (int64_t c = lane * 8; c < in; c += kWarpLanes * 8) {
    float values[N][8];
#pragma unroll
    for (int i = 0; i < N; ++i) load8(x + (i < n ? i : 0) * in, c, in, x_aligned, values[i]);
#pragma unroll
    for (int r = 0; r < kOutputsPerWarp; ++r)
      multiply8<N>(w, first + r < out ? first + r : first, c, values, acc[r]);
  }
#pragma unroll
  for (int r = 0; r < kOutputsPerWarp; ++r)
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float sum = warp_sum(acc[r][i]);
      if (lane == 0 && i < n && first + r < out) {
        const float b = bias ? to_float(bias[first + r]) : 0.0f;
        y[i * out + first + r] = from_float<T>(sum + b);
      }
    }
}

// ---- launcher ----

// Can the kernel read this weight?
inline bool small_linear_reads(const AffineView& w) {
  return w.axis == 1 && (w.group % 8 == 0 || w.group >= w.columns);
}

// n rows of x, 1 .. kSmallRows.
template <class T, class Weight>
void linear_small(Queue& queue, const Weight& w, const T* bias, const T* x, int64_t in, int64_t out,
                  int64_t n, T* y) {
  const auto with_rows = [&](auto rows) {
    constexpr int N = decltype(rows)::value;
    queue.launch("linear_small", linear_small_kernel<T, N, Weight>,
                 dim3(unsigned(ceil_div(out, kLinearWarps * kOutputsPerWarp))),
                 dim3(kLinearWarps * kWarpLanes), 0, w, bias, x, in, out, int(n),
                 in % 8 == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0, y);
  };
  if (n == 1)
    with_rows(std::integral_constant<int, 1>{});
  else if (n <= 2)
    with_rows(std::integral_constant<int, 2>{});
  else if (n <= 4)
    with_rows(std::integral_constant<int, 4>{});
  else
    with_rows(std::integral_constant<int, 8>{});
}

}  // namespace ptq::cuda
