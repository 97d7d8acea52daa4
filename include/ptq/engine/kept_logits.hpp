// The reference's logits, computed once and read by every method that is held against it: an engine
// that answers calls from a file where the same calls were made before, and otherwise asks the real
// one. All numbers are those of the real engine to the last bit, because a call is found again only
// when the whole history of its sequence, cut into the same calls, is the same.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/hash.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/engine/kept_numbers.hpp"

namespace ptq {

// Rows of logits by the call that they answered.
using KeptLogits = KeptNumbers<float>;

// Full-precision sequences only. Calls that are not kept reach the real engine, after whatever the
// sequence was fed until then.
class KeptEngine : public Engine {
 public:
  using Engine::forward;
  enum class Use { read, collect };  // collect: also keeps what the real engine answers

  // config: of the model; engine: makes or gives the real one when it is first needed.
  KeptEngine(const ModelConfig& config, KeptLogits& kept, Use use, std::function<Engine&()> engine)
      : config_(config), kept_(kept), use_(use), engine_(std::move(engine)) {}

  const ModelConfig& config() const override { return config_; }
  std::string device() const override { return engine_().device(); }
  WeightBytes weight_bytes() const override { return engine_().weight_bytes(); }
  Blocks& blocks() override {
    throw Error(ExitCode::internal, "the reference is in full precision");
  }

  std::unique_ptr<ptq::Sequence> start(KvMethod* method) override {
    if (method != nullptr) throw Error(ExitCode::internal, "the reference's cache is dense");
    return std::make_unique<Sequence>(engine_);
  }

  void forward(std::span<const Request> requests, Regime regime, Tap*) override {
    for (const Request& request : requests) answer(request, regime);
  }

 private:
  // What was fed, in calls; the real sequence exists from the first call on that must be computed.
  struct Sequence : ptq::Sequence {
    explicit Sequence(const std::function<Engine&()>& engine) : engine(engine) {}

    int64_t length() const override { return tokens; }
    CacheBytes bytes() const override { return real ? real->bytes() : CacheBytes{}; }
    CacheReads reads() const override { return real ? real->reads() : CacheReads{}; }
    std::unique_ptr<ptq::Sequence> fork() const override {
      auto copy = std::make_unique<Sequence>(engine);
      copy->history = history;
      copy->state = state;
      copy->tokens = tokens;
      if (real) {
        copy->real = real->fork();
        if (copy->real) copy->fed = fed;
      }
      return copy;
    }
    void disturb(const LayerNoise&) override {
      throw Error(ExitCode::internal, "noise on the kept reference");
    }
    // The real sequence, fed with all calls so far.
    ptq::Sequence& caught_up(Regime regime) {
      if (!real) real = engine().start(nullptr);
      for (; fed < history.size(); ++fed)
        engine().forward(*real, history[fed], regime, int64_t(history[fed].size()), {});
      return *real;
    }

    const std::function<Engine&()>& engine;
    std::vector<std::vector<int32_t>> history;
    size_t fed = 0;     // calls of the history that the real sequence has seen
    std::string state;  // hash of the history
    int64_t tokens = 0;
    std::unique_ptr<ptq::Sequence> real;
  };

  void answer(const Request& request, Regime regime) const {
    auto& sequence = static_cast<Sequence&>(request.sequence);
    const int64_t count = int64_t(request.tokens.size());
    const int64_t rows = count - request.first_logits_row;
    const std::string state =
        Sha256()
            .update(sequence.state)
            .update({reinterpret_cast<const char*>(request.tokens.data()), size_t(count) * 4})
            .hex();
    const std::string call = sha256_hex(state + " " + std::to_string(request.first_logits_row));
    const auto kept = rows > 0 ? kept_.find(call) : std::span<const float>();
    if (kept) {
      if (int64_t(kept->size()) != rows * config_.vocab_size)
        throw Error(ExitCode::internal, "the reference's kept logits have another shape");
      sequence.history.emplace_back(request.tokens.begin(), request.tokens.end());
      if (rows > 0) request.logits(request.first_logits_row, rows, kept->data());
    } else {
      compute(sequence, request, regime, call);
    }
    sequence.state = state;
    sequence.tokens += count;
  }

  void compute(Sequence& sequence, const Request& request, Regime regime,
               const std::string& call) const {
    std::vector<float> all;
    engine_().forward(sequence.caught_up(regime), request.tokens, regime, request.first_logits_row,
                      [&](int64_t first, int64_t rows, const float* logits) {
                        if (use_ == Use::collect)
                          all.insert(all.end(), logits, logits + rows * config_.vocab_size);
                        request.logits(first, rows, logits);
                      });
    sequence.history.emplace_back(request.tokens.begin(), request.tokens.end());
    sequence.fed = sequence.history.size();
    if (use_ == Use::collect && !kept_.keep(call, std::move(all)))
      throw Error(ExitCode::resources, "the reference's logits take more than " +
                                           std::to_string(kept_.limit() >> 20) + " MiB");
  }

  ModelConfig config_;
  KeptLogits& kept_;
  Use use_;
  std::function<Engine&()> engine_;
};

}  // namespace ptq
