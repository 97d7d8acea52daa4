// The limits of a device, measured in the same run as what is compared with them.
#pragma once

#include <string>

#include "bench/sheet.hpp"
#include "ptq/engine/engine.hpp"

namespace ptq::bench {

struct Limits {
  double flops = 0;  // floating-point operations per second of a large matrix product
  double bytes = 0;  // bytes per second to and from memory
};

// device: from resolve_device.
Limits measure_limits(Sheet& sheet, const std::string& device, Compute compute, int threads);

}  // namespace ptq::bench
