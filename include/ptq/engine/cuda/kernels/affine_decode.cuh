// Weights in any stored form to plain rows, for products that want them plain. Reference:
// AffineRows::decode.
//
// A prefill decodes a slice of the weight and hands it to cuBLAS: the work per weight is one read
// and one write beside hundreds of multiply-adds.
#pragma once

#include "ptq/engine/cuda/queue.hpp"
#include "ptq/engine/cuda/row_views.hpp"

namespace ptq::cuda {

// ---- kernels ----

// Eight numbers to 16-byte aligned memory.
__device__ __forceinline__ void store8(Bf16* to, const float* x) {
  *reinterpret_cast<uint4*>(to) = uint4{pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]),
                                        pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])};
}
__device__ __forceinline__ void store8(float* to, const float* x) {
  reinterpret_cast<float4*>(to)[0] = float4{x[0], x[1], x[2], x[3]};
  reinterpret_cast<float4*>(to)[1] = float4{x[4], x[5], x[6], x[7]};
}

// Rows [begin, begin + n) of a packed matrix to w [n, columns]. grid (ceil(columns / 8 / 128), n)
template <class T>
__global__ void decode_affine_kernel(AffineView v, int64_t begin, T* w) {
  const int64_t column = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
  if (column >= v.columns) return;
  float x[8];
  AffineReader reader(v, 0);
  reader.read8(begin + blockIdx.y, column, x);
  T* out = w + int64_t(blockIdx.y) * v.columns + column;
  if (v.columns % 8 == 0) return store8(out, x);
  for (int i = 0; i < 8 && column + i < v.columns; ++i) out[i] = from_float<T>(x[i]);
}

// ---- launchers ----

template <class T>
void decode_affine(Queue& queue, const AffineView& v, int64_t begin, int64_t n, T* w) {
  for (int64_t at = 0; at < n; at += 65535) {
    const int64_t rows = n - at < 65535 ? n - at : 65535;
    queue.launch("decode_affine", decode_affine_kernel<T>,
                 dim3(unsigned(ceil_div(v.columns, 8 * 128)), unsigned(rows)), dim3(128), 0, v,
                 begin + at, w + at * v.columns);
  }
}

}  // namespace ptq::cuda
