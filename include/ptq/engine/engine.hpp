// The small abstract interface through which the rest of the program sees a transformer on a
// device. Evaluation, calibration and the command line include this and nothing below it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ptq/core/dtype.hpp"
#include "ptq/encoding/encoding.hpp"
#include "ptq/engine/kv_policy.hpp"
#include "ptq/engine/scores.hpp"
#include "ptq/model/config.hpp"

namespace ptq {

class RandomWeights;

// The number format of activations.
enum class Compute {
  fp32,  // float32 throughout
  bf16,  // rounded to bfloat16 at every place where the reference implementation rounds, float32
         // inside matrix products, norms and softmax; the dense rows of a cache are bfloat16
};

struct EngineOptions {
  int threads = 0;  // 0 = all cores
  Compute compute = Compute::fp32;
  std::shared_ptr<RandomWeights> random;  // instead of the weight files; nullptr: read the files
};

// What a query may read of its past. See docs/decisions.md and DESIGN: "The KV cache".
enum class Regime {
  // Every query, the prompt's too, reads what the cache holds at its moment: rows below the
  // boundary E(t) from their encoding, the rest dense (as float16).
  streaming,
  // The tokens of this call read each other dense; rows of earlier calls as the cache holds them.
  // Afterwards the cache holds them as the policy says.
  prefill_exact,
  // Every query of this call reads the rows as the cache holds them after the call: also early
  // queries read encodings whose statistics include later tokens, which no deployed cache can know.
  // So ran the study that kivi_seed, kvquant_seed and forge_seed reproduce.
  prefill_encoded,
  // One fresh pass in float32 without any cache: the reference, marked "cache not read".
  independent,
};

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

// Bytes that the cache of one sequence holds now, all layers, keys and values.
struct CacheBytes {
  uint64_t encoded = 0;           // codes, scales, zero points of encoded rows
  uint64_t window = 0;            // dense rows behind the boundary (tail and window)
  uint64_t sink = 0;              // dense first rows
  uint64_t reserved = 0;          // allocated beyond the three above (growth room)
  int64_t tokens = 0;             // rows per layer and side
  int64_t scalars = 0;            // numbers cached: tokens * layers * 2 * kv_heads * head_dim
  bool encoded_is_dense = false;  // every encoded row is the 16-bit row itself (FP16)

  uint64_t total() const { return encoded + window + sink; }
  double bytes_per_token() const { return tokens ? double(total()) / double(tokens) : 0.0; }
  double effective_bits() const { return scalars ? 8.0 * double(total()) / double(scalars) : 0.0; }
};

// Rows that attention read, summed over queries and layers, per side.
struct CacheReads {
  double encoded[2] = {0, 0}, total[2] = {0, 0};  // [KvSide]
  // Mean over queries of the share of visible positions that came from encoded storage (or were
  // evicted, and so not read at all), averaged over queries, sides and layers: 0 means that the
  // numbers say nothing about the method.
  double share_sum[2] = {0, 0};
  double queries = 0;
  double exposure() const {
    return queries > 0 ? 0.5 * (share_sum[0] + share_sum[1]) / queries : 0.0;
  }
};

// The cache of one sequence.
class Sequence {
 public:
  virtual ~Sequence() = default;
  virtual int64_t length() const = 0;  // tokens so far
  virtual CacheBytes bytes() const = 0;
  virtual CacheReads reads() const = 0;
  // A copy that goes on by itself; nullptr: this device does not copy, prefill again.
  virtual std::unique_ptr<Sequence> fork() const { return nullptr; }
};

// Exact bytes of the resident weights.
struct WeightBytes {
  uint64_t encoded = 0;         // bytes of encoded linears, scales and zero points included
  int64_t encoded_scalars = 0;  // numbers in them
  uint64_t dense = 0;           // bytes of everything else, in the dtype of the model's folder
  int64_t dense_scalars = 0;
  uint64_t total() const { return encoded + dense; }
  double encoded_bits() const {
    return encoded_scalars ? 8.0 * double(encoded) / double(encoded_scalars) : 0.0;
  }
};

// Receives logits in pieces: rows [first_row, first_row + rows) of the call, row-major
// [rows, vocab_size] float32, valid during the call only. first_row counts from the first token of
// the forward call.
using LogitsFn = std::function<void(int64_t first_row, int64_t rows, const float* logits)>;

// One sequence's part of a call. Different requests of one call name different sequences.
struct Request {
  Sequence& sequence;
  std::span<const int32_t> tokens;  // ids in 0 .. vocab_size-1, appended to the sequence
  int64_t first_logits_row = 0;     // rows whose logits are wanted: 0 = all, tokens.size() = none
  LogitsFn logits;                  // not called when no row is wanted
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual const ModelConfig& config() const = 0;
  virtual std::string device() const = 0;  // "cpu (2 threads)"
  virtual WeightBytes weight_bytes() const = 0;

  // Offers every linear layer to the method, in order, and runs from the encodings afterwards.
  // `progress(done, total)` may be empty.
  virtual void encode_weights(WeightMethod& method,
                              const std::function<void(int, int)>& progress) = 0;

  // An empty sequence. method == nullptr is the full-precision cache: every row dense in 16 bits.
  // The method must outlive the sequence.
  virtual std::unique_ptr<Sequence> start(KvMethod* method) = 0;

  // Runs the requests together, their tokens side by side without padding; each gets the logits it
  // would get alone, up to the order of sums. Long calls are cut inside where this does not change
  // results. Errors: id out of range, context longer than the model allows, a sequence named twice.
  virtual void forward(std::span<const Request> requests, Regime regime) = 0;

  // The same for one sequence.
  void forward(Sequence& sequence, std::span<const int32_t> tokens, Regime regime,
               int64_t first_logits_row, const LogitsFn& logits) {
    const Request request{sequence, tokens, first_logits_row, logits};
    forward(std::span(&request, 1), regime);
  }
};

// An engine on the CPU for a Hugging Face folder; weights are memory-mapped and stay in their
// dtype. Defined in host/engine_cpu.cpp.
std::unique_ptr<Engine> make_cpu_engine(const std::string& folder, const EngineOptions& options);
inline std::unique_ptr<Engine> make_cpu_engine(const std::string& folder, int threads) {
  return make_cpu_engine(folder, EngineOptions{threads, Compute::fp32, nullptr});
}

}  // namespace ptq
