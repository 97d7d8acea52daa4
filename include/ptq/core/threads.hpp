// One pool of threads for the whole program. BLAS is called single-threaded from inside it: two
// pools on the same cores cost a factor of 1.5 to 4. A decoded token has hundreds of small jobs,
// and waking a sleeping thread takes longer than most of them: threads look for the next one for a
// while before they sleep.
#pragma once

#include <algorithm>
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
    shares_ = std::vector<Share>(size_t(std::max(threads, 1)));
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(size_t(i)); });
  }
  ~ThreadPool() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      epoch_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return int(workers_.size()) + 1; }

  // Calls fn(i) for i in 0 .. count-1, each once, in any order; returns when all are done. Every
  // thread goes through a share of neighbouring indices, one by one, and then helps the others with
  // theirs, so that uneven tasks balance. Not reentrant. The first exception is rethrown. A task's
  // result must not depend on the thread that runs it.
  void for_each(int64_t count, const std::function<void(int64_t)>& fn) {
    if (count <= 1 || workers_.empty()) {
      for (int64_t i = 0; i < count; ++i) fn(i);
      return;
    }
    {
      std::lock_guard lock(mutex_);
      fn_ = &fn;
      const int64_t shares = size();
      for (int64_t k = 0; k < shares; ++k) {
        shares_[size_t(k)].next.store(count * k / shares, std::memory_order_relaxed);
        shares_[size_t(k)].end = count * (k + 1) / shares;
      }
      open_ = true;
      error_ = nullptr;
      epoch_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    drain(0);
    // A thread that still sleeps is not waited for: it will find the call closed.
    std::unique_lock lock(mutex_);
    open_ = false;
    const auto all_left = [this] { return inside_.load(std::memory_order_acquire) == 0; };
    if (!all_left()) {
      lock.unlock();
      look_for(all_left);
      lock.lock();
      done_.wait(lock, all_left);
    }
    if (error_) std::rethrow_exception(error_);
  }

 private:
  static constexpr int kLooks = 2000;  // some 50 microseconds

  template <class Fn>
  void look_for(const Fn& happened) const {
    for (int i = 0; i < looks_ && !happened(); ++i) {
#ifdef __x86_64__
      __builtin_ia32_pause();
#endif
    }
  }
  // Indices [next, end) of a thread that nobody has begun.
  struct alignas(64) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  void drain(size_t own) {
    for (size_t k = 0; k < shares_.size(); ++k) {
      Share& share = shares_[(own + k) % shares_.size()];
      for (int64_t i; (i = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;) {
        try {
          (*fn_)(i);
        } catch (...) {
          std::lock_guard lock(mutex_);
          if (!error_) error_ = std::current_exception();
          for (Share& s : shares_) s.next.store(s.end, std::memory_order_relaxed);
        }
      }
    }
  }
  void work(size_t own) {
    uint64_t seen = 0;
    while (true) {
      const auto next = [&] { return epoch_.load(std::memory_order_acquire) != seen; };
      look_for(next);
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, next);
        seen = epoch_.load(std::memory_order_relaxed);
        if (stop_) return;
        if (!open_) continue;
        inside_.fetch_add(1, std::memory_order_relaxed);
      }
      drain(own);
      std::lock_guard lock(mutex_);
      if (inside_.fetch_sub(1, std::memory_order_release) == 1) done_.notify_one();
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(int64_t)>* fn_ = nullptr;
  std::vector<Share> shares_;       // of every thread, the calling one's first
  bool open_ = false;               // may threads still join the call?
  std::atomic<int> inside_{0};      // threads that have joined and not left it
  std::atomic<uint64_t> epoch_{0};  // counts calls
  int looks_ = 0;
  bool stop_ = false;
  std::exception_ptr error_;
};

}  // namespace ptq
