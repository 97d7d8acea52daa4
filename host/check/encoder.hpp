// What the tests of encoders share: a running instance with the shape that it is usually given, and
// when two answers are the same.
#pragma once

#include <cmath>
#include <cstring>
#include <vector>

#include "host/check/session.hpp"
#include "host/check/test.hpp"

namespace ptq::check {

constexpr int64_t kHeads = 2, kHeadDim = 64;   // of the cache
constexpr int64_t kRows = 32, kColumns = 256;  // of a weight matrix

// A running instance with the shape that it is usually given.
struct Encoder {
  Session session;
  Side side;
  int64_t batch, rows, columns;

  Encoder(const ptq_method& method, const Subject& subject, Side side)
      : session(method, subject), side(side) {
    session.must_create();
    const bool weights = side == Side::weights;
    batch = weights ? 1 : kHeads;
    columns = weights ? kColumns : kHeadDim;
    rows = weights ? kRows : session.block(side, kHeads, kHeadDim);
  }
  std::vector<float> values(uint64_t seed) const { return bell_curve(batch, rows, columns, seed); }
  Encoding encode(const std::vector<float>& values) {
    Input input(batch, rows, columns, values);
    return session.must_encode(side, input);
  }
};

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

inline bool same(const Encoding& a, const Encoding& b) {
  return a.dense == b.dense && a.codes == b.codes && same_bits(a.scale, b.scale) &&
         same_bits(a.zero, b.zero) && same_bits(a.values, b.values) && a.bytes == b.bytes &&
         a.outlier_at == b.outlier_at && same_bits(a.outlier_value, b.outlier_value);
}

inline void must_be_finite(const std::vector<float>& decoded, const char* of) {
  for (size_t i = 0; i < decoded.size(); ++i) {
    if (!std::isfinite(decoded[i])) fail("{}: value {} decodes to {}", of, i, decoded[i]);
  }
}

// A test function of all sides of a capability, from one for a single side.
template <Result (*test)(const Subject&, const ptq_method&, Side), bool cache>
Result each(const Subject& subject) {
  return for_each_side(subject, cache, [&](const ptq_method& method, Side side) {
    return test(subject, method, side);
  });
}

}  // namespace ptq::check
