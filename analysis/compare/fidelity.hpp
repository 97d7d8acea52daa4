// How far the predictions of a cell are from full precision's, with intervals: from its tokens.
#pragma once

#include <cstddef>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "analysis/read/tokens.hpp"
#include "ptq/core/binomial.hpp"

namespace ptq::report {

// A figure with its 95 % interval, unknown where there are too few independent tokens.
struct Estimate {
  double value = std::numeric_limits<double>::quiet_NaN();
  Interval interval;
};

// How far the predictions of one cell are from full precision's, from its tokens. Nats.
struct Fidelity {
  Estimate kl, kl_reverse, kl_median, kl_p90, kl_p99;
  Estimate ear;          // expected acceptance rate: sum over the vocabulary of min(p, q)
  Estimate rms_delta_p;  // of the probability of the target
  Estimate top1;         // share of tokens with the same most likely token
  double kl_max = 0;
  size_t tokens = 0;
  struct Part {
    std::string name;
    size_t tokens = 0;
    Estimate kl, top1;
  };
  std::vector<Part> by_confidence;  // largest probability of full precision
  std::vector<Part> by_position;    // of the token in its context: powers of two
  bool below_floor = false;         // KL not above the measured noise floor
  std::optional<double> floor;      // KL of full precision with noise, where it was measured
  bool ppl_unreliable = false;      // the loss fell although the predictions moved away
};

// floor: KL of full precision with noise, where it was measured. Nothing where full precision did
// not run beside the method. Void tokens are left out.
std::optional<Fidelity> fidelity_of(const TokenFile& file, std::optional<double> floor);

}  // namespace ptq::report
