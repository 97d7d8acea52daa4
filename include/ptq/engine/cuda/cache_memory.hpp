// Device memory of caches: what they need of their engine, and buffers that grow.
#pragma once

#include <span>
#include <utility>

#include "ptq/engine/cuda/arena.hpp"
#include "ptq/engine/cuda/queue.hpp"
#include "ptq/engine/engine.hpp"

namespace ptq::cuda {

// Of the caches that reserved room for the coming pass: how many, are all plain (SideView::plain)?
struct ComingPass {
  int64_t sequences = 0;
  bool plain = true;
};

// What a cache shares with its engine.
struct CacheHome {
  Arena& arena;
  Queue& queue;
  CudaPlace place;
  // [layers * 2] on the device: set where a number to be cached is not finite. unchecked: rows were
  // read since the engine looked.
  int32_t* not_finite;
  bool unchecked = false;
  // cos and sin of the rotary angles, [positions, head_dim / 2] on the device; they cover the
  // positions of the current pass.
  const float *cosine = nullptr, *sine = nullptr;
  ComingPass coming = {};
};

// Bytes that grow behind and are dropped in front.
class Growing {
 public:
  explicit Growing(CacheHome& home) : home_(&home) {}

  const uint8_t* data() const { return memory_.data() ? memory_.data() + begin_ : nullptr; }
  template <class V>
  const V* as() const {
    return reinterpret_cast<const V*>(data());
  }
  uint64_t bytes() const { return uint64_t(size_); }
  uint64_t allocated() const { return uint64_t(memory_.size()); }

  // Room for n more bytes. Old ones move; kernels of this pass must not have been told of them.
  void reserve(int64_t n) {
    if (begin_ + size_ + n > memory_.size()) move(size_ + n);
  }
  void extend(int64_t n) { size_ += n; }
  // Values of the host, which must stay until the stream has been waited for.
  template <class V>
  void append(std::span<const V> values) {
    const int64_t n = int64_t(values.size_bytes());
    if (n == 0) return;
    reserve(n);
    home_->queue.copy(memory_.data() + begin_ + size_, values.data(), size_t(n),
                      cudaMemcpyHostToDevice);
    size_ += n;
  }
  void drop_front(int64_t n) {
    begin_ += n;
    size_ -= n;
    if (size_ == 0) begin_ = 0;
  }
  // Gives room back that is far from being needed; not while a graph is captured or replayed.
  void shrink() {
    if (memory_.size() > 2 * size_ + 65536) move(size_);
  }

 private:
  void move(int64_t need) {
    // A window that slides needs twice its bytes, a cache that only grows half as much again.
    Memory<uint8_t> fresh(home_->arena, Region::cache, need + need / 2 + 1024);
    if (size_ > 0) home_->queue.copy(fresh.data(), data(), size_t(size_), cudaMemcpyDeviceToDevice);
    memory_ = std::move(fresh);
    begin_ = 0;
  }

  CacheHome* home_;
  Memory<uint8_t> memory_;
  int64_t begin_ = 0, size_ = 0;
};

}  // namespace ptq::cuda
