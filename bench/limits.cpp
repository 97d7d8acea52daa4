#include "bench/limits.hpp"

#include <cblas.h>
#include <fmt/format.h>

#include <cstdint>
#include <cstdlib>
#include <random>
#include <vector>

#include "host/machine.hpp"
#include "ptq/core/threads.hpp"
#include "ptq/run/engine_loader.hpp"

namespace ptq::bench {
namespace {

// sgemm, each thread its own slice of the columns: the way the engine calls it.
double blas_rate(Sheet& sheet, ThreadPool& pool) {
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
  return rate;
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
    const double flops = blas_rate(sheet, pool);
    return {flops, read_bandwidth(sheet, pool)};
  }
  const CudaLimits limits =
      CudaEngine::get(code_build()).limits(std::atoi(device.c_str() + std::string("cuda:").size()));
  const bool bf16 = compute == Compute::bf16;
  const double flops = bf16 ? limits.bf16_flops : limits.fp32_flops;
  sheet.row(fmt::format("cuBLASLt {} 8192 x 8192 x 8192", bf16 ? "bf16" : "fp32"), flops / 1e9,
            "GFLOP/s", {}, {});
  sheet.row("device memory copy, read and written", limits.copy_bytes / 1e9, "GB/s", {}, {});
  return {flops, limits.copy_bytes};
}

}  // namespace ptq::bench
