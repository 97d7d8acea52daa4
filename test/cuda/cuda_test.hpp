// What tests of single kernels share: device memory, random numbers, comparison.
#pragma once

#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "ptq/engine/cuda/arena.hpp"
#include "ptq/engine/cuda/kernels/numbers.cuh"
#include "ptq/engine/cuda/queue.hpp"
#include "test/support/difference.hpp"

namespace ptq::test {

namespace cuda = ptq::cuda;

// Device memory as large as its content, so that a sanitizer sees what lies outside.
inline cuda::Arena& arena() {
  static cuda::Arena arena(0);
  return arena;
}
inline cuda::Queue& queue() {
  static cuda::Queue queue;
  return queue;
}

template <class V>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<V>& x)
      : memory_(arena(), cuda::Region::workspace, int64_t(x.size())) {
    queue().copy(memory_.data(), x.data(), x.size() * sizeof(V), cudaMemcpyHostToDevice);
    queue().synchronize();  // x may be a temporary
  }
  explicit OnDevice(size_t n) : memory_(arena(), cuda::Region::workspace, int64_t(n)) {}
  V* data() const { return memory_.data(); }
  std::vector<V> get() const {
    std::vector<V> x(size_t(memory_.size()));
    queue().copy(x.data(), memory_.data(), x.size() * sizeof(V), cudaMemcpyDeviceToHost);
    queue().synchronize();
    return x;
  }

 private:
  cuda::Memory<V> memory_;
};

inline std::vector<float> random_floats(size_t n, uint32_t seed, float scale = 1) {
  std::mt19937 random(seed);
  std::vector<float> x(n);
  for (float& v : x) v = scale * (float(random() >> 8) / float(1 << 23) - 1);
  return x;
}
template <class T>
std::vector<T> as(const std::vector<float>& x) {
  std::vector<T> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = cuda::from_float<T>(x[i]);
  return y;
}
template <class T>
std::vector<float> floats(const std::vector<T>& x) {
  std::vector<float> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = cuda::to_float(x[i]);
  return y;
}

// Are n bytes of device memory those of the host?
inline bool same_bytes(const void* device, const void* host, size_t n) {
  std::vector<uint8_t> copy(n);
  queue().copy(copy.data(), device, n, cudaMemcpyDeviceToHost);
  queue().synchronize();
  return std::memcmp(copy.data(), host, n) == 0;
}

// Threads in several orders: a missing barrier changes results between them.
template <class Fn>
void in_several_orders(const Fn& fn) {
#ifdef __CUDACC__
  fn();
#else
  for (uint32_t seed = 1; seed <= 8; ++seed) {
    ptq_shim::Device::get().seed = seed;
    fn();
  }
#endif
}

}  // namespace ptq::test
