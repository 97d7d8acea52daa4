// A method as the engine sees it: what it decides about the cache and the weights. run/
// makes one from a plugin; the built-in full precision is the absence of one.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "ptq/encoding/encoding.hpp"
#include "ptq/engine/kv_policy.hpp"

namespace ptq {

// One side (keys or values) of the cache of every layer.
enum class KvSide : int { keys = 0, values = 1 };

// A CUDA device on which a method may work: enqueue on the stream and return.
struct CudaPlace {
  int device_id = 0;
  void* stream = nullptr;                         // cudaStream_t
  std::function<void*(uint64_t bytes)> allocate;  // device memory, nullptr when there is none
  std::function<void(void*)> release;
};

// A KV-cache method as the engine sees it (run/plugins.hpp makes one from a plugin).
class KvMethod {
 public:
  virtual ~KvMethod() = default;
  virtual KvPolicy policy(KvSide side) const = 0;
  // Encodes `tokens` rows that begin at absolute position `first`; x is [kv_heads, tokens,
  // head_dim] float32, contiguous. The answer goes into `out`, which the cache owns.
  virtual void encode(KvSide side, int layer, int64_t first, int64_t tokens, const float* x,
                      RowSink& out) = 0;
  // Can it take tensors in the memory of a CUDA device? If not, the engine brings them to the host.
  virtual bool on_cuda() const { return false; }
  // encode() for x in the memory of the place.
  virtual void encode_on(const CudaPlace& /*place*/, KvSide /*side*/, int /*layer*/,
                         int64_t /*first*/, int64_t /*tokens*/, const float* /*x*/,
                         RowSink& /*out*/) {}

  // What calibrate() has to be given before the first encode(); nothing by default.
  struct Wants {
    bool samples = false, fisher = false;
  };
  virtual Wants wants() const { return {}; }
  // Once per layer and side: x [tokens, kv_heads, head_dim] float32 in the policy's key space,
  // sequences of `length` tokens end to end; fisher: the squared gradient of the mean cross-entropy
  // loss with respect to x, or nullptr when it is not wanted.
  virtual void calibrate(KvSide, int /*layer*/, int64_t /*tokens*/, int64_t /*length*/,
                         const float* /*x*/, const float* /*fisher*/) {}
};

// A weight method as the engine sees it. Leaving `out` unfilled keeps the layer dense.
class WeightMethod {
 public:
  virtual ~WeightMethod() = default;
  // layer -1 is lm_head; w is [out, in] float32, contiguous.
  virtual void encode(int layer, const std::string& name, const std::string& kind, const float* w,
                      int64_t rows, int64_t columns, RowSink& out) = 0;
};

}  // namespace ptq
