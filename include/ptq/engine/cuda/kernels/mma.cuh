// Products of small tiles in shared memory by one warp: the tensor cores for bfloat16, plain
// multiply-adds for float.
//
// One warp multiplies A [16, K] with B [K, N] into an accumulator [16, N] that is spread over its
// lanes in blocks of 8 columns: lane 4 g + t holds, of block j, c[j][0..1] = rows g, columns
// 8 j + 2 t, + 1 and c[j][2..3] the same of row g + 8 (PTX ISA, mma.m16n8k16). Both number formats
// use this layout, so that what is done with accumulators is written once. On a host without a GPU
// a software version moves the same fragments between the lanes of a simulated warp.
#pragma once

#include "ptq/engine/cuda/kernels/numbers.cuh"

namespace ptq::cuda {

// Row and first column of what c[j][0] and c[j][2] (row + 8) of a lane are.
__device__ __forceinline__ int fragment_row() { return (int(threadIdx.x) % kWarpLanes) / 4; }
__device__ __forceinline__ int fragment_column() { return 2 * (int(threadIdx.x) % 4); }

// Elements to leave between rows of a tile in shared memory: 16 bytes, so that rows keep their
// alignment and eight neighbouring rows start in different banks.
template <class E>
inline constexpr int kTilePad = 16 / int(sizeof(E));

// ---- bfloat16 fragments ------------------------------------------------------------------------

struct FragmentA {
  uint32_t r[4];
};  // [16, 16]
struct FragmentB {
  uint32_t r[2];
};  // [16, 8]

#ifdef __CUDACC__

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return uint32_t(__cvta_generic_to_shared(p));
}

// A from rows of 16 numbers.
__device__ __forceinline__ FragmentA load_a(const Bf16* tile, int stride) {
  const int lane = int(threadIdx.x) % 32;
  FragmentA a;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a.r[0]), "=r"(a.r[1]), "=r"(a.r[2]), "=r"(a.r[3])
               : "r"(shared_address(tile + (lane % 16) * stride + lane / 16 * 8))
               : "memory");
  return a;
}
// B [16, 16] as two fragments, from a tile [n 16][k 16].
__device__ __forceinline__ void load_b(const Bf16* tile, int stride, FragmentB& left,
                                       FragmentB& right) {
  const int lane = int(threadIdx.x) % 32;
  const int row = lane % 8 + lane / 16 * 8, column = lane / 8 % 2 * 8;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(left.r[0]), "=r"(left.r[1]), "=r"(right.r[0]), "=r"(right.r[1])
               : "r"(shared_address(tile + row * stride + column))
               : "memory");
}
// The same from a tile [k 16][n 16].
__device__ __forceinline__ void load_b_transposed(const Bf16* tile, int stride, FragmentB& left,
                                                  FragmentB& right) {
  const int lane = int(threadIdx.x) % 32;
  const int row = lane % 16, column = lane / 16 * 8;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(left.r[0]), "=r"(left.r[1]), "=r"(right.r[0]), "=r"(right.r[1])
               : "r"(shared_address(tile + row * stride + column))
               : "memory");
}
// c += a b
__device__ __forceinline__ void mma(const FragmentA& a, const FragmentB& b, float* c) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.r[0]), "r"(b.r[1]));
}

#else

namespace mma_detail {
inline uint32_t pair(Bf16 low, Bf16 high) { return uint32_t(low.bits) | uint32_t(high.bits) << 16; }
inline float half_of(uint32_t word, int high) { return bf16_to_float(uint16_t(word >> 16 * high)); }
}  // namespace mma_detail

// ldmatrix wants all lanes of the warp, and so do its three stand-ins.
inline FragmentA load_a(const Bf16* tile, int stride) {
  __syncwarp();
  const int g = fragment_row(), t = fragment_column();
  FragmentA a;
  for (int i = 0; i < 4; ++i) {
    const Bf16* p = tile + (g + i % 2 * 8) * stride + t + i / 2 * 8;
    a.r[i] = mma_detail::pair(p[0], p[1]);
  }
  return a;
}
inline void load_b(const Bf16* tile, int stride, FragmentB& left, FragmentB& right) {
  __syncwarp();
  const int g = fragment_row(), t = fragment_column();
  for (int i = 0; i < 2; ++i) {
    const Bf16 *p = tile + g * stride + t + i * 8, *q = p + 8 * stride;
    left.r[i] = mma_detail::pair(p[0], p[1]);
    right.r[i] = mma_detail::pair(q[0], q[1]);
  }
}
inline void load_b_transposed(const Bf16* tile, int stride, FragmentB& left, FragmentB& right) {
  __syncwarp();
  const int g = fragment_row(), t = fragment_column();
  for (int i = 0; i < 2; ++i) {
    const Bf16* p = tile + (t + i * 8) * stride + g;
    left.r[i] = mma_detail::pair(p[0], p[stride]);
    right.r[i] = mma_detail::pair(p[8], p[stride + 8]);
  }
}
inline void mma(const FragmentA& a, const FragmentB& b, float* c) {
  struct Both {
    FragmentA a;
    FragmentB b;
  } mine = {a, b};
  int buffer = 0;
  const ptq_shim::Exchange& all =
      ptq_shim::current->block->exchange(kFullMask, &mine, sizeof mine, buffer);
  const auto of_lane = [&](int lane) {
    Both other;
    std::memcpy(&other, all.slot[buffer][lane], sizeof other);
    return other;
  };
  const int g = fragment_row(), t = fragment_column();
  for (int k = 0; k < 16; ++k) {
    const FragmentA row = of_lane(g * 4 + k % 8 / 2).a;
    const float low = mma_detail::half_of(row.r[k / 8 * 2], k % 2),
                high = mma_detail::half_of(row.r[k / 8 * 2 + 1], k % 2);
    for (int n = 0; n < 2; ++n) {
      const float v = mma_detail::half_of(of_lane((t + n) * 4 + k % 8 / 2).b.r[k / 8], k % 2);
      c[n] += low * v;
      c[2 + n] += high * v;
    }
  }
}

#endif

// ---- tile products -----------------------------------------------------------------------------

// c [N / 8 blocks] += A B^T: a [16, K], b [N, K], in shared memory with rows `lda`, `ldb` elements
// apart. K and N are multiples of 16.
template <int K, int N>
__device__ __forceinline__ void multiply_nt(const Bf16* a, int lda, const Bf16* b, int ldb,
                                            float (*c)[4]) {
#pragma unroll
  for (int k = 0; k < K; k += 16) {
    const FragmentA fa = load_a(a + k, lda);
#pragma unroll
    for (int n = 0; n < N; n += 16) {
      FragmentB left, right;
      load_b(b + n * ldb + k, ldb, left, right);
      mma(fa, left, c[n / 8]);
      mma(fa, right, c[n / 8 + 1]);
    }
  }
}
template <int K, int N>
__device__ __forceinline__ void multiply_nt(const float* a, int lda, const float* b, int ldb,
                                            float (*c)[4]) {
  const int g = fragment_row(), t = fragment_column();
  for (int k = 0; k < K; ++k) {
    const float low = a[g * lda + k], high = a[(g + 8) * lda + k];
#pragma unroll
    for (int n = 0; n < N; n += 8) {
      const float left = b[(n + t) * ldb + k], right = b[(n + t + 1) * ldb + k];
      c[n / 8][0] += low * left;
      c[n / 8][1] += low * right;
      c[n / 8][2] += high * left;
      c[n / 8][3] += high * right;
    }
  }
}

// c += A B: a [16, K], b [K, N].
template <int K, int N>
__device__ __forceinline__ void multiply_nn(const Bf16* a, int lda, const Bf16* b, int ldb,
                                            float (*c)[4]) {
#pragma unroll
  for (int k = 0; k < K; k += 16) {
    const FragmentA fa = load_a(a + k, lda);
#pragma unroll
    for (int n = 0; n < N; n += 16) {
      FragmentB left, right;
      load_b_transposed(b + k * ldb + n, ldb, left, right);
      mma(fa, left, c[n / 8]);
      mma(fa, right, c[n / 8 + 1]);
    }
  }
}
template <int K, int N>
__device__ __forceinline__ void multiply_nn(const float* a, int lda, const float* b, int ldb,
                                            float (*c)[4]) {
  const int g = fragment_row(), t = fragment_column();
  for (int k = 0; k < K; ++k) {
    const float low = a[g * lda + k], high = a[(g + 8) * lda + k];
#pragma unroll
    for (int n = 0; n < N; n += 8) {
      const float left = b[k * ldb + n + t], right = b[k * ldb + n + t + 1];
      c[n / 8][0] += low * left;
      c[n / 8][1] += low * right;
      c[n / 8][2] += high * left;
      c[n / 8][3] += high * right;
    }
  }
}

}  // namespace ptq::cuda
