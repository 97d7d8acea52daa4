// Random but valid sequences of calls: instances side by side, made with random options, numbers of
// all sizes, memory that runs out, requests to stop. Every sequence follows from its seed.
#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "host/check/encoder.hpp"
#include "host/check/pruner.hpp"

namespace ptq::check {
namespace {

constexpr int kCalls = 24;              // of a sequence
constexpr int64_t kMostRows = 1 << 11;  // of a call

class Sequence {
 public:
  Sequence(const ptq_method& method, const Subject& subject)
      : method_(method), subject_(subject), random_(subject.seed * 1000003 + 17) {}

  void run() {
    std::unique_ptr<Instance> instances[2];
    for (int i = 0; i < kCalls; ++i) {
      std::unique_ptr<Instance>& one = instances[below(2)];
      if (!one || below(10) == 0) one = make(std::move(one));
      if (!one) continue;
      if (below(8) == 0)
        one->session.get(kIds[below(std::size(kIds))]);
      else
        encode(*one);
    }
    for (auto& one : instances) end(std::move(one));
    if ((method_.capabilities & PTQ_CAN_PRUNE) != 0) prune();
  }

 private:
  static constexpr const char* kIds[] = {PTQ_KV_1, PTQ_WEIGHTS_1, PTQ_KV_CALIBRATION_1, "",
                                         "ptq",    "ptq.kv/11",   "org.example.later/1"};
  struct Shape {
    int64_t heads, dim;
  };
  static constexpr Shape kShapes[] = {{2, 64}, {1, 128}, {8, 32}, {3, 64}};

  struct Instance {
    Session session;
    Shape shape;
    int64_t block[2] = {0, 0};  // 0: the policy refused, or nothing is encoded
    // The first answers, to be given again at the end.
    struct First {
      Side side;
      int64_t batch, rows, columns, first;
      std::vector<float> x;
      std::vector<float> decoded;
    };
    std::optional<First> first[3];
    int64_t next[2] = {0, 0};  // position

    Instance(const ptq_method& method, const Subject& subject, const OptionValues& options,
             Shape shape)
        : session(method, subject, options), shape(shape) {}
  };

  size_t below(size_t n) { return size_t(random_() % n); }

  OptionValues options() {
    OptionValues values = default_options(method_);
    for (uint32_t i = 0; i < method_.n_options; ++i) {
      const std::vector<std::string> others = other_values(*method_.options[i]);
      if (!others.empty() && below(3) == 0) values[i].second = others[below(others.size())];
    }
    return values;
  }

  // A new instance in place of an old one; none where its options are refused.
  std::unique_ptr<Instance> make(std::unique_ptr<Instance> old) {
    end(std::move(old));
    auto one = std::make_unique<Instance>(method_, subject_, options(),
                                          kShapes[below(std::size(kShapes))]);
    if (one->session.create().status != PTQ_OK) return nullptr;
    for (const Side side : {Side::keys, Side::values}) {
      if (!one->session.can(side)) continue;
      try {
        const int64_t block = one->session.block(side, one->shape.heads, one->shape.dim);
        if (block <= kMostRows) one->block[int(side)] = block;
      } catch (const Stop& stop) {
        const bool refused = stop.result.sentence.find("failed: ") != std::string::npos;
        if (stop.result.verdict == Verdict::fail && !refused) throw;
      }
    }
    return one;
  }

  std::vector<float> numbers(int64_t batch, int64_t rows, int64_t columns) {
    std::vector<float> x = bell_curve(batch, rows, columns, random_());
    const float size = std::ldexp(1.0f, int(below(14)) - 12);
    const size_t kind = below(6);
    for (float& v : x) v *= size;
    if (kind == 0) std::fill(x.begin(), x.end(), size);
    if (kind == 1 && !x.empty()) x[below(x.size())] = 1000 * size;
    if (kind == 2)
      for (float& v : x) v = below(4) == 0 ? v : 0;
    return x;
  }

  void encode(Instance& one) {
    const Side side = Side(below(3));
    const bool weights = side == Side::weights;
    if (!one.session.can(side) || (!weights && one.block[int(side)] == 0)) return;
    constexpr int64_t kWidths[] = {64, 128, 160, 256};
    const int64_t batch = weights ? 1 : one.shape.heads;
    const int64_t columns = weights ? kWidths[below(std::size(kWidths))] : one.shape.dim;
    int64_t rows = int64_t(1 + below(40)), first = 0;
    if (!weights) {
      const int64_t block = one.block[int(side)];
      rows = block * int64_t(1 + below(size_t(std::clamp<int64_t>(kMostRows / block, 1, 4))));
      first = one.next[int(side)];
      one.next[int(side)] += rows;
    }
    const std::vector<float> x = numbers(batch, rows, columns);
    Host& host = one.session.host();
    if (below(5) == 0) host.allocations_left = int64_t(below(6));
    host.cancelled = below(8) == 0;
    const bool troubled = host.allocations_left >= 0 || host.cancelled;
    Input input(batch, rows, columns, x);
    const Answer answer = one.session.encode(side, input.tensor(weights), first);
    host.allocations_left = -1;
    host.cancelled = false;
    if (answer.status != PTQ_OK || !answer.encoding.filled()) return;
    const std::vector<float> decoded = answer.encoding.decode();
    must_be_finite(decoded, "moderate numbers");
    auto& kept = one.first[int(side)];
    if (!kept && !troubled)
      kept = typename Instance::First{side, batch, rows, columns, first, x, decoded};
  }

  // Scores, then some under trouble, then the first ones again.
  void prune() {
    constexpr int kRounds = 4;
    try {
      Pruner one(method_, subject_, options());
      const auto first = one.scores();
      for (int i = 0; i < kRounds; ++i) {
        Host& host = one.session().host();
        if (below(2) == 0) host.allocations_left = int64_t(below(6));
        host.cancelled = below(4) == 0;
        one.silent = below(4) == 0;
        one.scores();
        host.allocations_left = -1;
        host.cancelled = one.silent = false;
      }
      if (one.scores() != first)
        fail("{}: after other calls the same numbers give other scores", method_.name);
      one.session().destroy();
      must_leave_nothing(one.session());
    } catch (const Stop& stop) {
      if (stop.result.verdict != Verdict::skip) throw;  // skip: options that do not prune
    }
  }

  void must_leave_nothing(Session& session) {
    if (const size_t left = session.host().kept())
      fail("{}: destroy left {} piece(s) of memory from alloc unreleased", method_.name, left);
  }

  // What was answered first is answered still, and nothing is left.
  void end(std::unique_ptr<Instance> one) {
    if (!one) return;
    for (const auto& kept : one->first) {
      if (!kept || one->session.rewrites()) continue;
      Input input(kept->batch, kept->rows, kept->columns, kept->x);
      const Encoding again = one->session.must_encode(kept->side, input, kept->first);
      if (!same_bits(again.decode(), kept->decoded))
        fail("{}: after other calls the same call gives other numbers", method_.name);
    }
    one->session.destroy();
    must_leave_nothing(one->session);
  }

  const ptq_method& method_;
  const Subject& subject_;
  std::mt19937_64 random_;
};

Result calls(const Subject& subject) {
  const ptq_plugin& plugin = load_plugin(subject);
  for (uint32_t i = 0; i < plugin.n_methods; ++i) Sequence(*plugin.methods[i], subject).run();
  return {};
}

}  // namespace

std::vector<Test> fuzz_tests() {
  return {{kFuzzTest, "A random but valid sequence of calls; --fuzz SECONDS runs many of them.",
           "kv-encodes weights-encodes prune-scores", calls}};
}

}  // namespace ptq::check
