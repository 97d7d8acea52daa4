// A digest of every row of logits that an engine hands out: two runs with the same digest computed
// the same bits, whatever the number of threads, the batch or the cut into calls.
#pragma once

#include <xxhash.h>

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ptq/engine/engine_in_front.hpp"

namespace ptq {

// The sum of the XXH3-128 hashes of the rows, each with its position in its sequence as the seed;
// a sum, so that the order in which sequences are computed does not matter. Some 10 us a row.
class LogitsDigest {
 public:
  void add(int64_t position, std::span<const float> row) {
    const XXH128_hash_t hash =
        XXH3_128bits_withSeed(row.data(), row.size_bytes(), XXH64_hash_t(position));
    low_ += hash.low64;
    high_ += hash.high64;
    ++rows_;
  }
  int64_t rows() const { return rows_; }
  // 32 hex digits.
  std::string hex() const {
    std::string out;
    for (const uint64_t half : {high_, low_})
      for (int shift = 60; shift >= 0; shift -= 4) out += "0123456789abcdef"[half >> shift & 15];
    return out;
  }

 private:
  uint64_t low_ = 0, high_ = 0;
  int64_t rows_ = 0;
};

// Another engine, whose logits are added up.
class DigestedEngine : public EngineInFront {
 public:
  using EngineInFront::EngineInFront, Engine::forward;

  const LogitsDigest& digest() const { return digest_; }

  void forward(std::span<const Request> requests, Regime regime, Tap* tap) override {
    std::vector<Request> digested(requests.begin(), requests.end());
    for (Request& request : digested) {
      if (!request.logits) continue;
      request.logits = [this, give = std::move(request.logits), start = request.sequence.length()](
                           int64_t first, int64_t rows, const float* logits) {
        const size_t vocab = size_t(config().vocab_size);
        for (int64_t r = 0; r < rows; ++r)
          digest_.add(start + first + r, {logits + size_t(r) * vocab, vocab});
        give(first, rows, logits);
      };
    }
    engine_.forward(digested, regime, tap);
  }

 private:
  LogitsDigest digest_;
};

}  // namespace ptq
