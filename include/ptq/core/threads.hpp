// One pool of threads for the whole program. BLAS is called single-threaded from inside it: two
// pools on the same cores cost a factor of 1.5 to 4. A decoded token has hundreds of small jobs,
// and waking a sleeping thread takes longer than most of them: threads look for the next one for a
// while before they sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace ptq {

class ThreadPool {
 public:
  // threads <= 0: one per core. The calling thread is one of them.
  explicit ThreadPool(int threads = 0) {
    const int cores = int(std::thread::hardware_concurrency());
    if (threads <= 0) threads = cores;
    looks_ = threads <= cores ? kLooks : 0;  // with more, another one may need the core
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }
  ~ThreadPool() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      ++epoch_;
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return int(workers_.size()) + 1; }

  // Calls fn(i) for i in 0 .. count-1, each once, in any order; returns when all are done. Indices
  // are handed out one by one, so that uneven tasks balance. Not reentrant. The first exception is
  // rethrown. A task's result must not depend on the thread that runs it.
  void for_each(int64_t count, const std::function<void(int64_t)>& fn) {
    if (count <= 1 || workers_.empty()) {
      for (int64_t i = 0; i < count; ++i) fn(i);
      return;
    }
    {
      std::lock_guard lock(mutex_);
      fn_ = &fn;
      count_ = count;
      next_.store(0, std::memory_order_relaxed);
      busy_.store(int(workers_.size()), std::memory_order_relaxed);
      error_ = nullptr;
      ++epoch_;
    }
    wake_.notify_all();
    drain();
    const auto all_done = [this] { return busy_.load(std::memory_order_acquire) == 0; };
    if (!look_for(all_done)) {
      std::unique_lock lock(mutex_);
      done_.wait(lock, all_done);
    }
    if (error_) std::rethrow_exception(error_);
  }

 private:
  static constexpr int kLooks = 2000;  // some 30 microseconds

  template <class Fn>
  bool look_for(const Fn& happened) const {
    for (int i = 0; i < looks_; ++i) {
      if (happened()) return true;
#ifdef __x86_64__
      __builtin_ia32_pause();
#endif
    }
    return happened();
  }
  void drain() {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) {
      try {
        (*fn_)(i);
      } catch (...) {
        std::lock_guard lock(mutex_);
        if (!error_) error_ = std::current_exception();
        next_.store(count_, std::memory_order_relaxed);
      }
    }
  }
  void work() {
    uint64_t seen = 0;
    while (true) {
      // The epoch moves on only when all threads are done with it.
      const auto next = [&] { return epoch_.load(std::memory_order_acquire) != seen; };
      if (!look_for(next)) {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, next);
      }
      seen = epoch_.load(std::memory_order_acquire);
      if (stop_) return;
      drain();
      if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        std::lock_guard lock(mutex_);
        done_.notify_one();
      }
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(int64_t)>* fn_ = nullptr;
  std::atomic<int64_t> next_{0};
  int64_t count_ = 0;
  std::atomic<int> busy_{0};
  std::atomic<uint64_t> epoch_{0};  // counts calls
  int looks_ = 0;
  bool stop_ = false;
  std::exception_ptr error_;
};

}  // namespace ptq
