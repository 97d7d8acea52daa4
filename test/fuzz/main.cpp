// Entry of every libFuzzer program; PTQ_FUZZ_TARGET is one of the functions of targets.hpp.
#include <cstddef>
#include <cstdint>

#include "test/fuzz/targets.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ptq::fuzz::PTQ_FUZZ_TARGET({data, size});
  return 0;
}
