// The rules of the KV cache, whatever device stores its rows: which rows are dense when, what is
// encoded, what a query reads, and what is said when something is wrong. The storage is in
// engine/cpu/kv_cache.hpp and engine/cuda/kv_cache.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/engine/counts.hpp"
#include "ptq/engine/method.hpp"
#include "ptq/engine/modes.hpp"

namespace ptq {

// Of one side of one layer. t, length: tokens; positions are absolute.
class CacheRules {
 public:
  // method: nullptr for full precision, every row dense. Errors: a Hadamard rotation of a head_dim
  // that is no power of two.
  CacheRules(KvSide side, int layer, int64_t head_dim, KvMethod* method)
      : side_(side),
        layer_(layer),
        method_(method),
        policy_(method ? method->policy(side) : KvPolicy{}),
        where_("layer " + std::to_string(layer) + (side == KvSide::keys ? ", keys" : ", values")) {
    if (policy_.hadamard && (head_dim & (head_dim - 1)) != 0)
      throw usage_error("a Hadamard rotation of " + std::to_string(head_dim) + " channels", where_,
                        "head_dim must be a power of two; switch the rotation off");
  }

  const KvPolicy& policy() const { return policy_; }
  const std::string& where() const { return where_; }
  int64_t sink() const { return policy_.sink; }
  // Are rows given to the cache before their rotation, and rotated when they are read?
  bool pre_rope() const { return policy_.pre_rope && side_ == KvSide::keys; }

  // First position that is dense once the cache has settled at a length (the sinks apart).
  int64_t held(int64_t length) const {
    return policy_.sink + (method_ ? policy_.encoded(length) : 0);
  }
  // First position that a query with t tokens before it reads dense.
  int64_t boundary(int64_t t) const { return held(policy_.current ? t + 1 : t); }
  // The same for each of the n queries of a call that begins at `first`.
  std::vector<int64_t> boundaries(Regime regime, int64_t first, int64_t n) const {
    std::vector<int64_t> result;
    for (int64_t i = 0; i < n; ++i)
      result.push_back(regime == Regime::streaming       ? boundary(first + i)
                       : regime == Regime::prefill_exact ? held(first)
                                                         : boundary(first + n - 1));
    return result;
  }
  // Does the token at this position complete a block?
  bool completes_block(int64_t position) const {
    return !policy_.evicts && held(position + 1) != held(position);
  }

  // Of n rows that are appended to a cache of `length`, how many are sinks.
  int64_t sinks_of(int64_t length, int64_t n) const {
    return std::min(n, std::max<int64_t>(0, policy_.sink - length));
  }
  // The rows to be encoded of a cache of `length` that has `encoded` encoded rows: [begin, end) are
  // new; the method is given [first, end), more than them where it rewrites.
  struct Block {
    int64_t first, begin, end;
    bool empty() const { return end <= begin; }
    int64_t rows() const { return end - first; }
  };
  Block due(int64_t encoded, int64_t length) const {
    const int64_t begin = policy_.sink + encoded;
    return {policy_.rewrites ? policy_.sink : begin, begin, policy_.evicts ? begin : held(length)};
  }
  // First position whose dense row stays: the others have an encoding, or are evicted.
  int64_t kept_from(int64_t encoded, int64_t length) const {
    return policy_.evicts ? held(length) : policy_.sink + encoded;
  }

  Error not_finite(int64_t position) const {
    return Error(ExitCode::cells_failed, "a number to be cached is not finite",
                 where_ + ", position " + std::to_string(position),
                 "the model overflows the cache's number format here");
  }
  void require_filled(const RowSink& rows) const {
    if (!rows.filled())
      throw Error(ExitCode::cells_failed, "the method returned without an encoding", where_,
                  "call one function that fills it for every block");
  }

 protected:
  KvSide side_;
  int layer_;
  KvMethod* method_;
  KvPolicy policy_;
  std::string where_;
};

// Must tokens be streamed one at a time? The policy is that of every layer.
template <class Layers>
bool step_by_step(const Layers& layers) {
  return !layers.empty() &&
         (layers[0].keys.policy().step_by_step() || layers[0].values.policy().step_by_step());
}

// Adds one side of one layer: its encoded rows, its dense sinks and tail. verbatim: what is encoded
// is the dense rows themselves.
template <class Encoded, class Dense>
void add_bytes(CacheBytes& sum, const Encoded& encoded, bool verbatim, const Dense& sinks,
               const Dense& tail, int64_t scalars) {
  if (encoded.bytes() > 0)
    sum.encoded_is_dense = verbatim && (sum.encoded_is_dense || sum.encoded == 0);
  sum.encoded += encoded.bytes();
  sum.window += tail.bytes();
  sum.sink += sinks.bytes();
  sum.reserved += encoded.allocated() + tail.allocated() + sinks.allocated() - encoded.bytes() -
                  tail.bytes() - sinks.bytes();
  sum.scalars += scalars;
}
template <class Layers>
CacheBytes cache_bytes(const Layers& layers, int64_t length) {
  CacheBytes sum;
  for (const auto& layer : layers) {
    layer.keys.add_bytes(sum);
    layer.values.add_bytes(sum);
  }
  sum.tokens = length;
  return sum;
}

// What attention read of one side of one of `layers` layers, from the same boundaries that it used;
// the first query stands at position p.
inline void count_reads(CacheReads& read, KvSide side, const CacheRules& rules,
                        const std::vector<int64_t>& boundary, int64_t p, int64_t window,
                        int64_t layers) {
  const int s = int(side);
  const int64_t sink = rules.sink();
  const bool evicts = rules.policy().evicts;
  for (size_t i = 0; i < boundary.size(); ++i) {
    const int64_t end = p + int64_t(i) + 1,
                  begin = window > 0 ? std::max<int64_t>(0, end - window) : 0;
    const int64_t encoded =  // or evicted
        std::max<int64_t>(0, std::min(boundary[i], end) - std::max(begin, sink));
    read.encoded[s] += evicts ? 0.0 : double(encoded);
    read.total[s] += double(end - begin - (evicts ? encoded : 0));
    read.share_sum[s] += double(encoded) / double(end - begin) / double(layers);
  }
}

}  // namespace ptq
