// The CPU as a device of the transformer: the functions that the forward pass calls.
//
// All activations are float32, row-major [tokens, width]. In the compute mode bf16 every function
// leaves numbers that are exact in bfloat16, rounded where the reference implementation (Hugging
// Face transformers, modeling_llama and its siblings, attention "sdpa") rounds when it runs in it.
// In int8 the inputs of linear layers become integers where their weights are.
// Weights stay in their stored form: engine/cpu/linear.hpp. There is one pool of threads, see
// core/threads.hpp.
#pragma once

#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ptq/core/threads.hpp"
#include "ptq/encoding/activation.hpp"
#include "ptq/engine/cpu/attention.hpp"
#include "ptq/engine/cpu/blas_memory.hpp"
#include "ptq/engine/cpu/kv_cache.hpp"
#include "ptq/engine/cpu/linear.hpp"
#include "ptq/engine/cpu/linear_int8.hpp"
#include "ptq/engine/cpu/simd.hpp"
#include "ptq/engine/device.hpp"
#include "ptq/engine/pass/rotary.hpp"
#include "ptq/engine/weights/linear.hpp"

namespace ptq::cpu {

// Keys or values of a pass without a cache, float32 [rows, kv_heads * head_dim].
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

// One token's inputs of a linear layer, as they enter the product.
inline void round_activations(const Activation& how, const float* x, int64_t n, float* y) {
  float step = how.scale;
  if (step_per_token(how.kind)) {
    float largest = 0;
    for (int64_t i = 0; i < n; ++i) {
      const float size = x[i] < 0 ? -x[i] : x[i];
      const bool outlier = how.outlier_threshold > 0 && size >= how.outlier_threshold;
      largest = !outlier && size > largest ? size : largest;
    }
    step = activation_step(how.kind, largest);
  }
  for (int64_t i = 0; i < n; ++i)
    y[i] = rounded_activation(x[i], how.kind, step, how.outlier_threshold);
}

class Device {
 public:
  using Scalar = float;
  // n numbers, which whoever wants them writes first: zeroing the activations of a pass takes as
  // long as a norm.
  class Array {
   public:
    Array() = default;
    explicit Array(int64_t n) : data_(std::make_unique_for_overwrite<float[]>(size_t(n))), n_(n) {}
    float* data() const { return data_.get(); }
    float* begin() const { return data_.get(); }
    float* end() const { return data_.get() + n_; }

   private:
    std::unique_ptr<float[]> data_;
    int64_t n_ = 0;
  };
  using Vector = std::vector<float>;
  using Table = const TensorInfo*;
  using Linear = LinearWeight;
  using Cache = KvCache;
  using Layer = KvLayer;
  using Side = AttentionSide;
  static constexpr bool kCopiesCaches = true;  // a Cache is a value, so a sequence can be forked

  // What the rows of a pass are.
  struct Batch {
    std::vector<int32_t> ids, positions;
  };

  explicit Device(int threads, Compute compute = Compute::fp32,
                  const Kernels& kernels = chosen_kernels())
      : pool_(std::make_unique<ThreadPool>(threads)),
        kernels_(&kernels),
        bf16_(compute == Compute::bf16),
        int8_(compute == Compute::int8) {
    openblas_set_num_threads(1);
    require_blas_memory(pool_->size());
  }

  ThreadPool& pool() { return *pool_; }

  // ---- storage ----

  Array array(int64_t n) const { return Array(n); }
  Table table(const TensorInfo& tensor) const { return &tensor; }
  Linear weight(LinearWeight w) const { return w; }
  Vector vector(const TensorInfo& tensor) const {
    Vector result(size_t(tensor.shape[0]));
    tensor.rows().decode(0, tensor.shape[0], result.data());
    round(result.data(), tensor.shape[0]);
    return result;
  }
  // Where a weight method works, and what is to be done afterwards: nothing, it is the same thing.
  LinearWeight& host(Linear& w) const { return w; }
  void changed(Linear&) const {}
  Cache cache(const Anatomy& anatomy, KvMethod* method, DType dense) const {
    return KvCache(anatomy, method, dense, rotary_);
  }
  void use_rope(const Rope& rope) { rotary_ = std::make_shared<Rotary>(rope, bf16_); }

  // ---- a pass ----

  // Tokens of a pass, at most `wanted`, for which there is memory.
  int64_t pass_rows(int64_t wanted, int64_t /*scalars_per_row*/) const { return wanted; }

  Batch begin(std::vector<int32_t> ids, std::vector<int32_t> positions, bool /*steady*/) const {
    for (const int32_t p : positions) rotary_->extend(p + 1);
    return {std::move(ids), std::move(positions)};
  }
  void finish() const {}
  void poison(Array& x) const {
    std::fill(x.begin(), x.end(), std::numeric_limits<float>::quiet_NaN());
  }
  // Rows `picked` of x [*, width] to y [picked, width].
  void pick(const float* x, std::span<const int32_t> picked, int64_t width, float* y) const {
    for (size_t i = 0; i < picked.size(); ++i)
      std::copy_n(x + picked[i] * width, width, y + int64_t(i) * width);
  }
  // n numbers where the host can read them; valid until the next operation.
  const float* download(const float* x, int64_t) const { return x; }
  void upload(const float* from, int64_t n, float* to) const { std::copy_n(from, n, to); }
  // What is wanted of x [n, width]; valid until the next look.
  void look(const float* x, int64_t n, int64_t width, const Wanted& wanted, Seen& seen) {
    seen.values = {x, size_t(std::min(n, wanted.rows) * width)};
    if (wanted.columns) {
      column_sums(x, n, width);
      seen.squares = squares_;
      seen.magnitudes = magnitudes_;
      seen.largest = largest_;
    }
    if (wanted.gram) {
      gram(x, n, width);
      seen.gram = gram_;
    }
  }

  // Rows of k and v [rows, width] into the caches; keys before rotation into those that want them.
  void append_unrotated(const std::vector<Target<KvLayer>>& targets, const float* k,
                        int64_t width) const {
    for (const Target<KvLayer>& t : targets)
      if (t.cache->keys.pre_rope()) t.cache->keys.append(k + t.row * width, t.rows);
  }
  void append(const std::vector<Target<KvLayer>>& targets, const float* k, const float* v,
              int64_t width) const {
    for (const Target<KvLayer>& t : targets) {
      if (!t.cache->keys.pre_rope()) t.cache->keys.append(k + t.row * width, t.rows);
      t.cache->values.append(v + t.row * width, t.rows);
    }
  }

  // What queries with the given boundaries see of a cache, or of the rows of this pass alone.
  AttentionSide side(const KvRows& rows, std::vector<int64_t> boundary) const {
    return {&rows.encoded(),     &rows,   rows.sink(),
            std::move(boundary), nullptr, rows.policy().evicts,
            rows.moves_sinks()};
  }
  AttentionSide side(const float* x, int64_t rows, const HeadShape& shape) const {
    auto fresh = std::make_shared<FreshRows>(x, shape.kv_heads, shape.head_dim);
    return {nullptr, fresh.get(), 0, std::vector<int64_t>(size_t(rows), 0), fresh};
  }

  // ---- operations ----
  // The dtype in which unencoded rows of a cache are kept.
  DType cache_dtype() const { return bf16_ ? DType::bf16 : DType::f16; }
  // Rounds n numbers to the format of activations; nothing to do in fp32.
  void round(float* x, int64_t n) const {
    if (!bf16_) return;
    for (int64_t i = 0; i < n; ++i) x[i] = round_bf16(x[i]);
  }
  std::string name() const {
    return "cpu (" + std::to_string(pool_->size()) +
           (pool_->size() == 1 ? " thread)" : " threads)");
  }

  // Are the numbers of w and its inputs multiplied as integers? Of inputs that a method rounds
  // those are whose weights it has encoded; in the compute mode int8 so are inputs that no method
  // rounds, from whatever stores the weights.
  bool multiplies_integers(const LinearWeight& w) const {
    const Activation& how = w.activation();
    const bool own = is_int8(how) && how.outlier_threshold == 0 && w.packed();
    if (!own && !(int8_ && how.kind == ActivationKind::full)) return false;
    const WeightRows rows = linear_detail::stored_rows(w);
    const bool ordered = rows.form() == Form::codes && !linear_detail::order_of_columns(w).empty();
    return !ordered && cpu::multiplies_integers(rows, !own);
  }

  // y [n, out] = x [n, in] W^T + b; bias may be nullptr. x enters as the layer's activations say.
  void linear(const LinearWeight& w, const float* bias, const float* x, int64_t n, float* y) {
    const Product product{&w, bias, y};
    linears(std::span(&product, 1), x, n);
  }

  // Several linears of one x: at once where x enters all of them alike.
  using Product = cpu::Product;
  void linears(std::span<const Product> products, const float* x, int64_t n) {
    const Activation& how = products[0].w->activation();
    const bool integers = multiplies_integers(*products[0].w);
    const auto alike = [&](const Product& p) {
      return p.w->activation() == how && multiplies_integers(*p.w) == integers;
    };
    if (products.size() > 1 && !std::all_of(products.begin(), products.end(), alike)) {
      for (const Product& p : products) linears(std::span(&p, 1), x, n);
      return;
    }
    if (integers) {
      std::vector<Int8Product> all;
      for (const Product& p : products)
        all.push_back({linear_detail::stored_rows(*p.w), p.w->out(), p.bias, p.y});
      InputScale scale;
      scale.per_unit = how.kind == ActivationKind::full;
      if (how.kind == ActivationKind::int8_static) scale.fixed = how.scale;
      return linears_int8(*pool_, *kernels_, all, x, n, scale, bf16_);
    }
    if (how.kind != ActivationKind::full) {
      const int64_t in = products[0].w->in();
      rounded_.resize(size_t(n * in));
      rows(n, in,
           [&](int64_t i) { round_activations(how, x + i * in, in, rounded_.data() + i * in); });
      x = rounded_.data();
    }
    cpu::linears(*pool_, *kernels_, products, x, n, bf16_);
  }

  // x [rows, width] = the rows of the embedding that the ids name.
  void embed(Table table, const Batch& batch, float* x) {
    const StoredRows stored = table->rows();
    const int64_t width = stored.columns, n = int64_t(batch.ids.size());
    for (int64_t i = 0; i < n; ++i) {
      const int64_t id = batch.ids[size_t(i)];
      stored.decode(id, id + 1, x + i * width);
    }
    round(x, n * width);
  }

  // y = w * x / sqrt(mean(x^2) + eps), per row (RMSNorm, arXiv 1910.07467). The reference rounds
  // before the product with w and after it.
  void rms_norm(const float* x, const float* w, float eps, int64_t n, int64_t width, float* y) {
    rows(n, width, [&](int64_t i) {
      const float* xi = x + i * width;
      float* yi = y + i * width;
      const float r = 1.0f / std::sqrt(dot(xi, xi, width) / float(width) + eps);
      for (int64_t c = 0; c < width; ++c) yi[c] = xi[c] * r;
      round(yi, width);
      for (int64_t c = 0; c < width; ++c) yi[c] *= w[c];
      round(yi, width);
    });
  }

  // Rotary embedding in place (arXiv 2104.09864, half-split pairs i and i + dim/2 as in Hugging
  // Face checkpoints). x [rows, heads * dim].
  void rope(float* x, const Batch& batch, int64_t heads, int64_t dim) {
    const int64_t half = dim / 2;
    rows(int64_t(batch.ids.size()), heads * dim, [&](int64_t i) {
      const int64_t position = batch.positions[size_t(i)];
      float* head = x + i * heads * dim;
      for (int64_t h = 0; h < heads; ++h, head += dim) {
        if (!bf16_) {
          rotary_->rotate(position, position + 1, head, dim);
          continue;
        }
        const float* __restrict c = rotary_->cosine(position);
        const float* __restrict s = rotary_->sine(position);
        float* __restrict low = head;
        float* __restrict high = head + half;
        for (int64_t d = 0; d < half; ++d) {  // products and sum are separate in the reference
          rotate_pair(low[d], high[d], c[d], s[d], RoundBf16{});
          low[d] = round_bf16(low[d]);
          high[d] = round_bf16(high[d]);
        }
      }
    });
  }

  // gate = silu(gate) * up (SwiGLU, arXiv 2002.05202).
  void swiglu(float* gate, const float* up, int64_t n, int64_t width) {
    rows(n, width, [&](int64_t i) {
      float* g = gate + i * width;
      const float* u = up + i * width;
      for (int64_t c = 0; c < width; ++c) {
        // 1 / (1 + exp(-g)) from exp(-|g|), which cannot overflow.
        const float e = exp_nonpositive(g[c] < 0 ? g[c] : -g[c]);
        const float sigmoid = (g[c] < 0 ? e : 1.0f) / (1.0f + e);
        g[c] *= sigmoid;
      }
      round(g, width);
      for (int64_t c = 0; c < width; ++c) g[c] *= u[c];
      round(g, width);
    });
  }

  // x += y.
  void add(float* x, const float* y, int64_t n, int64_t width) {
    rows(n, width, [&](int64_t i) {
      for (int64_t c = 0; c < width; ++c) x[i * width + c] += y[i * width + c];
      round(x + i * width, width);
    });
  }

  // x (1 + noise), of n rows from an absolute position on.
  void disturb(float* x, int64_t n, int64_t width, const LayerNoise& noise, int layer,
               int64_t position) {
    rows(n, width, [&](int64_t i) {
      float* xi = x + i * width;
      for (int64_t c = 0; c < width; ++c)
        xi[c] *= 1.0f + noise.relative * unit_noise(noise.seed, layer, position + i, c);
      round(xi, width);
    });
  }

  // q and out [rows, heads * head_dim]; each segment attends to its own sequence.
  void attention(const HeadShape& shape, const float* q,
                 const std::vector<Segment<AttentionSide>>& segments, float* out) {
    const int64_t width = shape.heads * shape.head_dim;
    for (const Segment<AttentionSide>& s : segments) {
      cpu::attention(
          *pool_,
          {s.rows, s.position, shape.heads, shape.kv_heads, shape.head_dim, shape.window, bf16_},
          q + s.row * width, s.keys, s.values, out + s.row * width, *kernels_);
      round(out + s.row * width, s.rows * width);
    }
  }

 private:
  // Per column of x [n, width]: sum of squares, sum of magnitudes, largest magnitude.
  void column_sums(const float* x, int64_t n, int64_t width) {
    squares_.assign(size_t(width), 0);
    magnitudes_.assign(size_t(width), 0);
    largest_.assign(size_t(width), 0);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t c = 0; c < width; ++c) {
        const float a = std::fabs(x[i * width + c]);
        squares_[size_t(c)] += double(a) * double(a);
        magnitudes_[size_t(c)] += double(a);
        largest_[size_t(c)] = std::max(largest_[size_t(c)], a);
      }
  }

  // gram_ = x^T x of x [n, width]: each number one chain of multiply-adds along the rows.
  void gram(const float* x, int64_t n, int64_t width) {
    constexpr int64_t kSlice = 64, kRows = 256;  // columns of a task, rows of x at once
    const int64_t wide = (width + 15) / 16 * 16, slices = (width + kSlice - 1) / kSlice;
    gram_.resize(size_t(width * width));
    std::vector<float> rows(size_t(kRows * wide)), turned(size_t(wide * kRows));
    for (int64_t i = 0; i < n; i += kRows) {
      const int64_t count = std::min(kRows, n - i);
      for (int64_t r = 0; r < count; ++r)
        std::copy_n(x + (i + r) * width, width, rows.data() + r * wide);
      run(slices, count * width * width, [&](int64_t task) {
        const int64_t c0 = task * kSlice, c1 = std::min(c0 + kSlice, wide);
        kernels_->turn(rows.data() + c0, wide, kRows, c1 - c0, turned.data() + c0 * kRows);
      });
      run(slices, count * width * width, [&](int64_t task) {
        const int64_t r0 = task * kSlice, r1 = std::min(r0 + kSlice, width);  // from column r0 on
        kernels_->multiply(turned.data() + r0 * kRows, r1 - r0, kRows, rows.data() + r0, wide,
                           count, width - r0, gram_.data() + r0 * width + r0, width, i > 0);
      });
    }
    for (int64_t r = 1; r < width; ++r)
      for (int64_t c = 0; c < r; ++c) gram_[size_t(r * width + c)] = gram_[size_t(c * width + r)];
  }

  // Small jobs run on the calling thread: waking the others would cost more.
  static constexpr int64_t kSmall = 200'000;

  template <class Fn>
  void run(int64_t tasks, int64_t work, const Fn& fn) {
    if (work < kSmall) {
      for (int64_t t = 0; t < tasks; ++t) fn(t);
    } else {
      pool_->for_each(tasks, fn);
    }
  }
  template <class Fn>
  void rows(int64_t n, int64_t width, const Fn& fn) {
    constexpr int64_t kRows = 64;
    run((n + kRows - 1) / kRows, n * width, [&](int64_t t) {
      for (int64_t i = t * kRows; i < std::min((t + 1) * kRows, n); ++i) fn(i);
    });
  }

  std::unique_ptr<ThreadPool> pool_;
  const Kernels* kernels_;
  bool bf16_, int8_;
  std::shared_ptr<Rotary> rotary_;  // caches share it
  std::vector<float> rounded_;      // inputs of a linear
  // Of the last look().
  std::vector<double> squares_, magnitudes_;
  std::vector<float> largest_, gram_;
};

}  // namespace ptq::cpu
