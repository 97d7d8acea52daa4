// What a cache method makes of rows, without an engine around it.
#pragma once

#include <cstdint>
#include <vector>

#include "ptq/engine/cpu/encoded_rows.hpp"
#include "test/support/plugin_method.hpp"

namespace ptq::test {

inline ModelConfig shape(int64_t layers, int64_t kv_heads, int64_t head_dim) {
  ModelConfig c;
  c.num_hidden_layers = layers;
  c.num_key_value_heads = kv_heads;
  c.head_dim = head_dim;
  return c;
}

// What rows [heads, tokens, dim] decode to.
struct Coded {
  std::vector<float> values;
  uint64_t bytes = 0;
};
inline Coded through(const Method& m, const ModelConfig& c, KvSide side,
                     const std::vector<float>& x) {
  const int64_t heads = c.num_key_value_heads, dim = c.head_dim,
                tokens = int64_t(x.size()) / heads / dim;
  const int64_t block = m.kv->policy(side).rewrites ? tokens : m.kv->policy(side).block;
  EncodedRows rows(heads, dim, block, 0, "test");
  rows.expect(tokens);
  m.kv->encode(side, 0, 0, tokens, x.data(), rows);
  Coded result{std::vector<float>(x.size()), rows.bytes()};
  for (int64_t h = 0; h < heads; ++h)
    rows.read(h, 0, tokens, result.values.data() + h * tokens * dim, dim);
  return result;
}

}  // namespace ptq::test
