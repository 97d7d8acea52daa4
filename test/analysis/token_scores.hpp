// Made-up scores of tokens: a reference's losses and a method beside it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "ptq/results/token_file.hpp"

namespace ptq::test {

// How a made-up method differs from the reference.
struct TokenDamage {
  double mean = 0, spread = 0;  // of the change of a token's loss, nats
  double kl = 0;                // mean KL, nats
};

// `windows` runs of `length` tokens. The reference's losses depend on `seed` alone, the changes on
// `method` too: methods of one seed pair token by token. Neighbours are a little alike.
inline TokenFile make_tokens(size_t windows, size_t length, const TokenDamage& damage,
                             uint64_t seed, uint64_t method) {
  std::mt19937_64 losses(seed), changes(seed * 1000 + method);
  std::normal_distribution<float> normal;
  TokenFile file;
  file.tokens.reserve(windows * length);
  float memory = 0;
  for (size_t w = 0; w < windows; ++w) {
    file.runs.push_back({uint32_t(w), 1, uint32_t(length)});
    for (size_t i = 0; i < length; ++i) {
      const float loss = 2 + normal(losses);
      memory = 0.3f * memory + 0.954f * normal(changes);
      TokenScore token{};
      token.nll_reference = loss;
      token.nll = loss + float(damage.mean) + float(damage.spread) * memory;
      token.kl = float(damage.kl) * memory * memory;
      token.kl_reverse = 1.1f * token.kl;
      token.overlap = uint16_t(65535 - std::min(65535.0f, 20000 * token.kl));
      token.confidence = uint16_t(65535 * std::exp(-std::abs(loss - 2)));
      token.rank_flags = damage.kl > 0 && std::abs(memory) > 2 ? TokenScore::kFlip : 0;
      file.tokens.push_back(token);
    }
  }
  return file;
}

}  // namespace ptq::test
