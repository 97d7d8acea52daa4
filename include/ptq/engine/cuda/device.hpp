// A CUDA device as a device of the transformer: the functions that the forward pass calls.
//
// T is the number format of activations: float (fp32: every product and sum in float32, for
// comparison with the CPU's engine) or Bf16 (tensor cores, float32 inside products, norms and
// softmax; rounded where cpu::Device rounds in its mode bf16). One stream; the host waits for it
// only where it needs logits, or where a method works on the host.
#pragma once

#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ptq/engine/cuda/arena.hpp"
#include "ptq/engine/cuda/device_state.hpp"
#include "ptq/engine/cuda/gemm.hpp"
#include "ptq/engine/cuda/kernels/activations.cuh"
#include "ptq/engine/cuda/kernels/affine_decode.cuh"
#include "ptq/engine/cuda/kernels/attention.cuh"
#include "ptq/engine/cuda/kernels/column_sums.cuh"
#include "ptq/engine/cuda/kernels/elementwise.cuh"
#include "ptq/engine/cuda/kernels/embedding.cuh"
#include "ptq/engine/cuda/kernels/linear_small.cuh"
#include "ptq/engine/cuda/kernels/linear_tiles.cuh"
#include "ptq/engine/cuda/kernels/rms_norm.cuh"
#include "ptq/engine/cuda/kernels/rope.cuh"
#include "ptq/engine/cuda/kv_cache.hpp"
#include "ptq/engine/device.hpp"

namespace ptq::cuda {

template <class T>
class Device {
 public:
  using Scalar = T;
  using Table = DenseTensor;
  using Linear = cuda::Linear;
  using Cache = KvCache;
  using Layer = KvLayer;
  using Side = SideView;
  static constexpr bool kCopiesCaches = false;

  // Activations, in the scratch memory of the pass.
  class Array {
   public:
    Array() = default;
    Array(T* data, int64_t n) : data_(data), n_(n) {}
    T* data() const { return data_; }
    int64_t size() const { return n_; }

   private:
    T* data_ = nullptr;
    int64_t n_ = 0;
  };
  // A norm's weight or a bias.
  class Vector {
   public:
    Vector() = default;
    explicit Vector(DenseTensor tensor) : tensor_(tensor) {}
    const T* data() const { return static_cast<const T*>(tensor_.data); }
    bool empty() const { return tensor_.data == nullptr; }

   private:
    DenseTensor tensor_;
  };

  // What the rows of a pass are.
  struct Batch {
    int64_t rows;
    const int32_t *ids, *positions;  // on the device
  };

  // slab: see Arena.
  explicit Device(int id, size_t slab = size_t{64} << 20)
      : state_(std::make_unique<State>(id, slab)) {}

  std::string name() const { return state_->name; }
  // Rounded inputs are multiplied in full precision here.
  bool multiplies_integers(const Linear&) const { return false; }
  const Ledger& ledger() const { return state_->arena.ledger(); }
  uint64_t graph_launches() const { return state_->graph_launches; }
  DType cache_dtype() const { return std::is_same_v<T, Bf16> ? DType::bf16 : DType::f16; }

  // ---- storage ----

  Array array(int64_t n) {
    return {static_cast<T*>(state_->scratch.take(n * int64_t(sizeof(T)))), n};
  }
  Table table(const TensorInfo& t) {
    return state_->tensors.upload(t.rows(), t.shape[0], kept(t.dtype));
  }
  Linear weight(LinearWeight w) {
    Linear linear(std::move(w));
    const LinearWeight& h = linear.host();
    const PackedMatrix* packed = h.packed_file();
    if (packed && packed->plainly_affine()) {
      linear.hold(state_->arena, state_->queue, packed->affine);
    } else if (packed) {  // the kernels know no other order of columns and no FP8
      std::vector<float> plain(size_t(h.scalars()));
      packed->decode(0, h.out(), plain.data());
      const DType as = kept(DType::f32);
      linear.hold(state_->tensors.copy(plain.data(), DType::f32, h.scalars(), as), as);
    } else {
      linear.dense = state_->tensors.upload(h.file(), h.out(), kept(h.file().dtype));
    }
    return linear;
  }
  Vector vector(const TensorInfo& t) {
    return Vector(state_->tensors.upload(t.rows(), t.shape[0], dtype_of<T>));
  }
  LinearWeight& host(Linear& w) { return w.host(); }
  // Codes that no kernel reads.
  static bool wide(int bits) { return bits > 4 && bits < 8; }
  // What a method has left of the weight replaces the matrix: packed codes as they are, everything
  // that the kernels cannot read decoded.
  void changed(Linear& w) {
    LinearWeight& h = w.host();
    if (!h.encoded() && !h.scaled()) return;
    const StoredRows file = h.file();
    Memory<uint8_t> plain;
    DType as = DType::f32;
    if (const DenseRows* rows = h.dense_rows()) {
      as = kept(rows->dtype());
      plain = state_->tensors.copy(rows->data(), rows->dtype(), h.scalars(), as);
    } else if (!h.packed() || !h.order().empty() || wide(h.packed()->format().bits)) {
      std::vector<float> decoded(size_t(h.scalars()));
      h.decode(0, h.out(), decoded.data());
      as = kept(DType::f32);
      plain = state_->tensors.copy(decoded.data(), DType::f32, h.scalars(), as);
    }
    w.adopt(state_->arena, state_->queue, std::move(plain), as);
    state_->tensors.release(file.data, kept(file.dtype));
    state_->drop_graphs();  // they hold the address of the plain matrix
  }
  Cache cache(const Anatomy& anatomy, KvMethod* method, DType dense) {
    state_->expect_layers(int64_t(anatomy.layers.size()));
    return KvCache(state_->home, anatomy, method, dense);
  }
  void use_rope(const Rope& rope) { state_->rotary.emplace(rope, std::is_same_v<T, Bf16>); }

  // ---- a pass ----

  // Tokens of a pass, at most `wanted`, for which there is memory; half of what is free is left to
  // the cache and to weights that are decoded.
  int64_t pass_rows(int64_t wanted, int64_t scalars_per_row) const {
    const int64_t needed = wanted * scalars_per_row * int64_t(sizeof(T));
    if (needed <= state_->scratch.size()) return wanted;  // the driver is slow to ask
    const int64_t room =
        std::max(state_->scratch.size(), int64_t(state_->arena.largest_free() / 2));
    return std::clamp<int64_t>(room / (scalars_per_row * int64_t(sizeof(T))), 1, wanted);
  }

  // steady: this pass does what others of as many rows do (see queue.hpp).
  Batch begin(const std::vector<int32_t>& ids, const std::vector<int32_t>& positions, bool steady) {
    State& s = *state_;
    s.queue.abandon();  // what an error may have left behind
    s.clear_cached_numbers();
    const ComingPass coming = std::exchange(s.home.coming, {});
    s.plain = coming.plain;
    const int64_t n = int64_t(ids.size());
    int64_t last = 0;
    for (const int32_t p : positions) last = std::max<int64_t>(last, p + 1);
    bool moved = s.scratch.begin();
    moved |= s.extend_rotation(last);
    // Per layer: segments of rows to be appended (twice) and of attention, the segment of each row
    // (twice), and what attention's blocks do.
    const size_t per_layer = size_t(coming.sequences) * 3 * sizeof(SegmentView) +
                             size_t(n) * (2 * sizeof(int32_t) + sizeof(AttentionItem)) +
                             8 * Tables::kAlign;
    moved |= s.tables.begin(size_t(n) * 24 + size_t(s.layers) * per_layer + 4096);
    if (moved) s.drop_graphs();
    s.key = steady && !s.queue.synchronous() ? 2 * n + s.plain : -1;
    if (s.key >= 0) {
      const auto found = s.graphs.find(s.key);
      if (found != s.graphs.end()) {
        s.queue.begin_replay();
      } else if (s.seen.count(s.key)) {  // an eager pass of this shape came before
        s.queue.begin_capture();
        s.tables.copy_all(s.seen[s.key]);
      }
    }
    const int32_t* device_ids = s.tables.put(std::span(ids));
    return {n, device_ids, s.tables.put(std::span(positions))};
  }

  // The end of a pass without logits.
  void finish() {
    flush();
    state_->queue.synchronize();
    state_->check_cached_numbers();
  }

  // n numbers where the host can read them; valid until the next operation.
  const float* download(const T* x, int64_t n) {
    State& s = *state_;
    flush();
    s.downloaded.resize(size_t(n) * sizeof(T));
    s.queue.copy(s.downloaded.data(), x, size_t(n) * sizeof(T), cudaMemcpyDeviceToHost);
    s.queue.synchronize();
    s.check_cached_numbers();
    s.floats.resize(size_t(n));
    if constexpr (std::is_same_v<T, float>)
      std::memcpy(s.floats.data(), s.downloaded.data(), size_t(n) * 4);
    else
      ptq::to_float(dtype_of<T>, s.downloaded.data(), n, s.floats.data());
    return s.floats.data();
  }

  // n numbers of the host to the device. Waits for it.
  void upload(const float* from, int64_t n, T* to) {
    State& s = *state_;
    flush();
    if constexpr (std::is_same_v<T, float>) {
      s.queue.copy(to, from, size_t(n) * 4, cudaMemcpyHostToDevice);
    } else {
      s.downloaded.resize(size_t(n) * sizeof(T));
      ptq::from_float(dtype_of<T>, from, n, s.downloaded.data());
      s.queue.copy(to, s.downloaded.data(), size_t(n) * sizeof(T), cudaMemcpyHostToDevice);
    }
    s.queue.synchronize();
  }

  // What is wanted of x [n, width]; valid until the next look. Waits for the device.
  void look(const T* x, int64_t n, int64_t width, const Wanted& wanted, Seen& seen) {
    State& s = *state_;
    if (wanted.rows > 0) {
      const int64_t count = std::min(n, wanted.rows) * width;
      const float* values = download(x, count);
      looked_.values.assign(values, values + count);
      seen.values = looked_.values;
    }
    if (wanted.columns) {
      const Memory<double> squares(s.arena, Region::workspace, width),
          magnitudes(s.arena, Region::workspace, width);
      const Memory<float> largest(s.arena, Region::workspace, width);
      column_sums(s.queue, x, n, width, squares.data(), magnitudes.data(), largest.data());
      seen.squares = fetch(squares, looked_.squares);
      seen.magnitudes = fetch(magnitudes, looked_.magnitudes);
      seen.largest = fetch(largest, looked_.largest);
    }
    if (wanted.gram) {
      const Memory<float> transposed(s.arena, Region::workspace, width * n),
          gram(s.arena, Region::workspace, width * width);
      transpose(s.queue, x, n, width, transposed.data());
      s.gemm.run(s.queue, static_cast<const float*>(transposed.data()),
                 static_cast<const float*>(nullptr), static_cast<const float*>(transposed.data()),
                 width, n, width, gram.data(), width);
      seen.gram = fetch(gram, looked_.gram);
    }
  }

  void poison(Array& x) {
    state_->queue.enqueue([&](cudaStream_t stream) {
      check(cudaMemsetAsync(x.data(), 0xFF, size_t(x.size()) * sizeof(T), stream),
            "cudaMemsetAsync");
    });
  }
  // Rows `picked` of x [*, width] to y [picked, width].
  void pick(const T* x, std::span<const int32_t> picked, int64_t width, T* y) {
    gather_rows(state_->queue, x, state_->tables.put(picked), int64_t(picked.size()), width, y);
  }

  // Keys [rows, width] before rotation into the caches that hold them so.
  void append_unrotated(const std::vector<Target<KvLayer>>& targets, const T* k, int64_t width) {
    State& s = *state_;
    if (s.plain) return;  // no such cache
    for (const Target<KvLayer>& t : targets)
      if (t.cache->keys.pre_rope()) t.cache->keys.extend(t.rows);
    const Rows rows = rows_of(targets);
    cuda::append_unrotated(s.queue, k, rows.segments, rows.segment_of_row, rows.n, width);
  }
  // Rows of k and v [rows, width] into the caches, but for keys that are there already.
  void append(const std::vector<Target<KvLayer>>& targets, const T* k, const T* v, int64_t width) {
    for (const Target<KvLayer>& t : targets) {
      if (!t.cache->keys.pre_rope()) t.cache->keys.extend(t.rows);
      t.cache->values.extend(t.rows);
    }
    const Rows rows = rows_of(targets);
    append_rows(state_->queue, k, v, rows.segments, rows.segment_of_row, rows.n, width);
  }

  // What queries with the given boundaries see of a cache, or of the rows of this pass alone.
  SideView side(const KvRows& rows, const std::vector<int64_t>& boundary) const {
    const bool moves = boundary.front() != boundary.back();
    return rows.view(moves ? -1 : boundary.front());
  }
  SideView side(const T* x, int64_t, const HeadShape& shape) const {
    SideView v;
    v.tail = {x, dtype_of<T>, 0, shape.kv_heads * shape.head_dim, shape.head_dim};
    v.fixed = 0;
    return v;
  }

  // ---- operations ----

  void embed(const Table& table, const Batch& batch, T* x) {
    with_kept_type(table.dtype, [&](auto kind) {
      gather_rows(state_->queue, static_cast<const decltype(kind)*>(table.data), batch.ids,
                  batch.rows, table.columns, x);
    });
  }
  void rms_norm(const T* x, const T* w, float eps, int64_t n, int64_t width, T* y) {
    cuda::rms_norm(state_->queue, x, w, eps, n, width, y);
  }
  void rope(T* x, const Batch& batch, int64_t heads, int64_t dim) {
    cuda::rope(state_->queue, x, batch.positions, batch.rows, heads, dim, state_->cosine.data(),
               state_->sine.data());
  }
  void swiglu(T* gate, const T* up, int64_t n, int64_t width) {
    cuda::swiglu(state_->queue, gate, up, n * width);
  }
  void add(T* x, const T* y, int64_t n, int64_t width) {
    cuda::add(state_->queue, x, y, n * width);
  }
  void disturb(T* x, int64_t n, int64_t width, const LayerNoise& noise, int layer,
               int64_t position) {
    cuda::disturb(state_->queue, x, n, width, noise, layer, position);
  }

  // y [n, out] = x [n, in] W^T + b; bias may be nullptr. x enters as the layer's activations say.
  void linear(const Linear& w, const T* bias, const T* x, int64_t n, T* y) {
    if (w.activation().kind == ActivationKind::full) return product(w, bias, x, n, y);
    T* rounded = state_->room_for_rounded(n * w.in());
    cuda::round_activations(state_->queue, w.activation(), x, n, w.in(), rounded);
    product(w, bias, rounded, n, y);
  }

  // The same with x as it is.
  void product(const Linear& w, const T* bias, const T* x, int64_t n, T* y) {
    State& s = *state_;
    const int64_t in = w.in(), out = w.out();
    if (n <= kSmallRows && (!w.packed() || small_linear_reads(w.affine))) {
      if (w.packed()) return linear_small(s.queue, w.affine, bias, x, in, out, n, y);
      return with_kept_type(w.dense.dtype, [&](auto kind) {
        using W = decltype(kind);
        const DenseWeight<W> weight{static_cast<const W*>(w.dense.data)};
        linear_small(s.queue, weight, bias, x, in, out, n, y);
      });
    }
    if (w.packed() && n < kTilesUpTo) return linear_tiles(s.queue, w.affine, bias, x, n, out, y);
    if (!w.packed() && w.dense.dtype == dtype_of<T>)
      return s.gemm.run(s.queue, static_cast<const T*>(w.dense.data), bias, x, n, in, out, y, out);
    // A slice of plain rows at a time.
    const int64_t slice = std::min(out, std::max<int64_t>(64, kSliceElements / in / 64 * 64));
    T* plain = s.room_for_slice(slice * in);
    for (int64_t begin = 0; begin < out; begin += slice) {
      const int64_t rows = std::min(slice, out - begin);
      if (w.packed()) {
        decode_affine(s.queue, w.affine, begin, rows, plain);
      } else {
        with_kept_type(w.dense.dtype, [&](auto kind) {
          using W = decltype(kind);
          convert(s.queue, static_cast<const W*>(w.dense.data) + begin * in, rows * in, plain);
        });
      }
      s.gemm.run(s.queue, plain, bias ? bias + begin : nullptr, x, n, in, rows, y + begin, out);
    }
  }

  // q and out [rows, heads * head_dim]; each segment attends to its own sequence.
  void attention(const HeadShape& shape, const T* q, const std::vector<Segment<SideView>>& segments,
                 T* out) {
    State& s = *state_;
    int64_t rows = 0, longest = 0;
    bool plain = s.plain;
    std::vector<SegmentView> views;
    for (const Segment<SideView>& segment : segments) {
      plain = plain && segment.keys.plain() && segment.values.plain();
      views.push_back({segment.row, segment.rows, segment.position, segment.keys, segment.values});
      rows += segment.rows;
      longest = std::max(longest, segment.rows);
    }
    const AttentionPlan plan = plan_attention(int64_t(segments.size()), longest, shape.heads,
                                              shape.kv_heads, s.processors);
    std::vector<AttentionItem> items;
    for (size_t i = 0; i < segments.size(); ++i)
      for (int64_t at = 0; at < segments[i].rows; at += plan.queries_per_block)
        items.push_back({int32_t(i), int32_t(at),
                         int32_t(std::min(plan.queries_per_block, segments[i].rows - at))});
    // Later queries read more: their blocks go first, so that the card is busy to the end.
    std::reverse(items.begin(), items.end());

    AttentionArguments<T> a{};
    a.q = q;
    a.out = out;
    a.segments = s.tables.put(std::span<const SegmentView>(views));
    a.items = s.tables.put(std::span<const AttentionItem>(items));
    a.rows = rows;
    a.heads = shape.heads;
    a.kv_heads = shape.kv_heads;
    a.dim = shape.head_dim;
    a.window = shape.window;
    a.scale = 1.4426950408889634f / std::sqrt(float(shape.head_dim));
    if (plan.splits > 1) {
      const int64_t parts = plan.splits * rows * shape.heads;
      a.partial = static_cast<float*>(s.scratch.take(parts * shape.head_dim * 4));
      a.partial_lse = static_cast<float*>(s.scratch.take(parts * 4));
    }
    cuda::attention(s.queue, a, int64_t(items.size()), plan, plain);
  }

 private:
  // Where the rows of a pass go.
  struct Rows {
    const SegmentView* segments;
    const int32_t* segment_of_row;
    int64_t n;
  };
  Rows rows_of(const std::vector<Target<KvLayer>>& targets) {
    std::vector<SegmentView> segments;
    std::vector<int32_t> segment_of_row;
    for (const Target<KvLayer>& t : targets) {
      segment_of_row.insert(segment_of_row.end(), size_t(t.rows), int32_t(segments.size()));
      segments.push_back(
          {t.row, t.rows, t.position, t.cache->keys.view(-1), t.cache->values.view(-1)});
    }
    Tables& tables = state_->tables;
    return {tables.put(std::span<const SegmentView>(segments)),
            tables.put(std::span<const int32_t>(segment_of_row)), int64_t(segment_of_row.size())};
  }

  static constexpr int64_t kTilesUpTo = 256;  // rows; above, decoding once is cheaper
  static constexpr int64_t kSliceElements = int64_t{16} << 20;

  // The dtype in which a stored matrix is kept: its own where the kernels take it as it is.
  static DType kept(DType stored) { return std::is_same_v<T, Bf16> ? DType::bf16 : stored; }
  template <class Fn>
  static void with_kept_type(DType dtype, const Fn& fn) {
    if constexpr (std::is_same_v<T, Bf16>)
      fn(Bf16{});
    else
      with_dense_type(dtype, fn);
  }

  // A copy on the host, when the device is done.
  template <class V>
  std::span<const V> fetch(const Memory<V>& from, std::vector<V>& to) {
    to.resize(size_t(from.size()));
    state_->queue.copy(to.data(), from.data(), to.size() * sizeof(V), cudaMemcpyDeviceToHost);
    state_->queue.synchronize();
    return to;
  }

  // Ends a capture or a replay: the graph runs.
  void flush() {
    State& s = *state_;
    if (s.queue.mode() == Queue::Mode::capture) {
      const cudaGraphExec_t exec = s.queue.end_capture();
      s.graphs[s.key] = exec;
      check(cudaGraphLaunch(exec, s.queue.stream()), "cudaGraphLaunch");
      ++s.graph_launches;
    } else if (s.queue.mode() == Queue::Mode::replay) {
      s.queue.end_replay(s.graphs.at(s.key));
      ++s.graph_launches;
    } else if (s.key >= 0) {
      s.seen[s.key] = s.tables.used();
    }
    s.key = -1;
  }

  using State = DeviceState<T>;
  std::unique_ptr<State> state_;
  struct {
    std::vector<float> values, largest, gram;
    std::vector<double> squares, magnitudes;
  } looked_;  // by the last look()
};

}  // namespace ptq::cuda
