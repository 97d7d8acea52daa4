// Time of repeated work.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <ctime>
#include <functional>
#include <vector>

namespace ptq::bench {

// Seconds since some fixed moment; of the CPU: of all threads of this process together.
inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
inline double own_cpu() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

struct Timing {
  double median = 0;  // seconds
  double spread = 0;  // (slowest - fastest) / median, without the slowest and fastest twentieth
  double cores = 0;   // own CPU seconds per second of wall time
};

// Of single times, taken since the moments `start` of now() and `cpu` of own_cpu().
inline Timing timing(std::vector<double> times, double start, double cpu) {
  const double wall = now() - start, used = own_cpu() - cpu;
  std::sort(times.begin(), times.end());
  const size_t n = times.size(), cut = n / 20;
  const double median = times[n / 2];
  return {median, (times[n - 1 - cut] - times[cut]) / median, used / wall};
}

// Runs fn once to warm up, then until there are 5 repetitions and half a second of work. clock:
// now, or own_cpu for work of one thread.
inline Timing measure(const std::function<void()>& fn, double (*clock)() = now) {
  fn();
  std::vector<double> times;
  const double start = now(), cpu = own_cpu();
  while (times.size() < 5 || (now() - start < 0.5 && times.size() < 1000)) {
    const double t = clock();
    fn();
    times.push_back(clock() - t);
  }
  return timing(times, start, cpu);
}

}  // namespace ptq::bench
