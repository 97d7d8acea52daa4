// Weights on the device: uploaded once in the form in which they are stored.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "ptq/engine/cuda/arena.hpp"
#include "ptq/engine/cuda/kernels/elementwise.cuh"
#include "ptq/engine/cuda/row_views.hpp"
#include "ptq/engine/weights/linear.hpp"

namespace ptq::cuda {

// A dense matrix or vector in device memory.
struct DenseTensor {
  const void* data = nullptr;
  DType dtype = DType::f32;
  int64_t rows = 0, columns = 0;
};

// One linear layer, W [out, in]. Until a method encodes it, a copy of the file's matrix; afterwards
// the packed encoding is all that the device holds.
class Linear {
 public:
  Linear() = default;
  explicit Linear(LinearWeight host) : host_(std::move(host)), bytes_(host_.bytes()) {}

  const std::string& name() const { return host_.name(); }
  int64_t out() const { return host_.out(); }
  int64_t in() const { return host_.in(); }
  int64_t scalars() const { return host_.scalars(); }
  bool encoded() const { return encoded_; }
  const Activation& activation() const { return host_.activation(); }
  uint64_t bytes() const { return bytes_; }

  // Only one of the two is filled.
  bool packed() const { return affine.codes != nullptr; }
  DenseTensor dense;
  AffineView affine;

  // What a weight method works on, and then fills.
  LinearWeight& host() { return host_; }

  // Takes over what a method put into host(): the packed bytes go to the device and leave the host.
  // plain: where the device is to read plain numbers, their copy of element type `kept`.
  void adopt(Arena& arena, Queue& queue, Memory<uint8_t> plain, DType kept) {
    encoded_ = host_.encoded();
    bytes_ = host_.bytes();
    if (plain.data() == nullptr) {
      hold(arena, queue, *host_.packed());
    } else {
      hold(std::move(plain), kept);
    }
    if (encoded_) host_.forget();
  }

  // Takes plain numbers on the device.
  void hold(Memory<uint8_t> plain, DType kept) {
    affine = {};
    plain_ = std::move(plain);
    dense = {plain_.data(), kept, out(), in()};
  }
  // Copies packed rows to the device.
  void hold(Arena& arena, Queue& queue, const AffineRows& rows) {
    const AffineRows::Bytes b = rows.stored();
    codes_ = upload(arena, queue, b.codes, b.codes_bytes);
    scales_ = upload(arena, queue, b.scales, b.scales_bytes);
    zeros_ = upload(arena, queue, b.zeros, b.zeros_bytes);
    queue.synchronize();
    const AffineFormat& f = rows.format();
    affine.codes = codes_.data();
    affine.scales = reinterpret_cast<const uint16_t*>(scales_.data());
    affine.zeros = zeros_.data();
    affine.bits = f.bits;
    affine.axis = f.axis;
    affine.grid = f.grid;
    affine.columns = in();
    affine.set_group(f.axis == 1 && (f.group_size == 0 || f.group_size > in()) ? in()
                                                                               : f.group_size);
    affine.groups = f.axis == 1 ? ceil_div(in(), affine.group) : 0;
    affine.row_bytes = packed_bytes(in(), f.bits);
    dense = {};
  }

 private:
  // With a few bytes behind: kernels read whole words.
  static Memory<uint8_t> upload(Arena& arena, Queue& queue, const void* data, size_t bytes) {
    if (bytes == 0) return {};
    Memory<uint8_t> memory(arena, Region::weights, int64_t(bytes) + 8);
    queue.copy(memory.data(), data, bytes, cudaMemcpyHostToDevice);
    return memory;
  }

  LinearWeight host_;
  bool encoded_ = false;
  uint64_t bytes_ = 0;
  Memory<uint8_t> codes_, scales_, zeros_, plain_;
};

// Copies of the file's tensors, each made once: a tied output matrix is the embedding's.
class TensorStore {
 public:
  TensorStore(Arena& arena, Queue& queue) : arena_(arena), queue_(queue) {}

  // The file's tensor as it is stored, or converted to `as`. Packed blocks and reordered rows are
  // decoded on the host first.
  DenseTensor upload(const StoredRows& file, int64_t rows, DType as) {
    const auto key = std::make_pair(static_cast<const void*>(file.data), as);
    const auto found = tensors_.find(key);
    if (found != tensors_.end()) return {found->second.data(), as, rows, file.columns};
    const int64_t n = rows * file.columns;
    std::vector<float> decoded;
    if (!file.plain()) {
      decoded.resize(size_t(n));
      file.decode(0, rows, decoded.data());
    }
    Memory<uint8_t> memory =
        file.plain() ? copy(file.data, file.dtype, n, as) : copy(decoded.data(), DType::f32, n, as);
    return {tensors_.emplace(key, std::move(memory)).first->second.data(), as, rows, file.columns};
  }
  void release(const void* data, DType as) { tensors_.erase(std::make_pair(data, as)); }

  // A copy of n numbers that belongs to the caller, for memory of the host that does not last: its
  // address is no name.
  Memory<uint8_t> copy(const void* data, DType stored, int64_t n, DType as) {
    Memory<uint8_t> memory(arena_, Region::weights, n * dtype_bytes(as));
    if (stored == as) {
      queue_.copy(memory.data(), data, size_t(n * dtype_bytes(as)), cudaMemcpyHostToDevice);
    } else {
      const Memory<uint8_t> staged(arena_, Region::workspace, n * dtype_bytes(stored));
      queue_.copy(staged.data(), data, size_t(n * dtype_bytes(stored)), cudaMemcpyHostToDevice);
      with_dense_type(stored, [&](auto from) {
        with_dense_type(as, [&](auto to) {
          using From = decltype(from);
          using To = decltype(to);
          convert(queue_, reinterpret_cast<const From*>(staged.data()), n,
                  reinterpret_cast<To*>(memory.data()));
        });
      });
    }
    queue_.synchronize();  // the source is pageable memory
    return memory;
  }

 private:
  Arena& arena_;
  Queue& queue_;
  std::map<std::pair<const void*, DType>, Memory<uint8_t>> tensors_;
};

}  // namespace ptq::cuda
