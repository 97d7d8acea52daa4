// Speed of linear layers alone, from every form in which weights are stored.
#pragma once

#include "bench/limits.hpp"
#include "bench/sheet.hpp"

namespace ptq::bench {

// On the CPU; random weights of one layer, far larger than the caches.
void measure_linear(Sheet& sheet, const Limits& limits, int threads);

}  // namespace ptq::bench
