// The keys and values of prompts, computed once and taken by every cache method of an evaluation.
//
// Under `prefill-exact` a prompt reads itself in full precision, so what is handed to a method to
// encode does not depend on the method: rows that enter the cache in 16 bits. Only where a cache
// wants its keys before their rotation are its rows others, because rounding comes first there; so
// each prompt is run twice at most. All numbers of a method are those of its own pass to the last
// bit.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/hash.hpp"
#include "ptq/encoding/dense.hpp"
#include "ptq/engine/engine_in_front.hpp"
#include "ptq/engine/kept_numbers.hpp"

namespace ptq {

// In front of the rows stands how many seconds their pass took, a float64.
using KeptPrompts = KeptNumbers<uint16_t>;

namespace prompt_detail {

using Seconds = std::array<uint16_t, sizeof(double) / sizeof(uint16_t)>;

// The first call of a sequence, of which no logits are wanted.
inline bool is_prompt(const Request& request) {
  return request.sequence.length() == 0 && !request.tokens.empty() &&
         request.first_logits_row == int64_t(request.tokens.size());
}

inline std::string name(std::span<const int32_t> ids, bool pre_rope) {
  return Sha256()
      .update({reinterpret_cast<const char*>(ids.data()), ids.size_bytes()})
      .update(pre_rope ? "before rotation" : "rotated")
      .hex();
}

inline bool pre_rope(const KvMethod* method) {
  return method != nullptr && method->policy(KvSide::keys).pre_rope;
}

// Takes keys and values out of a pass, as Engine::take() wants them.
class PromptTap : public Tap {
 public:
  PromptTap(int64_t rows, bool pre_rope, DType dtype)
      : rows_(rows), pre_rope_(pre_rope), dtype_(dtype) {}

  Wanted wants(int, Point point) override {
    const bool key =
        pre_rope_ ? point == Point::key || point == Point::normed_key : point == Point::rotated_key;
    return {key || point == Point::value ? rows_ : 0, false, false};
  }
  void see(const Seen& seen) override {
    auto& [keys, values] = layers_[seen.layer];
    std::vector<uint16_t>& to = seen.point == Point::value ? values : keys;
    to.resize(seen.values.size());  // normed keys come behind the keys and replace them
    from_float(dtype_, seen.values.data(), int64_t(to.size()), to.data());
  }
  // Behind `seconds`: of each layer its keys, then its values.
  std::vector<uint16_t> rows(double seconds) const {
    Seconds head;
    std::memcpy(head.data(), &seconds, sizeof seconds);
    std::vector<uint16_t> all(head.begin(), head.end());
    for (const auto& [layer, sides] : layers_)
      for (const auto* side : {&sides.first, &sides.second})
        all.insert(all.end(), side->begin(), side->end());
    return all;
  }

 private:
  int64_t rows_;
  bool pre_rope_;
  DType dtype_;
  std::map<int, std::pair<std::vector<uint16_t>, std::vector<uint16_t>>> layers_;
};

// A cache of full precision whose keys are stored before their rotation.
class UnrotatedKeys : public KvMethod {
 public:
  explicit UnrotatedKeys(int64_t longest) { policy_.window = longest, policy_.pre_rope = true; }
  KvPolicy policy(KvSide) const override { return policy_; }
  void encode(KvSide, int, int64_t, int64_t, const float*, RowSink&) override {}

 private:
  KvPolicy policy_;
};

}  // namespace prompt_detail

// An engine in front of another one that keeps the keys and values of the prompts it is asked for,
// as long as there is room.
class PromptKeeper : public EngineInFront {
 public:
  using Engine::forward;
  // answering: gets every call; real: runs the prompts.
  PromptKeeper(Engine& answering, Engine& real, KeptPrompts& kept)
      : EngineInFront(answering), real_(real), kept_(kept), dtype_(real.prompt_dtype()) {}

  void forward(std::span<const Request> requests, Regime regime, Tap* tap) override {
    if (regime == Regime::prefill_exact)
      for (const Request& request : requests)
        if (prompt_detail::is_prompt(request))
          for (const bool pre_rope : {false, true}) keep(request.tokens, pre_rope);
    engine_.forward(requests, regime, tap);
  }

 private:
  void keep(std::span<const int32_t> ids, bool pre_rope) {
    const std::string name = prompt_detail::name(ids, pre_rope);
    if (!dtype_ || kept_.find(name)) return;
    prompt_detail::UnrotatedKeys unrotated(config().max_position_embeddings);
    const auto sequence = real_.start(pre_rope ? &unrotated : nullptr);
    prompt_detail::PromptTap tap(int64_t(ids.size()), pre_rope, *dtype_);
    const auto start = std::chrono::steady_clock::now();
    real_.forward(*sequence, ids, Regime::prefill_exact, int64_t(ids.size()), {}, &tap);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (!kept_.keep(name, tap.rows(took.count()))) dtype_.reset();
  }

  Engine& real_;
  KeptPrompts& kept_;
  std::optional<DType> dtype_;  // nothing: there is no room left, or they cannot be taken
};

// An engine in front of another one, whose prompts are taken from where they were kept.
class PromptedEngine : public EngineInFront {
 public:
  using Engine::forward;
  // kv: the cache of every sequence; its calls under `prefill-exact` find their prompts, those of a
  // full-precision one (nullptr) in any regime.
  PromptedEngine(Engine& engine, const KeptPrompts& kept, KvMethod* kv)
      : EngineInFront(engine), kept_(kept), kv_(kv) {}

  int64_t taken() const { return taken_; }     // prompts
  double seconds() const { return seconds_; }  // that their passes took where they were run

  void forward(std::span<const Request> requests, Regime regime, Tap* tap) override {
    if (requests.size() == 1 && !tap && take(requests[0], regime)) return;
    engine_.forward(requests, regime, tap);
  }

 private:
  bool take(const Request& request, Regime regime) {
    if (!prompt_detail::is_prompt(request)) return false;
    if (regime != Regime::prefill_exact && kv_ != nullptr) return false;
    const std::string name = prompt_detail::name(request.tokens, prompt_detail::pre_rope(kv_));
    const auto kept = kept_.find(name);
    if (!kept) return false;
    double seconds;
    std::memcpy(&seconds, kept->data(), sizeof seconds);
    engine_.take(request.sequence, int64_t(request.tokens.size()),
                 kept->subspan(std::tuple_size_v<prompt_detail::Seconds>));
    kept_.forget(name);
    seconds_ += seconds;
    ++taken_;
    return true;
  }

  const KeptPrompts& kept_;
  KvMethod* kv_;
  int64_t taken_ = 0;
  double seconds_ = 0;
};

}  // namespace ptq
