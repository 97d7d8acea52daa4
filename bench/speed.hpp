// Speed of an engine: prefill, decoding, what a compressed cache and packed weights cost or gain.
#pragma once

#include <cstdint>
#include <string>

#include "ptq/engine/engine.hpp"

namespace ptq::bench {

class Sheet;
struct Limits;

struct SpeedSettings {
  std::string plugins;       // folder with kivi.so and rtn.so
  std::string weights;       // a method of that folder that stores the weights; empty: as they are
  int64_t context = 2048;    // tokens of a pass
  int64_t long_context = 0;  // tokens before the decoded ones of the long measurement; 0 = none
  bool brief = false;        // nothing but prefill and decode with a full-precision cache
  bool long_only = false;    // nothing but that, and of the compressed caches kivi 2-bit alone
  std::string gradients_of;  // folder of the model whose backward pass is measured; empty = none
  int threads = 0;           // of the backward pass
  bool targets = false;      // print the targets of a 7B shape in bf16 on a GPU
};

// Encodes the engine's weights at the end.
void measure_speed(Sheet& sheet, Engine& engine, const Limits& limits,
                   const SpeedSettings& settings);

}  // namespace ptq::bench
