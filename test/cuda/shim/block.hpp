// Runs the threads of one CUDA block as fibers on one thread of the host (Boost.Context).
//
// A barrier or a warp exchange suspends the fiber until everyone it waits for has arrived. Fibers
// are resumed in a randomly permuted order, anew in every round, from a seed: a missing barrier
// changes results between seeds. A round without progress is a deadlock and is reported with what
// each thread waits for.
#pragma once

#include <boost/context/fiber.hpp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define PTQ_SHIM_ASAN 1
#endif

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace ptq_shim {

inline constexpr int kWarp = 32;

// Values that the lanes of a mask exchange. Two buffers: a lane can begin the next exchange only
// when all have read the last but one.
struct Exchange {
  static constexpr size_t kBytes = 32;
  int arrived = 0;
  uint64_t generation = 0;
  unsigned char slot[2][kWarp][kBytes];
};

class Block;

struct Thread {
  dim3 index;
  int linear = 0;
  Block* block = nullptr;
  const char* waits_for = nullptr;  // nullptr: runs
  bool done = false;
  boost::context::fiber fiber, scheduler;
  void* stack = nullptr;
#ifdef PTQ_SHIM_ASAN
  void* fake_stack = nullptr;
#endif
};

inline thread_local Thread* current = nullptr;
inline thread_local dim3 block_index, block_size, grid_size;

// Stacks are kept between blocks.
class Stacks {
 public:
  static constexpr size_t kSize = 256 << 10;
  static Stacks& mine() {
    static thread_local Stacks stacks;
    return stacks;
  }
  void* take() {
    if (free_.empty()) return std::aligned_alloc(64, kSize);
    void* p = free_.back();
    free_.pop_back();
    return p;
  }
  void give(void* p) {
#ifdef PTQ_SHIM_ASAN
    __asan_unpoison_memory_region(p, kSize);  // a finished frame leaves its red zones behind
#endif
    free_.push_back(p);
  }
  ~Stacks() {
    for (void* p : free_) std::free(p);
  }

 private:
  std::vector<void*> free_;
};

struct StackOf {
  void* base;
  boost::context::stack_context allocate() const {
    boost::context::stack_context context;
    context.size = Stacks::kSize;
    context.sp = static_cast<char*>(base) + Stacks::kSize;
    return context;
  }
  void deallocate(boost::context::stack_context&) const {}
};

class Block {
 public:
  Block(dim3 size, size_t dynamic_shared, uint32_t seed, const char* kernel)
      : size_(size), shared_bytes_(dynamic_shared), random_(seed), kernel_(kernel) {
    // Exactly as large as asked for, so that a sanitizer sees what lies outside.
    if (shared_bytes_ > 0) shared_.reset(new unsigned char[shared_bytes_]);
  }

  // Runs all threads of the block at `index` to their end.
  void run(dim3 index, const std::function<void()>& body) {
    block_index = index;
    block_size = size_;
    if (shared_) std::memset(shared_.get(), 0xFF, shared_bytes_);  // NaN as float and as 16 bit
    const int n = int(size_.x * size_.y * size_.z);
    warps_.assign(size_t((n + kWarp - 1) / kWarp), {});
    live_ = n;
    arrived_ = 0;
    error_ = nullptr;
    threads_.clear();
    for (int i = 0; i < n; ++i) {
      threads_.push_back(std::make_unique<Thread>());
      Thread& t = *threads_.back();
      t.linear = i;
      t.index = dim3(unsigned(i) % size_.x, unsigned(i) / size_.x % size_.y,
                     unsigned(i) / (size_.x * size_.y));
      t.block = this;
      t.stack = Stacks::mine().take();
      t.fiber = boost::context::fiber(std::allocator_arg, StackOf{t.stack},
                                      [&t, &body, this](boost::context::fiber&& scheduler) {
                                        t.scheduler = std::move(scheduler);
                                        entered(t);
                                        try {
                                          body();
                                        } catch (...) {
                                          if (!error_) error_ = std::current_exception();
                                        }
                                        t.done = true;
                                        --live_;
                                        ++progress_;
                                        release_barrier();
                                        leaving(t, true);
                                        return std::move(t.scheduler);
                                      });
    }
    std::vector<int> order(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i) order[size_t(i)] = i;
    while (live_ > 0) {
      const uint64_t before = progress_;
      for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random_() % i]);
      for (const int i : order)
        if (!threads_[size_t(i)]->done) resume(*threads_[size_t(i)]);
      if (progress_ == before) report_deadlock();
    }
    current = nullptr;
    for (auto& t : threads_) Stacks::mine().give(t->stack);
    if (error_) std::rethrow_exception(error_);
  }

  void* dynamic_shared() const { return shared_.get(); }

  // Waits until all live threads of the block are here; returns how many brought `vote`.
  int barrier(bool vote) {
    votes_ += vote;
    const uint64_t mine = barrier_generation_;
    ++arrived_;
    ++progress_;
    release_barrier();
    wait("__syncthreads", [&] { return barrier_generation_ != mine; });
    return result_[mine % 2];
  }

  // Deposits this lane's value, waits for the lanes of the mask and gives the slots of all.
  const Exchange& exchange(uint32_t mask, const void* value, size_t bytes, int& buffer) {
    const int lane = current->linear % kWarp;
    if (!(mask >> lane & 1)) fail("a lane that is not in its own mask");
    Exchange& e = warps_[size_t(current->linear / kWarp)][mask];
    buffer = int(e.generation % 2);
    std::memcpy(e.slot[buffer][lane], value, bytes);
    const uint64_t mine = e.generation;
    ++progress_;
    if (++e.arrived == __builtin_popcount(mask)) {
      e.arrived = 0;
      ++e.generation;
    } else {
      wait("a warp exchange", [&] { return e.generation != mine; });
    }
    return e;
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw std::runtime_error(std::string(kernel_) + ": " + what + ", block " +
                             std::to_string(block_index.x) + "," + std::to_string(block_index.y) +
                             "," + std::to_string(block_index.z) + ", thread " +
                             std::to_string(current ? current->linear : -1));
  }

 private:
  void release_barrier() {
    if (live_ == 0 || arrived_ < live_ || arrived_ == 0) return;
    arrived_ = 0;
    result_[barrier_generation_ % 2] = votes_;
    votes_ = 0;
    ++barrier_generation_;
  }

  template <class Ready>
  void wait(const char* reason, const Ready& ready) {
    Thread& t = *current;
    while (!ready()) {
      t.waits_for = reason;
      leaving(t, false);
      t.scheduler = std::move(t.scheduler).resume();
      entered(t);
    }
    t.waits_for = nullptr;
  }

  void resume(Thread& t) {
    current = &t;
#ifdef PTQ_SHIM_ASAN
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, t.stack, Stacks::kSize);
#endif
    t.fiber = std::move(t.fiber).resume();
#ifdef PTQ_SHIM_ASAN
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  }
  // On the fiber's side of a switch.
  void entered([[maybe_unused]] Thread& t) {
#ifdef PTQ_SHIM_ASAN
    __sanitizer_finish_switch_fiber(t.fake_stack, &scheduler_stack_, &scheduler_size_);
#endif
  }
  void leaving([[maybe_unused]] Thread& t, [[maybe_unused]] bool for_ever) {
#ifdef PTQ_SHIM_ASAN
    __sanitizer_start_switch_fiber(for_ever ? nullptr : &t.fake_stack, scheduler_stack_,
                                   scheduler_size_);
#endif
  }

  [[noreturn]] void report_deadlock() {
    std::map<std::string, int> waiting;
    for (const auto& t : threads_)
      if (!t->done) ++waiting[t->waits_for ? t->waits_for : "nothing"];
    std::string text = std::string(kernel_) + ": deadlock;";
    for (const auto& [what, count] : waiting)
      text += " " + std::to_string(count) + " threads wait for " + what + ";";
    std::fprintf(stderr, "%s\n", text.c_str());
    std::abort();  // the fibers cannot be unwound
  }

  dim3 size_;
  size_t shared_bytes_;
  std::mt19937 random_;
  const char* kernel_;
  std::unique_ptr<unsigned char[]> shared_;
  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<std::map<uint32_t, Exchange>> warps_;
  int live_ = 0, arrived_ = 0, votes_ = 0, result_[2] = {0, 0};
  uint64_t barrier_generation_ = 0, progress_ = 0;
  std::exception_ptr error_;
#ifdef PTQ_SHIM_ASAN
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_size_ = 0;
#endif
};

}  // namespace ptq_shim
