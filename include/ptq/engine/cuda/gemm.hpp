// y = x W^T + b for plain weights, by cuBLASLt.
//
// cuBLAS counts columns first: a row-major W [out, in] is to it a matrix [in, out], so that
// y^T = op(W)^T x^T with m = out, n = rows, k = in, lda = ldb = in.
#pragma once

#include <cublasLt.h>

#include <map>
#include <tuple>

#include "ptq/engine/cuda/arena.hpp"
#include "ptq/engine/cuda/kernels/elementwise.cuh"
#include "ptq/engine/cuda/kernels/numbers.cuh"
#include "ptq/engine/cuda/queue.hpp"

namespace ptq::cuda {

inline void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(ExitCode::environment,
              std::string(what) + " failed with status " + std::to_string(int(status)),
              "the CUDA engine", "the libraries of the CUDA toolkit and the driver may not match");
}

class Gemm {
 public:
  explicit Gemm(Arena& arena) : workspace_(arena, Region::workspace, kWorkspace) {
    check(cublasLtCreate(&handle_), "cublasLtCreate");
  }
  ~Gemm() {
    for (auto& [key, plan] : plans_) {
      cublasLtMatmulDescDestroy(plan.operation);
      for (auto layout : plan.layouts) cublasLtMatrixLayoutDestroy(layout);
    }
    cublasLtDestroy(handle_);
  }
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  // x [n, in], w [out, in], bias [out] or nullptr; y [n, out] with rows `y_stride` elements apart.
  // T is Bf16 or float; sums are float32 (for float: without TF32).
  template <class T>
  void run(Queue& queue, const T* w, const T* bias, const T* x, int64_t n, int64_t in, int64_t out,
           T* y, int64_t y_stride) {
    const int aligned = alignment(w, x, y);
    const Plan* plan = &plan_for(dtype_of<T>, n, in, out, y_stride, bias != nullptr, aligned);
    const bool apart = bias && !plan->found;  // no algorithm adds it: a kernel does, behind
    if (apart) plan = &plan_for(dtype_of<T>, n, in, out, y_stride, false, aligned);
    if (!plan->found) check(CUBLAS_STATUS_NOT_SUPPORTED, "cuBLAS: choice of an algorithm");
    queue.enqueue([&](cudaStream_t stream) {
      if (bias && !apart)
        check(cublasLtMatmulDescSetAttribute(plan->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                             &bias, sizeof bias),
              "cuBLAS: bias");
      const float one = 1, zero = 0;
      check(cublasLtMatmul(handle_, plan->operation, &one, w, plan->layouts[0], x, plan->layouts[1],
                           &zero, y, plan->layouts[2], y, plan->layouts[2], &plan->algorithm,
                           workspace_.data(), size_t(workspace_.size()), stream),
            "cublasLtMatmul");
    });
    if (apart) add_bias(queue, y, bias, n, out, y_stride);
  }

 private:
  static constexpr int64_t kWorkspace = int64_t{32} << 20;

  struct Plan {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t layouts[3] = {};  // W, x, y
    cublasLtMatmulAlgo_t algorithm{};
    bool found = false;  // an algorithm
  };
  using Key = std::tuple<DType, int64_t, int64_t, int64_t, int64_t, bool, int>;

  // Bytes that all addresses are multiples of, a power of two up to cuBLAS's own assumption.
  static int alignment(const void* a, const void* b, const void* c) {
    const uintptr_t bits = reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b) |
                           reinterpret_cast<uintptr_t>(c) | 256;
    return int(bits & (~bits + 1));
  }

  // The choice of an algorithm takes tens of microseconds: once per shape.
  Plan& plan_for(DType dtype, int64_t n, int64_t in, int64_t out, int64_t y_stride, bool bias,
                 int aligned) {
    const Key key{dtype, n, in, out, y_stride, bias, aligned};
    const auto found = plans_.find(key);
    if (found != plans_.end()) return found->second;
    const cudaDataType_t type = dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
    Plan plan;
    check(cublasLtMatmulDescCreate(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
          "cuBLAS: description");
    const cublasOperation_t transposed = CUBLAS_OP_T;
    check(cublasLtMatmulDescSetAttribute(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                         sizeof transposed),
          "cuBLAS: transposition");
    if (bias) {
      const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      check(cublasLtMatmulDescSetAttribute(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                           sizeof epilogue),
            "cuBLAS: epilogue");
    }
    check(cublasLtMatrixLayoutCreate(&plan.layouts[0], type, uint64_t(in), uint64_t(out), in),
          "cuBLAS: layout");
    check(cublasLtMatrixLayoutCreate(&plan.layouts[1], type, uint64_t(in), uint64_t(n), in),
          "cuBLAS: layout");
    check(cublasLtMatrixLayoutCreate(&plan.layouts[2], type, uint64_t(out), uint64_t(n), y_stride),
          "cuBLAS: layout");
    cublasLtMatmulPreference_t preference = nullptr;
    check(cublasLtMatmulPreferenceCreate(&preference), "cuBLAS: preference");
    const uint64_t workspace = uint64_t(kWorkspace);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &workspace, sizeof workspace);
    // Parts of a sum that several blocks make are added in float32, not in the format of y.
    const uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                         &reduction, sizeof reduction);
    const uint32_t bytes = uint32_t(aligned);
    for (const auto operand :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      cublasLtMatmulPreferenceSetAttribute(preference, operand, &bytes, sizeof bytes);
    cublasLtMatmulHeuristicResult_t result{};
    int results = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle_, plan.operation, plan.layouts[0], plan.layouts[1], plan.layouts[2], plan.layouts[2],
        preference, 1, &result, &results);
    cublasLtMatmulPreferenceDestroy(preference);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) check(status, "cuBLAS: choice of an algorithm");
    plan.found = status == CUBLAS_STATUS_SUCCESS && results > 0;
    plan.algorithm = result.algo;
    return plans_.emplace(key, plan).first->second;
  }

  Memory<uint8_t> workspace_;
  cublasLtHandle_t handle_ = nullptr;
  std::map<Key, Plan> plans_;
};

}  // namespace ptq::cuda
