// What one pass runs: requests are checked, cut where that changes nothing, and put side by side.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/engine/pass/cache_rules.hpp"

namespace ptq {

// The part of a request that one pass runs. Sequence: has a member `cache`.
template <class Sequence>
struct Piece {
  Sequence* sequence;
  const Request* request;
  int64_t row;       // of its first token in the pass
  int64_t offset;    // of its first token in the request
  int64_t rows;      // tokens
  int64_t position;  // absolute, of its first token
};

// Errors: an id outside the vocabulary, more context than the model allows, a regime that the cache
// cannot be read in.
template <class Sequence>
void check_request(const Request& r, Sequence& sequence, Regime regime, const ModelConfig& config) {
  const int64_t length = r.sequence.length(), n = int64_t(r.tokens.size());
  for (int64_t i = 0; i < n; ++i)
    if (r.tokens[size_t(i)] < 0 || r.tokens[size_t(i)] >= config.vocab_size)
      throw usage_error("token id " + std::to_string(r.tokens[size_t(i)]) + " at position " +
                            std::to_string(length + i),
                        {}, "ids are 0 to " + std::to_string(config.vocab_size - 1));
  if (length + n > config.max_position_embeddings)
    throw usage_error("a context of " + std::to_string(length + n) + " tokens", {},
                      "this model allows " + std::to_string(config.max_position_embeddings) +
                          " (max_position_embeddings)");
  if (regime == Regime::independent && length > 0)
    throw usage_error("the regime `independent` begins with an empty sequence");
  const auto& first = sequence.cache.layer(0);  // the policy is that of every layer
  if (regime == Regime::prefill_encoded &&
      (first.keys.policy().evicts || first.values.policy().evicts))
    throw usage_error("the regime `prefill-encoded` with a cache that drops rows", {},
                      "use `streaming`: a dropped row has no encoding to read");
}

// Calls run(pieces, rows) for each pass. Whole requests fill a pass of `most` rows until it is
// full. Streaming may be cut anywhere without changing a result, which bounds the memory of a pass;
// the other regimes treat a request as a unit. rest: what is to be run of each request.
template <class Sequence, class Run>
void run_in_passes(std::vector<Piece<Sequence>> rest, Regime regime, int64_t most, const Run& run) {
  std::vector<Piece<Sequence>> pieces;
  int64_t rows = 0;
  const auto flush = [&] {
    if (rows > 0) run(pieces, rows);
    pieces.clear();
    rows = 0;
  };
  for (Piece<Sequence>& left : rest) {
    while (left.rows > 0) {
      const bool cut = regime == Regime::streaming;
      const bool one_by_one = cut && left.sequence->cache.step_by_step();
      if (rows > 0 && (rows >= most || one_by_one || (!cut && rows + left.rows > most))) flush();
      Piece<Sequence> piece = left;
      if (cut) piece.rows = std::min(left.rows, one_by_one ? 1 : most - rows);
      piece.row = rows;
      pieces.push_back(piece);
      rows += piece.rows;
      left.offset += piece.rows;
      left.position += piece.rows;
      left.rows -= piece.rows;
    }
  }
  flush();
}

// Is this a decode step that does the same as others of as many sequences: one token each, all
// logits, and no block that becomes full? Devices may replay what they recorded of another.
template <class Sequence>
bool is_steady(const std::vector<Piece<Sequence>>& pieces, Regime regime) {
  if (regime != Regime::streaming) return false;
  for (const Piece<Sequence>& p : pieces) {
    const auto& first = p.sequence->cache.layer(0);  // the policy is that of every layer
    if (p.rows != 1 || p.request->first_logits_row != 0 || first.keys.completes_block(p.position) ||
        first.values.completes_block(p.position))
      return false;
  }
  return true;
}

template <class Sequence>
std::vector<int32_t> ids_of(const std::vector<Piece<Sequence>>& pieces) {
  std::vector<int32_t> result;
  for (const Piece<Sequence>& p : pieces) {
    const auto part = p.request->tokens.subspan(size_t(p.offset), size_t(p.rows));
    result.insert(result.end(), part.begin(), part.end());
  }
  return result;
}
template <class Sequence>
std::vector<int32_t> positions_of(const std::vector<Piece<Sequence>>& pieces) {
  std::vector<int32_t> result;
  for (const Piece<Sequence>& p : pieces)
    for (int64_t i = 0; i < p.rows; ++i) result.push_back(int32_t(p.position + i));
  return result;
}

}  // namespace ptq
