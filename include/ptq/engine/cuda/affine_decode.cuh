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

// Rows [begin, begin + n) of a packed matrix to w [n, columns]. grid (ceil(columns / 8 / 128), n)
template <class T>
__global__ void decode_affine_kernel(AffineView v, int64_t begin, T* w) {
  const int64_t column = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
  if (column >= v.columns) return;
  float x[8];
  AffineReader reader(v, 0);
  reader.read8(begin + blockIdx.y, column, x);
  T* out = w + int64_t(blockIdx.y) * v.columns + column;
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
