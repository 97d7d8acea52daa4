// Device memory: one arena with three named regions and a ledger that is equal to what the device
// has given away.
//
// Memory comes from the device in slabs of a multiple of 2 MiB, the granularity at which the driver
// accounts, and is handed out in pieces of 256 bytes, first fit, freed neighbours joined.
// cudaMalloc is slow and synchronises the device; a cache grows in the middle of a pass.
#pragma once

#include <algorithm>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "ptq/engine/cuda/platform.hpp"

namespace ptq::cuda {

enum class Region : int { weights = 0, cache = 1, workspace = 2 };

struct Ledger {
  uint64_t used[3] = {0, 0, 0};  // bytes handed out, by Region
  uint64_t peak[3] = {0, 0, 0};  // the most at any time
  uint64_t reserved = 0;         // bytes taken from the device
};

// The device has no room. What is held, by region, is part of the sentence.
struct OutOfMemory : Error {
  using Error::Error;
};

class Arena {
 public:
  // slab: bytes taken from the device at a time. Tests pass 0: every piece is an allocation of its
  // own, whose ends a sanitizer guards.
  explicit Arena(size_t slab = size_t{64} << 20) : slab_(slab) {}
  ~Arena() {
    for (void* p : slabs_) cudaFree(p);
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // At least `bytes` bytes, 256-byte aligned. Throws OutOfMemory.
  void* allocate(Region region, size_t bytes) {
    const size_t size = std::max<size_t>((bytes + kPiece - 1) / kPiece * kPiece, kPiece);
    char* p = slab_ == 0 ? static_cast<char*>(from_device(std::max<size_t>(bytes, 1))) : take(size);
    if (!p) throw out_of_memory(region, bytes);
    const int r = int(region);
    held_[p] = {size, r};
    ledger_.used[r] += size;
    ledger_.peak[r] = std::max(ledger_.peak[r], ledger_.used[r]);
    return p;
  }

  void release(void* p) {
    if (!p) return;
    const auto found = held_.find(static_cast<char*>(p));
    if (found == held_.end())
      throw Error(ExitCode::internal, "device memory was released twice", "the CUDA engine");
    const size_t size = found->second.bytes;
    ledger_.used[found->second.region] -= size;
    held_.erase(found);
    if (slab_ == 0) {
      slabs_.erase(std::find(slabs_.begin(), slabs_.end(), p));
      ledger_.reserved -= size;
      cudaFree(p);
      return;
    }
    give(static_cast<char*>(p), size);
  }

  const Ledger& ledger() const { return ledger_; }

  // Bytes that one more allocation could surely get.
  size_t largest_free() const {
    size_t free_bytes = 0, total = 0, best = 0;
    check(cudaMemGetInfo(&free_bytes, &total), "cudaMemGetInfo");
    for (const auto& [p, size] : free_) best = std::max(best, size);
    const size_t spare = total / 64;  // for the libraries' own needs
    return std::max(best, free_bytes > spare ? (free_bytes - spare) / kSlabStep * kSlabStep : 0);
  }

 private:
  static constexpr size_t kPiece = 256, kSlabStep = size_t{2} << 20;
  struct Piece {
    size_t bytes;
    int region;
  };

  void* from_device(size_t bytes) {
    void* p = nullptr;
    const cudaError_t status = cudaMalloc(&p, bytes);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // clears it
      return nullptr;
    }
    check(status, "cudaMalloc");
    slabs_.push_back(p);
    ledger_.reserved +=
        slab_ == 0 ? std::max<size_t>((bytes + kPiece - 1) / kPiece * kPiece, kPiece) : bytes;
    return p;
  }

  char* take(size_t size) {
    auto best = std::find_if(free_.begin(), free_.end(),
                             [&](const auto& piece) { return piece.second >= size; });
    if (best == free_.end()) {
      const size_t slab = (std::max(size, slab_) + kSlabStep - 1) / kSlabStep * kSlabStep;
      size_t got = slab;
      void* p = from_device(slab);
      if (!p) {  // no room for a whole slab: just enough
        got = (size + kSlabStep - 1) / kSlabStep * kSlabStep;
        p = got < slab ? from_device(got) : nullptr;
      }
      if (!p) return nullptr;
      slab_of_[static_cast<char*>(p)] = got;
      best = free_.emplace(static_cast<char*>(p), got).first;
    }
    char* p = best->first;
    const size_t left = best->second - size;
    free_.erase(best);
    if (left > 0) free_.emplace(p + size, left);
    return p;
  }

  // Joins with free neighbours of the same slab.
  void give(char* p, size_t size) {
    const auto slab = std::prev(slab_of_.upper_bound(p));
    char *slab_begin = slab->first, *slab_end = slab->first + slab->second;
    const auto next = free_.find(p + size);
    if (next != free_.end() && next->first < slab_end) {
      size += next->second;
      free_.erase(next);
    }
    const auto at = free_.lower_bound(p);
    if (at != free_.begin()) {
      const auto before = std::prev(at);
      if (before->first >= slab_begin && before->first + before->second == p) {
        before->second += size;
        return;
      }
    }
    free_.emplace(p, size);
  }

  OutOfMemory out_of_memory(Region region, size_t bytes) const {
    const auto mib = [](uint64_t b) { return std::to_string((b + (1 << 20) - 1) >> 20) + " MiB"; };
    size_t free_bytes = 0, total = 0;
    cudaMemGetInfo(&free_bytes, &total);
    const char* names[] = {"weights", "cache", "workspace"};
    return OutOfMemory(
        ExitCode::resources,
        "out of device memory: " + mib(bytes) + " more for the " + names[int(region)],
        "the device has " + mib(total) + ", free " + mib(free_bytes) + "; held: weights " +
            mib(ledger_.used[0]) + ", cache " + mib(ledger_.used[1]) + ", workspace " +
            mib(ledger_.used[2]),
        "use a shorter context, a smaller batch, model.compute = \"bf16\", or "
        "--device cpu");
  }

  size_t slab_;
  std::vector<void*> slabs_;
  std::map<char*, size_t> slab_of_, free_;
  std::map<char*, Piece> held_;
  Ledger ledger_;
};

// n elements of device memory that belong to one owner.
template <class T>
class Memory {
 public:
  Memory() = default;
  Memory(Arena& arena, Region region, int64_t n)
      : arena_(&arena),
        n_(n),
        data_(n > 0 ? static_cast<T*>(arena.allocate(region, size_t(n) * sizeof(T))) : nullptr) {}
  Memory(Memory&& other) noexcept { swap(other); }
  Memory& operator=(Memory&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Memory() {
    if (data_) arena_->release(data_);
  }
  T* data() const { return data_; }
  int64_t size() const { return n_; }
  bool empty() const { return n_ == 0; }

 private:
  void swap(Memory& other) {
    std::swap(arena_, other.arena_);
    std::swap(n_, other.n_);
    std::swap(data_, other.data_);
  }
  Arena* arena_ = nullptr;
  int64_t n_ = 0;
  T* data_ = nullptr;
};

}  // namespace ptq::cuda
