// Stored number formats inside kernels: loads give float, stores round to nearest even.
//
// The conversions are those of core/dtype.hpp; on the device they compile to single instructions.
#pragma once

#include "ptq/core/dtype.hpp"
#include "ptq/engine/cuda/platform.hpp"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace ptq::cuda {

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

template <class T>
inline constexpr DType dtype_of = DType::f32;
template <>
inline constexpr DType dtype_of<Bf16> = DType::bf16;
template <>
inline constexpr DType dtype_of<F16> = DType::f16;

PTQ_HD inline float to_float(float x) { return x; }
PTQ_HD inline float to_float(Bf16 x) { return bf16_to_float(x.bits); }
PTQ_HD inline float to_float(F16 x) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(x.bits));
#else
  return f16_to_float(x.bits);
#endif
}

PTQ_HD inline uint16_t bf16_bits(float x) {
#ifdef __CUDA_ARCH__
  return __bfloat16_as_ushort(__float2bfloat16_rn(x));
#else
  return float_to_bf16(x);
#endif
}

template <class T>
PTQ_HD inline T from_float(float x);
template <>
PTQ_HD inline float from_float<float>(float x) {
  return x;
}
template <>
PTQ_HD inline Bf16 from_float<Bf16>(float x) {
  return {bf16_bits(x)};
}
template <>
PTQ_HD inline F16 from_float<F16>(float x) {
#ifdef __CUDA_ARCH__
  return {__half_as_ushort(__float2half_rn(x))};
#else
  return {float_to_f16(x)};
#endif
}

// x as it is after being stored in T.
template <class T>
PTQ_HD inline float rounded(float x) {
  return to_float(from_float<T>(x));
}

// Two bfloat16 in a word, `low` first in memory.
PTQ_HD inline uint32_t pack_bf16(float low, float high) {
#ifdef __CUDA_ARCH__
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t word;
  memcpy(&word, &pair, 4);
  return word;
#else
  return uint32_t(float_to_bf16(low)) | uint32_t(float_to_bf16(high)) << 16;
#endif
}

// Calls fn with a value of the C++ type behind a dense dtype.
template <class Fn>
void with_dense_type(DType dtype, const Fn& fn) {
  switch (dtype) {
    case DType::f32: return fn(float{});
    case DType::f16: return fn(F16{});
    case DType::bf16: return fn(Bf16{});
    default:
      throw usage_error("a matrix of dtype " + std::string(dtype_name(dtype)), "the CUDA engine",
                        "weights are f32, f16 or bf16");
  }
}

}  // namespace ptq::cuda
