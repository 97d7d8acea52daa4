#include "bench/limits.hpp"

#include <cblas.h>
#include <fmt/format.h>

#include <cstdint>
#include <cstdlib>
#include <random>
#include <vector>

#include "host/machine.hpp"
#include "ptq/core/threads.hpp"
#include "ptq/engine/cpu/simd.hpp"
#include "ptq/run/engine_loader.hpp"

namespace ptq::bench {
namespace {

// Multiply-adds in registers, as wide as this program is compiled for.
double fma_rate(Sheet& sheet, ThreadPool& pool) {
  using cpu::VecF;
  constexpr int kChains = 12;  // hide the latency
  constexpr int64_t kTimes = 4'000'000;
  std::vector<float> results(size_t(pool.size()));
  const Timing t = measure([&] {
    pool.for_each(pool.size(), [&](int64_t i) {
      VecF sum[kChains], a = VecF{} + (1 - 1e-6f * float(i + 1)), b = VecF{} + 1e-6f;
      for (VecF& s : sum) s = VecF{} + float(i);
      for (int64_t k = 0; k < kTimes; ++k) {
#pragma GCC unroll 12
        for (int c = 0; c < kChains; ++c) sum[c] = sum[c] * a + b;
      }
      for (const VecF& s : sum) results[size_t(i)] += s[0];
    });
  });
  const double rate = 2.0 * kChains * cpu::kLanes * double(kTimes) * pool.size() / t.median;
  sheet.row(fmt::format("float32 multiply-adds, {} at a time", cpu::kLanes), rate / 1e9, "GFLOP/s",
            {}, t);
  return rate;
}

// sgemm, each thread its own slice of the columns: the way the engine calls it.
void blas_rate(Sheet& sheet, ThreadPool& pool) {
  openblas_set_num_threads(1);
  const int m = 1024, k = 1024, slice = 512, n = slice * pool.size();
  std::vector<float> a(size_t(m) * k), b(size_t(n) * k), c(size_t(m) * n);
  std::mt19937 random(1);
  for (float& x : a) x = float(random() >> 8) / float(1 << 23) - 1;
  for (float& x : b) x = float(random() >> 8) / float(1 << 23) - 1;
  const Timing t = measure([&] {
    pool.for_each(pool.size(), [&](int64_t i) {
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, slice, k, 1, a.data(), k,
                  b.data() + i * slice * k, k, 0, c.data() + i * slice, n);
    });
  });
  const double rate = 2.0 * m * k * n / t.median;
  sheet.row(fmt::format("BLAS sgemm {} x {} x {}", m, n, k), rate / 1e9, "GFLOP/s", {}, t);
}

// Reading memory far larger than the caches.
double read_bandwidth(Sheet& sheet, ThreadPool& pool) {
  const size_t words = size_t(64) << 20;  // 512 MiB
  std::vector<uint64_t> data(words, 1);
  std::vector<uint64_t> sums(size_t(pool.size()));
  const Timing t = measure([&] {
    pool.for_each(pool.size(), [&](int64_t i) {
      const size_t begin = words * size_t(i) / size_t(pool.size()),
                   end = words * size_t(i + 1) / size_t(pool.size());
      uint64_t sum = 0;
      for (size_t w = begin; w < end; ++w) sum += data[w];
      sums[size_t(i)] = sum;
    });
  });
  const double rate = 8.0 * double(words) / t.median;
  sheet.row("memory read", rate / 1e9, "GB/s", {}, t);
  return rate;
}

}  // namespace

Limits measure_limits(Sheet& sheet, const std::string& device, Compute compute, int threads) {
  if (device == "cpu") {
    ThreadPool pool(threads);
    blas_rate(sheet, pool);
    const double flops = fma_rate(sheet, pool);
    return {flops, read_bandwidth(sheet, pool), "of the multiply-add rate"};
  }
  const CudaLimits limits =
      CudaEngine::get(code_build()).limits(std::atoi(device.c_str() + std::string("cuda:").size()));
  const bool bf16 = compute == Compute::bf16;
  const double flops = bf16 ? limits.bf16_flops : limits.fp32_flops;
  sheet.row(fmt::format("cuBLASLt {} 8192 x 8192 x 8192", bf16 ? "bf16" : "fp32"), flops / 1e9,
            "GFLOP/s", {}, {});
  sheet.row("device memory copy, read and written", limits.copy_bytes / 1e9, "GB/s", {}, {});
  return {flops, limits.copy_bytes, "of the matrix rate"};
}

}  // namespace ptq::bench
