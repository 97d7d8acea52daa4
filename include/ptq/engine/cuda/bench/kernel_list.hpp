// Every kernel of the engine at the shapes of the three 7B models, as a list.
// bfloat16 throughout. Bytes and operations are those that the result takes, not those of the
// kernel: each weight and each cached row is read once.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "ptq/engine/cuda/bench/kernel_caches.hpp"
#include "ptq/engine/cuda/kernels/affine_decode.cuh"
#include "ptq/engine/cuda/kernels/affine_encode.cuh"
#include "ptq/engine/cuda/kernels/attention.cuh"
#include "ptq/engine/cuda/kernels/elementwise.cuh"
#include "ptq/engine/cuda/kernels/embedding.cuh"
#include "ptq/engine/cuda/kernels/kv_rows.cuh"
#include "ptq/engine/cuda/kernels/linear_small.cuh"
#include "ptq/engine/cuda/kernels/linear_tiles.cuh"
#include "ptq/engine/cuda/kernels/log_softmax.cuh"
#include "ptq/engine/cuda/kernels/rms_norm.cuh"
#include "ptq/engine/cuda/kernels/rope.cuh"

namespace ptq::cuda {

// Rows of passes and caches.
struct BenchSizes {
  std::vector<int64_t> few = {1, 2, 4, 8, 16, 64};  // rows of a linear layer
  int64_t pass = 2048, long_pass = 8192, long_context = 32768;
  int64_t residual = 128;    // of KIVI, and the rows that it encodes at a time
  int64_t logits = 256;      // rows of logits that are scored or brought to the host together
  int64_t group = 128;       // weights that share a scale
  int64_t slice = 16 << 20;  // weights that are decoded together
};
inline const BenchSizes kTinyBenchSizes = {{1, 2, 4, 8, 16, 64}, 9, 64, 96, 32, 3, 32, 1024};

// models/configs. A shape that an earlier model has, too, is measured once.
inline std::vector<BenchModel> bench_models(bool tiny) {
  if (tiny) return {{"tiny", 32, 4, 2, 16, 96, 80}};
  return {{"Qwen2.5-7B", 3584, 28, 4, 128, 18944, 152064},
          {"Llama-3.1-8B", 4096, 32, 8, 128, 14336, 128256},
          {"Mistral-7B-v0.3", 4096, 32, 8, 128, 14336, 32768}};
}

class KernelList {
 public:
  explicit KernelList(bool tiny) : z_(tiny ? kTinyBenchSizes : BenchSizes{}) {
    const std::vector<BenchModel> models = bench_models(tiny);
    for (const BenchModel& m : models) linears(m);
    for (const BenchModel& m : models) attentions(m, false);
    for (const BenchModel& m : models) attentions(m, true);
    for (const BenchModel& m : models) products(m);
    for (const BenchModel& m : models) elementwise(m);
    for (const BenchModel& m : models) cache_rows(m);
    for (const BenchModel& m : models) logits(m);
  }
  const std::vector<Measurement>& all() const { return list_; }

 private:
  struct Matrix {
    std::string name;
    int64_t out, in;
    std::string shape(int64_t n) const {
      return "[" + std::to_string(out) + ", " + std::to_string(in) + "], n " + std::to_string(n);
    }
  };
  static std::vector<Matrix> matrices(const BenchModel& m) {
    return {{m.name + " q, o", m.heads * m.dim, m.hidden},
            {m.name + " k, v", m.kv_width(), m.hidden},
            {m.name + " gate, up", m.inner, m.hidden},
            {m.name + " down", m.hidden, m.inner},
            {m.name + " head", m.vocab, m.hidden}};
  }
  static std::string rows_of(int64_t n, int64_t width) {
    return std::to_string(n) + " x " + std::to_string(width);
  }

  void add(const std::string& who, Measurement m) {
    if (!seen_.insert(m.kernel + "|" + m.shape).second) return;
    m.shape = who + " " + m.shape;
    list_.push_back(std::move(m));
  }

  // ---- linear layers ----

  static double product_flops(const Matrix& w, int64_t n) {
    return 2.0 * double(n) * double(w.out) * double(w.in);
  }
  static double activation_bytes(const Matrix& w, int64_t n) {
    return 2.0 * double(n) * double(w.out + w.in);
  }

  void linears(const BenchModel& model) {
    for (const Matrix& w : matrices(model))
      for (const int64_t n : z_.few) {
        if (n <= kSmallRows) dense(w, n);
        packed(w, n);
      }
  }
  // By cuBLASLt.
  void products(const BenchModel& model) {
    std::vector<int64_t> rows = z_.few;
    rows.push_back(z_.pass);
    for (const Matrix& w : matrices(model))
      for (const int64_t n : rows)
        add(w.name, {"gemm bf16", w.shape(n), 2.0 * double(w.out * w.in) + activation_bytes(w, n),
                     product_flops(w, n), [w, n](Workbench& b) -> TurnFn {
                       const auto weight = b.random<Bf16>(w.out * w.in),
                                  x = b.random<Bf16>(n * w.in), y = b.space<Bf16>(n * w.out);
                       return [=, &b](int64_t t) {
                         b.gemm().run(b.queue(), static_cast<const Bf16*>(weight.at(t)),
                                      static_cast<const Bf16*>(nullptr),
                                      static_cast<const Bf16*>(x.at(t)), n, w.in, w.out, y.at(t),
                                      w.out);
                       };
                     }});
  }
  void dense(const Matrix& w, int64_t n) {
    add(w.name,
        {"linear_small bf16", w.shape(n), 2.0 * double(w.out * w.in) + activation_bytes(w, n),
         product_flops(w, n), [w, n](Workbench& b) -> TurnFn {
           const auto weight = b.random<Bf16>(w.out * w.in), x = b.random<Bf16>(n * w.in),
                      y = b.space<Bf16>(n * w.out);
           return [=, &b](int64_t t) {
             linear_small(b.queue(), DenseWeight<Bf16>{weight.at(t)},
                          static_cast<const Bf16*>(nullptr), static_cast<const Bf16*>(x.at(t)),
                          w.in, w.out, n, y.at(t));
           };
         }});
  }

  // 4-bit weights with scales and packed zero points, as the plugin rtn makes them.
  struct PackedWeight {
    AffineView view;
    Rotating<uint8_t> codes, zeros;
    Rotating<F16> scales;
    AffineView at(int64_t turn) const {
      AffineView v = view;
      v.codes = codes.at(turn);
      v.scales = reinterpret_cast<const uint16_t*>(scales.at(turn));
      v.zeros = zeros.at(turn);
      return v;
    }
  };
  static constexpr int kWeightBits = 4;
  static double packed_weight_bytes(const Matrix& w, int64_t rows, int64_t group) {
    const int64_t groups = rows * ceil_div(w.in, group);
    return double(rows * packed_bytes(w.in, kWeightBits) + 2 * groups +
                  packed_bytes(groups, kWeightBits));
  }
  static PackedWeight packed_weight(Workbench& b, const Matrix& w, int64_t group) {
    PackedWeight p;
    p.view.bits = kWeightBits;
    p.view.axis = 1;
    p.view.grid = Grid::asym_gptq;
    p.view.columns = w.in;
    p.view.set_group(std::min(group, w.in));
    p.view.groups = ceil_div(w.in, p.view.group);
    p.view.row_bytes = packed_bytes(w.in, kWeightBits);
    p.codes = b.random<uint8_t>(w.out * p.view.row_bytes + 8);
    p.scales = b.random<F16>(w.out * p.view.groups);
    p.zeros = b.random<uint8_t>(packed_bytes(w.out * p.view.groups, kWeightBits) + 8);
    return p;
  }
  void packed(const Matrix& w, int64_t n) {
    const bool small = n <= kSmallRows;
    add(w.name, {small ? "linear_small W4" : "linear_tiles W4", w.shape(n),
                 packed_weight_bytes(w, w.out, z_.group) + activation_bytes(w, n),
                 product_flops(w, n), [w, n, small, group = z_.group](Workbench& b) -> TurnFn {
                   const PackedWeight weight = packed_weight(b, w, group);
                   const auto x = b.random<Bf16>(n * w.in), y = b.space<Bf16>(n * w.out);
                   return [=, &b](int64_t t) {
                     const Bf16* no_bias = nullptr;
                     const Bf16* in = x.at(t);
                     if (small)
                       linear_small(b.queue(), weight.at(t), no_bias, in, w.in, w.out, n, y.at(t));
                     else
                       linear_tiles(b.queue(), weight.at(t), no_bias, in, n, w.out, y.at(t));
                   };
                 }});
  }
  // A slice, as a prefill hands it to cuBLASLt.
  void decoded_slice(const BenchModel& m) {
    const Matrix w{m.name + " gate, up", m.inner, m.hidden};
    const int64_t rows = std::min(w.out, std::max<int64_t>(64, z_.slice / w.in / 64 * 64));
    add(w.name, {"decode_affine W4", rows_of(rows, w.in),
                 packed_weight_bytes(w, rows, z_.group) + 2.0 * double(rows * w.in), 0,
                 [w, rows, group = z_.group](Workbench& b) -> TurnFn {
                   const PackedWeight weight = packed_weight(b, w, group);
                   const auto plain = b.space<Bf16>(rows * w.in);
                   return [=, &b](int64_t t) {
                     decode_affine(b.queue(), weight.at(t), 0, rows, plain.at(t));
                   };
                 }});
  }

  // ---- attention ----

  void attentions(const BenchModel& m, bool pass) {
    for (const int64_t rows : {z_.pass, pass ? z_.long_pass : z_.long_context})
      for (const BenchCache cache : kBenchCaches) {
        const BenchSideShape keys(cache, true, rows, z_.residual, pass),
            values(cache, false, rows, z_.residual, pass);
        const double queries = pass ? double(rows) : 1, width = double(m.heads * m.dim);
        const double pairs = pass ? 0.5 * double(rows) * double(rows + 1) : double(rows);
        add(m.name, {pass ? "attention prefill" : "attention decode",
                     std::to_string(m.heads) + "/" + std::to_string(m.kv_heads) + " heads, " +
                         std::to_string(rows) + " rows, " + cache_name(cache),
                     keys.bytes(m) + values.bytes(m) + 2 * 2 * queries * width, 4 * pairs * width,
                     [=](Workbench& b) { return attention_turn(b, m, keys, values, pass); }});
      }
  }
  static TurnFn attention_turn(Workbench& b, const BenchModel& m, const BenchSideShape& key_shape,
                               const BenchSideShape& value_shape, bool pass) {
    const BenchSide keys(b, m, key_shape), values(b, m, value_shape);
    const int64_t rows = pass ? key_shape.context : 1;
    const auto segments = b.table_of<SegmentView>(1, [&](int64_t copy) {
      return std::vector<SegmentView>{
          {0, rows, key_shape.context - rows, keys.view(copy), values.view(copy)}};
    });
    const AttentionPlan plan = plan_attention(1, rows, m.heads, m.kv_heads, b.processors());
    std::vector<AttentionItem> list;
    for (int64_t at = 0; at < rows; at += plan.queries_per_block)
      list.push_back({0, int32_t(at), int32_t(std::min(plan.queries_per_block, rows - at))});
    std::reverse(list.begin(), list.end());  // as the engine orders them
    const auto items = b.table(list);
    const int64_t width = m.heads * m.dim;
    const auto q = b.random<Bf16>(rows * width), out = b.space<Bf16>(rows * width);
    const int64_t parts = plan.splits > 1 ? plan.splits * rows * m.heads : 0;
    const auto partial = b.space<float>(parts * m.dim, 1), partial_lse = b.space<float>(parts, 1);
    const bool plain = keys.view(0).plain() && values.view(0).plain();
    const int64_t blocks = int64_t(list.size());
    // keys and values: their memory
    return [=, &b](int64_t t) {
      (void)keys, (void)values;
      AttentionArguments<Bf16> a{};
      a.q = q.at(t);
      a.out = out.at(t);
      a.partial = partial.at(t);
      a.partial_lse = partial_lse.at(t);
      a.segments = segments.at(t);
      a.items = items.at(t);
      a.rows = rows;
      a.heads = m.heads;
      a.kv_heads = m.kv_heads;
      a.dim = m.dim;
      a.scale = 1.4426950408889634f / std::sqrt(float(m.dim));
      // Not attention(): the other widths would double the time of compiling.
      attention_of_width<Bf16, 128>(b.queue(), a, blocks, plan, plain);
    };
  }

  // ---- operations on rows, bound by memory ----

  void elementwise(const BenchModel& m) {
    for (const int64_t n : {int64_t{1}, z_.pass}) {
      const int64_t width = m.hidden;
      add(m.name, {"rms_norm", rows_of(n, width), 2.0 * double((2 * n + 1) * width), 0,
                   [=](Workbench& b) -> TurnFn {
                     const auto x = b.random<Bf16>(n * width), w = b.random<Bf16>(width),
                                y = b.space<Bf16>(n * width);
                     return [=, &b](int64_t t) {
                       rms_norm(b.queue(), x.at(t), w.at(t), 1e-6f, n, width, y.at(t));
                     };
                   }});
      add(m.name,
          {"add", rows_of(n, width), 6.0 * double(n * width), 0, [=](Workbench& b) -> TurnFn {
             const auto x = b.random<Bf16>(n * width), y = b.random<Bf16>(n * width);
             return [=, &b](int64_t t) { cuda::add(b.queue(), x.at(t), y.at(t), n * width); };
           }});
      add(m.name, {"swiglu", rows_of(n, m.inner), 6.0 * double(n * m.inner), 0,
                   [=, inner = m.inner](Workbench& b) -> TurnFn {
                     const auto gate = b.random<Bf16>(n * inner), up = b.random<Bf16>(n * inner);
                     return
                         [=, &b](int64_t t) { swiglu(b.queue(), gate.at(t), up.at(t), n * inner); };
                   }});
      add(m.name, {"rope", rows_of(n, m.heads * m.dim),
                   4.0 * double(n * m.heads * m.dim) + 4.0 * double(n * m.dim), 0,
                   [=](Workbench& b) -> TurnFn {
                     const auto x = b.random<Bf16>(n * m.heads * m.dim);
                     const auto positions = b.table(counted(n, n));
                     const auto cosine = b.random<float>(n * m.dim / 2),
                                sine = b.random<float>(n * m.dim / 2);
                     return [=, &b](int64_t t) {
                       rope(b.queue(), x.at(t), positions.at(t), n, m.heads, m.dim, cosine.at(t),
                            sine.at(t));
                     };
                   }});
      add(m.name, {"gather_rows", rows_of(n, width), 4.0 * double(n * width), 0,
                   [=](Workbench& b) -> TurnFn {
                     // One table: the ids differ from turn to turn.
                     const auto table = b.random<Bf16>(m.vocab * width, 1);
                     std::mt19937 random(3);
                     const auto ids = b.table_of<int32_t>(n, [&](int64_t) {
                       std::vector<int32_t> some(static_cast<size_t>(n));
                       for (int32_t& id : some) id = int32_t(random() % uint32_t(m.vocab));
                       return some;
                     });
                     const auto x = b.space<Bf16>(n * width);
                     return [=, &b](int64_t t) {
                       gather_rows(b.queue(), table.at(t), ids.at(t), n, width, x.at(t));
                     };
                   }});
    }
    decoded_slice(m);
    const int64_t n = z_.pass * m.hidden;
    add(m.name, {"convert f16 to bf16", rows_of(z_.pass, m.hidden), 4.0 * double(n), 0,
                 [n](Workbench& b) -> TurnFn {
                   const auto x = b.random<F16>(n);
                   const auto y = b.space<Bf16>(n);
                   return [=, &b](int64_t t) { convert(b.queue(), x.at(t), n, y.at(t)); };
                 }});
  }
  // 0, 1, ... below `end`, again and again
  static std::vector<int32_t> counted(int64_t n, int64_t end) {
    std::vector<int32_t> x(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) x[size_t(i)] = int32_t(i % end);
    return x;
  }

  // ---- rows into a cache and into its encodings ----

  // Dense rows of n tokens at `data`.
  static SideView dense_side(const BenchModel& m, const Bf16* data) {
    SideView v;
    v.tail = {data, DType::bf16, 0, m.kv_width(), m.dim};
    v.fixed = 0;
    return v;
  }
  void cache_rows(const BenchModel& m) {
    for (const int64_t n : {int64_t{1}, z_.residual, z_.pass}) {
      const int64_t width = m.kv_width(), numbers = n * width;
      const std::string shape = rows_of(n, width);
      add(m.name, {"append_rows", shape, 8.0 * double(numbers), 0, [=](Workbench& b) -> TurnFn {
                     const auto k = b.random<Bf16>(numbers), v = b.random<Bf16>(numbers),
                                to_k = b.space<Bf16>(numbers), to_v = b.space<Bf16>(numbers);
                     const auto segments = b.table_of<SegmentView>(1, [&](int64_t copy) {
                       return std::vector<SegmentView>{
                           {0, n, 0, dense_side(m, to_k.at(copy)), dense_side(m, to_v.at(copy))}};
                     });
                     const auto of_row = b.table(counted(n, 1));
                     return [=, &b](int64_t t) {
                       (void)to_k, (void)to_v;  // their memory
                       append_rows(b.queue(), k.at(t), v.at(t), segments.at(t), of_row.at(t), n,
                                   width);
                     };
                   }});
      add(m.name, {"read_rows", shape, 6.0 * double(numbers), 0, [=](Workbench& b) -> TurnFn {
                     const auto rows = b.random<Bf16>(numbers);
                     const auto x = b.space<float>(numbers);
                     return [=, &b](int64_t t) {
                       read_rows(b.queue(), dense_side(m, rows.at(t)), 0, n, m.kv_heads, m.dim,
                                 x.at(t), nullptr);
                     };
                   }});
      add(m.name, {"store_rows", shape, 6.0 * double(numbers), 0, [=](Workbench& b) -> TurnFn {
                     const auto x = b.random<float>(numbers);
                     const auto rows = b.space<Bf16>(numbers);
                     return [=, &b](int64_t t) {
                       store_rows(b.queue(), x.at(t), dense_side(m, rows.at(t)).tail, 0, n,
                                  m.kv_heads, m.dim);
                     };
                   }});
      add(m.name, {"hadamard_rows", shape, 8.0 * double(numbers), 0, [=](Workbench& b) -> TurnFn {
                     const auto x = b.random<float>(numbers);
                     return [=, &b](int64_t t) {
                       hadamard_rows(b.queue(), x.at(t), n * m.kv_heads, m.dim);
                     };
                   }});
      // Keys of KIVI come a whole group of rows at a time.
      for (const bool keys : {true, false})
        if (!keys || n % kKiviGroup == 0) {
          encode(m, n, keys, false);
          encode(m, n, keys, true);
        }
    }
  }
  // 2-bit codes with float16 scales and minima: rounded here (encode_affine) or by a method
  // (pack_affine).
  void encode(const BenchModel& m, int64_t n, bool keys, bool packed) {
    constexpr int kBits = 2;
    AffineView view;
    view.bits = kBits;
    view.axis = keys ? 0 : 1;
    view.columns = m.dim;
    view.set_group(keys ? kKiviGroup : std::min(kKiviGroup, m.dim));
    view.groups = keys ? 0 : ceil_div(m.dim, view.group);
    view.row_bytes = packed_bytes(m.dim, kBits);
    view.head_codes = n * view.row_bytes;
    view.head_params = keys ? n / kKiviGroup * m.dim : n * view.groups;
    view.head_zeros = 2 * view.head_params;
    const int64_t numbers = n * m.kv_width(), params = m.kv_heads * view.head_params,
                  code_bytes = m.kv_heads * view.head_codes;
    const double in = packed ? double(numbers) + 8.0 * double(params) : 4.0 * double(numbers);
    add(m.name, {packed ? "pack_affine" : "encode_affine",
                 rows_of(n, m.kv_width()) + (keys ? ", keys" : ", values"),
                 in + double(code_bytes) + 4.0 * double(params), 0, [=](Workbench& b) -> TurnFn {
                   const auto codes = b.space<uint8_t>(code_bytes);
                   const auto scales = b.space<F16>(params), zeros = b.space<F16>(params);
                   const auto x = b.random<float>(packed ? 0 : numbers),
                              s = b.random<float>(packed ? params : 0),
                              z = b.random<float>(packed ? params : 0);
                   // One byte a code, of 2 bits.
                   std::vector<uint8_t> chosen(packed ? size_t(numbers) : 0);
                   for (size_t i = 0; i < chosen.size(); ++i) chosen[i] = uint8_t(i * 7 / 3 % 4);
                   const auto c = b.table(chosen);
                   return [=, &b](int64_t t) {
                     AffineTarget to{view, 0};
                     to.view.codes = codes.at(t);
                     to.view.scales = reinterpret_cast<const uint16_t*>(scales.at(t));
                     to.view.zeros = zeros.at(t);
                     if (packed)
                       pack_affine(b.queue(), c.at(t), s.at(t), z.at(t), to, n, m.kv_heads);
                     else
                       encode_affine(b.queue(), x.at(t), to, n, m.kv_heads);
                   };
                 }});
  }

  // ---- logits ----

  // Memory of the host that belongs to a measurement: the driver's, or anyone's.
  static std::shared_ptr<void> host_memory(size_t bytes, bool pinned) {
    if (!pinned)
      return std::shared_ptr<void>(new uint8_t[bytes](),
                                   [](void* p) { delete[] static_cast<uint8_t*>(p); });
    void* p = nullptr;
    check(cudaMallocHost(&p, bytes), "cudaMallocHost");
    return std::shared_ptr<void>(p, [](void* q) { cudaFreeHost(q); });
  }
  void logits(const BenchModel& m) {
    const int64_t n = z_.logits, numbers = n * m.vocab;
    for (const bool reference : {false, true})
      add(m.name, {"score_rows", rows_of(n, m.vocab) + (reference ? ", with reference" : ""),
                   2.0 * double(numbers) * (reference ? 2 : 1), 0, [=](Workbench& b) -> TurnFn {
                     const auto method = b.random<Bf16>(numbers),
                                other = b.random<Bf16>(reference ? numbers : 0);
                     const auto targets = b.table(counted(n, m.vocab));
                     const auto out = b.space<RowScore>(n), out_reference = b.space<RowScore>(n);
                     return [=, &b](int64_t t) {
                       const Bf16 *rows = method.at(t), *beside = reference ? other.at(t) : nullptr;
                       score_rows(b.queue(), rows, beside, targets.at(t), n, m.vocab, out.at(t),
                                  out_reference.at(t));
                     };
                   }});
    for (const int64_t rows : {int64_t{1}, n})
      for (const bool pinned : {false, true})
        add(m.name, {"copy to host", rows_of(rows, m.vocab) + (pinned ? ", pinned" : ", pageable"),
                     2.0 * double(rows * m.vocab), 0,
                     [=](Workbench& b) -> TurnFn {
                       const size_t bytes = size_t(2 * rows * m.vocab);
                       const auto x = b.random<Bf16>(rows * m.vocab);
                       const auto host = host_memory(bytes, pinned);
                       return [=, &b](int64_t t) {
                         b.queue().copy(host.get(), x.at(t), bytes, cudaMemcpyDeviceToHost);
                       };
                     },
                     false});
  }

  BenchSizes z_;
  std::vector<Measurement> list_;
  std::set<std::string> seen_;
};

// The whole list, or what settings name of it; see run_measurements().
inline void measure_kernels(int device, const KernelBenchSettings& settings,
                            const KernelRowFn& emit) {
  run_measurements(KernelList(settings.tiny).all(), device, settings, emit);
}

}  // namespace ptq::cuda
