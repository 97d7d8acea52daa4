// The small abstract interface through which the rest of the program sees a transformer on a
// device. Evaluation, calibration and the command line include this and nothing below it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ptq/core/dtype.hpp"
#include "ptq/core/error.hpp"
#include "ptq/engine/counts.hpp"
#include "ptq/engine/method.hpp"
#include "ptq/engine/modes.hpp"
#include "ptq/engine/noise.hpp"
#include "ptq/engine/tap.hpp"
#include "ptq/model/config.hpp"

namespace ptq {

class LinearWeight;
class RandomWeights;

struct EngineOptions {
  int threads = 0;  // 0 = all cores
  Compute compute = Compute::fp32;
  std::shared_ptr<RandomWeights> random;  // instead of the weight files; nullptr: read the files
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
  // From now on the hidden state of this sequence is disturbed behind every layer.
  virtual void disturb(const LayerNoise& noise) = 0;
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

// The blocks of the decoder and their weights. Numbers are in the host's memory. A block is run on
// whole sequences from position 0 on, side by side, each alone, without a cache.
class Blocks {
 public:
  virtual ~Blocks() = default;
  virtual const Anatomy& anatomy() const = 0;
  // x [ids, hidden]: what enters the first block.
  virtual void embed(std::span<const int32_t> ids, float* x) = 0;
  // From x to y [sum of lengths, hidden], which may be x; nullptr: only the tap looks. At most
  // kRows rows.
  virtual void run(int layer, std::span<const int64_t> lengths, const float* x, float* y,
                   Tap* tap) = 0;
  static constexpr int64_t kRows = 2048;

  // A linear's weight where a method can work on it, to be followed by changed(). The head's is
  // layer -1; a tied one has none.
  virtual LinearWeight& weight(int layer, Role role) = 0;
  virtual void changed(int layer, Role role) = 0;
  // Divides the numbers of the norm that feeds a point of a layer.
  virtual void divide_norm(int layer, Point point, std::span<const float> by) = 0;
  // The norms that were divided, NAME.weight, and their numbers.
  virtual const std::map<std::string, std::vector<float>>& divided_norms() const = 0;
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual const ModelConfig& config() const = 0;
  virtual std::string device() const = 0;  // "cpu (2 threads)"
  virtual WeightBytes weight_bytes() const = 0;

  // The decoder, one block at a time, for whoever changes its weights.
  virtual Blocks& blocks() = 0;

  // An empty sequence. method == nullptr is the full-precision cache: every row dense in 16 bits.
  // The method must outlive the sequence.
  virtual std::unique_ptr<Sequence> start(KvMethod* method) = 0;

  // Runs the requests together, their tokens side by side without padding; each gets the logits it
  // would get alone: on the CPU to the last bit, on CUDA up to the order of sums. Long calls are
  // cut inside where this does not change results. Errors: id out of range, context longer than the
  // model allows, a sequence named twice. `tap` looks into every pass of the call; nullptr: nobody
  // looks.
  virtual void forward(std::span<const Request> requests, Regime regime, Tap* tap) = 0;
  void forward(std::span<const Request> requests, Regime regime) {
    forward(requests, regime, nullptr);
  }

  // The 16-bit dtype of the rows that take() wants; nothing: it is not to be called.
  virtual std::optional<DType> prompt_dtype() const { return {}; }
  // Appends a prompt to an empty sequence as a call under `prefill-exact` would, but for running
  // it. rows: of each layer with attention its keys [tokens, kv_width], rotated unless the cache
  // stores them before, then its values. engine/kept_prompts.hpp makes them.
  virtual void take(Sequence& sequence, int64_t tokens, std::span<const uint16_t> rows);

  // The same as above for one sequence.
  void forward(Sequence& sequence, std::span<const int32_t> tokens, Regime regime,
               int64_t first_logits_row, const LogitsFn& logits, Tap* tap = nullptr) {
    const Request request{sequence, tokens, first_logits_row, logits};
    forward(std::span(&request, 1), regime, tap);
  }
};

inline void Engine::take(Sequence&, int64_t, std::span<const uint16_t>) {
  throw Error(ExitCode::internal, "this engine takes no prompts");
}

// An engine on the CPU for a Hugging Face folder; weights are memory-mapped and stay in their
// dtype. Defined in host/engine_cpu.cpp.
std::unique_ptr<Engine> make_cpu_engine(const std::string& folder, const EngineOptions& options);
inline std::unique_ptr<Engine> make_cpu_engine(const std::string& folder, int threads) {
  return make_cpu_engine(folder, EngineOptions{threads, Compute::fp32, nullptr});
}

}  // namespace ptq
