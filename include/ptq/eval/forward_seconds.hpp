// A call of an engine by the clock.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "ptq/engine/engine.hpp"

namespace ptq::eval {

// Runs the requests and returns the seconds in the engine: what the receivers of logits do happens
// inside its call and takes no share of them.
inline double forward_seconds(Engine& engine, std::span<const Request> requests, Regime regime) {
  using Clock = std::chrono::steady_clock;
  if (requests.empty()) return 0;
  double scoring = 0;
  std::vector<Request> timed(requests.begin(), requests.end());
  for (Request& request : timed) {
    if (!request.logits) continue;
    request.logits = [&scoring, inner = std::move(request.logits)](int64_t row, int64_t rows,
                                                                   const float* logits) {
      const auto begin = Clock::now();
      inner(row, rows, logits);
      scoring += std::chrono::duration<double>(Clock::now() - begin).count();
    };
  }
  const auto begin = Clock::now();
  engine.forward(timed, regime);
  return std::chrono::duration<double>(Clock::now() - begin).count() - scoring;
}

}  // namespace ptq::eval
