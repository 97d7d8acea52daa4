// What a device can do at most, measured: the rates that speed is compared with. Called by
// ptq-bench through the symbol of the library.
#pragma once

#include <algorithm>
#include <chrono>
#include <random>
#include <vector>

#include "ptq/engine/cuda/gemm.hpp"
#include "ptq/engine/cuda_library.hpp"

namespace ptq::cuda {

namespace limits_detail {

// Seconds of one call of work: the median of 5 measurements of `calls` calls in a row, after one
// that warms up. Calls follow each other on the stream, so the host's part is hidden.
template <class Work>
double seconds(Queue& queue, int calls, const Work& work) {
  std::vector<double> times;
  for (int i = 0; i <= 5; ++i) {
    queue.synchronize();
    const auto start = std::chrono::steady_clock::now();
    for (int call = 0; call < calls; ++call) work();
    queue.synchronize();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    if (i > 0) times.push_back(time.count() / calls);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// n numbers in [-1, 1). Zeros would draw less power and so run faster. The same 2^20 random numbers
// again and again: a multiplier sees no difference.
template <class T>
void fill(Queue& queue, T* x, int64_t n) {
  std::mt19937 random(1);
  std::vector<T> numbers(size_t(std::min(n, int64_t{1} << 20)));
  for (T& v : numbers) v = from_float<T>(float(random() >> 8) / float(1 << 23) - 1);
  for (int64_t at = 0; at < n; at += int64_t(numbers.size()))
    queue.copy(x + at, numbers.data(),
               size_t(std::min<int64_t>(n - at, int64_t(numbers.size()))) * sizeof(T),
               cudaMemcpyHostToDevice);
  queue.synchronize();
}

}  // namespace limits_detail

// Floating-point operations per second of an n x n x n product by cuBLASLt, sums in float32.
template <class T>
double matrix_rate(Queue& queue, Arena& arena, int64_t n) {
  Gemm gemm(arena);
  const Memory<T> w(arena, Region::workspace, n * n), x(arena, Region::workspace, n * n),
      y(arena, Region::workspace, n * n);
  limits_detail::fill(queue, w.data(), n * n);
  limits_detail::fill(queue, x.data(), n * n);
  const double time = limits_detail::seconds(queue, 10, [&] {
    gemm.run(queue, w.data(), static_cast<const T*>(nullptr), x.data(), n, n, n, y.data(), n);
  });
  return 2.0 * double(n) * double(n) * double(n) / time;
}

// Bytes per second of copying `bytes` bytes inside the device, read and written bytes counted.
inline double copy_rate(Queue& queue, Arena& arena, int64_t bytes) {
  const Memory<uint8_t> from(arena, Region::workspace, bytes), to(arena, Region::workspace, bytes);
  limits_detail::fill(queue, reinterpret_cast<float*>(from.data()), bytes / 4);
  const double time = limits_detail::seconds(queue, 20, [&] {
    queue.copy(to.data(), from.data(), size_t(bytes), cudaMemcpyDeviceToDevice);
  });
  return 2.0 * double(bytes) / time;
}

// n: of the matrix products; bytes: of the copy, far more than the caches hold.
inline CudaLimits measure_limits(int device, int64_t n = 8192, int64_t bytes = int64_t{1} << 30) {
  check(cudaSetDevice(device), "cudaSetDevice");
  Queue queue;
  Arena arena;
  CudaLimits limits;
  limits.bf16_flops = matrix_rate<Bf16>(queue, arena, n);
  limits.fp32_flops = matrix_rate<float>(queue, arena, n);
  limits.copy_bytes = copy_rate(queue, arena, bytes);
  return limits;
}

}  // namespace ptq::cuda
