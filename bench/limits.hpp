// The limits of a device, measured in the same run as what is compared with them.
#pragma once

#include <string>

#include "bench/sheet.hpp"
#include "ptq/engine/engine.hpp"

namespace ptq::bench {

struct Limits {
  double flops = 0;  // per second: float32 multiply-adds on a CPU, a large matrix product on a GPU
  double bytes = 0;  // bytes per second to and from memory
  const char* flops_of = "";  // "of the ..."
  // The same operations by the dot instructions of a CPU, pairs of bfloat16 and fours of bytes; 0
  // where it has none.
  double bf16_flops = 0, int8_ops = 0;
};

// device: from resolve_device.
Limits measure_limits(Sheet& sheet, const std::string& device, Compute compute, int threads);

}  // namespace ptq::bench
