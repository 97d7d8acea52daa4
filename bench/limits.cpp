#include "bench/limits.hpp"

#include <cblas.h>
#include <fmt/format.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "host/machine.hpp"
#include "ptq/core/threads.hpp"
#include "ptq/engine/cpu/kernels/table.hpp"
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

#ifdef __x86_64__
// `kInstruction` on 12 registers, which it adds to.
#define PTQ_DOT_LOOP(name, instruction)                                                        \
  __attribute__((target("avx512f"))) void name(int64_t times) {                                \
    __m512 sum[12], a = _mm512_set1_ps(1e-3f);                                                 \
    for (__m512 & s : sum) s = _mm512_setzero_ps();                                            \
    for (int64_t k = 0; k < times; ++k) {                                                      \
      _Pragma("GCC unroll 12") for (__m512 & s : sum) asm volatile(instruction " %1, %1, %0" : \
                                                                   "+v"(s) : "v"(a));          \
    }                                                                                          \
  }
PTQ_DOT_LOOP(bf16_dots, "vdpbf16ps")
PTQ_DOT_LOOP(int8_dots, "vpdpbusd")
#undef PTQ_DOT_LOOP

// Operations per second, two for each of the `terms` products of a lane.
double dot_rate(Sheet& sheet, ThreadPool& pool, const char* what, void (*loop)(int64_t),
                int terms) {
  constexpr int64_t kTimes = 4'000'000;
  const Timing t = measure([&] { pool.for_each(pool.size(), [&](int64_t) { loop(kTimes); }); });
  const double rate = 2.0 * 12 * 16 * terms * double(kTimes) * pool.size() / t.median;
  sheet.row(what, rate / 1e9, "Gop/s", {}, t);
  return rate;
}
#endif

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

// Reading memory far larger than the caches, in large pages where the kernel has them: walks
// through the tables of small ones are what a reader waits for, not the memory.
double read_bandwidth(Sheet& sheet, ThreadPool& pool) {
  constexpr size_t kPage = size_t(2) << 20, kBytes = 256 * kPage, words = kBytes / 8;
  const std::unique_ptr<uint64_t, decltype(&std::free)> memory(
      static_cast<uint64_t*>(std::aligned_alloc(kPage, kBytes)), &std::free);
  uint64_t* const data = memory.get();
  if (!data) throw Error(ExitCode::resources, "no 512 MiB to measure the memory's rate with");
  ::madvise(data, kBytes, MADV_HUGEPAGE);
  std::fill_n(data, words, 1);
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
    Limits limits;
    limits.flops = fma_rate(sheet, pool);
    limits.flops_of = "of the multiply-add rate";
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512bf16"))
      limits.bf16_flops = dot_rate(sheet, pool, "bfloat16 dots of 2, 16 at a time", bf16_dots, 2);
    if (__builtin_cpu_supports("avx512vnni"))
      limits.int8_ops = dot_rate(sheet, pool, "8-bit dots of 4, 16 at a time", int8_dots, 4);
#endif
    if (compute == Compute::bf16 && cpu::chosen_kernels().pairs) {
      limits.flops = limits.bf16_flops;
      limits.flops_of = "of the rate of bfloat16 dots";
    }
    if (compute == Compute::int8 && limits.int8_ops > 0 &&
        std::string_view(cpu::chosen_kernels().name).starts_with("avx512")) {
      limits.flops = limits.int8_ops;
      limits.flops_of = "of the rate of 8-bit dots";
    }
    limits.bytes = read_bandwidth(sheet, pool);
    return limits;
  }
  const CudaLimits limits =
      CudaEngine::get(code_build()).limits(std::atoi(device.c_str() + std::string("cuda:").size()));
  const bool bf16 = compute == Compute::bf16;
  const double flops = bf16 ? limits.bf16_flops : limits.fp32_flops;
  sheet.row(fmt::format("cuBLASLt {} 8192 x 8192 x 8192", bf16 ? "bf16" : "fp32"), flops / 1e9,
            "GFLOP/s", {}, {});
  sheet.row("device memory copy, read and written", limits.copy_bytes / 1e9, "GB/s", {}, {});
  Limits result;
  result.flops = flops;
  result.bytes = limits.copy_bytes;
  result.flops_of = "of the matrix rate";
  return result;
}

}  // namespace ptq::bench
