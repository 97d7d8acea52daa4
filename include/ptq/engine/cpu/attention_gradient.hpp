// Causal attention with grouped heads and a sliding window, and its gradient, for float and double.
//
// Per query head, with P = softmax(S), S = Q K^T / sqrt(head_dim) and O = P V:
//   dV = P^T dO,  dP = dO V^T,  dS = P (dP - D),  D_i = dO_i . O_i,
//   dQ = dS K / sqrt(head_dim),  dK = dS^T Q / sqrt(head_dim)
// A masked entry has P = 0 and so dS = 0. The gradient of a key head is the sum over its query
// heads. Scores exist for a block of queries at a time, never as a whole.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "ptq/core/threads.hpp"
#include "ptq/engine/cpu/gradient_ops.hpp"

namespace ptq::cpu {

// One fresh sequence from position 0.
struct SequenceShape {
  int64_t tokens, heads, kv_heads, head_dim;
  int64_t window;  // keys visible to a query, itself included; 0 = all
};

namespace attention_gradient_detail {

inline constexpr int64_t kQueries = 64;  // of a block

// Queries [first, last) and the keys [begin, last) that any of them sees.
struct Block {
  int64_t first, last, begin;
  Block(const SequenceShape& shape, int64_t index)
      : first(index * kQueries),
        last(std::min(first + kQueries, shape.tokens)),
        begin(shape.window > 0 ? std::max<int64_t>(0, first + 1 - shape.window) : 0) {}
  int64_t queries() const { return last - first; }
  int64_t keys() const { return last - begin; }
};
inline int64_t blocks(const SequenceShape& shape) {
  return (shape.tokens + kQueries - 1) / kQueries;
}

// P [queries, keys] of a block; q, k: of this head, with row strides of all heads.
template <class Real>
void probabilities(const SequenceShape& shape, const Block& b, const Real* q, const Real* k,
                   Real* p) {
  const int64_t d = shape.head_dim, q_stride = shape.heads * d, k_stride = shape.kv_heads * d,
                keys = b.keys();
  gemm(CblasNoTrans, CblasTrans, b.queries(), keys, d, 1 / std::sqrt(Real(d)),
       q + b.first * q_stride, q_stride, k + b.begin * k_stride, k_stride, 0, p, keys);
  for (int64_t i = b.first; i < b.last; ++i) {
    Real* row = p + (i - b.first) * keys;
    const int64_t from =
                      shape.window > 0 ? std::max<int64_t>(0, i + 1 - shape.window) - b.begin : 0,
                  to = i + 1 - b.begin;
    std::fill(row, row + from, Real(0));
    softmax(row + from, to - from);
    std::fill(row + to, row + keys, Real(0));
  }
}

}  // namespace attention_gradient_detail

// o [tokens, heads * head_dim] from q of the same shape and k, v [tokens, kv_heads * head_dim].
template <class Real>
void sequence_attention(ThreadPool& pool, const SequenceShape& shape, const Real* q, const Real* k,
                        const Real* v, Real* o) {
  using namespace attention_gradient_detail;
  const int64_t d = shape.head_dim, q_stride = shape.heads * d, k_stride = shape.kv_heads * d,
                group = shape.heads / shape.kv_heads, count = blocks(shape);
  pool.for_each(shape.heads * count, [&](int64_t task) {
    const int64_t head = task % shape.heads, kv = head / group * d;
    const Block b(shape, count - 1 - task / shape.heads);  // the longest first
    thread_local std::vector<Real> p;
    p.resize(size_t(b.queries() * b.keys()));
    probabilities(shape, b, q + head * d, k + kv, p.data());
    gemm(CblasNoTrans, CblasNoTrans, b.queries(), d, b.keys(), 1, p.data(), b.keys(),
         v + b.begin * k_stride + kv, k_stride, 0, o + b.first * q_stride + head * d, q_stride);
  });
}

// dq, dk, dv from d_o, the gradient with respect to o; o as sequence_attention gave it.
template <class Real>
void sequence_attention_gradient(ThreadPool& pool, const SequenceShape& shape, const Real* q,
                                 const Real* k, const Real* v, const Real* o, const Real* d_o,
                                 Real* dq, Real* dk, Real* dv) {
  using namespace attention_gradient_detail;
  const int64_t d = shape.head_dim, q_stride = shape.heads * d, k_stride = shape.kv_heads * d,
                group = shape.heads / shape.kv_heads, head_size = shape.tokens * d;
  // Of every query head, [heads, tokens, head_dim].
  std::vector<Real> dk_heads(size_t(shape.heads * head_size)),
      dv_heads(size_t(shape.heads * head_size));
  pool.for_each(shape.heads, [&](int64_t head) {
    const int64_t kv = head / group * d;
    Real *dk_head = dk_heads.data() + head * head_size,
         *dv_head = dv_heads.data() + head * head_size;
    std::vector<Real> p, ds;
    for (int64_t index = 0; index < blocks(shape); ++index) {
      const Block b(shape, index);
      const int64_t n = b.queries(), keys = b.keys();
      const Real *q_block = q + b.first * q_stride + head * d,
                 *do_block = d_o + b.first * q_stride + head * d,
                 *k_block = k + b.begin * k_stride + kv, *v_block = v + b.begin * k_stride + kv;
      p.resize(size_t(n * keys));
      ds.resize(size_t(n * keys));
      probabilities(shape, b, q + head * d, k + kv, p.data());
      gemm(CblasTrans, CblasNoTrans, keys, d, n, 1, p.data(), keys, do_block, q_stride, 1,
           dv_head + b.begin * d, d);
      gemm(CblasNoTrans, CblasTrans, n, keys, d, 1, do_block, q_stride, v_block, k_stride, 0,
           ds.data(), keys);
      const Real scale = 1 / std::sqrt(Real(d));
      for (int64_t i = 0; i < n; ++i) {
        const Real along =
            dot_of(do_block + i * q_stride, o + (b.first + i) * q_stride + head * d, d);
        const Real* pi = p.data() + i * keys;
        Real* di = ds.data() + i * keys;
        for (int64_t j = 0; j < keys; ++j) di[j] = scale * pi[j] * (di[j] - along);
      }
      gemm(CblasNoTrans, CblasNoTrans, n, d, keys, 1, ds.data(), keys, k_block, k_stride, 0,
           dq + b.first * q_stride + head * d, q_stride);
      gemm(CblasTrans, CblasNoTrans, keys, d, n, 1, ds.data(), keys, q_block, q_stride, 1,
           dk_head + b.begin * d, d);
    }
  });
  pool.for_each(shape.kv_heads, [&](int64_t kv) {
    for (int64_t t = 0; t < shape.tokens; ++t)
      for (int64_t c = 0; c < d; ++c) {
        Real sum_k = 0, sum_v = 0;
        for (int64_t head = kv * group; head < (kv + 1) * group; ++head) {
          sum_k += dk_heads[size_t(head * head_size + t * d + c)];
          sum_v += dv_heads[size_t(head * head_size + t * d + c)];
        }
        dk[t * k_stride + kv * d + c] = sum_k;
        dv[t * k_stride + kv * d + c] = sum_v;
      }
  });
}

}  // namespace ptq::cpu
