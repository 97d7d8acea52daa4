// One method instance on the check's own host, and the input that it is given.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "host/check/host.hpp"
#include "host/check/test.hpp"
#include "ptq/run/surroundings.hpp"

namespace ptq::check {

// Float32 [batch, rows, columns] between guards, read-only for the plugin. The guards hold
// `around`, which no answer may depend on.
class Input {
 public:
  Input(int64_t batch, int64_t rows, int64_t columns, const std::vector<float>& values,
        float around = NAN)
      : batch_(batch), rows_(rows), columns_(columns) {
    memory_.assign(size_t(batch * rows * columns + 2 * kGuard), around);
    for (int64_t i = 0; i < batch * rows * columns; ++i) {
      memory_[size_t(kGuard + i)] = values[size_t(i)];
    }
    before_ = memory_;
  }

  int64_t batch() const { return batch_; }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }

  // As a matrix [rows, columns] for weights, else with the batch axis.
  ptq_tensor tensor(bool matrix) {
    ptq_tensor x{};
    x.data = memory_.data() + kGuard;
    x.dtype = {PTQ_FLOAT, 32, 1};
    x.device_type = PTQ_CPU;
    x.flags = PTQ_READ_ONLY;
    for (int i = 0; i < 6; ++i) x.shape[i] = x.stride[i] = 1;
    const int first = matrix ? 0 : 1;
    x.ndim = 2 + first;
    if (!matrix) {
      x.shape[0] = batch_;
      x.stride[0] = rows_ * columns_;
    }
    x.shape[first] = rows_;
    x.stride[first] = columns_;
    x.shape[first + 1] = columns_;
    return x;
  }
  // By bytes: NaN is not equal to itself.
  bool changed() const {
    return std::memcmp(before_.data(), memory_.data(), memory_.size() * sizeof(float)) != 0;
  }

 private:
  static constexpr int64_t kGuard = 64;
  int64_t batch_, rows_, columns_;
  std::vector<float> memory_, before_;
};

// What is encoded: keys, values or weights.
enum class Side { keys = PTQ_KEYS, values = PTQ_VALUES, weights };

struct Answer {
  ptq_status status = PTQ_OK;
  std::string sentence;
  Encoding encoding;
};

using OptionValues = std::vector<std::pair<std::string, std::string>>;  // name, JSON text

OptionValues default_options(const ptq_method& method);

// A method instance. Everything that breaks the protocol of calls (a status without a sentence,
// memory written outside, ...) stops the test with FAIL.
class Session {
 public:
  Session(const ptq_method& method, const Subject& subject)
      : Session(method, subject, default_options(method)) {}
  Session(const ptq_method& method, const Subject& subject, const OptionValues& options);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  Host& host() { return host_; }
  // create; the status is not ok when the method refused with a sentence.
  Answer create();
  void must_create();
  void destroy();

  // fn(method, call): one call of a function that has no member here.
  template <class Fn>
  Answer call(const char* function, const Fn& fn) {
    Answer answer;
    answer.status = fn(self_, host_.begin());
    settle(function, answer);
    return answer;
  }

  const void* get(const char* id) const { return method_.get(self_, id); }
  bool can(Side side) const;  // does the instance offer the capability, on the CPU
  // Rows per block of the cache policy; FAIL when the policy is not valid. 1 for weights.
  // Calibrates a method that wants it, unless `sample` is false; SKIP for a method that evicts rows
  // and so never encodes any.
  int64_t block(Side side, int64_t heads, int64_t columns, bool sample = true);
  // PTQ_WANT_*; 0 without the capability, FAIL for bits that nobody knows.
  uint32_t wants() const;
  // Two sequences for every layer and side, until one is refused; the heads and columns of block().
  Answer calibrate(int64_t heads, int64_t columns);
  // Of the policy, after block().
  bool calibrated() const { return calibrated_; }
  bool rewrites() const { return rewrites_; }
  Answer encode(Side side, const ptq_tensor& x, int64_t first = 0);
  // The same; stops with FAIL when the method refuses or leaves the encoding empty.
  Encoding must_encode(Side side, Input& input, int64_t first = 0);

 private:
  void settle(const char* function, Answer& answer);
  void must_leave_surroundings(const char* function) const;
  void must_be_alike(Side side, const Encoding& encoding);

  static constexpr int kLayers = 4;

  const ptq_method& method_;
  Host host_;
  Surroundings surroundings_;
  int64_t block_[2] = {0, 0};  // of keys and values, after block()
  std::string form_[2];        // of the encodings so far
  std::vector<float> shared_[2];
  void* self_ = nullptr;
  bool alive_ = false, calibrated_ = false, rewrites_ = false;
};

// Values like those of a cache or a weight matrix: a bell curve with some louder columns.
std::vector<float> bell_curve(int64_t batch, int64_t rows, int64_t columns, uint64_t seed);

// Runs `test(method, side)` for every method and every side of the capability (cache: keys and
// values). SKIP when no method has it.
template <class TestOne>
Result for_each_side(const Subject& subject, bool cache, TestOne test) {
  const ptq_plugin& plugin = load_plugin(subject);
  Result worst{Verdict::skip,
               cache ? "no method compresses the cache" : "no method encodes weights"};
  for (uint32_t i = 0; i < plugin.n_methods; ++i) {
    const ptq_method& method = *plugin.methods[i];
    for (const Side side : {Side::keys, Side::values, Side::weights}) {
      if ((side != Side::weights) != cache) continue;
      Session probe(method, subject);
      if (probe.create().status != PTQ_OK || !probe.can(side)) continue;
      const char* name = side == Side::keys ? "keys" : side == Side::values ? "values" : "weights";
      Result result;
      try {
        result = test(method, side);
      } catch (Stop& stop) {
        result = stop.result;
      }
      if (!result.sentence.empty()) {
        result.sentence = fmt::format("{} ({}): {}", method.name, name, result.sentence);
      }
      if (result.verdict == Verdict::fail) return result;
      // A warning is kept, a pass replaces a skip, and later passes say nothing new.
      if (result.verdict == Verdict::warn || worst.verdict == Verdict::skip) worst = result;
    }
  }
  return worst;
}

}  // namespace ptq::check
