// Tests that the tasks of ptq.math/1 give the same numbers in any order, on any threads.
#include "host/check/encoder.hpp"

namespace ptq::check {
namespace {

Result tasks(const Subject& subject, const ptq_method& method, Side side) {
  Encoder encoder(method, subject, side);
  const std::vector<float> x = encoder.values(subject.seed);
  const Encoding backwards = encoder.encode(x);
  const struct {
    Host::Tasks tasks;
    const char* name;
  } ways[] = {{Host::Tasks::forwards, "forwards"}, {Host::Tasks::threads, "on three threads"}};
  for (const auto& way : ways) {
    Encoder other(method, subject, side);
    other.session.host().tasks = way.tasks;
    if (!same(backwards, other.encode(x)))
      fail("its tasks give other bytes {} than backwards", way.name);
  }
  return {};
}

}  // namespace

std::vector<Test> thread_tests() {
  return {
      {"kv-threads", "Tasks of ptq.math/1 give the same bytes in any order, on any threads.",
       "kv-same-twice", each<tasks, true>},
      {"weights-threads", "So do those of a matrix.", "weights-same-twice", each<tasks, false>}};
}

}  // namespace ptq::check
