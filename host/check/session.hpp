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

#include "host/check/guarded.hpp"
#include "host/check/host.hpp"
#include "host/check/test.hpp"
#include "ptq/run/standard_files.hpp"
#include "ptq/run/surroundings.hpp"

namespace ptq::check {

// Float32 [batch, rows, columns], read-only for the plugin. The memory in front, as far as it can
// be read, holds `around`, which no answer may depend on; none behind can be read.
class Input {
 public:
  Input(int64_t batch, int64_t rows, int64_t columns, std::vector<float> values, float around = NAN)
      : batch_(batch), rows_(rows), columns_(columns), values_(std::move(values)) {
    std::memcpy(&around_, &around, sizeof around_);
    values_.resize(size_t(batch * rows * columns));
  }

  int64_t batch() const { return batch_; }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }

  // A copy of its own, until it is asked for again: for one call. As a matrix [rows, columns] for
  // weights, else with the batch axis.
  ptq_tensor tensor(bool matrix) {
    const size_t bytes = values_.size() * sizeof(float);
    memory_ = std::make_unique<Guarded>("its input", bytes, alignof(float), around_);
    if (bytes > 0) std::memcpy(memory_->data(), values_.data(), bytes);
    memory_->make_read_only();
    ptq_tensor x{};
    x.data = memory_->data();
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
  // The same with one axis, of all numbers.
  ptq_tensor vector() {
    ptq_tensor x = tensor(true);
    x.ndim = 1;
    x.shape[0] = int64_t(values_.size());
    x.shape[1] = x.stride[0] = 1;
    return x;
  }

 private:
  int64_t batch_, rows_, columns_;
  std::vector<float> values_;
  uint32_t around_;
  std::unique_ptr<Guarded> memory_;
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
// Other values of an option, as JSON, the likeliest to be seen first; those that do not go with the
// other options are refused by the method.
std::vector<std::string> other_values(const ptq_option& option);

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
  uint64_t seed() const { return host_.seed; }
  bool other_sample = false;  // it is calibrated with quite another one
  // create; the status is not ok when the method refused with a sentence.
  Answer create();
  void must_create();
  void destroy();

  // fn(method, call): one call of a function that has no member here.
  template <class Fn>
  Answer call(const char* function, const Fn& fn) {
    Answer answer;
    set_doing(std::string(method_.name) + ": " + function);
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
  const std::string& policy() const { return policy_; }          // of both sides, as text
  uint32_t flags(Side side) const { return flags_[int(side)]; }  // PTQ_KV_*
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
  StandardFiles files_;
  pid_t process_ = ::getpid();
  int64_t block_[2] = {0, 0};  // of keys and values, after block()
  std::string policy_;         // after block()
  uint32_t flags_[2] = {0, 0};
  std::string form_[2];  // of the encodings so far
  std::vector<float> shared_[2];
  void* self_ = nullptr;
  bool alive_ = false, calibrated_ = false, rewrites_ = false;
};

// Values like those of a cache or a weight matrix: a bell curve with some louder columns.
std::vector<float> bell_curve(int64_t batch, int64_t rows, int64_t columns, uint64_t seed);
// The same for calibration; `other`: other sizes, and other columns are loud.
std::vector<float> sample_values(int64_t batch, int64_t rows, int64_t columns, uint64_t seed,
                                 bool other);

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
