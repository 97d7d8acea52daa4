// The forward pass of the Llama, Qwen2 and Mistral architectures, to be read from top to bottom.
//
// Order of operations: Hugging Face transformers, modeling_llama / modeling_qwen2 /
// modeling_mistral. `Device` supplies the operations (engine/cpu/device.hpp); activations are
// float32 [tokens, width], row-major; in the compute mode bf16 each operation rounds its result.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/engine/kv_cache.hpp"
#include "ptq/engine/linear.hpp"
#include "ptq/model/config.hpp"
#include "ptq/model/random_weights.hpp"
#include "ptq/model/safetensors.hpp"

namespace ptq {

// Keys or values that live only during one pass, float32 [rows, kv_heads * head_dim].
class FreshRows final : public RowSource {
 public:
  FreshRows(const float* x, int64_t kv_heads, int64_t head_dim)
      : x_(x), heads_(kv_heads), dim_(head_dim) {}
  void read(int64_t head, int64_t begin, int64_t end, float* out, int64_t stride) const override {
    for (int64_t r = begin; r < end; ++r, out += stride)
      std::copy_n(x_ + (r * heads_ + head) * dim_, dim_, out);
  }

 private:
  const float* x_;
  int64_t heads_, dim_;
};

template <class Device>
class Transformer final : public Engine {
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
    embedding_ = &tensor("model.embed_tokens.weight", {c.vocab_size, h});
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
    head_ = c.tie_word_embeddings ? LinearWeight("lm_head", *embedding_)
                                  : matrix("lm_head", c.vocab_size, h);
    inv_freq_ = rope_inv_freq(c);
  }

  const ModelConfig& config() const override { return config_; }
  std::string device() const override { return device_.name(); }

  WeightBytes weight_bytes() const override {
    WeightBytes sum;
    const auto count = [&](const LinearWeight& w) {
      (w.encoded() ? sum.encoded : sum.dense) += w.bytes();
      (w.encoded() ? sum.encoded_scalars : sum.dense_scalars) += w.scalars();
    };
    for (const Layer& layer : layers_)
      for (const LinearWeight* w : layer.linears()) count(*w);
    if (!config_.tie_word_embeddings) count(head_);
    sum.dense += embedding_->bytes + small_bytes_;
    sum.dense_scalars += embedding_->shape[0] * embedding_->shape[1] + small_scalars_;
    return sum;
  }

  void encode_weights(WeightMethod& method,
                      const std::function<void(int, int)>& progress) override {
    std::vector<std::pair<int, LinearWeight*>> all;
    for (size_t l = 0; l < layers_.size(); ++l)
      for (LinearWeight* w : layers_[l].linears()) all.emplace_back(int(l), w);
    if (!config_.tie_word_embeddings) all.emplace_back(-1, &head_);
    std::vector<float> w;
    for (size_t i = 0; i < all.size(); ++i) {
      LinearWeight& linear = *all[i].second;
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
      if (progress) progress(int(i) + 1, int(all.size()));
    }
  }

  std::unique_ptr<Sequence> start(KvMethod* method) override {
    return std::make_unique<CachedSequence>(config_, method,
                                            hooks_.dense.value_or(device_.cache_dtype()));
  }

  void forward(Sequence& sequence, std::span<const int32_t> tokens, Regime regime,
               int64_t first_logits_row, const LogitsFn& logits) override {
    auto& s = static_cast<CachedSequence&>(sequence);
    const int64_t n = int64_t(tokens.size());
    for (int64_t i = 0; i < n; ++i)
      if (tokens[size_t(i)] < 0 || tokens[size_t(i)] >= config_.vocab_size)
        throw usage_error("token id " + std::to_string(tokens[size_t(i)]) + " at position " +
                              std::to_string(s.cache.length() + i),
                          {}, "ids are 0 to " + std::to_string(config_.vocab_size - 1));
    if (s.cache.length() + n > config_.max_position_embeddings)
      throw usage_error("a context of " + std::to_string(s.cache.length() + n) + " tokens", {},
                        "this model allows " + std::to_string(config_.max_position_embeddings) +
                            " (max_position_embeddings)");
    if (regime == Regime::independent && s.cache.length() > 0)
      throw usage_error("the regime `independent` begins with an empty sequence");
    // Streaming may be cut anywhere without changing a result; that bounds the memory of a pass.
    const int64_t step = regime == Regime::streaming ? kPass : std::max<int64_t>(n, 1);
    for (int64_t at = 0; at < n; at += step) {
      const int64_t count = std::min(step, n - at);
      pass(s, tokens.data() + at, count, regime, std::max<int64_t>(0, first_logits_row - at),
           [&](int64_t row, int64_t rows, const float* p) { logits(at + row, rows, p); });
    }
  }

  // The cache of a sequence made by start(), for tests that look inside or tamper with it.
  static KvCache& cache(Sequence& sequence) { return static_cast<CachedSequence&>(sequence).cache; }

  // For tests of the mechanism. poison: overwrite the pass's own keys and values with NaN as soon
  // as they are in the cache. dense: dtype of unencoded rows, where 16-bit rounding would hide what
  // is compared.
  struct TestHooks {
    bool poison = false;
    std::optional<DType> dense;
  };
  void set_test_hooks(TestHooks hooks) { hooks_ = hooks; }

 private:
  struct Layer {
    std::vector<float> input_norm, post_norm;           // [hidden]
    LinearWeight q, k, v, o, gate, up, down;            // [out, in]
    std::vector<float> q_bias, k_bias, v_bias, o_bias;  // empty when the model has none
    std::vector<const LinearWeight*> linears() const { return {&q, &k, &v, &o, &gate, &up, &down}; }
    std::vector<LinearWeight*> linears() { return {&q, &k, &v, &o, &gate, &up, &down}; }
  };

  struct CachedSequence final : Sequence {
    CachedSequence(const ModelConfig& c, KvMethod* method, DType dense) : cache(c, method, dense) {}
    int64_t length() const override { return cache.length(); }
    CacheBytes bytes() const override { return cache.bytes(); }
    CacheReads reads() const override { return read; }
    KvCache cache;
    CacheReads read;
  };

  static constexpr int64_t kPass = 2048;       // tokens per streaming pass
  static constexpr int64_t kLogitsRows = 256;  // rows of logits at once

  // The forward pass over n tokens that follow what the cache holds.
  void pass(CachedSequence& s, const int32_t* tokens, int64_t n, Regime regime,
            int64_t first_logits_row, const LogitsFn& logits) {
    const ModelConfig& c = config_;
    const int64_t h = c.hidden_size, dim = c.head_dim, heads = c.num_attention_heads,
                  kv_heads = c.num_key_value_heads, p = s.cache.length();
    typename Device::Array x(size_t(n * h)), y(size_t(n * h)), q(size_t(n * heads * dim)),
        k(size_t(n * kv_heads * dim)), v(size_t(n * kv_heads * dim)), o(size_t(n * heads * dim)),
        gate(size_t(n * c.intermediate_size)), up(size_t(n * c.intermediate_size));
    const Rotation rotation = rotate(p, n);

    device_.embed(*embedding_, tokens, n, x.data());
    for (int64_t l = 0; l < c.num_hidden_layers; ++l) {
      const Layer& w = layers_[size_t(l)];

      // Attention block.
      device_.rms_norm(x.data(), w.input_norm.data(), c.rms_norm_eps, n, h, y.data());
      device_.linear(w.q, bias(w.q_bias), y.data(), n, q.data());
      device_.linear(w.k, bias(w.k_bias), y.data(), n, k.data());
      device_.linear(w.v, bias(w.v_bias), y.data(), n, v.data());
      device_.rope(q.data(), n, heads, dim, rotation.cosine.data(), rotation.sine.data());
      device_.rope(k.data(), n, kv_heads, dim, rotation.cosine.data(), rotation.sine.data());

      const int64_t window = c.window_of_layer(l);
      const typename Device::Shape shape{n, p, heads, kv_heads, dim, window};
      if (regime == Regime::independent) {
        const FreshRows keys(k.data(), kv_heads, dim), values(v.data(), kv_heads, dim);
        const std::vector<int64_t> none(size_t(n), 0);
        device_.attention(shape, q.data(), {nullptr, &keys, 0, none}, {nullptr, &values, 0, none},
                          o.data());
      } else {
        KvLayer& cache = s.cache.layer(l);
        cache.keys.append(k.data(), n);
        cache.values.append(v.data(), n);
        if (hooks_.poison) {  // from here on only the cache may be read
          std::fill(k.begin(), k.end(), std::numeric_limits<float>::quiet_NaN());
          std::fill(v.begin(), v.end(), std::numeric_limits<float>::quiet_NaN());
        }
        const auto side = [&](const KvRows& rows) {
          typename Device::Side result{&rows.encoded(), &rows, rows.sink(), {}};
          for (int64_t i = 0; i < n; ++i)
            result.boundary.push_back(rows.boundary(regime == Regime::streaming ? p + i : p));
          return result;
        };
        const auto keys = side(cache.keys), values = side(cache.values);
        cache.keys.encode();
        cache.values.encode();
        device_.attention(shape, q.data(), keys, values, o.data());
        cache.keys.release();
        cache.values.release();
        count_reads(s.read, KvSide::keys, keys.sink, keys.boundary, p, window);
        count_reads(s.read, KvSide::values, values.sink, values.boundary, p, window);
      }
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
    s.read.queries += double(n);

    // Head, only for the rows that are asked for and a few at a time.
    typename Device::Array z;
    for (int64_t row = first_logits_row; row < n; row += kLogitsRows) {
      const int64_t count = std::min(kLogitsRows, n - row);
      device_.rms_norm(x.data() + row * h, final_norm_.data(), c.rms_norm_eps, count, h, y.data());
      z.resize(size_t(count * c.vocab_size));
      device_.linear(head_, nullptr, y.data(), count, z.data());
      logits(row, count, z.data());
    }
  }

  // cos and sin of the rotary angles of positions [first, first + n): the angle is the float32
  // product position * frequency, as the reference computes it; it rounds cos and sin afterwards.
  struct Rotation {
    std::vector<float> cosine, sine;  // [n, head_dim / 2]
  };
  Rotation rotate(int64_t first, int64_t n) const {
    const size_t half = inv_freq_.size();
    Rotation r{std::vector<float>(size_t(n) * half), std::vector<float>(size_t(n) * half)};
    for (size_t i = 0; i < size_t(n); ++i)
      for (size_t d = 0; d < half; ++d) {
        const float angle = float(first + int64_t(i)) * inv_freq_[d];
        r.cosine[i * half + d] = std::cos(angle);
        r.sine[i * half + d] = std::sin(angle);
      }
    device_.round(r.cosine.data(), int64_t(r.cosine.size()));
    device_.round(r.sine.data(), int64_t(r.sine.size()));
    return r;
  }

  // What attention read, from the same boundaries that it used.
  void count_reads(CacheReads& read, KvSide side, int64_t sink,
                   const std::vector<int64_t>& boundary, int64_t p, int64_t window) const {
    const int s = int(side);
    for (size_t i = 0; i < boundary.size(); ++i) {
      const int64_t end = p + int64_t(i) + 1,
                    begin = window > 0 ? std::max<int64_t>(0, end - window) : 0;
      const int64_t encoded =
          std::max<int64_t>(0, std::min(boundary[i], end) - std::max(begin, sink));
      read.encoded[s] += double(encoded);
      read.total[s] += double(end - begin);
      read.share_sum[s] +=
          double(encoded) / double(end - begin) / double(config_.num_hidden_layers);
    }
  }

  static const float* bias(const std::vector<float>& b) { return b.empty() ? nullptr : b.data(); }

  const TensorInfo& tensor(const std::string& name, const std::vector<int64_t>& shape) {
    return random_ ? random_->get(name, shape) : files_->get(name, shape);
  }
  LinearWeight matrix(const std::string& name, int64_t out, int64_t in) {
    return LinearWeight(name, tensor(name + ".weight", {out, in}));
  }
  std::vector<float> vector(const std::string& name, int64_t n) {
    const TensorInfo& stored = tensor(name, {n});
    std::vector<float> result(static_cast<size_t>(n));
    to_float(stored.dtype, stored.data, n, result.data());
    device_.round(result.data(), n);
    small_bytes_ += stored.bytes;
    small_scalars_ += n;
    return result;
  }

  Device device_;
  ModelConfig config_;
  // One of the two; the weights are views into it.
  std::optional<WeightFiles> files_;  // memory-mapped
  std::shared_ptr<RandomWeights> random_;
  const TensorInfo* embedding_ = nullptr;
  std::vector<Layer> layers_;
  std::vector<float> final_norm_, inv_freq_;
  LinearWeight head_;
  uint64_t small_bytes_ = 0;  // norms and biases
  int64_t small_scalars_ = 0;
  TestHooks hooks_;
};

}  // namespace ptq
