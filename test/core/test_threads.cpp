// The pool: every index once, whoever is slow, and errors come back.
#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "ptq/core/threads.hpp"

TEST_CASE("thread pool: each index is taken once, with more or fewer tasks than threads",
          "[core]") {
  for (const int threads : {1, 2, 3, 7}) {
    ptq::ThreadPool pool(threads);
    CHECK(pool.size() == threads);
    for (const int64_t count : {0, 1, 2, 3, 6, 7, 8, 100}) {
      std::vector<std::atomic<int>> taken(static_cast<size_t>(count));
      pool.for_each(count, [&](int64_t i) { ++taken[size_t(i)]; });
      for (const auto& times : taken) CHECK(times == 1);
    }
  }
}

TEST_CASE("thread pool: who has finished its share helps with the others'", "[core]") {
  ptq::ThreadPool pool(2);
  // The first half of the indices is one thread's share. Its first task does not end before all
  // others have begun, which only the other thread can do.
  std::atomic<int> begun{0};
  std::atomic<bool> late{false};
  pool.for_each(8, [&](int64_t i) {
    ++begun;
    const auto stop = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (i == 0 && begun < 8) {
      if (std::chrono::steady_clock::now() > stop) {
        late = true;
        return;
      }
      std::this_thread::yield();
    }
  });
  CHECK(begun == 8);
  CHECK_FALSE(late);
}

TEST_CASE("thread pool: the first error is rethrown, and the pool goes on", "[core]") {
  ptq::ThreadPool pool(3);
  const auto fail = [](int64_t i) {
    if (i == 5) throw std::runtime_error("five");
  };
  CHECK_THROWS_WITH(pool.for_each(100, fail), "five");
  std::atomic<int64_t> sum{0};
  pool.for_each(100, [&](int64_t i) { sum += i; });
  CHECK(sum == 4950);
}
