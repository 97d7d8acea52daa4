// Small data that the host makes for a pass (ids, positions, segments): written into pinned memory
// and copied to the same place on the device.
//
// An eager pass copies each piece when it is made. A captured graph begins with one copy of the
// whole area, so that a replay sees what the host wrote since.
#pragma once

#include <cstring>
#include <span>

#include "ptq/engine/cuda/arena.hpp"
#include "ptq/engine/cuda/queue.hpp"

namespace ptq::cuda {

class Tables {
 public:
  Tables(Arena& arena, Queue& queue) : arena_(arena), queue_(queue) {}
  ~Tables() { cudaFreeHost(host_); }
  Tables(const Tables&) = delete;
  Tables& operator=(const Tables&) = delete;

  // Begins a pass with room for `bytes`. Returns true when addresses have changed.
  bool begin(size_t bytes) {
    used_ = 0;
    if (bytes <= capacity_) return false;
    queue_.synchronize();
    cudaFreeHost(host_);
    host_ = nullptr;
    capacity_ = 2 * bytes;
    check(cudaMallocHost(reinterpret_cast<void**>(&host_), capacity_), "cudaMallocHost");
    device_ = Memory<uint8_t>(arena_, Region::workspace, int64_t(capacity_));
    return true;
  }
  // The first node of a graph.
  void copy_all(size_t bytes) { queue_.copy(device_.data(), host_, bytes, cudaMemcpyHostToDevice); }
  size_t used() const { return used_; }

  // Copies of `values`; where kernels of this pass find them.
  template <class T>
  const T* put(std::span<const T> values) {
    const size_t bytes = values.size() * sizeof(T), at = used_;
    used_ = (at + bytes + kAlign - 1) / kAlign * kAlign;
    if (used_ > capacity_)
      throw Error(ExitCode::internal, "the tables of a pass are larger than planned",
                  "the CUDA engine");
    std::memcpy(host_ + at, values.data(), bytes);
    if (queue_.mode() == Queue::Mode::eager)
      queue_.copy(device_.data() + at, host_ + at, bytes, cudaMemcpyHostToDevice);
    return reinterpret_cast<const T*>(device_.data() + at);
  }

  static constexpr size_t kAlign = 64;

 private:
  Arena& arena_;
  Queue& queue_;
  uint8_t* host_ = nullptr;
  Memory<uint8_t> device_;
  size_t capacity_ = 0, used_ = 0;
};

// Activations of a pass: handed out one behind the other, all given back at once. The same requests
// give the same addresses, as a captured graph needs.
class Scratch {
 public:
  explicit Scratch(Arena& arena) : arena_(arena) {}

  // Begins a pass; joins what the last one needed into one piece. Returns true when addresses have
  // changed.
  bool begin() {
    const bool grow = needed_ > main_.size();
    overflow_.clear();
    if (grow) {
      main_ = Memory<uint8_t>();
      main_ = Memory<uint8_t>(arena_, Region::workspace, needed_);
    }
    used_ = needed_ = 0;
    return grow;
  }
  int64_t size() const { return main_.size(); }  // bytes that are there already
  void* take(int64_t bytes) {
    bytes = (bytes + 255) / 256 * 256;
    needed_ += bytes;
    if (used_ + bytes <= main_.size()) {
      void* p = main_.data() + used_;
      used_ += bytes;
      return p;
    }
    overflow_.emplace_back(arena_, Region::workspace, bytes);
    return overflow_.back().data();
  }

 private:
  Arena& arena_;
  Memory<uint8_t> main_;
  std::vector<Memory<uint8_t>> overflow_;
  int64_t used_ = 0, needed_ = 0;
};

}  // namespace ptq::cuda
