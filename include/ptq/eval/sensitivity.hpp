// Where a method hurts: the divergence when only one part of the model goes through it, the keys or
// values of one layer, the linear layers of one, or one of them. A pass over the tokens for each
// part.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ptq/core/dtype.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/eval/divergence.hpp"
#include "ptq/eval/log_softmax.hpp"
#include "ptq/model/anatomy.hpp"

namespace ptq::eval {

// A cache method in one side of one layer; everywhere else rows are kept as they are, in 16 bits
// and under the method's policy. Not for methods that evict rows.
class OnlySide final : public KvMethod {
 public:
  // layer -1: nowhere. dense: the 16-bit format of rows.
  OnlySide(KvMethod& method, const Anatomy& anatomy, DType dense, int layer, KvSide side)
      : method_(method), anatomy_(anatomy), dense_(dense), layer_(layer), side_(side) {}

  KvPolicy policy(KvSide side) const override { return method_.policy(side); }
  void encode(KvSide side, int layer, int64_t first, int64_t tokens, const float* x,
              RowSink& out) override {
    if (layer == layer_ && side == side_) {
      method_.encode(side, layer, first, tokens, x, out);
    } else {
      const Shape& shape = anatomy_.layers[size_t(layer)].shape;
      out.dense(dense_, shape.kv_heads, tokens, shape.head_dim, x);
    }
  }

 private:
  KvMethod& method_;
  const Anatomy& anatomy_;
  DType dense_;
  int layer_;
  KvSide side_;
};

// A weight method in the linear layers of one layer, or in one of them; the others stay as they
// are.
class OnlyLinears final : public WeightMethod {
 public:
  // layer -1 is lm_head; name: of the one linear layer, empty: all of the layer.
  OnlyLinears(WeightMethod& method, int layer, std::string name)
      : method_(method), layer_(layer), name_(std::move(name)) {}

  InputsWanted encode_wants() const override { return method_.encode_wants(); }
  void encode(const LinearView& linear, RowSink& out) override {
    if (!chosen(linear)) return;
    method_.encode(linear, out);
    encoded_ = encoded_ || out.filled();
  }
  InputsWanted activation_wants() const override { return method_.activation_wants(); }
  Activation activation(const LinearView& linear) override {
    return chosen(linear) ? method_.activation(linear) : Activation{};
  }
  bool encoded() const { return encoded_; }  // was there anything?

 private:
  bool chosen(const LinearView& linear) const {
    return linear.layer == layer_ && (name_.empty() || linear.name == name_);
  }

  WeightMethod& method_;
  int layer_;
  std::string name_;
  bool encoded_ = false;
};

// The reference's logits of a text, [tokens - 1, vocab], to be compared with any number of times.
class StoredReference {
 public:
  // Errors: logits that are not finite.
  StoredReference(Engine& engine, std::span<const int32_t> tokens, Regime regime)
      : tokens_(tokens), regime_(regime), vocab_(engine.config().vocab_size) {
    logits_.resize((tokens.size() - 1) * size_t(vocab_));
    run(engine, nullptr, [&](int64_t at, const float* row) {
      std::copy_n(row, vocab_, logits_.begin() + at * vocab_);
    });
  }

  // Of an engine and a cache method (nullptr: the full-precision cache) from it.
  Divergence divergence(Engine& engine, KvMethod* kv) const {
    Divergence sum;
    run(engine, kv, [&](int64_t at, const float* row) {
      const LogitRow method = read_logits(row, vocab_, at, "model under test");
      const LogitRow reference =
          read_logits(logits_.data() + at * vocab_, vocab_, at, "reference model");
      sum.add(reference, method, tokens_[size_t(at + 1)]);
    });
    return sum;
  }

 private:
  template <class Take>
  void run(Engine& engine, KvMethod* kv, const Take& take) const {
    const auto sequence = engine.start(kv);
    const int64_t last = int64_t(tokens_.size()) - 1;  // predicts the token after the text
    engine.forward(*sequence, tokens_, regime_, 0,
                   [&](int64_t first, int64_t rows, const float* logits) {
                     for (int64_t i = 0; i < rows && first + i < last; ++i)
                       take(first + i, logits + i * vocab_);
                   });
  }

  std::span<const int32_t> tokens_;
  Regime regime_;
  int64_t vocab_;
  std::vector<float> logits_;
};

}  // namespace ptq::eval
