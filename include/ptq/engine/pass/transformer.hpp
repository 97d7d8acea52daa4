// The forward pass of the Llama, Qwen2, Qwen3, Mistral and Phi-3 architectures, to be read from top
// to bottom: pass(), layer(), attend(), head().
//
// Order of operations: Hugging Face transformers, modeling_llama / modeling_qwen2 / modeling_qwen3
// / modeling_mistral / modeling_phi3. A Device supplies the operations and the storage; activations
// are row-major [rows, width], the rows of several sequences side by side. In the compute mode bf16
// each operation rounds its result.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ptq/engine/device.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/engine/pass/cache_rules.hpp"
#include "ptq/engine/pass/schedule.hpp"
#include "ptq/engine/weights/loaded_model.hpp"
#include "ptq/engine/weights/weight_bytes.hpp"
#include "ptq/model/load_config.hpp"

namespace ptq {

template <Device D>
class Transformer final : public Engine, private Blocks {
  using Array = typename D::Array;    // activations
  using Vector = typename D::Vector;  // norms and biases
  using Cache = typename D::Cache;
  using Model = LoadedModel<typename D::Linear, Vector>;

 public:
  // Opens a Hugging Face folder. Throws on everything that is missing, damaged or unsupported. With
  // `random`, only its config.json is read.
  Transformer(const std::string& folder, D device, std::shared_ptr<RandomWeights> random = nullptr)
      : device_(std::move(device)),
        config_(load_config(folder)),
        model_(folder, config_, device_, std::move(random)),
        embedding_(device_.table(*model_.embedding)) {
    device_.use_rope(rope_of(config_));
  }

  const ModelConfig& config() const override { return config_; }
  std::string device() const override { return device_.name(); }
  WeightBytes weight_bytes() const override {
    return ptq::weight_bytes(model_, [&](const auto& w) { return device_.multiplies_integers(w); });
  }
  Blocks& blocks() override { return *this; }

  std::unique_ptr<Sequence> start(KvMethod* method) override {
    return std::make_unique<CachedSequence>(
        device_.cache(model_.anatomy, method, hooks_.dense.value_or(device_.cache_dtype())));
  }

  using Engine::forward;
  void forward(std::span<const Request> requests, Regime regime, Tap* tap) override {
    std::vector<Part> rest;  // what is still to be run of each request
    int64_t tokens = 0;
    for (size_t i = 0; i < requests.size(); ++i) {
      const Request& r = requests[i];
      auto& s = static_cast<CachedSequence&>(r.sequence);
      check_request(r, s, regime, config_);
      for (size_t j = 0; j < i; ++j)
        if (&requests[j].sequence == &r.sequence)
          throw usage_error("one sequence stands in two requests of a call");
      rest.push_back({&s, &r, 0, 0, int64_t(r.tokens.size()), s.cache.length()});
      tokens += int64_t(r.tokens.size());
    }
    const int64_t most =
        device_.pass_rows(std::clamp<int64_t>(tokens, 1, kPass), scalars_per_row());
    run_in_passes(std::move(rest), regime, most,
                  [&](const std::vector<Part>& parts, int64_t n) { pass(parts, n, regime, tap); });
  }

  std::optional<DType> prompt_dtype() const override {
    if (!D::kCopiesCaches) return {};
    return device_.cache_dtype();
  }
  void take(Sequence& sequence, int64_t tokens, std::span<const uint16_t> rows) override {
    auto& s = static_cast<CachedSequence&>(sequence);
    uint64_t scalars = 0;
    for (const auto& layer : model_.layers)
      if (layer.plan.attention()) scalars += uint64_t(2 * tokens * layer.plan.shape.kv_width());
    if (!prompt_dtype() || s.length() > 0 || s.noise.relative != 0 || rows.size() != scalars)
      throw Error(ExitCode::internal, "a prompt that does not fit its sequence");
    if constexpr (D::kCopiesCaches) {
      const std::vector<Part> parts{{&s, nullptr, 0, 0, tokens, 0}};
      s.cache.reserve(tokens);
      const int64_t widest = tokens * model_.anatomy.widest().kv_width();
      Array k = device_.array(widest), v = device_.array(widest);
      const uint16_t* from = rows.data();
      for (int l = 0; l < int(model_.layers.size()); ++l) {
        const LayerPlan& plan = model_.layers[size_t(l)].plan;
        if (!plan.attention()) {
          pass_over(parts, l);
          continue;
        }
        const int64_t width = plan.shape.kv_width();
        for (float* side : {k.data(), v.data()}) {
          to_float(*prompt_dtype(), from, tokens * width, side);
          from += tokens * width;
        }
        device_.append_unrotated(targets(parts, l), k.data(), width);
        device_.append(targets(parts, l), k.data(), v.data(), width);
        encode(parts[0], l, Regime::prefill_exact);
        release(parts[0], l);
      }
      s.read.queries += double(tokens);
    }
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
  D& device_for_tests() { return device_; }
  void set_test_hooks(TestHooks hooks) { hooks_ = hooks; }

 private:
  struct CachedSequence final : Sequence {
    explicit CachedSequence(Cache c) : cache(std::move(c)) {}
    int64_t length() const override { return cache.length(); }
    CacheBytes bytes() const override { return cache.bytes(); }
    CacheReads reads() const override { return read; }
    std::unique_ptr<Sequence> fork() const override {
      if constexpr (D::kCopiesCaches)
        return std::make_unique<CachedSequence>(*this);
      else
        return nullptr;
    }
    void disturb(const LayerNoise& n) override { noise = n; }
    Cache cache;
    CacheReads read;
    LayerNoise noise;
  };
  using Part = Piece<CachedSequence>;

  static constexpr int64_t kPass = 2048;       // tokens per pass, less where memory is short
  static constexpr int64_t kLogitsRows = 256;  // rows of logits at once

  // Numbers that a pass holds per token, at most.
  int64_t scalars_per_row() const {
    const Shape s = model_.anatomy.widest();
    return 4 * s.hidden + 2 * s.q_width() + 2 * s.kv_width() + 2 * s.inner + model_.anatomy.vocab;
  }

  // The forward pass over n rows, those of each part behind what its cache holds.
  void pass(const std::vector<Part>& parts, int64_t n, Regime regime, Tap* tap) {
    const int64_t h = model_.anatomy.hidden;
    for (const Part& p : parts) p.sequence->cache.reserve(p.rows);
    const std::vector<int32_t> positions = positions_of(parts);
    const bool noisy = std::any_of(parts.begin(), parts.end(),
                                   [](const Part& p) { return p.sequence->noise.relative != 0; });
    const typename D::Batch batch = device_.begin(
        ids_of(parts), positions, is_steady(parts, regime) && !tap && !hooks_.poison && !noisy);
    Buffers a = buffers(n);
    device_.embed(embedding_, batch, a.x.data());
    look(tap, positions, -1, Point::embedding, a.x, h);
    for (int l = 0; l < int(model_.layers.size()); ++l) {
      layer(l, parts, batch, n, regime, a, positions, tap);
      if (noisy) disturb(parts, l, a.x);
      look(tap, positions, l, Point::layer_out, a.x, h);
    }
    for (const Part& p : parts) p.sequence->read.queries += double(p.rows);
    head(parts, a.x, tap);
  }

  // The activations of a pass. x: the residual stream; y: what enters and leaves a half of a layer.
  struct Buffers {
    Array x, y, q, k, v, o, gate, up;
  };
  Buffers buffers(int64_t n) {
    const Shape widest = model_.anatomy.widest();
    const int64_t h = model_.anatomy.hidden;
    return {device_.array(n * h),
            device_.array(n * h),
            device_.array(n * widest.q_width()),
            device_.array(n * widest.kv_width()),
            device_.array(n * widest.kv_width()),
            device_.array(n * widest.q_width()),
            device_.array(n * widest.inner),
            device_.array(n * widest.inner)};
  }

  // One decoder layer: from a.x to a.x. only_inputs: what enters its linears is all that is wanted.
  // A block that pruning has taken away adds nothing.
  void layer(int l, const std::vector<Part>& parts, const typename D::Batch& batch, int64_t n,
             Regime regime, Buffers& a, std::span<const int32_t> positions, Tap* tap,
             bool only_inputs = false) {
    const LayerPlan& plan = model_.layers[size_t(l)].plan;
    if (plan.attention())
      attention_block(l, parts, batch, n, regime, a, positions, tap);
    else if (regime != Regime::independent)
      pass_over(parts, l);
    if (plan.mlp()) mlp_block(l, n, a, positions, tap, only_inputs);
  }

  void attention_block(int l, const std::vector<Part>& parts, const typename D::Batch& batch,
                       int64_t n, Regime regime, Buffers& a, std::span<const int32_t> positions,
                       Tap* tap) {
    const typename Model::Layer& w = model_.layers[size_t(l)];
    const Shape& s = w.plan.shape;
    const float eps = config_.rms_norm_eps;
    const int64_t h = model_.anatomy.hidden;
    Array &x = a.x, &y = a.y, &q = a.q, &k = a.k, &v = a.v, &o = a.o;
    const auto look = [&](Point point, const Array& at, int64_t width) {
      this->look(tap, positions, l, point, at, width);
    };
    device_.rms_norm(x.data(), w.input_norm.data(), eps, n, h, y.data());
    look(Point::attention_in, y, h);
    linears(w, y, n, {{Role::q, &q}, {Role::k, &k}, {Role::v, &v}});
    look(Point::query, q, s.q_width());
    look(Point::key, k, s.kv_width());
    look(Point::value, v, s.kv_width());
    if (w.plan.q_norm) {  // each head is a row
      device_.rms_norm(q.data(), w.q_norm.data(), eps, n * s.heads, s.head_dim, q.data());
      device_.rms_norm(k.data(), w.k_norm.data(), eps, n * s.kv_heads, s.head_dim, k.data());
      look(Point::normed_query, q, s.q_width());
      look(Point::normed_key, k, s.kv_width());
    }
    device_.rope(q.data(), batch, s.heads, s.head_dim);
    // Caches of keys before rotation take them here, and rotate what is read from them.
    if (regime != Regime::independent)
      device_.append_unrotated(targets(parts, l), k.data(), s.kv_width());
    device_.rope(k.data(), batch, s.kv_heads, s.head_dim);
    look(Point::rotated_query, q, s.q_width());
    look(Point::rotated_key, k, s.kv_width());
    attend(parts, l, regime, q, k, v, o);
    look(Point::heads_out, o, s.q_width());
    linear(w.at(Role::o), o, n, y);
    look(Point::attention_out, y, h);
    device_.add(x.data(), y.data(), n, h);
  }

  // The cache of a layer without attention: as long as the others, and empty.
  static void pass_over(const std::vector<Part>& parts, int l) {
    for (const Part& p : parts) {
      p.sequence->cache.layer(l).keys.pass_over(p.rows);
      p.sequence->cache.layer(l).values.pass_over(p.rows);
    }
  }

  void mlp_block(int l, int64_t n, Buffers& a, std::span<const int32_t> positions, Tap* tap,
                 bool only_inputs) {
    const typename Model::Layer& w = model_.layers[size_t(l)];
    const Shape& s = w.plan.shape;
    const int64_t h = model_.anatomy.hidden;
    Array &x = a.x, &y = a.y, &gate = a.gate, &up = a.up;
    const auto look = [&](Point point, const Array& at, int64_t width) {
      this->look(tap, positions, l, point, at, width);
    };
    device_.rms_norm(x.data(), w.post_norm.data(), config_.rms_norm_eps, n, h, y.data());
    look(Point::mlp_in, y, h);
    linears(w, y, n, {{Role::gate, &gate}, {Role::up, &up}});
    look(Point::gate, gate, s.inner);
    look(Point::up, up, s.inner);
    device_.swiglu(gate.data(), up.data(), n, s.inner);
    look(Point::mlp_inner, gate, s.inner);
    if (only_inputs) return;
    linear(w.at(Role::down), gate, n, y);
    look(Point::mlp_out, y, h);
    device_.add(x.data(), y.data(), n, h);
  }

  // Noise on the output of a layer, of the sequences that have some.
  void disturb(const std::vector<Part>& parts, int layer, Array& x) {
    const int64_t h = model_.anatomy.hidden;
    for (const Part& p : parts) {
      const LayerNoise& noise = p.sequence->noise;
      if (noise.relative == 0) continue;
      device_.disturb(x.data() + p.row * h, p.rows, h, noise, layer, p.position);
    }
  }

  // y = x W^T + b of n rows.
  void linear(const typename Model::Linear& w, const Array& x, int64_t n, Array& y) {
    device_.linear(w.weight, w.bias.empty() ? nullptr : w.bias.data(), x.data(), n, y.data());
  }

  // The same of several linears, at once where the device knows how.
  void linears(const typename Model::Layer& layer, const Array& x, int64_t n,
               std::initializer_list<std::pair<Role, Array*>> roles) {
    if constexpr (requires { typename D::Product; }) {
      std::vector<typename D::Product> products;
      for (const auto& [role, y] : roles) {
        const typename Model::Linear& w = layer.at(role);
        products.push_back({&w.weight, w.bias.empty() ? nullptr : w.bias.data(), y->data()});
      }
      device_.linears(products, x.data(), n);
    } else {
      for (const auto& [role, y] : roles) linear(layer.at(role), x, n, *y);
    }
  }

  // Appends k and v to the caches, lets the method encode, and attends: every query reads what its
  // regime shows it. From here on only the cache is read (but in `independent`, which has none).
  void attend(const std::vector<Part>& parts, int l, Regime regime, Array& q, Array& k, Array& v,
              Array& o) {
    const LayerPlan& plan = model_.layers[size_t(l)].plan;
    const int64_t kv_width = plan.shape.kv_width();
    const HeadShape shape{plan.shape.heads, plan.shape.kv_heads, plan.shape.head_dim, plan.window};
    std::vector<Segment<typename D::Side>> segments;
    if (regime == Regime::independent) {
      for (const Part& p : parts)
        segments.push_back({p.row, p.rows, p.position,
                            device_.side(k.data() + p.row * kv_width, p.rows, shape),
                            device_.side(v.data() + p.row * kv_width, p.rows, shape)});
      device_.attention(shape, q.data(), segments, o.data());
      return;
    }
    device_.append(targets(parts, l), k.data(), v.data(), kv_width);
    if (hooks_.poison) {
      device_.poison(k);
      device_.poison(v);
    }
    for (const Part& p : parts) {
      auto [keys, values] = encode(p, l, regime);
      auto& cache = p.sequence->cache.layer(l);
      segments.push_back({p.row, p.rows, p.position, device_.side(cache.keys, std::move(keys)),
                          device_.side(cache.values, std::move(values))});
    }
    device_.attention(shape, q.data(), segments, o.data());
    for (const Part& p : parts) release(p, l);
  }

  // Lets the method encode what is due of a part's new rows, and counts what its queries read. From
  // which position on each of them reads dense keys and values.
  std::pair<std::vector<int64_t>, std::vector<int64_t>> encode(const Part& p, int l,
                                                               Regime regime) {
    auto& cache = p.sequence->cache.layer(l);
    std::pair of{cache.keys.boundaries(regime, p.position, p.rows),
                 cache.values.boundaries(regime, p.position, p.rows)};
    cache.keys.encode();
    cache.values.encode();
    const int64_t window = model_.layers[size_t(l)].plan.window,
                  layers = model_.anatomy.attention_layers();
    CacheReads& read = p.sequence->read;
    count_reads(read, KvSide::keys, cache.keys, of.first, p.position, window, layers);
    count_reads(read, KvSide::values, cache.values, of.second, p.position, window, layers);
    return of;
  }
  // Frees the dense rows that no query of the part reads any more.
  static void release(const Part& p, int l) {
    p.sequence->cache.layer(l).keys.release();
    p.sequence->cache.layer(l).values.release();
  }

  // Final norm and lm_head, only for the rows that are asked for and a few at a time.
  void head(const std::vector<Part>& parts, const Array& x, Tap* tap) {
    const int64_t h = model_.anatomy.hidden, vocab = model_.anatomy.vocab;
    struct Row {
      const Part* part;
      int64_t row;  // in the request
    };
    std::vector<Row> wanted;
    std::vector<int32_t> rows, positions;  // rows: in the pass
    for (const Part& p : parts)
      for (int64_t i = std::max<int64_t>(0, p.request->first_logits_row - p.offset); i < p.rows;
           ++i) {
        wanted.push_back({&p, p.offset + i});
        rows.push_back(int32_t(p.row + i));
        positions.push_back(int32_t(p.position + i));
      }
    if (rows.empty()) return device_.finish();
    const int64_t most = std::min<int64_t>(kLogitsRows, int64_t(rows.size()));
    Array picked = device_.array(most * h), normed = device_.array(most * h),
          logits = device_.array(most * vocab);
    for (size_t at = 0; at < wanted.size(); at += size_t(most)) {
      const int64_t count = std::min<int64_t>(most, int64_t(wanted.size() - at));
      device_.pick(x.data(), std::span(rows).subspan(at, size_t(count)), h, picked.data());
      device_.rms_norm(picked.data(), model_.final_norm.data(), config_.rms_norm_eps, count, h,
                       normed.data());
      device_.linear(model_.head, nullptr, normed.data(), count, logits.data());
      if (tap) {
        const auto of = std::span<const int32_t>(positions).subspan(at, size_t(count));
        look(tap, of, -1, Point::final_norm, normed, h);
        look(tap, of, -1, Point::logits, logits, vocab);
      }
      const float* values = device_.download(logits.data(), count * vocab);
      for (int64_t i = 0; i < count;) {  // one call for the neighbouring rows of a part
        const Row& first = wanted[at + size_t(i)];
        int64_t end = i + 1;
        while (end < count && wanted[at + size_t(end)].part == first.part) ++end;
        first.part->request->logits(first.row, end - i, values + i * vocab);
        i = end;
      }
    }
  }

  // Shows the tap the first rows of x, those of the positions, as far as it wants to see them.
  void look(Tap* tap, std::span<const int32_t> positions, int layer, Point point, const Array& x,
            int64_t width) {
    if (!tap) return;
    const Wanted wanted = tap->wants(layer, point);
    if (!wanted.any()) return;
    Seen seen{layer, point, int64_t(positions.size()), width, positions, {}, {}, {}, {}, {}};
    device_.look(x.data(), seen.rows, width, wanted, seen);
    tap->see(seen);
  }

  // ---- one block at a time ----

  const Anatomy& anatomy() const override { return model_.anatomy; }

  void embed(std::span<const int32_t> ids, float* x) override {
    const int64_t n = int64_t(ids.size()), h = model_.anatomy.hidden;
    std::vector<int32_t> positions(ids.size());
    const typename D::Batch batch =
        device_.begin({ids.begin(), ids.end()}, std::move(positions), false);
    Array rows = device_.array(n * h);
    device_.embed(embedding_, batch, rows.data());
    std::copy_n(device_.download(rows.data(), n * h), n * h, x);
  }

  void run(int l, std::span<const int64_t> lengths, const float* x, float* y, Tap* tap) override {
    std::vector<Part> parts;
    std::vector<int32_t> positions;
    int64_t n = 0;
    for (const int64_t length : lengths) {
      parts.push_back({nullptr, nullptr, n, 0, length, 0});
      for (int64_t i = 0; i < length; ++i) positions.push_back(int32_t(i));
      n += length;
    }
    const int64_t h = model_.anatomy.hidden;
    const typename D::Batch batch =
        device_.begin(std::vector<int32_t>(size_t(n)), positions, false);
    Buffers a = buffers(n);
    device_.upload(x, n * h, a.x.data());
    layer(l, parts, batch, n, Regime::independent, a, positions, tap, /*only_inputs=*/y == nullptr);
    if (y)
      std::copy_n(device_.download(a.x.data(), n * h), n * h, y);
    else
      device_.finish();
  }

  typename D::Linear& linear_at(int l, Role role) {
    return l < 0 ? model_.head : model_.layers[size_t(l)].at(role).weight;
  }
  LinearWeight& weight(int l, Role role) override { return device_.host(linear_at(l, role)); }
  void changed(int l, Role role) override { device_.changed(linear_at(l, role)); }

  void divide_norm(int l, Point point, std::span<const float> by) override {
    typename Model::Layer& w = model_.layers[size_t(l)];
    const bool first = point == Point::attention_in;
    const std::string name = (first ? w.plan.input_norm : w.plan.post_norm).name + ".weight";
    const int64_t n = model_.anatomy.hidden;
    std::vector<float>& numbers = divided_norms_[name];
    if (!numbers.empty()) throw Error(ExitCode::internal, "a norm is divided twice", name);
    numbers.resize(size_t(n));
    model_.source.get(name, {n}).rows().decode(0, n, numbers.data());
    for (int64_t i = 0; i < n; ++i) numbers[size_t(i)] /= by[size_t(i)];
    const TensorInfo tensor{
        name, DType::f32, {n}, reinterpret_cast<const uint8_t*>(numbers.data()), uint64_t(4 * n)};
    (first ? w.input_norm : w.post_norm) = device_.vector(tensor);
  }

  const std::map<std::string, std::vector<float>>& divided_norms() const override {
    return divided_norms_;
  }

  static std::vector<Target<typename D::Layer>> targets(const std::vector<Part>& parts, int l) {
    std::vector<Target<typename D::Layer>> result;
    for (const Part& p : parts)
      result.push_back({&p.sequence->cache.layer(l), p.row, p.rows, p.position});
    return result;
  }

  D device_;
  ModelConfig config_;
  Model model_;
  typename D::Table embedding_;
  std::map<std::string, std::vector<float>> divided_norms_;  // by their tensors' names
  TestHooks hooks_;
};

}  // namespace ptq
