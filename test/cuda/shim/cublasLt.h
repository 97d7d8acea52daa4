// The part of <cublasLt.h> that engine/cuda/gemm.hpp uses, computed on the host in float32. It
// checks what cuBLASLt would check: dimensions, leading dimensions, workspace alignment.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "cuda_runtime.h"
#include "ptq/core/dtype.hpp"

enum cublasStatus_t {
  CUBLAS_STATUS_SUCCESS = 0,
  CUBLAS_STATUS_INVALID_VALUE = 7,
  CUBLAS_STATUS_NOT_SUPPORTED = 15,
};
enum cudaDataType_t { CUDA_R_32F = 0, CUDA_R_16BF = 14 };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F = 68 };
enum cublasOperation_t { CUBLAS_OP_N = 0, CUBLAS_OP_T = 1 };
enum cublasLtEpilogue_t { CUBLASLT_EPILOGUE_DEFAULT = 1, CUBLASLT_EPILOGUE_BIAS = 4 };
enum cublasLtMatmulDescAttributes_t {
  CUBLASLT_MATMUL_DESC_TRANSA = 3,
  CUBLASLT_MATMUL_DESC_EPILOGUE = 7,
  CUBLASLT_MATMUL_DESC_BIAS_POINTER = 8,
};
enum cublasLtMatmulPreferenceAttributes_t {
  CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES = 1,
  CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK = 3,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES = 5,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES = 6,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES = 7,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES = 8,
};
enum cublasLtReductionScheme_t { CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE = 2 };

namespace ptq_shim {
// Does the pretended library know no algorithm that adds a bias?
inline thread_local bool refuse_bias = false;

struct MatmulDesc {
  cublasOperation_t transpose_a = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
};
struct MatrixLayout {
  cudaDataType_t type;
  uint64_t rows, columns;
  int64_t leading;
};
inline float number(cudaDataType_t type, const void* p, int64_t i) {
  return type == CUDA_R_32F ? static_cast<const float*>(p)[i]
                            : ptq::bf16_to_float(static_cast<const uint16_t*>(p)[i]);
}
}  // namespace ptq_shim

using cublasLtHandle_t = int*;
using cublasLtMatmulDesc_t = ptq_shim::MatmulDesc*;
using cublasLtMatrixLayout_t = ptq_shim::MatrixLayout*;
using cublasLtMatmulPreference_t = int*;
struct cublasLtMatmulAlgo_t {
  int chosen;
};
struct cublasLtMatmulHeuristicResult_t {
  cublasLtMatmulAlgo_t algo;
};

inline cublasStatus_t cublasLtCreate(cublasLtHandle_t* h) {
  *h = new int(0);
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtDestroy(cublasLtHandle_t h) {
  delete h;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* d, cublasComputeType_t,
                                               cudaDataType_t) {
  *d = new ptq_shim::MatmulDesc;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) {
  delete d;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d,
                                                     cublasLtMatmulDescAttributes_t what,
                                                     const void* value, size_t bytes) {
  switch (what) {
    case CUBLASLT_MATMUL_DESC_TRANSA: std::memcpy(&d->transpose_a, value, bytes); break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE: std::memcpy(&d->epilogue, value, bytes); break;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: std::memcpy(&d->bias, value, bytes); break;
  }
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* l, cudaDataType_t type,
                                                 uint64_t rows, uint64_t columns, int64_t leading) {
  if (leading < int64_t(rows)) return CUBLAS_STATUS_INVALID_VALUE;
  *l = new ptq_shim::MatrixLayout{type, rows, columns, leading};
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) {
  delete l;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* p) {
  *p = new int(0);
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
  delete p;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t,
                                                           cublasLtMatmulPreferenceAttributes_t,
                                                           const void*, size_t) {
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t d,
                                                     cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                                     cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                                     cublasLtMatmulPreference_t, int,
                                                     cublasLtMatmulHeuristicResult_t* result,
                                                     int* count) {
  if (ptq_shim::refuse_bias && d->epilogue == CUBLASLT_EPILOGUE_BIAS) {
    *count = 0;
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  result->algo.chosen = 1;
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}
// D = alpha op(A) B + beta C (+ bias per row), columns first.
inline cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t d, const void* alpha,
                                     const void* a, cublasLtMatrixLayout_t la, const void* b,
                                     cublasLtMatrixLayout_t lb, const void* beta, const void* c,
                                     cublasLtMatrixLayout_t lc, void* out,
                                     cublasLtMatrixLayout_t lo, const cublasLtMatmulAlgo_t* algo,
                                     void* workspace, size_t, cudaStream_t stream) {
  const bool transposed = d->transpose_a == CUBLAS_OP_T;
  const int64_t m = int64_t(transposed ? la->columns : la->rows),
                k = int64_t(transposed ? la->rows : la->columns), n = int64_t(lb->columns);
  if (!algo->chosen || reinterpret_cast<uintptr_t>(workspace) % 16 != 0 || c != out ||
      int64_t(lb->rows) != k || int64_t(lo->rows) != m || int64_t(lo->columns) != n || lc != lo)
    return CUBLAS_STATUS_INVALID_VALUE;
  const float scale = *static_cast<const float*>(alpha);
  if (*static_cast<const float*>(beta) != 0) return CUBLAS_STATUS_NOT_SUPPORTED;
  const ptq_shim::MatrixLayout wa = *la, wb = *lb, wo = *lo;
  const void* bias = d->epilogue == CUBLASLT_EPILOGUE_BIAS ? d->bias : nullptr;
  stream->enqueue([=] {
    for (int64_t j = 0; j < n; ++j)
      for (int64_t i = 0; i < m; ++i) {
        float sum = 0;
        for (int64_t e = 0; e < k; ++e)
          sum +=
              ptq_shim::number(wa.type, a, transposed ? i * wa.leading + e : e * wa.leading + i) *
              ptq_shim::number(wb.type, b, j * wb.leading + e);
        sum = scale * sum + (bias ? ptq_shim::number(wo.type, bias, i) : 0.0f);
        if (wo.type == CUDA_R_32F)
          static_cast<float*>(out)[j * wo.leading + i] = sum;
        else
          static_cast<uint16_t*>(out)[j * wo.leading + i] = ptq::float_to_bf16(sum);
      }
  });
  return CUBLAS_STATUS_SUCCESS;
}
