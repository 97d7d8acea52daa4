// What the cache methods cost beside each other.
#pragma once

#include <string>

#include "ptq/engine/engine.hpp"

namespace ptq::bench {

class Sheet;

// For every cache method of a folder of plugins: streaming perplexity over `context` tokens, and
// one layer's keys and values through its encoding alone. plain: seconds of the same pass with a
// full-precision cache.
void measure_methods(Sheet& sheet, Engine& engine, const std::string& plugins, int64_t context,
                     double plain);

}  // namespace ptq::bench
