// Times kernels one by one on the device, by events, beside the limits that the same run measures.
// What is measured stands in kernel_list.hpp.
//
// Between two uses of a buffer the launches move at least twice the second-level cache: each
// measurement has as many copies of its buffers as that takes, and launches take them in turn. So a
// weight is read from memory, as it is when a model runs. Short kernels are timed as a CUDA graph
// of many launches, as decode steps run, long ones launch by launch.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "ptq/engine/cuda/arena.hpp"
#include "ptq/engine/cuda/gemm.hpp"
#include "ptq/engine/cuda/kernels/numbers.cuh"
#include "ptq/engine/cuda/limits.hpp"
#include "ptq/engine/cuda/queue.hpp"
#include "ptq/engine/kernel_row.hpp"

namespace ptq::cuda {

// Copies of one buffer that launches take in turn.
template <class T>
class Rotating {
 public:
  Rotating() = default;
  Rotating(Arena& arena, int64_t copies, int64_t n)
      : copies_(copies),
        stride_(ceil_div(std::max<int64_t>(n, 1), kAlign) * kAlign),
        memory_(std::make_shared<Memory<T>>(arena, Region::workspace, copies * stride_)) {}

  T* at(int64_t turn) const {
    return memory_ ? memory_->data() + turn % copies_ * stride_ : nullptr;
  }
  T* data() const { return memory_->data(); }
  int64_t size() const { return memory_->size(); }  // of all copies together

 private:
  static constexpr int64_t kAlign = 256;  // elements; more than any kernel asks for
  int64_t copies_ = 1, stride_ = 0;
  std::shared_ptr<Memory<T>> memory_;
};

// The work of one turn: one launch, or the few that belong together.
using TurnFn = std::function<void(int64_t turn)>;

// Where measurements are prepared and timed.
class Workbench {
 public:
  Workbench(int device, const KernelBenchSettings& settings)
      : settings_(settings), device_(select(device)), arena_(0), gemm_(arena_) {
    check(cudaDeviceGetAttribute(&processors_, cudaDevAttrMultiProcessorCount, device_),
          "cudaDeviceGetAttribute");
    check(cudaDeviceGetAttribute(&cache_bytes_, cudaDevAttrL2CacheSize, device_),
          "cudaDeviceGetAttribute");
    for (cudaEvent_t& event : events_) check(cudaEventCreate(&event), "cudaEventCreate");
  }
  ~Workbench() {
    for (const cudaEvent_t event : events_) cudaEventDestroy(event);
  }
  Workbench(const Workbench&) = delete;
  Workbench& operator=(const Workbench&) = delete;

  Queue& queue() { return queue_; }
  Gemm& gemm() { return gemm_; }
  int processors() const { return processors_; }
  int64_t copies() const { return copies_; }

  // Before a measurement is prepared, of which a turn moves `bytes`.
  void begin(double bytes) {
    const double wanted = std::ceil(2.0 * cache_bytes_ / std::max(bytes, 1.0));
    copies_ = int64_t(std::min(std::max(wanted, 1.0), double(kMostCopies)));
  }

  // ---- buffers of the measurement that is being prepared ----

  // Not written yet: results. Where all turns share one, as layers share it, copies is 1.
  template <class T>
  Rotating<T> space(int64_t n, int64_t copies = 0) {
    return Rotating<T>(arena_, copies > 0 ? copies : copies_, n);
  }
  // Random numbers: floats in [-1, 1); every byte of codes. Zeros would draw less power.
  template <class T>
  Rotating<T> random(int64_t n, int64_t copies = 0) {
    const Rotating<T> to = space<T>(n, copies);
    const Memory<T>& from = noise<T>();
    for (int64_t at = 0; at < to.size(); at += from.size())
      queue_.copy(to.data() + at, from.data(),
                  size_t(std::min(from.size(), to.size() - at)) * sizeof(T),
                  cudaMemcpyDeviceToDevice);
    return to;
  }
  // fn(copy) -> the values of that copy, n of them
  template <class T, class Fn>
  Rotating<T> table_of(int64_t n, const Fn& fn) {
    const Rotating<T> to = space<T>(n);
    std::vector<T> all(static_cast<size_t>(to.size()));
    for (int64_t copy = 0; copy < copies_; ++copy) {
      const std::vector<T>& values = fn(copy);
      std::copy(values.begin(), values.end(), all.begin() + (to.at(copy) - to.data()));
    }
    queue_.copy(to.data(), all.data(), all.size() * sizeof(T), cudaMemcpyHostToDevice);
    queue_.synchronize();  // the values are about to go
    return to;
  }
  // The same values in every copy.
  template <class T>
  Rotating<T> table(const std::vector<T>& values) {
    return table_of<T>(int64_t(values.size()),
                       [&](int64_t) -> const std::vector<T>& { return values; });
  }

  // ---- time ----

  // The median time of a turn in seconds, and how many were timed. captured: may it be in a graph?
  std::pair<double, int64_t> time(const TurnFn& turn, bool captured) {
    int64_t next = 0;
    double one = 0, spent = 0;
    for (int i = 0; i < (settings_.tiny ? 1 : kWarmUp) && spent < kLongWarmUp; ++i) {
      one = elapsed([&] { turn(next++); });
      spent += one;
    }
    if (!captured || (one >= kShort && !settings_.tiny))
      return repeat([&] { return elapsed([&] { turn(next++); }); }, 1);
    // Whole rounds of the copies, as many as make a graph worth launching.
    const double round = one * double(copies_);
    const int64_t turns = copies_ * (settings_.tiny ? 1 : int64_t(kGraphSeconds / round) + 1);
    queue_.begin_capture();
    for (int64_t i = 0; i < turns; ++i) turn(i);
    const Graph graph(queue_.end_capture());
    const auto launch = [&] {
      return elapsed(
          [&] { check(cudaGraphLaunch(graph.exec, queue_.stream()), "cudaGraphLaunch"); });
    };
    if (!settings_.tiny) launch();  // the first brings it to the device
    return repeat(launch, turns);
  }

  // Is the device still there? Forgets what an error left behind.
  bool recover() {
    queue_.abandon();
    return cudaStreamSynchronize(queue_.stream()) == cudaSuccess;
  }

 private:
  // Single rows of activations: they are in the cache when a model runs, too.
  static constexpr int64_t kMostCopies = 4096;
  static constexpr int kWarmUp = 3;
  static constexpr size_t kMost = 1000;       // times of a row
  static constexpr double kLongWarmUp = 0.1;  // seconds after which no further launch warms up
  static constexpr double kLongRow = 1;       // seconds after which one time has to do
  static constexpr double kShort = 200e-6;    // a launch costs the host some microseconds
  static constexpr double kGraphSeconds = 1e-3;

  struct Graph {
    explicit Graph(cudaGraphExec_t e) : exec(e) {}
    ~Graph() { cudaGraphExecDestroy(exec); }
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;
    cudaGraphExec_t exec;
  };

  static int select(int device) {
    check(cudaSetDevice(device), "cudaSetDevice");
    return device;
  }

  template <class Fn>
  double elapsed(const Fn& work) {
    check(cudaEventRecord(events_[0], queue_.stream()), "cudaEventRecord");
    work();
    check(cudaEventRecord(events_[1], queue_.stream()), "cudaEventRecord");
    check(cudaEventSynchronize(events_[1]), "the device reports");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, events_[0], events_[1]), "cudaEventElapsedTime");
    return double(milliseconds) / 1e3;
  }

  // The median of what `once` says, for one of its turns.
  template <class Fn>
  std::pair<double, int64_t> repeat(const Fn& once, int64_t turns) {
    std::vector<double> times;
    double sum = 0;
    const auto enough = [&] {
      if (settings_.tiny || sum >= kLongRow) return !times.empty();
      return times.size() >= kMost || (times.size() >= 3 && sum >= settings_.row_seconds);
    };
    while (!enough()) {
      times.push_back(once());
      sum += times.back();
    }
    std::sort(times.begin(), times.end());
    return {times[times.size() / 2] / double(turns), int64_t(times.size()) * turns};
  }

  // Random numbers in device memory, made once for each type.
  template <class T>
  const Memory<T>& noise() {
    Memory<T>& memory = std::get<Memory<T>>(noise_);
    if (!memory.empty()) return memory;
    std::vector<T> numbers(size_t{1} << (settings_.tiny ? 12 : 20));
    std::mt19937 random(1);
    for (T& x : numbers) {
      if constexpr (std::is_same_v<T, uint8_t>)
        x = uint8_t(random() >> 24);
      else
        x = from_float<T>(float(random() >> 8) / float(1 << 23) - 1);
    }
    memory = Memory<T>(arena_, Region::workspace, int64_t(numbers.size()));
    queue_.copy(memory.data(), numbers.data(), numbers.size() * sizeof(T), cudaMemcpyHostToDevice);
    queue_.synchronize();
    return memory;
  }

  KernelBenchSettings settings_;
  int device_;
  Queue queue_;
  Arena arena_;  // without slabs: buffers go back to the device with their measurement
  Gemm gemm_;
  int processors_ = 1, cache_bytes_ = 0;
  int64_t copies_ = 1;
  cudaEvent_t events_[2] = {};
  std::tuple<Memory<uint8_t>, Memory<F16>, Memory<Bf16>, Memory<float>> noise_;
};

// One line of the list: what is timed, and what it cannot do without.
struct Measurement {
  std::string kernel, shape;
  double bytes = 0, flops = 0;
  std::function<TurnFn(Workbench&)> prepare;  // makes the buffers, which live as long as the answer
  bool captured = true;                       // may be part of a graph
};

// ---- the run -----------------------------------------------------------------------------------

namespace kernel_bench_detail {

inline bool wanted(const Measurement& m, const std::vector<std::string>& names) {
  const std::string line = m.kernel + " " + m.shape;
  return names.empty() || std::any_of(names.begin(), names.end(), [&](const std::string& name) {
           return line.find(name) != std::string::npos;
         });
}

// The two rates that the rest is compared with, as rows.
inline CudaLimits measure_bench_limits(int device, bool tiny, const KernelRowFn& emit) {
  check(cudaSetDevice(device), "cudaSetDevice");
  const int64_t n = tiny ? 16 : 8192, bytes = tiny ? 4096 : int64_t{1} << 30;
  Queue queue;
  Arena arena(0);
  CudaLimits limits;
  const auto row = [&](const std::string& shape, double moved, double flops, double rate) {
    KernelRow r;
    r.kernel = "limit";
    r.shape = shape;
    r.bytes = moved;
    r.flops = flops;
    r.seconds = (flops > 0 ? flops : moved) / rate;
    r.rate = rate / (flops > 0 ? 1e12 : 1e9);
    r.unit = flops > 0 ? "TFLOP/s" : "GB/s";
    r.share = 1;
    emit(r);
  };
  limits.copy_bytes = copy_rate(queue, arena, bytes);
  row("copy inside the device, read and written", 2.0 * double(bytes), 0, limits.copy_bytes);
  limits.bf16_flops = matrix_rate<Bf16>(queue, arena, n);
  const std::string side = std::to_string(n);
  row("cuBLASLt bf16 " + side + " x " + side + " x " + side, 6.0 * double(n * n),
      2.0 * double(n) * double(n * n), limits.bf16_flops);
  return limits;
}

}  // namespace kernel_bench_detail

// Hands every row to emit as soon as it is measured, the two limits first. A kernel that fails is a
// row with the reason; the rest goes on as long as the device answers. Errors: no row has one of
// the names; the device is lost.
inline void run_measurements(const std::vector<Measurement>& all, int device,
                             const KernelBenchSettings& settings, const KernelRowFn& emit) {
  using namespace kernel_bench_detail;
  const auto start = std::chrono::steady_clock::now();
  std::vector<Measurement> list;
  std::set<std::string> kernels;
  for (const Measurement& m : all) {
    if (wanted(m, settings.names)) list.push_back(m);
    kernels.insert(m.kernel);
  }
  if (list.empty()) {
    std::string known;
    for (const std::string& kernel : kernels) known += (known.empty() ? "" : ", ") + kernel;
    throw usage_error("no kernel has such a name", "--kernels", "there are " + known);
  }
  const CudaLimits limits = measure_bench_limits(device, settings.tiny, emit);
  Workbench bench(device, settings);
  for (const Measurement& m : list) {
    KernelRow row;
    row.kernel = m.kernel;
    row.shape = m.shape;
    row.bytes = m.bytes;
    row.flops = m.flops;
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    if (spent.count() > settings.seconds) {
      row.error = "no time left";
      emit(row);
      continue;
    }
    bool lost = false;
    try {
      bench.begin(m.bytes);
      row.copies = bench.copies();
      const TurnFn turn = m.prepare(bench);
      std::tie(row.seconds, row.launches) = bench.time(turn, m.captured);
      compare_with_limits(row, limits.bf16_flops, limits.copy_bytes);
    } catch (const std::exception& e) {
      row.error = e.what();
      lost = !bench.recover();
    }
    emit(row);
    if (lost)
      throw environment_error("the device is lost", m.kernel + ", " + m.shape,
                              "run the rest with --kernels and other names");
  }
}

}  // namespace ptq::cuda
