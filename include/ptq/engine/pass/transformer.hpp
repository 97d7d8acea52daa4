// The forward pass of the Llama, Qwen2 and Mistral architectures, to be read from top to bottom.
//
// Order of operations: Hugging Face transformers, modeling_llama / modeling_qwen2 /
// modeling_mistral. `Device` supplies the operations and the storage (engine/cpu/device.hpp is the
// plain one, engine/cuda/device.hpp the other); activations are row-major [rows, width], the rows
// of several sequences side by side. In the compute mode bf16 each operation rounds its result.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/engine/cpu/kv_cache.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/engine/weights/linear.hpp"
#include "ptq/model/config.hpp"
#include "ptq/model/random_weights.hpp"
#include "ptq/model/safetensors.hpp"

namespace ptq {

template <class Device>
class Transformer final : public Engine {
  using Array = typename Device::Array;    // activations
  using Linear = typename Device::Linear;  // a weight matrix in any encoding
  using Vector = typename Device::Vector;  // norms and biases
  using Cache = typename Device::Cache;

 public:
  // Opens a Hugging Face folder. Throws on everything that is missing, damaged or unsupported. With
  // `random`, only its config.json is read.
  Transformer(const std::string& folder, Device device,
              std::shared_ptr<RandomWeights> random = nullptr)
      : device_(std::move(device)), config_(load_config(folder)), random_(std::move(random)) {
    if (!random_) files_.emplace(folder).check_tensors(config_);
    const ModelConfig& c = config_;
    const int64_t h = c.hidden_size, q = c.num_attention_heads * c.head_dim,
                  kv = c.num_key_value_heads * c.head_dim, f = c.intermediate_size;
    const TensorInfo& embedding = tensor("model.embed_tokens.weight", {c.vocab_size, h});
    embedding_bytes_ = embedding.bytes;
    embedding_ = device_.table(embedding);
    for (int64_t l = 0; l < c.num_hidden_layers; ++l) {
      const std::string base = "model.layers." + std::to_string(l) + ".";
      Layer layer;
      layer.input_norm = vector(base + "input_layernorm.weight", h);
      layer.q = matrix(base + "self_attn.q_proj", q, h);
      layer.k = matrix(base + "self_attn.k_proj", kv, h);
      layer.v = matrix(base + "self_attn.v_proj", kv, h);
      if (c.qkv_bias) {
        layer.q_bias = vector(base + "self_attn.q_proj.bias", q);
        layer.k_bias = vector(base + "self_attn.k_proj.bias", kv);
        layer.v_bias = vector(base + "self_attn.v_proj.bias", kv);
      }
      layer.o = matrix(base + "self_attn.o_proj", h, q);
      if (c.o_bias) layer.o_bias = vector(base + "self_attn.o_proj.bias", h);
      layer.post_norm = vector(base + "post_attention_layernorm.weight", h);
      layer.gate = matrix(base + "mlp.gate_proj", f, h);
      layer.up = matrix(base + "mlp.up_proj", f, h);
      layer.down = matrix(base + "mlp.down_proj", h, f);
      layers_.push_back(std::move(layer));
    }
    final_norm_ = vector("model.norm.weight", h);
    head_ = c.tie_word_embeddings ? device_.weight(LinearWeight("lm_head", embedding))
                                  : matrix("lm_head", c.vocab_size, h);
    rope_ = rope_of(c);
  }

  const ModelConfig& config() const override { return config_; }
  std::string device() const override { return device_.name(); }

  WeightBytes weight_bytes() const override {
    WeightBytes sum;
    const auto count = [&](const Linear& w) {
      (w.encoded() ? sum.encoded : sum.dense) += w.bytes();
      (w.encoded() ? sum.encoded_scalars : sum.dense_scalars) += w.scalars();
    };
    for (const Layer& layer : layers_)
      for (const Linear* w : layer.linears()) count(*w);
    if (!config_.tie_word_embeddings) count(head_);
    sum.dense += embedding_bytes_ + small_bytes_;
    sum.dense_scalars += config_.vocab_size * config_.hidden_size + small_scalars_;
    return sum;
  }

  void encode_weights(WeightMethod& method,
                      const std::function<void(int, int)>& progress) override {
    std::vector<std::pair<int, Linear*>> all;
    for (size_t l = 0; l < layers_.size(); ++l)
      for (Linear* w : layers_[l].linears()) all.emplace_back(int(l), w);
    if (!config_.tie_word_embeddings) all.emplace_back(-1, &head_);
    std::vector<float> w;
    for (size_t i = 0; i < all.size(); ++i) {
      LinearWeight& linear = device_.host(*all[i].second);
      w.resize(size_t(linear.scalars()));
      linear.decode(0, linear.out(), w.data());
      for (size_t e = 0; e < w.size(); ++e)
        if (!std::isfinite(w[e]))
          throw environment_error("a weight is not finite",
                                  linear.name() + ".weight, row " +
                                      std::to_string(int64_t(e) / linear.in()) + ", column " +
                                      std::to_string(int64_t(e) % linear.in()),
                                  "the file is damaged; download it again");
      const std::string kind = linear.name().substr(linear.name().rfind('.') + 1);
      method.encode(all[i].first, linear.name(), kind, w.data(), linear.out(), linear.in(), linear);
      device_.encoded(*all[i].second);
      if (progress) progress(int(i) + 1, int(all.size()));
    }
  }

  std::unique_ptr<Sequence> start(KvMethod* method) override {
    return std::make_unique<CachedSequence>(
        device_.cache(config_, method, hooks_.dense.value_or(device_.cache_dtype())));
  }

  using Engine::forward;
  void forward(std::span<const Request> requests, Regime regime) override {
    std::vector<Piece> rest;  // what is still to be run of each request
    for (size_t i = 0; i < requests.size(); ++i) {
      const Request& r = requests[i];
      check(r, regime);
      auto& s = static_cast<CachedSequence&>(r.sequence);
      for (size_t j = 0; j < i; ++j)
        if (&requests[j].sequence == &r.sequence)
          throw usage_error("one sequence stands in two requests of a call");
      rest.push_back({&s, &r, 0, 0, int64_t(r.tokens.size()), s.cache.length()});
    }
    // Whole requests fill a pass until it is full. Streaming may be cut anywhere without changing a
    // result, which bounds the memory of a pass; the other regimes treat a request as a unit.
    int64_t tokens = 0;
    for (const Piece& piece : rest) tokens += piece.rows;
    const int64_t most =
        device_.pass_rows(std::clamp<int64_t>(tokens, 1, kPass), scalars_per_row());
    std::vector<Piece> pieces;
    int64_t rows = 0;
    const auto flush = [&] {
      if (rows > 0) pass(pieces, rows, regime);
      pieces.clear();
      rows = 0;
    };
    for (Piece& left : rest) {
      while (left.rows > 0) {
        const bool cut = regime == Regime::streaming;
        const bool step_by_step = cut && left.sequence->cache.step_by_step();
        if (rows > 0 && (rows >= most || step_by_step || (!cut && rows + left.rows > most)))
          flush();
        Piece piece = left;
        if (cut) piece.rows = std::min(left.rows, step_by_step ? 1 : most - rows);
        piece.row = rows;
        pieces.push_back(piece);
        rows += piece.rows;
        left.offset += piece.rows;
        left.position += piece.rows;
        left.rows -= piece.rows;
      }
    }
    flush();
  }

  // The cache of a sequence made by start(), for tests that look inside or tamper with it.
  static Cache& cache(Sequence& sequence) { return static_cast<CachedSequence&>(sequence).cache; }

  // For tests of the mechanism. poison: overwrite the pass's own keys and values with NaN as soon
  // as they are in the cache. dense: dtype of unencoded rows, where 16-bit rounding would hide what
  // is compared.
  struct TestHooks {
    bool poison = false;
    std::optional<DType> dense;
  };
  Device& device_for_tests() { return device_; }
  void set_test_hooks(TestHooks hooks) { hooks_ = hooks; }

 private:
  struct Layer {
    Vector input_norm, post_norm;           // [hidden]
    Linear q, k, v, o, gate, up, down;      // [out, in]
    Vector q_bias, k_bias, v_bias, o_bias;  // empty when the model has none
    std::vector<const Linear*> linears() const { return {&q, &k, &v, &o, &gate, &up, &down}; }
    std::vector<Linear*> linears() { return {&q, &k, &v, &o, &gate, &up, &down}; }
  };

  struct CachedSequence final : Sequence {
    explicit CachedSequence(Cache c) : cache(std::move(c)) {}
    int64_t length() const override { return cache.length(); }
    CacheBytes bytes() const override { return cache.bytes(); }
    CacheReads reads() const override { return read; }
    std::unique_ptr<Sequence> fork() const override {
      if constexpr (requires { requires Device::kCopiesCaches; })
        return std::make_unique<CachedSequence>(*this);
      else
        return nullptr;
    }
    Cache cache;
    CacheReads read;
  };

  // The part of a request that one pass runs.
  struct Piece {
    CachedSequence* sequence;
    const Request* request;
    int64_t row;       // of its first token in the pass
    int64_t offset;    // of its first token in the request
    int64_t rows;      // tokens
    int64_t position;  // absolute, of its first token
  };

  static constexpr int64_t kPass = 2048;       // tokens per pass, less where memory is short
  static constexpr int64_t kLogitsRows = 256;  // rows of logits at once

  // Numbers that a pass holds per token, at most.
  int64_t scalars_per_row() const {
    const ModelConfig& c = config_;
    return 4 * c.hidden_size + 2 * c.num_attention_heads * c.head_dim +
           2 * c.num_key_value_heads * c.head_dim + 2 * c.intermediate_size + c.vocab_size;
  }

  void check(const Request& r, Regime regime) const {
    const int64_t length = r.sequence.length(), n = int64_t(r.tokens.size());
    for (int64_t i = 0; i < n; ++i)
      if (r.tokens[size_t(i)] < 0 || r.tokens[size_t(i)] >= config_.vocab_size)
        throw usage_error("token id " + std::to_string(r.tokens[size_t(i)]) + " at position " +
                              std::to_string(length + i),
                          {}, "ids are 0 to " + std::to_string(config_.vocab_size - 1));
    if (length + n > config_.max_position_embeddings)
      throw usage_error("a context of " + std::to_string(length + n) + " tokens", {},
                        "this model allows " + std::to_string(config_.max_position_embeddings) +
                            " (max_position_embeddings)");
    if (regime == Regime::independent && length > 0)
      throw usage_error("the regime `independent` begins with an empty sequence");
    const auto& first = cache(r.sequence).layer(0);  // the policy is that of every layer
    if (regime == Regime::prefill_encoded &&
        (first.keys.policy().evicts || first.values.policy().evicts))
      throw usage_error("the regime `prefill-encoded` with a cache that drops rows", {},
                        "use `streaming`: a dropped row has no encoding to read");
  }

  // The forward pass over n rows, those of each piece behind what its cache holds.
  void pass(const std::vector<Piece>& pieces, int64_t n, Regime regime) {
    const ModelConfig& c = config_;
    const int64_t h = c.hidden_size, dim = c.head_dim, heads = c.num_attention_heads,
                  kv_heads = c.num_key_value_heads;
    for (const Piece& p : pieces) p.sequence->cache.reserve(p.rows);
    const typename Device::Batch batch =
        device_.begin(ids(pieces), positions(pieces), rope_, steady(pieces, regime));
    Array x = device_.array(n * h), y = device_.array(n * h), q = device_.array(n * heads * dim),
          k = device_.array(n * kv_heads * dim), v = device_.array(n * kv_heads * dim),
          o = device_.array(n * heads * dim), gate = device_.array(n * c.intermediate_size),
          up = device_.array(n * c.intermediate_size);

    device_.embed(embedding_, batch, x.data());
    for (int64_t l = 0; l < c.num_hidden_layers; ++l) {
      const Layer& w = layers_[size_t(l)];

      // Attention block.
      device_.rms_norm(x.data(), w.input_norm.data(), c.rms_norm_eps, n, h, y.data());
      device_.linear(w.q, bias(w.q_bias), y.data(), n, q.data());
      device_.linear(w.k, bias(w.k_bias), y.data(), n, k.data());
      device_.linear(w.v, bias(w.v_bias), y.data(), n, v.data());
      device_.rope(q.data(), batch, heads, dim);
      // Caches of keys before rotation take them here, and rotate what is read from them.
      if (regime != Regime::independent)
        device_.append_unrotated(targets(pieces, l), k.data(), kv_heads * dim);
      device_.rope(k.data(), batch, kv_heads, dim);
      attend(pieces, l, regime, q, k, v, o);
      device_.linear(w.o, bias(w.o_bias), o.data(), n, y.data());
      device_.add(x.data(), y.data(), n, h);

      // MLP block.
      device_.rms_norm(x.data(), w.post_norm.data(), c.rms_norm_eps, n, h, y.data());
      device_.linear(w.gate, nullptr, y.data(), n, gate.data());
      device_.linear(w.up, nullptr, y.data(), n, up.data());
      device_.swiglu(gate.data(), up.data(), n, c.intermediate_size);
      device_.linear(w.down, nullptr, gate.data(), n, y.data());
      device_.add(x.data(), y.data(), n, h);
    }
    for (const Piece& piece : pieces) piece.sequence->read.queries += double(piece.rows);
    head(pieces, x);
  }

  // Appends k and v to the caches, lets the method encode, and attends: every query reads what its
  // regime shows it. From here on only the cache is read (but in `independent`, which has none).
  void attend(const std::vector<Piece>& pieces, int64_t l, Regime regime, Array& q, Array& k,
              Array& v, Array& o) {
    const ModelConfig& c = config_;
    const int64_t kv_width = c.num_key_value_heads * c.head_dim, window = c.window_of_layer(l);
    const typename Device::Shape shape{c.num_attention_heads, c.num_key_value_heads, c.head_dim,
                                       window};
    std::vector<typename Device::Segment> segments;
    if (regime == Regime::independent) {
      for (const Piece& p : pieces)
        segments.push_back({p.row, p.rows, p.position,
                            device_.side(k.data() + p.row * kv_width, p.rows, shape),
                            device_.side(v.data() + p.row * kv_width, p.rows, shape)});
      device_.attention(shape, q.data(), segments, o.data());
      return;
    }
    device_.append(targets(pieces, l), k.data(), v.data(), kv_width);
    if (hooks_.poison) {
      device_.poison(k);
      device_.poison(v);
    }
    for (const Piece& p : pieces) {
      auto& cache = p.sequence->cache.layer(l);
      const auto boundaries = [&](const auto& rows) {  // first dense row of each query
        std::vector<int64_t> result;
        for (int64_t i = 0; i < p.rows; ++i)
          result.push_back(regime == Regime::streaming ? rows.boundary(p.position + i)
                           : regime == Regime::prefill_exact
                               ? rows.held(p.position)
                               : rows.boundary(p.position + p.rows - 1));
        return result;
      };
      const std::vector<int64_t> keys = boundaries(cache.keys), values = boundaries(cache.values);
      cache.keys.encode();
      cache.values.encode();
      count_reads(p.sequence->read, KvSide::keys, cache.keys, keys, p.position, window);
      count_reads(p.sequence->read, KvSide::values, cache.values, values, p.position, window);
      segments.push_back({p.row, p.rows, p.position, device_.side(cache.keys, keys),
                          device_.side(cache.values, values)});
    }
    device_.attention(shape, q.data(), segments, o.data());
    for (const Piece& p : pieces) {
      p.sequence->cache.layer(l).keys.release();
      p.sequence->cache.layer(l).values.release();
    }
  }

  // Final norm and lm_head, only for the rows that are asked for and a few at a time.
  void head(const std::vector<Piece>& pieces, const Array& x) {
    const int64_t h = config_.hidden_size, vocab = config_.vocab_size;
    struct Wanted {
      const Piece* piece;
      int64_t row;  // in the request
    };
    std::vector<Wanted> wanted;
    std::vector<int32_t> rows;  // in the pass
    for (const Piece& p : pieces)
      for (int64_t i = std::max<int64_t>(0, p.request->first_logits_row - p.offset); i < p.rows;
           ++i) {
        wanted.push_back({&p, p.offset + i});
        rows.push_back(int32_t(p.row + i));
      }
    if (rows.empty()) return device_.finish();
    const int64_t most = std::min<int64_t>(kLogitsRows, int64_t(rows.size()));
    Array picked = device_.array(most * h), normed = device_.array(most * h),
          logits = device_.array(most * vocab);
    for (size_t at = 0; at < wanted.size(); at += size_t(most)) {
      const int64_t count = std::min<int64_t>(most, int64_t(wanted.size() - at));
      device_.pick(x.data(), std::span(rows).subspan(at, size_t(count)), h, picked.data());
      device_.rms_norm(picked.data(), final_norm_.data(), config_.rms_norm_eps, count, h,
                       normed.data());
      device_.linear(head_, nullptr, normed.data(), count, logits.data());
      const float* values = device_.download(logits.data(), count * vocab);
      for (int64_t i = 0; i < count;) {  // one call for the neighbouring rows of a piece
        const Wanted& first = wanted[at + size_t(i)];
        int64_t end = i + 1;
        while (end < count && wanted[at + size_t(end)].piece == first.piece) ++end;
        first.piece->request->logits(first.row, end - i, values + i * vocab);
        i = end;
      }
    }
  }

  // Is this a decode step that does the same as others of as many sequences: one token each, all
  // logits, and no block that becomes full?
  bool steady(const std::vector<Piece>& pieces, Regime regime) const {
    if (regime != Regime::streaming || hooks_.poison) return false;
    for (const Piece& p : pieces) {
      const auto& first = p.sequence->cache.layer(0);  // the policy is that of every layer
      const auto encodes = [&](const auto& rows) {
        return !rows.policy().evicts && rows.held(p.position + 1) != rows.held(p.position);
      };
      if (p.rows != 1 || p.request->first_logits_row != 0 || encodes(first.keys) ||
          encodes(first.values))
        return false;
    }
    return true;
  }

  static std::vector<typename Device::Target> targets(const std::vector<Piece>& pieces, int64_t l) {
    std::vector<typename Device::Target> result;
    for (const Piece& p : pieces)
      result.push_back({&p.sequence->cache.layer(l), p.row, p.rows, p.position});
    return result;
  }
  static std::vector<int32_t> ids(const std::vector<Piece>& pieces) {
    std::vector<int32_t> result;
    for (const Piece& p : pieces) {
      const auto part = p.request->tokens.subspan(size_t(p.offset), size_t(p.rows));
      result.insert(result.end(), part.begin(), part.end());
    }
    return result;
  }
  static std::vector<int32_t> positions(const std::vector<Piece>& pieces) {
    std::vector<int32_t> result;
    for (const Piece& p : pieces)
      for (int64_t i = 0; i < p.rows; ++i) result.push_back(int32_t(p.position + i));
    return result;
  }

  // What attention read, from the same boundaries that it used.
  template <class Rows>
  void count_reads(CacheReads& read, KvSide side, const Rows& rows,
                   const std::vector<int64_t>& boundary, int64_t p, int64_t window) const {
    const int s = int(side);
    const int64_t sink = rows.sink();
    const bool evicts = rows.policy().evicts;
    for (size_t i = 0; i < boundary.size(); ++i) {
      const int64_t end = p + int64_t(i) + 1,
                    begin = window > 0 ? std::max<int64_t>(0, end - window) : 0;
      const int64_t encoded =  // or evicted
          std::max<int64_t>(0, std::min(boundary[i], end) - std::max(begin, sink));
      read.encoded[s] += evicts ? 0.0 : double(encoded);
      read.total[s] += double(end - begin - (evicts ? encoded : 0));
      read.share_sum[s] +=
          double(encoded) / double(end - begin) / double(config_.num_hidden_layers);
    }
  }

  static const typename Device::Scalar* bias(const Vector& b) {
    return b.empty() ? nullptr : b.data();
  }

  const TensorInfo& tensor(const std::string& name, const std::vector<int64_t>& shape) {
    return random_ ? random_->get(name, shape) : files_->get(name, shape);
  }
  Linear matrix(const std::string& name, int64_t out, int64_t in) {
    return device_.weight(LinearWeight(name, tensor(name + ".weight", {out, in})));
  }
  Vector vector(const std::string& name, int64_t n) {
    const TensorInfo& stored = tensor(name, {n});
    small_bytes_ += stored.bytes;
    small_scalars_ += n;
    return device_.vector(stored);
  }

  Device device_;
  ModelConfig config_;
  // One of the two; the weights are views into it.
  std::optional<WeightFiles> files_;  // memory-mapped
  std::shared_ptr<RandomWeights> random_;
  typename Device::Table embedding_;
  std::vector<Layer> layers_;
  Vector final_norm_;
  Linear head_;
  Rope rope_;
  uint64_t embedding_bytes_ = 0, small_bytes_ = 0;  // small: norms and biases
  int64_t small_scalars_ = 0;
  TestHooks hooks_;
};

}  // namespace ptq
