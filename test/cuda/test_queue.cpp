// The stream of an engine: what a capture forbids, what an error leaves behind, and the variables
// that help to find a wrong kernel.
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "ptq/engine/cuda/kernels/elementwise.cuh"
#include "ptq/engine/cuda/transformer.hpp"
#include "test/cuda/cuda_test.hpp"
#include "test/support/random_model.hpp"

using namespace ptq;

namespace {

// A variable of the environment as long as this lives.
struct Variable {
  Variable(const char* name, const std::string& value) : name_(name) {
    ::setenv(name, value.c_str(), 1);
  }
  ~Variable() { ::unsetenv(name_); }
  const char* name_;
};

}  // namespace

TEST_CASE("cuda: what a capture forbids is an error, and nobody else's", "[cuda]") {
  cuda::Queue queue;
  cuda::Arena memory(0);
  const ptq::test::OnDevice<float> x(std::vector<float>(8, 1.0f)), y(std::vector<float>(8, 2.0f));
  std::vector<float> pageable(8);
  const auto forbidden = [&](const auto& what) {
    queue.begin_capture();
    CHECK_THROWS_WITH(what(), Catch::Contains("captur"));
    queue.abandon();
    // The launch behind it has no part in that error.
    CHECK_NOTHROW(cuda::add(queue, x.data(), y.data(), 8));
    CHECK_NOTHROW(queue.synchronize());
  };
  forbidden([&] { memory.allocate(cuda::Region::workspace, 1024); });
  forbidden([&] { queue.synchronize(); });
#ifndef __CUDACC__  // a driver may take it, and then reads what is there at each replay
  forbidden([&] { queue.copy(pageable.data(), x.data(), 32, cudaMemcpyDeviceToHost); });
#endif
}

TEST_CASE("cuda: every launch is traced, and waited for when asked", "[cuda]") {
  const auto folder = ptq::test::write_random_model({}, "cuda-trace");
  const auto file = std::filesystem::path(folder) / "trace.txt";
  const auto decoded = [&](uint64_t& graphs) {
    Transformer<cuda::Device<float>> engine(folder, cuda::Device<float>(0));
    auto s = engine.start(nullptr);
    std::vector<float> logits;
    for (int32_t i = 0; i < 6; ++i)
      engine.forward(*s, std::vector<int32_t>{i}, Regime::streaming, 0,
                     [&](int64_t, int64_t rows, const float* p) {
                       logits.insert(logits.end(), p, p + size_t(rows) * 96);
                     });
    graphs = engine.device_for_tests().graph_launches();
    return logits;
  };
  uint64_t graphs = 0, waiting = 0;
  const auto plain = decoded(graphs);
  CHECK(graphs > 0);
  {
    const Variable sync("PTQ_CUDA_SYNC", "1"), trace("PTQ_CUDA_TRACE", file.string());
    CHECK(decoded(waiting) == plain);
    CHECK(waiting == 0);
  }
  std::stringstream text;
  text << std::ifstream(file).rdbuf();
  // 48 inputs, 96 outputs: 8 of them a block. 2 layers, 6 steps.
  CHECK(text.str().find("linear_dense grid 12,1,1 block 128,1,1 shared 0\n") != std::string::npos);
  size_t lines = 0;
  for (size_t at = 0; (at = text.str().find("\nattention grid", at)) != std::string::npos; ++at)
    ++lines;
  CHECK(lines == 12);
  {
    const Variable trace("PTQ_CUDA_TRACE", folder + "/none/trace.txt");
    CHECK_THROWS_WITH(cuda::Queue(), Catch::Contains("PTQ_CUDA_TRACE"));
  }
  std::filesystem::remove_all(folder);
}
