// Tests on hosts of other versions of plugin.h: structs that end earlier, at a page that cannot be
// read, and structs that go on with fields that nobody knows.
#include "host/check/encoder.hpp"

namespace ptq::check {
namespace {

// All sides of all methods, until something is refused with a sentence.
void use(const ptq_method& method, const Subject& subject, uint32_t minor) {
  for (const Side side : {Side::keys, Side::values, Side::weights}) {
    Session session(method, subject);
    session.host().minor = minor;
    if (session.create().status != PTQ_OK) return;
    if (!session.can(side)) continue;
    const bool weights = side == Side::weights;
    int64_t rows = kRows;
    try {
      if (!weights) rows = session.block(side, kHeads, kHeadDim);
    } catch (const Stop& stop) {  // an older host refuses what it does not know
      if (stop.result.sentence.find("failed: ") == std::string::npos &&
          stop.result.verdict == Verdict::fail)
        throw;
      continue;
    }
    const int64_t batch = weights ? 1 : kHeads, columns = weights ? kColumns : kHeadDim;
    Input input(batch, rows, columns, bell_curve(batch, rows, columns, subject.seed));
    session.encode(side, input.tensor(weights));
  }
}

Result older(const Subject& subject) {
  const ptq_plugin& plugin = load_plugin(subject);
  for (uint32_t i = 0; i < plugin.n_methods; ++i) {
    for (uint32_t minor = 0; minor < PTQ_ABI_MINOR; ++minor) {
      try {
        use(*plugin.methods[i], subject, minor);
      } catch (const Stop& stop) {
        fail("{}, on a host of 1.{}: {}", plugin.methods[i]->name, minor, stop.result.sentence);
      }
    }
  }
  return {};
}

Result later(const Subject& subject, const ptq_method& method, Side side) {
  Encoder today(method, subject, side);
  const std::vector<float> x = today.values(subject.seed);
  Session session(method, subject);
  session.host().later = true;
  session.must_create();
  if (session.block(side, kHeads, kHeadDim) != (side == Side::weights ? 1 : today.rows))
    fail("on a host of a later version its policy is another");
  Input input(today.batch, today.rows, today.columns, x);
  if (!same(today.encode(x), session.must_encode(side, input)))
    fail(
        "on a host of a later version it gives other bytes: it looks at fields that it does not "
        "know");
  return {};
}

}  // namespace

std::vector<Test> growth_tests() {
  return {{"growth-older", "On hosts of earlier versions it works, or refuses with a sentence.",
           "kv-encodes weights-encodes", older},
          {"growth-later-kv", "A host of a later version gets the same bytes from it.",
           "kv-encodes", each<later, true>},
          {"growth-later-weights", "And of a matrix.", "weights-encodes", each<later, false>}};
}

}  // namespace ptq::check
