// The forward pass of the architectures in plain loops and double precision: obviously right,
// slow, and with a place where keys and values can be changed. Written from the formulas, without
// the engine.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "ptq/model/load_config.hpp"
#include "ptq/model/safetensors.hpp"

namespace ptq::test {

class ReferenceModel {
 public:
  using Vector = std::vector<double>;
  enum class Place { keys, rotated_keys, values };
  // Called with [tokens, kv_heads * head_dim], which it may change.
  using Change = std::function<void(Place, int64_t layer, Vector&)>;

  explicit ReferenceModel(const std::string& folder) : config(ptq::load_config(folder)) {
    const ptq::SafetensorsFile file(std::filesystem::path(folder) / "model.safetensors");
    for (const ptq::TensorInfo& t : file.tensors()) {
      int64_t n = 1;
      for (const int64_t s : t.shape) n *= s;
      std::vector<float> x(static_cast<size_t>(n));
      ptq::to_float(t.dtype, t.data, n, x.data());
      tensors[t.name] = Vector(x.begin(), x.end());
    }
    if (!config.fused) return;
    // Phi-3: queries, keys and values below each other in one matrix, gate and up in another.
    const int64_t q = config.num_attention_heads * config.head_dim,
                  kv = config.num_key_value_heads * config.head_dim, m = config.intermediate_size;
    for (int64_t l = 0; l < config.num_hidden_layers; ++l) {
      const std::string base = "model.layers." + std::to_string(l) + ".";
      split(base + "self_attn.", "qkv_proj", {{"q_proj", q}, {"k_proj", kv}, {"v_proj", kv}});
      split(base + "mlp.", "gate_up_proj", {{"gate_proj", m}, {"up_proj", m}});
    }
  }

  // Mean cross-entropy of the next tokens.
  double loss(const std::vector<int32_t>& tokens, const Change& change = {}) const {
    const ptq::ModelConfig& c = config;
    const int64_t n = int64_t(tokens.size()), h = c.hidden_size, d = c.head_dim;
    Vector x;
    for (const int32_t id : tokens)
      for (int64_t i = 0; i < h; ++i)
        x.push_back(get("model.embed_tokens.weight")[size_t(id * h + i)]);
    for (int64_t l = 0; l < c.num_hidden_layers; ++l) {
      const std::string base = "model.layers." + std::to_string(l) + ".";
      const int64_t heads = c.size_of_layer(l).attention_heads,
                    kv_heads = c.size_of_layer(l).key_value_heads;
      Vector y = norm(x, base + "input_layernorm");
      Vector q = linear(y, n, base + "self_attn.q_proj"),
             k = linear(y, n, base + "self_attn.k_proj"),
             v = linear(y, n, base + "self_attn.v_proj");
      if (c.head_norms) {
        q = norm(q, base + "self_attn.q_norm");
        k = norm(k, base + "self_attn.k_norm");
      }
      if (change) change(Place::keys, l, k);
      if (change) change(Place::values, l, v);
      rotate(q, heads);
      rotate(k, kv_heads);
      if (change) change(Place::rotated_keys, l, k);
      Vector o(q.size(), 0.0);
      const int64_t window = c.window_of_layer(l);
      for (int64_t head = 0; head < heads; ++head)
        for (int64_t i = 0; i < n; ++i) {
          const int64_t kv = head / (heads / kv_heads);
          const int64_t first = window > 0 ? std::max<int64_t>(0, i + 1 - window) : 0;
          Vector p;
          double sum = 0;
          for (int64_t j = first; j <= i; ++j) {
            double s = 0;
            for (int64_t e = 0; e < d; ++e)
              s += q[size_t((i * heads + head) * d + e)] * k[size_t((j * kv_heads + kv) * d + e)];
            p.push_back(std::exp(s / std::sqrt(double(d))));
            sum += p.back();
          }
          for (int64_t j = first; j <= i; ++j)
            for (int64_t e = 0; e < d; ++e)
              o[size_t((i * heads + head) * d + e)] +=
                  p[size_t(j - first)] / sum * v[size_t((j * kv_heads + kv) * d + e)];
        }
      add(x, linear(o, n, base + "self_attn.o_proj"));
      y = norm(x, base + "post_attention_layernorm");
      Vector g = linear(y, n, base + "mlp.gate_proj");
      const Vector u = linear(y, n, base + "mlp.up_proj");
      for (size_t i = 0; i < g.size(); ++i) g[i] = g[i] / (1 + std::exp(-g[i])) * u[i];
      add(x, linear(g, n, base + "mlp.down_proj"));
    }
    const Vector z =
        product(norm(x, "model.norm"),
                get(c.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight"), h);
    double total = 0;
    for (int64_t i = 0; i + 1 < n; ++i) {
      double sum = 0;
      for (int64_t t = 0; t < c.vocab_size; ++t) sum += std::exp(z[size_t(i * c.vocab_size + t)]);
      total += std::log(sum) - z[size_t(i * c.vocab_size + tokens[size_t(i + 1)])];
    }
    return total / double(n - 1);
  }

  ptq::ModelConfig config;
  std::map<std::string, Vector> tensors;

 private:
  const Vector& get(const std::string& name) const { return tensors.at(name); }

  void split(const std::string& base, const std::string& from,
             const std::vector<std::pair<std::string, int64_t>>& parts) {
    const Vector all = tensors.at(base + from + ".weight");
    tensors.erase(base + from + ".weight");
    auto at = all.begin();
    for (const auto& [name, rows] : parts) {
      const auto end = at + rows * config.hidden_size;
      tensors[base + name + ".weight"] = Vector(at, end);
      at = end;
    }
  }

  // x [n, in] W^T.
  static Vector product(const Vector& x, const Vector& w, int64_t in) {
    Vector y;
    for (size_t i = 0; i < x.size(); i += size_t(in))
      for (size_t r = 0; r < w.size(); r += size_t(in)) {
        double sum = 0;
        for (size_t e = 0; e < size_t(in); ++e) sum += x[i + e] * w[r + e];
        y.push_back(sum);
      }
    return y;
  }
  // x of n rows.
  Vector linear(const Vector& x, int64_t n, const std::string& name) const {
    Vector y = product(x, get(name + ".weight"), int64_t(x.size()) / n);
    if (const auto bias = tensors.find(name + ".bias"); bias != tensors.end())
      for (size_t i = 0; i < y.size(); ++i) y[i] += bias->second[i % bias->second.size()];
    return y;
  }
  // Of rows as long as the weight.
  Vector norm(const Vector& x, const std::string& name) const {
    const size_t h = get(name + ".weight").size();
    Vector y;
    for (size_t i = 0; i < x.size(); i += h) {
      double squares = 0;
      for (size_t e = 0; e < h; ++e) squares += x[i + e] * x[i + e];
      for (size_t e = 0; e < h; ++e)
        y.push_back(get(name + ".weight")[e] * x[i + e] /
                    std::sqrt(squares / double(h) + double(config.rms_norm_eps)));
    }
    return y;
  }
  void rotate(Vector& x, int64_t heads) const {
    const ptq::Rope rope = ptq::rope_of(config);
    const size_t d = size_t(config.head_dim), half = d / 2;
    for (size_t row = 0; row < x.size() / d; ++row)
      for (size_t e = 0; e < half; ++e) {
        const float angle = float(row / size_t(heads)) * rope.inv_freq[e];
        const double c = std::cos(double(angle)) * double(rope.attention_factor),
                     s = std::sin(double(angle)) * double(rope.attention_factor);
        double &a = x[row * d + e], &b = x[row * d + e + half];
        const double a0 = a;
        a = a0 * c - b * s;
        b = b * c + a0 * s;
      }
  }
  static void add(Vector& x, const Vector& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
};

}  // namespace ptq::test
