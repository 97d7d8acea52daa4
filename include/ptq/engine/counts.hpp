// What is counted of a cache and of weights: bytes that are there, rows that were read.
#pragma once

#include <cstdint>

namespace ptq {

// Bytes that the cache of one sequence holds now, all layers, keys and values.
struct CacheBytes {
  uint64_t encoded = 0;           // codes, scales, zero points of encoded rows
  uint64_t window = 0;            // dense rows behind the boundary (tail and window)
  uint64_t sink = 0;              // dense first rows
  uint64_t reserved = 0;          // allocated beyond the three above (growth room)
  int64_t tokens = 0;             // rows per layer and side
  int64_t scalars = 0;            // numbers cached: tokens * layers * 2 * kv_heads * head_dim
  bool encoded_is_dense = false;  // every encoded row is the 16-bit row itself (FP16)

  uint64_t total() const { return encoded + window + sink; }
  double bytes_per_token() const { return tokens ? double(total()) / double(tokens) : 0.0; }
  double effective_bits() const { return scalars ? 8.0 * double(total()) / double(scalars) : 0.0; }
};

// Rows that attention read, summed over queries and layers, per side.
struct CacheReads {
  double encoded[2] = {0, 0}, total[2] = {0, 0};  // [KvSide]
  // Mean over queries of the share of visible positions that came from encoded storage (or were
  // evicted, and so not read at all), averaged over queries, sides and layers: 0 means that the
  // numbers say nothing about the method.
  double share_sum[2] = {0, 0};
  double queries = 0;
  double exposure() const {
    return queries > 0 ? 0.5 * (share_sum[0] + share_sum[1]) / queries : 0.0;
  }
};

// Exact bytes of the resident weights.
struct WeightBytes {
  uint64_t encoded = 0;         // bytes of encoded linears, scales and zero points included
  int64_t encoded_scalars = 0;  // numbers in them
  uint64_t dense = 0;           // bytes of everything else, in the dtype of the model's folder
  int64_t dense_scalars = 0;
  int64_t integer_scalars = 0;  // numbers of linear layers that are multiplied as integers
  uint64_t total() const { return encoded + dense; }
  double encoded_bits() const {
    return encoded_scalars ? 8.0 * double(encoded) / double(encoded_scalars) : 0.0;
  }
};

}  // namespace ptq
