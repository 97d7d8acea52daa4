// y = x W^T + b for a few rows of x: decoding. Bound by reading W once, whatever its encoding.
// Reference: cpu::Device::linear.
//
// A warp takes two output rows and walks along the inputs; weights are decoded in registers and
// multiplied with up to 8 rows of x, which stay in the first-level cache. Codes become floats
// without a conversion: put below the exponent of 2^bits they read 2^bits + q, so that
//   sum (q s + z) x = s sum (2^bits + q) x + (z - 2^bits s) sum x
// costs a shift, a mask and a multiply-add per weight.
//
// kAligned: rows of x and of W are whole units of 16 bytes. Known when compiling, so that no branch
// stands between the loads of an iteration and all of them are in flight together; other shapes,
// which no model of note has, share one slower kernel for any number of rows.
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
};

// The rows of x and where the result goes.
template <class T>
struct SmallLinear {
  const T *bias, *x;  // [out] or nullptr; [n, in]
  T* y;               // [n, out]
  int in, out, n;
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
template <bool kAligned, class H>
__device__ __forceinline__ void load8(const H* row, int c, int n, float* out) {
  if constexpr (kAligned) {
    load8(row + c, out);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = c + i < n ? to_float(row[c + i]) : 0.0f;
  }
}

// The rows of a lane's sums, added up and stored.
template <class T, int N>
__device__ __forceinline__ void store_sums(const SmallLinear<T>& a, int first,
                                           const float (*acc)[N]) {
#pragma unroll
  for (int r = 0; r < kOutputsPerWarp; ++r)
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float sum = warp_sum(acc[r][i]);
      if (threadIdx.x % kWarpLanes == 0 && i < a.n && first + r < a.out) {
        const float b = a.bias ? to_float(a.bias[first + r]) : 0.0f;
        a.y[int64_t(i) * a.out + first + r] = from_float<T>(sum + b);
      }
    }
}

__device__ __forceinline__ int first_output() {
  return (int(blockIdx.x) * kLinearWarps + int(threadIdx.x) / kWarpLanes) * kOutputsPerWarp;
}

// The codes of 8 columns, c a multiple of 8, in one word (in two for 8 bits).
__device__ __forceinline__ void load_codes(const AffineView& w, int row, int c, uint32_t* words) {
  const uint8_t* p = w.codes + int64_t(row) * w.row_bytes + c / 8 * w.bits;
  words[0] = words[1] = 0;
  if (w.bits == 4 && w.row_bytes % 4 == 0) {
    words[0] = *reinterpret_cast<const uint32_t*>(p);
  } else if (w.bits == 8 && w.row_bytes % 8 == 0) {
    const uint2 both = *reinterpret_cast<const uint2*>(p);
    words[0] = both.x;
    words[1] = both.y;
  } else if (w.bits == 2 && w.row_bytes % 2 == 0) {
    words[0] = *reinterpret_cast<const uint16_t*>(p);
  } else {
    const int left = int(w.row_bytes) - c / 8 * w.bits, bytes = left < w.bits ? left : w.bits;
    for (int i = 0; i < bytes; ++i) words[i / 4] |= uint32_t(p[i]) << (i % 4 * 8);
  }
}

// 2^bits + code i of the words, as float.
template <int kBits>
__device__ __forceinline__ float code_above_base(const uint32_t* words, int i, int bits) {
  const int b = kBits ? kBits : bits, shift = b == 8 ? i % 4 * 8 : i * b;
  const uint32_t word = b == 8 ? words[i / 4] : words[0];
  const uint32_t code = (word >> shift) & ((1u << b) - 1);
  return bits_float(uint32_t(127 + b) << 23 | code << (23 - b));
}

}  // namespace linear_detail

// Dense weights, 8 a lane at a time. grid (ceil(out / 8))
template <class T, int N, class W, bool kAligned>
__global__ void linear_dense_kernel(DenseWeight<W> w, SmallLinear<T> a) {
  using namespace linear_detail;
  const int first = first_output();
  if (first >= a.out) return;
  float acc[kOutputsPerWarp][N] = {};
#pragma unroll 2
  for (int c = int(threadIdx.x) % kWarpLanes * 8; c < a.in; c += kWarpLanes * 8) {
    float x[N][8];
#pragma unroll
    for (int i = 0; i < N; ++i)
      load8<kAligned>(a.x + int64_t(i < a.n ? i : 0) * a.in, c, a.in, x[i]);
#pragma unroll
    for (int r = 0; r < kOutputsPerWarp; ++r) {
      const int row = first + r < a.out ? first + r : first;
      float v[8];
      load8<kAligned>(w.data + int64_t(row) * a.in, c, a.in, v);
#pragma unroll
      for (int i = 0; i < N; ++i)
#pragma unroll
        for (int k = 0; k < 8; ++k) acc[r][i] += v[k] * x[i][k];
    }
  }
  store_sums<T, N>(a, first, acc);
}

// Packed weights on axis 1 whose groups are multiples of 8 columns, or one per row. kBits: 4, or 0
// for any. kUnits: units of 8 columns that a lane takes at a time; with 4, groups are multiples of
// 32 columns and rows of 16 bytes. grid (ceil(out / 8))
template <class T, int N, int kBits, int kUnits, bool kAligned>
__global__ void linear_packed_kernel(AffineView w, SmallLinear<T> a) {
  using namespace linear_detail;
  const int first = first_output();
  if (first >= a.out) return;
  const float base = float(1u << (kBits ? kBits : w.bits));
  float acc[kOutputsPerWarp][N] = {};
  constexpr int kColumns = 8 * kUnits;
  for (int c = int(threadIdx.x) % kWarpLanes * kColumns; c < a.in; c += kWarpLanes * kColumns) {
    uint32_t codes[kOutputsPerWarp][kUnits == 4 ? 4 : 2];
    float dot[kOutputsPerWarp][N] = {}, sum[N] = {};
#pragma unroll
    for (int r = 0; r < kOutputsPerWarp; ++r) {
      const int row = first + r < a.out ? first + r : first;
      if constexpr (kUnits == 4) {
        const uint4 word =
            *reinterpret_cast<const uint4*>(w.codes + int64_t(row) * w.row_bytes + c / 2);
        codes[r][0] = word.x, codes[r][1] = word.y, codes[r][2] = word.z, codes[r][3] = word.w;
      } else {
        load_codes(w, row, c, codes[r]);
      }
    }
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      float x[N][8];
#pragma unroll
      for (int i = 0; i < N; ++i) {
        load8<kAligned>(a.x + int64_t(i < a.n ? i : 0) * a.in, c + u * 8, a.in, x[i]);
#pragma unroll
        for (int k = 0; k < 8; ++k) sum[i] += x[i][k];  // columns behind the row are zero
      }
#pragma unroll
      for (int r = 0; r < kOutputsPerWarp; ++r)
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          const float q = code_above_base<kBits>(codes[r] + (kUnits == 4 ? u : 0), k, w.bits);
#pragma unroll
          for (int i = 0; i < N; ++i) dot[r][i] += q * x[i][k];
        }
    }
#pragma unroll
    for (int r = 0; r < kOutputsPerWarp; ++r) {
      const int row = first + r < a.out ? first + r : first;
      float scale, offset;
      read_affine_params(w, 0, int64_t(row) * w.groups + w.group_of(c), scale, offset);
#pragma unroll
      for (int i = 0; i < N; ++i) acc[r][i] += scale * dot[r][i] + (offset - base * scale) * sum[i];
    }
  }
  store_sums<T, N>(a, first, acc);
}

// ---- launchers ----

// Can the kernel read this weight?
inline bool small_linear_reads(const AffineView& w) {
  return w.axis == 1 && (w.group % 8 == 0 || w.group >= w.columns);
}

namespace linear_detail {

template <class T>
SmallLinear<T> arguments(const T* bias, const T* x, int64_t in, int64_t out, int64_t n, T* y) {
  return {bias, x, y, int(in), int(out), int(n)};
}
inline bool aligned(const void* x, const void* w, int64_t in) {
  return in % 8 == 0 && (reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(w)) % 16 == 0;
}
inline dim3 blocks(int64_t out) {
  return dim3(unsigned(ceil_div(out, kLinearWarps * kOutputsPerWarp)));
}
// fn(integral constant) with the number of rows that a kernel is compiled for.
template <class Fn>
void with_rows(int64_t n, const Fn& fn) {
  if (n == 1)
    fn(std::integral_constant<int, 1>{});
  else if (n <= 2)
    fn(std::integral_constant<int, 2>{});
  else if (n <= 4)
    fn(std::integral_constant<int, 4>{});
  else
    fn(std::integral_constant<int, 8>{});
}

}  // namespace linear_detail

// n rows of x, 1 .. kSmallRows.
template <class T, class W>
void linear_small(Queue& queue, const DenseWeight<W>& w, const T* bias, const T* x, int64_t in,
                  int64_t out, int64_t n, T* y) {
  const auto run = [&](auto kernel) {
    queue.launch("linear_dense", kernel, linear_detail::blocks(out),
                 dim3(kLinearWarps * kWarpLanes), 0, w,
                 linear_detail::arguments(bias, x, in, out, n, y));
  };
  if (!linear_detail::aligned(x, w.data, in))
    return run(linear_dense_kernel<T, kSmallRows, W, false>);
  linear_detail::with_rows(n, [&](auto rows) { run(linear_dense_kernel<T, rows.value, W, true>); });
}
template <class T>
void linear_small(Queue& queue, const AffineView& w, const T* bias, const T* x, int64_t in,
                  int64_t out, int64_t n, T* y) {
  const bool wide = w.bits == 4 && in % 32 == 0 && w.row_bytes % 16 == 0 &&
                    (w.group % 32 == 0 || w.group >= w.columns);
  const auto run = [&](auto kernel) {
    queue.launch("linear_packed", kernel, linear_detail::blocks(out),
                 dim3(kLinearWarps * kWarpLanes), 0, w,
                 linear_detail::arguments(bias, x, in, out, n, y));
  };
  if (!linear_detail::aligned(x, nullptr, in))
    return run(linear_packed_kernel<T, kSmallRows, 0, 1, false>);
  linear_detail::with_rows(n, [&](auto rows) {
    constexpr int N = decltype(rows)::value;
    if (wide)
      run(linear_packed_kernel<T, N, 4, 4, true>);
    else if (w.bits == 4)
      run(linear_packed_kernel<T, N, 4, 1, true>);
    else
      run(linear_packed_kernel<T, N, 0, 1, true>);
  });
}

// Where kernels are compiled apart (see attention.cuh). `how`: empty or extern.
#define PTQ_LINEAR_SMALL(how, T, W)                                                          \
  how template void linear_small(Queue&, const DenseWeight<W>&, const T*, const T*, int64_t, \
                                 int64_t, int64_t, T*);
#define PTQ_LINEAR_SMALL_PACKED(how, T)                                                           \
  how template void linear_small(Queue&, const AffineView&, const T*, const T*, int64_t, int64_t, \
                                 int64_t, T*);
#ifdef PTQ_CUDA_KERNELS_APART
PTQ_LINEAR_SMALL(extern, Bf16, Bf16)
PTQ_LINEAR_SMALL(extern, float, Bf16)
PTQ_LINEAR_SMALL(extern, float, F16)
PTQ_LINEAR_SMALL(extern, float, float)
PTQ_LINEAR_SMALL_PACKED(extern, Bf16)
PTQ_LINEAR_SMALL_PACKED(extern, float)
#endif

}  // namespace ptq::cuda
