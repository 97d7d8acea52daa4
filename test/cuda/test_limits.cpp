// The measured limits: here only that measuring works and gives everything back.
#include <catch2/catch.hpp>
#include <cmath>

#include "ptq/engine/cuda/limits.hpp"

using namespace ptq;

TEST_CASE("cuda: limits are measured and their memory is given back", "[cuda]") {
  size_t before = 0, after = 0, total = 0;
  cuda::measure_limits(0, 16, 4096);  // a library keeps what it loads with its first call
  cudaMemGetInfo(&before, &total);
  const CudaLimits limits = cuda::measure_limits(0, 16, 4096);
  cudaMemGetInfo(&after, &total);
  for (const double rate : {limits.bf16_flops, limits.fp32_flops, limits.copy_bytes}) {
    CHECK(rate > 0);
    CHECK(std::isfinite(rate));
  }
  CHECK(after == before);
}
