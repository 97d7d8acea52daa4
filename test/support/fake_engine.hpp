// A small engine whose logits are a plain function of the tokens, for tests of everything that sees
// engine.hpp only. Its cache follows the policy of a KvMethod in numbers alone: which share of the
// past a query would have read encoded, and how many bytes that would hold.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "ptq/engine/engine.hpp"
#include "ptq/model/tokenizer.hpp"

namespace ptq::test {

// Writes the logits that follow `history`; share: part of the attended rows that were read encoded.
using LogitFn = std::function<void(std::span<const int32_t> history, double share, float* logits)>;

class FakeKv : public KvMethod {
 public:
  explicit FakeKv(KvPolicy policy) : policies{policy, policy} {}
  FakeKv(KvPolicy keys, KvPolicy values) : policies{keys, values} {}

  KvPolicy policy(KvSide side) const override { return policies[int(side)]; }
  void encode(KvSide, int, int64_t, int64_t, const float*, RowSink&) override {
    throw std::logic_error("the fake engine never encodes");
  }

  KvPolicy policies[2];
  uint64_t encoded_row_bytes = 2;  // per side; a dense row has 8
};

class FakeEngine : public Engine {
 public:
  static constexpr int64_t kHeadDim = 4;  // one layer, one head

  struct Call {
    int64_t begin, tokens, first_row;
    Regime regime;
    bool full_precision;  // of the sequence
  };

  // Pseudo-random logits in (-3, 3) from the last two tokens, the length of the history and the
  // token; `noise` times the share comes on top, from another hash.
  static float hash_logit(std::span<const int32_t> history, int32_t v, double share, double noise) {
    const auto mix = [&](uint64_t salt) {
      uint64_t h = salt * 0x9E3779B97F4A7C15u + uint64_t(v);
      for (const uint64_t part : {uint64_t(history.size()), uint64_t(history.back()),
                                  history.size() > 1 ? uint64_t(history[history.size() - 2]) : 0}) {
        h = (h ^ (h >> 29)) * 0xBF58476D1CE4E5B9u + part;
      }
      h = (h ^ (h >> 32)) * 0x94D049BB133111EBu;
      return double(h >> 11) / 9007199254740992.0 * 6 - 3;
    };
    return float(mix(1) + noise * share * mix(2));
  }

  explicit FakeEngine(int64_t vocab, double noise = 0) {
    config_.vocab_size = vocab;
    config_.max_position_embeddings = 1 << 20;
    logits = [vocab, noise](std::span<const int32_t> history, double share, float* out) {
      for (int64_t v = 0; v < vocab; ++v) out[v] = hash_logit(history, int32_t(v), share, noise);
    };
  }

  const ModelConfig& config() const override { return config_; }
  std::string device() const override { return "fake"; }
  WeightBytes weight_bytes() const override { return {}; }
  Blocks& blocks() override { throw Error(ExitCode::internal, "a fake engine has no blocks"); }

  std::unique_ptr<ptq::Sequence> start(KvMethod* method) override {
    return std::make_unique<Sequence>(static_cast<FakeKv*>(method), forks);
  }

  void limit_positions(int64_t n) { config_.max_position_embeddings = n; }

  using Engine::forward;
  void forward(std::span<const Request> requests, Regime regime, Tap*) override {
    for (const Request& r : requests)
      forward_one(r.sequence, r.tokens, regime, r.first_logits_row, r.logits);
  }

  void forward_one(ptq::Sequence& opaque, std::span<const int32_t> tokens, Regime regime,
                   int64_t first_row, const LogitsFn& sink) {
    auto& sequence = static_cast<Sequence&>(opaque);
    const int64_t begin = sequence.length(), count = int64_t(tokens.size());
    if (begin + count > config_.max_position_embeddings) throw std::out_of_range("position");
    calls.push_back({begin, count, first_row, regime, sequence.kv == nullptr});
    std::vector<float> rows;
    for (int64_t i = 0; i < count; ++i) {
      if (tokens[size_t(i)] < 0 || tokens[size_t(i)] >= config_.vocab_size) {
        throw std::out_of_range("token id");
      }
      const int64_t before = begin + i;
      sequence.history.push_back(tokens[size_t(i)]);
      double share = 0;
      for (int side = 0; side < 2; ++side) {
        int64_t encoded = 0;
        if (sequence.kv && regime != Regime::independent) {
          // In prefill_exact the rows of this call are read dense.
          const int64_t past = regime == Regime::streaming       ? before
                               : regime == Regime::prefill_exact ? begin
                                                                 : begin + count - 1;
          encoded = std::min(sequence.kv->policies[side].encoded(past), before + 1);
        }
        const double side_share = double(encoded) / double(before + 1);
        sequence.read.encoded[side] += double(encoded);
        sequence.read.total[side] += double(before + 1);
        sequence.read.share_sum[side] += side_share;
        share += side_share / 2;
      }
      share += double(sequence.noise.relative);  // it disturbs as encoded rows do
      sequence.read.queries += 1;
      if (i < first_row) continue;
      rows.resize(rows.size() + size_t(config_.vocab_size));
      logits(sequence.history, share, rows.data() + rows.size() - size_t(config_.vocab_size));
      const int64_t ready = int64_t(rows.size()) / config_.vocab_size;
      if (ready == rows_per_piece || i + 1 == count) {
        sink(i + 1 - ready, ready, rows.data());
        rows.clear();
      }
    }
  }

  LogitFn logits;
  bool forks = false;  // whether sequences can be copied
  int64_t rows_per_piece = 3;
  std::vector<Call> calls;

 private:
  struct Sequence : ptq::Sequence {
    Sequence(FakeKv* method, bool can_fork) : kv(method), forks(can_fork) {}
    std::unique_ptr<ptq::Sequence> fork() const override {
      return forks ? std::make_unique<Sequence>(*this) : nullptr;
    }
    int64_t length() const override { return int64_t(history.size()); }
    void disturb(const LayerNoise& n) override { noise = n; }
    CacheReads reads() const override { return read; }
    CacheBytes bytes() const override {
      CacheBytes b;
      b.tokens = length();
      b.scalars = b.tokens * 2 * kHeadDim;
      for (int side = 0; side < 2; ++side) {
        const KvPolicy policy = kv ? kv->policies[side] : KvPolicy{0, 1 << 30, 1};
        const int64_t encoded = policy.encoded(b.tokens), sink = std::min(b.tokens, policy.sink);
        if (kv) b.encoded += uint64_t(encoded) * kv->encoded_row_bytes;
        b.sink += uint64_t(sink * kHeadDim * 2);
        b.window += uint64_t((b.tokens - sink - encoded) * kHeadDim * 2);
      }
      return b;
    }
    FakeKv* kv;
    bool forks;
    LayerNoise noise;
    std::vector<int32_t> history;
    CacheReads read;
  };

  ModelConfig config_;
};

// A tokenizer whose ids are the bytes of the text.
inline Tokenizer byte_tokenizer() {
  std::string vocab;
  int next = 256;  // spellings of bytes that are not printable, in order (GPT-2's alphabet)
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    const int point = printable ? b : next++;
    std::string spelling;
    if (point < 128) {
      if (point == '"' || point == '\\') spelling += '\\';
      spelling += char(point);
    } else {
      spelling += char(0xC0 | (point >> 6));
      spelling += char(0x80 | (point & 63));
    }
    vocab += (b ? ",\"" : "\"") + spelling + "\":" + std::to_string(b);
  }
  const std::string byte_level =
      R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false})";
  return Tokenizer::parse(
      R"({"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":)" + byte_level +
          R"(,"post_processor":null,"decoder":)" + byte_level +
          R"(,"model":{"type":"BPE","merges":[],"vocab":{)" + vocab + "}}}",
      "bytes");
}

}  // namespace ptq::test
