// Token embedding: x [rows, width] = the rows of the table that the ids name, and the same gather
// for rows of activations. Reference: cpu::Device::embed and ::pick.
//
// A copy of rows: bound by memory and by a single launch; neighbouring threads read neighbouring
// numbers of one row.
#pragma once

#include "ptq/engine/cuda/kernels/numbers.cuh"
#include "ptq/engine/cuda/queue.hpp"

namespace ptq::cuda {

// ---- kernel ----

// grid (ceil(width / 256), rows)
template <class In, class Out>
__global__ void gather_rows_kernel(const In* table, const int32_t* ids, int64_t width, Out* x) {
  const int64_t c = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, row = blockIdx.y;
  if (c < width)
    x[row * width + c] = from_float<Out>(to_float(table[int64_t(ids[row]) * width + c]));
}

// ---- launcher ----

// ids [n] on the device. A grid has at most 65535 rows.
template <class In, class Out>
void gather_rows(Queue& queue, const In* table, const int32_t* ids, int64_t n, int64_t width,
                 Out* x) {
  for (int64_t at = 0; at < n; at += 65535) {
    const int64_t rows = n - at < 65535 ? n - at : 65535;
    queue.launch("gather_rows", gather_rows_kernel<In, Out>,
                 dim3(unsigned(ceil_div(width, 256)), unsigned(rows)), dim3(256), 0, table,
                 ids + at, width, x + at * width);
  }
}

}  // namespace ptq::cuda
