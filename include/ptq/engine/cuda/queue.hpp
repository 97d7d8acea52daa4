// The one stream of an engine, on which everything happens in order.
//
// A decode step of a steady shape is captured once as a CUDA graph and replayed afterwards: the
// host runs the same code again, so that all bookkeeping happens, but only the tables that change
// are written and the kernels come from the graph. That is why every launch and every copy of a
// pass goes through here.
#pragma once

#include "ptq/engine/cuda/platform.hpp"

namespace ptq::cuda {

class Queue {
 public:
  enum class Mode { eager, capture, replay };

  Queue() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate"); }
  ~Queue() { cudaStreamDestroy(stream_); }
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  cudaStream_t stream() const { return stream_; }
  Mode mode() const { return mode_; }

  // kernel<<<grid, block, shared bytes>>>(arguments...)
  template <class... P, class... A>
  void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
              A... arguments) {
    if (mode_ != Mode::replay)
      cuda::launch(name, kernel, grid, block, shared, stream_, arguments...);
  }
  // Other work that belongs to a pass, e.g. a call of cuBLAS.
  template <class Fn>
  void enqueue(const Fn& fn) {
    if (mode_ != Mode::replay) fn(stream_);
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
    }
    mode_ = Mode::eager;
  }
  void begin_replay() { mode_ = Mode::replay; }
  void end_replay(cudaGraphExec_t exec) {
    mode_ = Mode::eager;
    check(cudaGraphLaunch(exec, stream_), "cudaGraphLaunch");
  }

 private:
  cudaStream_t stream_ = nullptr;
  Mode mode_ = Mode::eager;
};

}  // namespace ptq::cuda
