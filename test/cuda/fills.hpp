// What methods may answer with, for tests of the cache on the device: every encoding, made of
// random numbers; and how a kernel reads a tile of it.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "ptq/engine/cuda/kernels/attention.cuh"
#include "ptq/engine/cuda/kv_cache.hpp"
#include "ptq/engine/pass/rotary.hpp"
#include "test/cuda/cuda_test.hpp"

namespace ptq::test {

inline constexpr int64_t kHeads = 2, kGroup = 2, kQueryHeads = kGroup * kHeads;

// Answers of a method for n rows of every head; the same for the same rows.
using Fill = std::function<void(RowSink&, int64_t n, int64_t dim, uint32_t seed)>;

inline Fill affine(AffineFormat f) {
  return [f](RowSink& out, int64_t n, int64_t dim, uint32_t seed) {
    out.affine(f, kHeads, n, dim, random_floats(size_t(kHeads * n * dim), seed, 3).data());
  };
}
inline Fill dense(DType dtype) {
  return [dtype](RowSink& out, int64_t n, int64_t dim, uint32_t seed) {
    out.dense(dtype, kHeads, n, dim, random_floats(size_t(kHeads * n * dim), seed, 3).data());
  };
}
inline Fill codebook(CodebookFormat f) {
  return [f](RowSink& out, int64_t n, int64_t dim, uint32_t seed) {
    std::mt19937 random(seed);
    std::vector<uint8_t> codes(size_t(kHeads * n * dim));
    for (uint8_t& c : codes) c = uint8_t(random() % (1u << f.bits));
    const int64_t scales = f.scale == ScaleOf::row     ? kHeads * n
                           : f.scale == ScaleOf::token ? n
                                                       : kHeads * dim;
    const uint32_t shared = f.scale == ScaleOf::column ? 77 : seed;  // given once for all blocks
    const auto levels = random_floats(size_t{1} << f.bits, 5),
               scale = random_floats(size_t(scales), shared + 1, 2),
               offset = random_floats(size_t(scales), shared + 2);
    out.codebook(f, kHeads, n, dim, codes.data(), levels.data(), scale.data(),
                 f.has_offset ? offset.data() : nullptr);
  };
}
// Chunks of zeros, of rank one and of noise, which is kept as it is where the format says so.
inline Fill lowrank(LowRankFormat f) {
  return [f](RowSink& out, int64_t n, int64_t dim, uint32_t seed) {
    auto x = random_floats(size_t(kHeads * n * dim), seed);
    for (int64_t h = 0; h < kHeads; ++h)
      for (int64_t r = 0; r < n; ++r)
        for (int64_t c = 0; c < dim; ++c) {
          float& v = x[size_t((h * n + r) * dim + c)];
          const int64_t kind = (r / f.chunk + h) % 3;
          if (kind == 0) v = 0;
          if (kind == 1) v = 0.5f + 0.3f * float(r % f.chunk) + 0.01f * v + 0.1f * float(c % 5);
        }
    out.lowrank(f, kHeads, n, dim, x.data());
  };
}

enum class Outliers { none, fixed, sparse };

inline Fill with_outliers(Fill base, Outliers kind) {
  if (kind == Outliers::none) return base;
  return [base, kind](RowSink& out, int64_t n, int64_t dim, uint32_t seed) {
    base(out, n, dim, seed);
    constexpr int64_t k = 3;
    std::vector<int32_t> index;
    for (int64_t r = 0; r < kHeads * n; ++r)
      for (int64_t i = 0; i < k; ++i) {  // the first and the last column, too
        const bool unused = kind == Outliers::sparse && (r + i) % 3 == 0;
        index.push_back(unused ? -1
                               : int32_t(i == 0 ? (r % 2) * (dim - 1) : (r * 5 + 3 * i) % dim));
      }
    const auto value = random_floats(index.size(), seed + 9, 20);
    out.outliers(kind == Outliers::fixed, kHeads, n, k, index.data(), value.data());
  };
}

// Rows [begin, begin + 64) of a head as attention reads them, to out [64, dim].
template <int D>
__global__ void read_tile_kernel(cuda::SideView side, int sink, int high, bool encoded, int head,
                                 int dim, int begin, int end, float* out) {
  float* tile = reinterpret_cast<float*>(cuda::dynamic_shared());
  constexpr int kStride = D + cuda::kTilePad<float>;
  cuda::attention_detail::load_tile<float, D, 1, false>(side, {sink, high, high}, encoded, head,
                                                        dim, begin, end, tile);
  __syncthreads();
  for (int i = int(threadIdx.x); i < cuda::kKeyTile * dim; i += int(blockDim.x))
    out[i] = tile[i / dim * kStride + i % dim];
}

inline std::vector<float> read_tile(const cuda::SideView& side, int64_t sink, int64_t high,
                                    bool encoded, int64_t head, int64_t dim, int64_t begin,
                                    int64_t end) {
  const OnDevice<float> out(size_t(cuda::kKeyTile * dim));
  const auto launch = [&](auto width) {
    constexpr int D = decltype(width)::value;
    queue().launch("read_tile", read_tile_kernel<D>, dim3(1),
                   dim3(cuda::kAttentionWarps * cuda::kWarpLanes),
                   sizeof(float) * cuda::kKeyTile * (D + cuda::kTilePad<float>), side, int(sink),
                   int(high), encoded, int(head), int(dim), int(begin), int(end), out.data());
  };
  if (dim <= 32)
    launch(std::integral_constant<int, 32>{});
  else if (dim <= 64)
    launch(std::integral_constant<int, 64>{});
  else
    launch(std::integral_constant<int, 128>{});
  return out.get();
}

inline std::vector<float> frequencies(int64_t dim) {
  std::vector<float> f;
  for (int64_t i = 0; i < dim / 2; ++i)
    f.push_back(std::pow(10000.0f, -2.0f * float(i) / float(dim)));
  return f;
}

// Angles of positions, and the same in device memory.
struct Angles {
  Rotary table;
  std::unique_ptr<OnDevice<float>> cosine, sine;
  Angles(int64_t dim, int64_t positions) : table(Rope{frequencies(dim), 1.0f}) {
    table.extend(positions);
    const auto copy = [&](const float* x) {
      return std::make_unique<OnDevice<float>>(std::vector<float>(x, x + positions * dim / 2));
    };
    cosine = copy(table.cosine(0));
    sine = copy(table.sine(0));
  }
};

}  // namespace ptq::test
