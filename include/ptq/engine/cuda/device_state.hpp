// What a CUDA device holds between and during passes: queue, memory, tables, recorded graphs.
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/engine/cuda/arena.hpp"
#include "ptq/engine/cuda/cache_memory.hpp"
#include "ptq/engine/cuda/gemm.hpp"
#include "ptq/engine/cuda/queue.hpp"
#include "ptq/engine/cuda/tables.hpp"
#include "ptq/engine/cuda/weights.hpp"
#include "ptq/engine/pass/rotary.hpp"

namespace ptq::cuda {

// T: the number format of activations. Nothing in it may move: others keep its address.
template <class T>
struct DeviceState {
  DeviceState(int device_id, size_t slab)
      : id(select(device_id)),
        arena(slab),
        tables(arena, queue),
        scratch(arena),
        tensors(arena, queue),
        gemm(arena),
        home{arena, queue, {}, nullptr} {
    cudaDeviceProp p{};
    check(cudaGetDeviceProperties(&p, id), "cudaGetDeviceProperties");
    name = "cuda:" + std::to_string(id) + " (" + p.name + ")";
    processors = p.multiProcessorCount;
    home.place.device_id = id;
    home.place.stream = queue.stream();
    home.place.allocate = [this](uint64_t bytes) -> void* {
      try {
        return arena.allocate(Region::workspace, size_t(bytes));
      } catch (const OutOfMemory&) {
        return nullptr;
      }
    };
    home.place.release = [this](void* p) { arena.release(p); };
  }
  ~DeviceState() { drop_graphs(); }

  static int select(int device_id) {
    check(cudaSetDevice(device_id), "cudaSetDevice");
    return device_id;
  }

  void expect_layers(int64_t n) {
    if (layers == n) return;
    layers = n;
    not_finite = Memory<int32_t>(arena, Region::workspace, 2 * n);
    queue.enqueue([&](cudaStream_t stream) {
      check(cudaMemsetAsync(not_finite.data(), 0, size_t(2 * n) * 4, stream), "cudaMemsetAsync");
    });
    home.not_finite = not_finite.data();
  }
  // Where an error kept a pass from looking, or the look was the error.
  void clear_cached_numbers() {
    if (!home.unchecked) return;
    home.unchecked = false;
    queue.enqueue([&](cudaStream_t stream) {
      check(cudaMemsetAsync(not_finite.data(), 0, size_t(2 * layers) * 4, stream),
            "cudaMemsetAsync");
    });
  }

  // cos and sin of all positions up to `last`, with the CPU's angles and rounding. True where the
  // tables moved.
  bool extend_rotation(int64_t last) {
    const int64_t half = rotary->half();
    if (last * half <= cosine.size()) return false;
    const int64_t rows = std::max<int64_t>(1024, last + last / 2), n = rows * half;
    rotary->extend(rows);
    cosine = Memory<float>(arena, Region::workspace, n);
    sine = Memory<float>(arena, Region::workspace, n);
    queue.copy(cosine.data(), rotary->cosine(0), size_t(n) * 4, cudaMemcpyHostToDevice);
    queue.copy(sine.data(), rotary->sine(0), size_t(n) * 4, cudaMemcpyHostToDevice);
    queue.synchronize();
    home.cosine = cosine.data();
    home.sine = sine.data();
    return true;
  }

  // After the stream has been waited for.
  void check_cached_numbers() {
    if (!home.unchecked) return;
    std::vector<int32_t> flags(size_t(2 * layers));
    queue.copy(flags.data(), not_finite.data(), flags.size() * 4, cudaMemcpyDeviceToHost);
    queue.synchronize();
    for (size_t i = 0; i < flags.size(); ++i)
      if (flags[i])
        throw Error(ExitCode::cells_failed, "a number to be cached is not finite",
                    "layer " + std::to_string(i / 2) + (i % 2 ? ", values" : ", keys"),
                    "the model overflows the cache's number format here");
    home.unchecked = false;
  }

  // One piece of memory for the plain rows of every product that wants some: each waits for the
  // one before it on the stream, and in a small piece they are still in the second-level cache.
  T* room_for_slice(int64_t n) { return room(slice, n); }
  // The same for the rounded inputs of a product.
  T* room_for_rounded(int64_t n) { return room(rounded, n); }
  T* room(Memory<T>& memory, int64_t n) {
    if (n > memory.size()) {
      drop_graphs();
      memory = Memory<T>();
      memory = Memory<T>(arena, Region::workspace, n);
    }
    return memory.data();
  }

  void drop_graphs() {
    for (auto& [n, exec] : graphs) cudaGraphExecDestroy(exec);
    graphs.clear();
    seen.clear();
  }

  int id;
  std::string name;
  int processors = 1;
  Arena arena;
  Queue queue;
  Tables tables;
  Scratch scratch;
  TensorStore tensors;
  Gemm gemm;
  CacheHome home;
  int64_t layers = 0;
  Memory<int32_t> not_finite;  // [layers * 2]
  std::optional<Rotary> rotary;
  Memory<float> cosine, sine;                 // [positions, head_dim / 2]
  Memory<T> slice, rounded;                   // see room_for_slice, room_for_rounded
  bool plain = true;                          // the caches of this pass (SideView::plain)
  std::map<int64_t, cudaGraphExec_t> graphs;  // by key
  std::map<int64_t, size_t> seen;             // by key: bytes of tables of an eager pass
  int64_t key = -1;                           // of a steady pass: 2 * rows + plain
  uint64_t graph_launches = 0;
  std::vector<uint8_t> downloaded;
  std::vector<float> floats;
};

}  // namespace ptq::cuda
