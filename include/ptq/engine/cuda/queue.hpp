// The one stream of an engine, on which everything happens in order.
//
// A decode step of a steady shape is captured once as a CUDA graph and replayed afterwards: the
// host runs the same code again, so that all bookkeeping happens, but only the tables that change
// are written and the kernels come from the graph. That is why every launch and every copy of a
// pass goes through here.
//
// Two variables of the environment help to find a wrong kernel. PTQ_CUDA_SYNC=1: the host waits
// after every launch, so that an error carries the name of its kernel; nothing is captured.
// PTQ_CUDA_TRACE=FILE: a line for each launch is appended, with grid, block and shared bytes.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "ptq/engine/cuda/platform.hpp"

namespace ptq::cuda {

class Queue {
 public:
  enum class Mode { eager, capture, replay };

  Queue() {
    check(cudaGetDevice(&device_), "cudaGetDevice");
    check(cudaDeviceGetAttribute(&shared_limit_, cudaDevAttrMaxSharedMemoryPerBlockOptin, device_),
          "cudaDeviceGetAttribute");
    if (const char* file = std::getenv("PTQ_CUDA_TRACE"); file && *file) {
      trace_.reset(std::fopen(file, "a"));
      if (!trace_)
        throw Error(ExitCode::environment, "PTQ_CUDA_TRACE cannot be written", file,
                    "name a file in a folder that exists, or unset the variable");
    }
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  ~Queue() { cudaStreamDestroy(stream_); }
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  cudaStream_t stream() const { return stream_; }
  Mode mode() const { return mode_; }

  // Does the host wait after every launch?
  bool synchronous() const { return synchronous_; }

  // kernel<<<grid, block, shared bytes>>>(arguments...)
  template <class... P, class... A>
  void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
              A... arguments) {
    if (mode_ == Mode::replay) return;
    if (shared > 0) ask_for_shared(name, reinterpret_cast<const void*>(kernel), shared);
    if (trace_) trace(name, grid, block, shared);
    cuda::launch(name, kernel, grid, block, shared, stream_, arguments...);
    if (synchronous_) check(cudaStreamSynchronize(stream_), name);
  }
  // Other work that belongs to a pass, e.g. a call of cuBLAS.
  template <class Fn>
  void enqueue(const Fn& fn) {
    if (mode_ == Mode::replay) return;
    fn(stream_);
    if (synchronous_) check(cudaStreamSynchronize(stream_), "work of a library");
  }

  void copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    if (mode_ != Mode::replay)
      check(cudaMemcpyAsync(to, from, bytes, kind, stream_), "cudaMemcpyAsync");
  }

  void synchronize() { check(cudaStreamSynchronize(stream_), "the device reports"); }

  void begin_capture() {
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "begin of a capture");
    mode_ = Mode::capture;
  }
  cudaGraphExec_t end_capture() {
    mode_ = Mode::eager;
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(stream_, &graph), "end of a capture");
    cudaGraphExec_t exec = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&exec, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "cudaGraphInstantiate");
    return exec;
  }
  // Forgets a capture that an error interrupted.
  void abandon() {
    if (mode_ == Mode::capture) {
      cudaGraph_t graph = nullptr;
      if (cudaStreamEndCapture(stream_, &graph) == cudaSuccess && graph) cudaGraphDestroy(graph);
      cudaGetLastError();  // a spoiled capture; no launch to come is to blame
    }
    mode_ = Mode::eager;
  }
  void begin_replay() { mode_ = Mode::replay; }
  void end_replay(cudaGraphExec_t exec) {
    mode_ = Mode::eager;
    check(cudaGraphLaunch(exec, stream_), "cudaGraphLaunch");
  }

 private:
  // Dynamic shared memory beyond 48 KiB, a kernel's own arrays included, has to be asked for. How
  // much those are only the driver knows: so it is asked for always, once per kernel.
  void ask_for_shared(const char* name, const void* kernel, size_t bytes) {
    if (bytes > size_t(shared_limit_))
      throw Error(
          ExitCode::environment,
          std::string("the kernel `") + name + "` needs " + std::to_string((bytes + 1023) / 1024) +
              " KiB of shared memory, a block of this device has " +
              std::to_string(shared_limit_ / 1024) + " KiB",
          "the CUDA engine", "model.compute = \"bf16\" needs half as much; or --device cpu");
    // What is asked for belongs to the device, not to one of the engines on it.
    static std::mutex one_at_a_time;
    static std::map<std::pair<int, const void*>, size_t> asked;
    const std::lock_guard lock(one_at_a_time);
    size_t& held = asked[{device_, kernel}];
    if (bytes <= held) return;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
          name);
    held = bytes;
  }
  void trace(const char* name, dim3 grid, dim3 block, size_t shared) {
    std::fprintf(trace_.get(), "%s grid %u,%u,%u block %u,%u,%u shared %zu%s\n", name, grid.x,
                 grid.y, grid.z, block.x, block.y, block.z, shared,
                 mode_ == Mode::capture ? " captured" : "");
    std::fflush(trace_.get());  // the next launch may end the process
  }
  static bool wanted(const char* variable) {
    const char* value = std::getenv(variable);
    return value && *value && std::string(value) != "0";
  }

  struct Close {
    void operator()(std::FILE* f) const { std::fclose(f); }
  };

  cudaStream_t stream_ = nullptr;
  Mode mode_ = Mode::eager;
  int device_ = 0;
  int shared_limit_ = 0;  // bytes of a block, with opt-in
  const bool synchronous_ = wanted("PTQ_CUDA_SYNC");
  std::unique_ptr<std::FILE, Close> trace_;
};

}  // namespace ptq::cuda
