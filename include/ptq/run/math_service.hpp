// The host service ptq.math/1: dense linear algebra for methods, by the BLAS and LAPACK.
#pragma once

#include <cblas.h>

#include <algorithm>
#include <cstdint>

#include "ptq/plugin.h"

// LAPACK as OpenBLAS has it; column-major.
extern "C" {
void spotrf_(const char* uplo, const int* n, float* a, const int* lda, int* info);
void strtri_(const char* uplo, const char* diag, const int* n, float* a, const int* lda, int* info);
void ssyevd_(const char* jobz, const char* uplo, const int* n, float* a, const int* lda, float* w,
             float* work, const int* lwork, int* iwork, const int* liwork, int* info);
}

namespace ptq {

namespace math_detail {

inline void gemm(const ptq_call*, int32_t ta, int32_t tb, int64_t m, int64_t n, int64_t k,
                 float alpha, const float* a, int64_t lda, const float* b, int64_t ldb, float beta,
                 float* c, int64_t ldc) {
  if (m <= 0 || n <= 0) return;
  cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, int(m),
              int(n), int(k), alpha, a, int(lda), b, int(ldb), beta, c, int(ldc));
}

// A row-major lower triangle is a column-major upper one.
inline int64_t cholesky(const ptq_call*, int64_t n, float* a) {
  const int size = int(n);
  int info = 0;
  if (n > 0) spotrf_("U", &size, a, &size, &info);
  for (int64_t r = 0; r < n; ++r) std::fill(a + r * n + r + 1, a + (r + 1) * n, 0.0f);
  return info;
}
inline int64_t invert_lower(const ptq_call*, int64_t n, float* a) {
  const int size = int(n);
  int info = 0;
  if (n > 0) strtri_("U", "N", &size, a, &size, &info);
  return info;
}
inline int64_t eigen(const ptq_call* call, int64_t n, float* a, float* w) {
  if (n <= 0) return 0;
  const int size = int(n), lwork = int(1 + 6 * n + 2 * n * n), liwork = int(3 + 5 * n);
  auto* work = static_cast<float*>(call->alloc(call, PTQ_SCRATCH, sizeof(float) * uint64_t(lwork)));
  auto* iwork = static_cast<int*>(call->alloc(call, PTQ_SCRATCH, sizeof(int) * uint64_t(liwork)));
  if (!work || !iwork) return -1;
  int info = 0;
  ssyevd_("V", "U", &size, a, &size, w, work, &lwork, iwork, &liwork, &info);
  call->release(call, work);
  call->release(call, iwork);
  // Column-major eigenvectors are rows here.
  for (int64_t r = 0; r < n; ++r)
    for (int64_t c = 0; c < r; ++c) std::swap(a[r * n + c], a[c * n + r]);
  return info;
}

}  // namespace math_detail

// parallel: the caller's, which knows the threads.
inline ptq_math math_table(decltype(ptq_math::parallel) parallel) {
  using namespace math_detail;
  return {sizeof(ptq_math), 0, parallel, gemm, cholesky, invert_lower, eigen};
}

}  // namespace ptq
