// A method as the engine sees it: what it decides about the cache and the weights. run/
// makes one from a plugin; the built-in full precision is the absence of one.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "ptq/encoding/activation.hpp"
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

// What entered a linear layer over a calibration set; what was not asked for is empty. Linears that
// read the same numbers share it, which `id` tells.
struct LinearInputs {
  uint64_t id = 0;
  int64_t rows = 0, width = 0;                            // tokens; columns
  std::span<const float> mean_square, mean_abs, largest;  // [width], of x^2, |x|, |x|
  std::span<const float> gram;                            // [width, width]: X^T X / rows
  std::span<const float> sample;                          // [n, width]: rows at even distances
  std::span<const float> cross;                           // (X_full - X)^T X / rows
};

// Through what the inputs of a layer come; each includes the ones before.
enum class InputOrder : int {
  full = 0,    // the full-precision model
  blocks = 1,  // the encoded blocks before this one
  groups = 2,  // and the encoded linears before these
};

// What a method wants to know of inputs.
struct InputsWanted {
  bool columns = false, gram = false, cross = false;
  int64_t sample_rows = 0;
  InputOrder order = InputOrder::full;
  bool any() const { return columns || gram || cross || sample_rows > 0; }
};

// One linear layer as a method is shown it.
struct LinearView {
  int layer;  // -1: lm_head
  std::string name, kind;
  const float* w;  // [rows, columns] float32, contiguous
  int64_t rows, columns;
  const LinearInputs* inputs;  // nullptr: not asked for, or there are none
};

// Where the scale of a channel can move from what gives an input into what reads it; the numbers
// are those of PTQ_SITE_* in plugin.h.
enum class SitePlace : int { attention_in = 1, heads_out = 2, mlp_in = 3, mlp_inner = 4 };
struct Site {
  int layer;
  SitePlace place;
  std::vector<LinearView> linears;
};

// The weights side of one method, or of several together, as the engine sees it. Asked block by
// block: scale() for each site, then activation() and encode() for each linear.
class WeightMethod {
 public:
  virtual ~WeightMethod() = default;
  // Does encode() do anything?
  virtual bool encodes() const { return true; }
  virtual InputsWanted encode_wants() const { return {}; }
  // Leaving `out` unfilled keeps the layer as it is.
  virtual void encode(const LinearView& linear, RowSink& out) = 0;

  virtual bool scales() const { return false; }
  virtual InputsWanted scale_wants() const { return {}; }
  // factor [width], filled with ones.
  virtual void scale(const Site&, std::span<float> /*factor*/) {}

  virtual InputsWanted activation_wants() const { return {}; }
  virtual Activation activation(const LinearView&) { return {}; }
};

}  // namespace ptq
