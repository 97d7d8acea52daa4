// Linear layers on the CPU: y = x W^T + b, from the weight as it is stored.
//
// Few tokens (decoding): the kernels of kernels/table.hpp read the stored rows, so that memory
// moves only the packed bytes. Many tokens: panels of W, decoded once per call to the second-level
// cache, are multiplied with all of x. Weights that no kernel reads are decoded to float32 slice by
// slice first. Both ways give the same bits, whatever the number of tokens, rows and threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "ptq/core/threads.hpp"
#include "ptq/engine/cpu/kernels/table.hpp"
#include "ptq/engine/cpu/simd.hpp"
#include "ptq/engine/weights/linear.hpp"

namespace ptq::cpu {

PTQ_HD inline float round_bf16(float x) { return bf16_to_float(float_to_bf16(x)); }
struct RoundBf16 {
  PTQ_HD float operator()(float x) const { return round_bf16(x); }
};

// y [n, out] = x [n, in] W^T + b of some x.
struct Product {
  const LinearWeight* w;
  const float* bias;  // [out] or nullptr
  float* y;
};

namespace linear_detail {

// From so many tokens on, the product of many is faster than dot products.
inline constexpr int64_t kMany = 8;
// Multiplications below which one thread does it: waking the others would cost more.
inline constexpr int64_t kSmall = 200'000;

// Rows that few() takes together.
inline constexpr int64_t kUnit = 16;

// One product. bf16: the weights as they are multiplied, and y, are rounded to bfloat16.
// pairs: x and those weights are pairs of bfloat16 (see PairKernels).
struct Call {
  int threads;
  const Kernels& kernels;
  const LinearWeight& w;
  const float* bias;  // [out] or nullptr
  const float* x;     // [n, in]
  int64_t n;
  float* y;  // [n, out]
  bool bf16;
  bool pairs = false;
  WeightRows rows = {};  // of w as the kernels read them; of Form::other, decoded() makes them
  // Rows of a file that keeps them in another order are read as they lie, as memory is read
  // fastest; y has that order, too, until all are done.
  const StoredRows* as_they_lie = nullptr;

  int64_t units() const { return (out() + kUnit - 1) / kUnit; }

  int64_t in() const { return pairs ? w.in() / 2 : w.in(); }
  int64_t out() const { return w.out(); }
  // Can it be done in pairs? Then x is of bfloat16, but for what a layer's rounding of inputs may
  // have left.
  bool fits_pairs() const {
    return bf16 && kernels.pairs && w.in() % 2 == 0 && w.activation().kind == ActivationKind::full;
  }
  bool rounds_weights() const { return bf16 && !pairs; }
};

// The codes of an affine weight, where that is all there is to it but an order of its columns.
inline const AffineRows* affine_rows(const LinearWeight& w) {
  if (w.packed()) return w.packed();
  const PackedMatrix* file = w.encoded() || w.scaled() ? nullptr : w.packed_file();
  return file && !file->fp8 ? &file->affine : nullptr;
}
inline const std::vector<int32_t>& order_of_columns(const LinearWeight& w) {
  return w.packed() ? w.order() : w.packed_file()->order;
}

// Its rows in the file, where the weight is nothing else.
inline const StoredRows* rows_of_file(const LinearWeight& w) {
  const bool changed =
      affine_rows(w) || w.dense_rows() || w.encoded() || w.scaled() || w.packed_file();
  return changed ? nullptr : &w.file();
}

// The rows as a kernel can read them; Form::other where the weight has to be decoded. Columns of
// affine rows are in their own order.
inline WeightRows stored_rows(const LinearWeight& w) {
  if (const AffineRows* affine = affine_rows(w)) return WeightRows(*affine);
  if (const DenseRows* dense = w.dense_rows()) return WeightRows(*dense);
  if (const StoredRows* file = rows_of_file(w)) return WeightRows(*file);
  return {};
}

// Rows [begin, end) of W as float32 in a buffer of the thread or in the file; columns as in
// stored_rows().
inline WeightRows decoded(const Call& c, int64_t begin, int64_t end) {
  const int64_t in = c.w.in();
  if (!c.rounds_weights())
    if (const float* rows = c.w.in_place(begin)) return WeightRows(rows, in);
  thread_local std::vector<float> buffer;
  buffer.resize(size_t((end - begin) * in));
  const WeightRows stored = stored_rows(c.w);
  if (stored.form() == Form::codes)
    stored.decode(begin, end, buffer.data());
  else
    c.w.decode(begin, end, buffer.data());
  if (c.rounds_weights())
    for (float& v : buffer) v = round_bf16(v);
  return WeightRows(buffer.data(), in);
}

// A row of x with its columns in the order of the weight's (act-order of GPTQ): turning the inputs
// around once leaves the weight as it is stored.
inline void in_order(const float* x, const std::vector<int32_t>& order, float* out) {
  for (size_t j = 0; j < order.size(); ++j) out[j] = x[order[j]];
}

// Bias and rounding of columns [begin, end) of y, of the tokens [first, stop).
inline void finish(const Call& c, int64_t first, int64_t stop, int64_t begin, int64_t end) {
  for (int64_t i = first; i < stop; ++i) {
    float* row = c.y + i * c.out();
    if (c.bias)
      for (int64_t r = begin; r < end; ++r) row[r] += c.bias[r];
    if (c.bf16)
      for (int64_t r = begin; r < end; ++r) row[r] = round_bf16(row[r]);
  }
}

// Few tokens: rows [r0, r1) of one product.
inline void rows(const Call& c, int64_t r0, int64_t r1) {
  const auto dots = c.pairs ? c.kernels.pairs->dots : c.kernels.dots;
  if (c.rows.form() != Form::other) {
    dots(c.rows, r0, r1, c.x, c.n, c.y + r0, c.out());
  } else {
    constexpr int64_t kDecoded = 16;  // rows at once, which stay in the cache
    for (int64_t r = r0; r < r1; r += kDecoded) {
      const int64_t end = std::min(r + kDecoded, r1);
      dots(decoded(c, r, end), 0, end - r, c.x, c.n, c.y + r, c.out());
    }
  }
  if (!c.as_they_lie) finish(c, 0, c.n, r0, r1);
}

// Where the tasks of a thread's share of `units` end, which take `bytes`. Each takes half of what
// is left, so that threads begin with long stretches of memory and end together.
inline std::vector<int64_t> tasks_of_share(int64_t units, int64_t bytes) {
  constexpr int64_t kLeast = 8 << 10, kMost = 512 << 10;  // bytes of a task
  const int64_t each = std::max<int64_t>(1, bytes / units),
                least = std::max<int64_t>(1, kLeast / each), most = std::max(least, kMost / each);
  std::vector<int64_t> ends;
  for (int64_t at = 0; at < units; ends.push_back(at))
    at = std::min(units, at + std::clamp((units - at + 1) / 2, least, most));
  return ends;
}

// The rows of all products, one behind the other, a share for each thread. for_each(count, fn):
// ThreadPool::for_each() or a loop.
template <class ForEach>
inline void few(const ForEach& for_each, int64_t shares, std::span<const Call> calls) {
  int64_t units = 0, bytes = 0;
  for (const Call& c : calls) {
    units += c.units();
    bytes += int64_t(c.w.bytes());
  }
  const std::vector<int64_t> ends =
      tasks_of_share((units + shares - 1) / shares, (bytes + shares - 1) / shares);
  const int64_t parts = int64_t(ends.size());
  for_each(shares * parts, [&](int64_t task) {
    const int64_t share = task / parts, part = task % parts, first = units * share / shares,
                  stop = units * (share + 1) / shares;
    int64_t begin = std::min(stop, first + (part > 0 ? ends[size_t(part - 1)] : 0)),
            end = std::min(stop, first + ends[size_t(part)]);  // from the first unit of c on
    for (const Call& c : calls) {
      if (begin < std::min(end, c.units())) rows(c, kUnit * begin, std::min(kUnit * end, c.out()));
      begin = std::max<int64_t>(0, begin - c.units());
      end -= c.units();
    }
  });
}

// Panels of a task, 1 .. 4: the tasks of all threads shall end together, and a task reads x once
// for all its panels.
inline int64_t panels_of_task(const Call& c) {
  const int64_t panels = (c.out() + c.kernels.panel_rows - 1) / c.kernels.panel_rows;
  int64_t best = 1, least = INT64_MAX;
  for (int64_t p = 4; p >= 1; --p) {
    const int64_t tasks = (panels + p - 1) / p,
                  longest = (tasks + c.threads - 1) / c.threads * p;  // panels of the last thread
    if (longest < least) least = longest, best = p;
  }
  return best;
}

// Many tokens: a task of one product. Depth is cut, so that the panels of a task stay in the
// second-level cache.
inline void panels(const Call& c, int64_t step, int64_t task) {
  constexpr int64_t kTokens = 8;
  const Kernels& k = c.kernels;
  const auto panel = c.pairs ? k.pairs->panel : k.panel;
  const auto by_panel = c.pairs ? k.pairs->by_panel : k.by_panel;
  const int64_t wide = k.panel_rows, in = c.in(), out = c.out();
  const int64_t begin = task * step, end = std::min(begin + step, out);
  const bool other = c.rows.form() == Form::other;
  const WeightRows w = other ? decoded(c, begin, end) : c.rows;
  const int64_t first = other ? begin : 0;  // row of W that is row 0 of w
  thread_local std::vector<float> packed;
  // A panel takes as many numbers, and begins with a line of the caches.
  const int64_t most = panel_size(wide, std::min(kDepth, in));
  packed.resize(size_t(step / wide * most + kLine));
  float* const all = next_line(packed.data());
  for (int64_t c0 = 0; c0 < in; c0 += kDepth) {
    const int64_t depth = std::min(kDepth, in - c0);
    for (int64_t r = begin; r < end; r += wide)
      panel(w, r - first, end - first, c0, depth, all + (r - begin) / wide * most);
    for (int64_t i = 0; i < c.n; i += kTokens) {
      const int64_t tokens = std::min(kTokens, c.n - i);
      for (int64_t r = begin; r < end; r += wide)
        by_panel(c.x + i * in + c0, tokens, in, all + (r - begin) / wide * most, depth,
                 std::min(wide, end - r), c.y + i * out + r, out, c0 > 0);
      if (c0 + depth == in) finish(c, i, i + tokens, begin, end);  // while they are in the cache
    }
  }
}

// The tasks of all products, beside each other.
template <class ForEach>
inline void many(const ForEach& for_each, std::span<const Call> calls) {
  std::vector<int64_t> steps, counts;  // of each: rows of a task, and tasks
  int64_t tasks = 0;
  for (const Call& c : calls) {
    steps.push_back(c.kernels.panel_rows * panels_of_task(c));
    counts.push_back((c.out() + steps.back() - 1) / steps.back());
    tasks += counts.back();
  }
  for_each(tasks, [&](int64_t task) {
    size_t i = 0;
    for (; task >= counts[i]; ++i) task -= counts[i];
    panels(calls[i], steps[i], task);
  });
}

}  // namespace linear_detail

// Several products of x [n, in], their tasks beside each other: threads meet once. bf16: see Call.
inline void linears(ThreadPool& pool, const Kernels& kernels, std::span<const Product> products,
                    const float* x, int64_t n, bool bf16) {
  using namespace linear_detail;
  const bool by_panels = n >= kMany && kernels.panel;
  std::vector<Call> calls;
  // Inputs as pairs or in other orders, and products in others.
  std::unique_ptr<float[]> pairs;
  std::vector<std::unique_ptr<float[]>> ordered(products.size()), unordered(products.size());
  int64_t work = 0;
  for (const Product& p : products) work += n * p.w->in() * p.w->out();
  const auto for_each = [&](int64_t count, const auto& fn) {
    if (work >= kSmall) return pool.for_each(count, fn);
    for (int64_t i = 0; i < count; ++i) fn(i);
  };
  for (const Product& p : products) {
    Call c{pool.size(), kernels, *p.w, p.bias, x, n, p.y, bf16};
    const int64_t in = p.w->in();
    c.pairs = c.fits_pairs();
    c.rows = stored_rows(*p.w);
    const bool turned = c.rows.form() == Form::codes && !order_of_columns(*p.w).empty();
    std::unique_ptr<float[]>& own = turned ? ordered[calls.size()] : pairs;
    if ((turned || c.pairs) && !own) {
      own = std::make_unique_for_overwrite<float[]>(size_t(n * c.in()));
      for_each(n, [&](int64_t i) {
        const float* from = x + i * in;
        thread_local std::vector<float> row;
        if (turned) {
          row.resize(size_t(in));
          in_order(from, order_of_columns(*p.w), row.data());
          from = row.data();
        }
        float* to = own.get() + i * c.in();
        if (c.pairs)
          kernels.pairs->pack(from, in, to);
        else
          std::copy_n(from, in, to);
      });
    }
    if (turned || c.pairs) c.x = own.get();
    if (c.rounds_weights() && c.rows.form() != Form::bf16) c.rows = {};
    const StoredRows* file = rows_of_file(*p.w);
    if (!by_panels && c.rows.form() != Form::other && file && file->paired > 0) {
      StoredRows rows = *file;
      rows.paired = 0;
      c.rows = WeightRows(rows);
      c.as_they_lie = file;
      unordered[calls.size()] = std::make_unique_for_overwrite<float[]>(size_t(n * c.out()));
      c.y = unordered[calls.size()].get();
    }
    calls.push_back(c);
  }
  if (by_panels) return many(for_each, calls);
  few(for_each, pool.size(), calls);
  for (size_t k = 0; k < calls.size(); ++k) {
    Call c = calls[k];
    if (!c.as_they_lie) continue;
    for (int64_t i = 0; i < n; ++i)
      c.as_they_lie->in_own_order(c.y + i * c.out(), c.out(), products[k].y + i * c.out());
    c.y = products[k].y;
    finish(c, 0, n, 0, c.out());
  }
}

// y [n, out] = x [n, in] W^T + b; bias may be nullptr.
inline void linear(ThreadPool& pool, const Kernels& kernels, const LinearWeight& w,
                   const float* bias, const float* x, int64_t n, float* y, bool bf16) {
  const Product product{&w, bias, y};
  linears(pool, kernels, std::span(&product, 1), x, n, bf16);
}

}  // namespace ptq::cpu
