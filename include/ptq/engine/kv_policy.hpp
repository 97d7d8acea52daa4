// What of a cache stays dense. A header of its own: kernels read it, and they are compiled without
// the model's files.
#pragma once

#include <cstdint>

#include "ptq/core/dtype.hpp"

namespace ptq {

// What stays dense; E(t) = block * floor(max(0, t - sink - window) / block) rows after the sinks
// are encoded when t tokens lie before the query (plugin.h). The flags: PTQ_KV_* and
// PTQ_PRE_ROPE in plugin.h.
struct KvPolicy {
  int64_t sink = 0, window = 0, block = 1;
  bool pre_rope = false, current = false, hadamard = false, evicts = false, rewrites = false;

  // Does what a query sees depend on the calls before it, so that tokens go one by one?
  bool step_by_step() const { return evicts || rewrites; }

  PTQ_HD int64_t encoded(int64_t t) const {
    const int64_t free = t - sink - window;
    return free <= 0 ? 0 : free / block * block;
  }
};

}  // namespace ptq
