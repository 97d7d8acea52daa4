// An engine in front of another one, for whoever changes one of its answers.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "ptq/engine/engine.hpp"

namespace ptq {

class EngineInFront : public Engine {
 public:
  using Engine::forward;
  explicit EngineInFront(Engine& engine) : engine_(engine) {}

  const ModelConfig& config() const override { return engine_.config(); }
  std::string device() const override { return engine_.device(); }
  WeightBytes weight_bytes() const override { return engine_.weight_bytes(); }
  Blocks& blocks() override { return engine_.blocks(); }
  std::unique_ptr<Sequence> start(KvMethod* method) override { return engine_.start(method); }
  void forward(std::span<const Request> requests, Regime regime, Tap* tap) override {
    engine_.forward(requests, regime, tap);
  }
  std::optional<DType> prompt_dtype() const override { return engine_.prompt_dtype(); }
  void take(Sequence& sequence, int64_t tokens, std::span<const uint16_t> rows) override {
    engine_.take(sequence, tokens, rows);
  }

 protected:
  Engine& engine_;
};

}  // namespace ptq
