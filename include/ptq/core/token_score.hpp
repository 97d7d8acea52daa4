// The scores of single tokens as they are kept of a run: what statistics of tokens (blocks,
// intervals, pairs of methods) are made from. Plain data; results/token_file.hpp is their file.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace ptq {

// One scored token: a method beside the full-precision reference on the same context. 24 bytes.
struct TokenScore {
  // Nats. The reference's is NaN where the run had none: the baseline itself.
  float nll, nll_reference;
  // KL(reference || method) and KL(method || reference), nats, over the full vocabulary; NaN
  // without a reference.
  float kl, kl_reverse;
  // Sum over the vocabulary of min(p, q), times 65535: the share of drafts of one that the other
  // accepts (Leviathan et al. 2023, arXiv 2211.17192, section 3.3). 0 without a reference.
  uint16_t overlap;
  // The largest probability of the reference (of the baseline itself where there is none), times
  // 65535.
  uint16_t confidence;
  // Low 24 bits: tokens that the method holds more likely than the target, kMostRank at most. Above
  // them: what kFlip and kNotFinite say.
  uint32_t rank_flags;

  static constexpr uint32_t kFlip = uint32_t{1} << 31;  // the argmax is not the reference's
  // A logit of the method is a NaN or an infinity: the token is void, and of its floats only the
  // reference's loss is a number.
  static constexpr uint32_t kNotFinite = uint32_t{1} << 30;
  static constexpr uint32_t kMostRank = (uint32_t{1} << 24) - 1;

  bool has_reference() const { return !std::isnan(nll_reference); }
  bool finite() const { return (rank_flags & kNotFinite) == 0; }
  bool flip() const { return (rank_flags & kFlip) != 0; }
  uint32_t rank() const {
    return rank_flags & kMostRank;
  }  // 0: the likeliest, alone or with others
  double overlap_share() const { return overlap / 65535.0; }
  double confidence_share() const { return confidence / 65535.0; }
  // Change of the target's probability.
  double delta_p() const { return std::exp(-double(nll)) - std::exp(-double(nll_reference)); }
};
static_assert(sizeof(TokenScore) == 24);

// Tokens that follow each other in one context.
struct TokenRun {
  uint32_t cluster;   // the text or window: number (from 0) of its line in samples.jsonl
  uint32_t position;  // of the first scored token in its context
  uint32_t count;     // of scored tokens

  bool operator==(const TokenRun&) const = default;
};
static_assert(sizeof(TokenRun) == 12);

// All of one cell: the tokens of run 0, then those of run 1, ... Two cells of one evaluation with
// equal runs can be compared token by token.
struct TokenFile {
  std::vector<TokenRun> runs;
  std::vector<TokenScore> tokens;
};

}  // namespace ptq
