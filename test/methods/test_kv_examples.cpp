// The cache methods of this tree on a few rows whose answers can be worked out by hand.
#include <catch2/catch.hpp>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "test/methods/coded.hpp"

namespace ptq::test {

TEST_CASE("kv methods: q4_0 and q8_0 blocks") {
  const ModelConfig c = shape(1, 1, 32);
  std::vector<float> x(32);
  x[0] = -1, x[1] = -0.5f, x[3] = 0.5f, x[4] = 0.75f;
  // d = .125, codes 0 4 8 12 14 8: all exact.
  const Coded four = through(Method("q4_0", {}, c), c, KvSide::keys, x);
  CHECK(four.values == x);
  CHECK(four.bytes == 18);  // 4.5 bits
  x[0] = 1;                 // the side of the extreme is exact, the other one reaches 7/8
  x[1] = -1;
  const Coded other = through(Method("q4_0", {}, c), c, KvSide::values, x);
  CHECK(other.values[0] == 1);
  CHECK(other.values[1] == -0.875f);
  // A block of zeros: scale 0, zeros.
  CHECK(through(Method("q4_0", {}, c), c, KvSide::keys, std::vector<float>(32)).values ==
        std::vector<float>(32));
  std::vector<float> y(32);
  for (int i = 0; i < 32; ++i) y[size_t(i)] = float(i == 0 ? 127 : i - 16) / 16;
  const Coded eight = through(Method("q8_0", {}, c), c, KvSide::keys, y);
  CHECK(eight.values == y);
  CHECK(eight.bytes == 34);  // 8.5 bits
  // Half away from zero: d = 1, 0.5 -> 1 and -0.5 -> -1.
  std::vector<float> z(32);
  z[0] = 127, z[1] = 0.5f, z[2] = -0.5f;
  const Coded halves = through(Method("q8_0", {}, c), c, KvSide::keys, z);
  CHECK(halves.values[1] == 1);
  CHECK(halves.values[2] == -1);
  // Mixed: keys in 8 bits, values in 4.
  const Method mixed("q4_0", {{"key_type", "q8_0"}}, c);
  CHECK(through(mixed, c, KvSide::keys, y).bytes == 34);
  CHECK(through(mixed, c, KvSide::values, y).bytes == 18);
}

TEST_CASE("kv methods: fp8 rounds to E4M3, half to even, and saturates") {
  const ModelConfig c = shape(1, 1, 16);
  const Method one("fp8", {{"scaling", "one"}}, c);
  const std::vector<float> x = {1.0f, 1.0625f,      1.1875f,       448,      460,   1000,
                                -500, 0.001953125f, 0.0009765625f, 0.00293f, -0.0f, 0.015625f,
                                17,   18.99f,       3.3f,          240};
  // Steps: 1/8 at 1, 32 at 448, 2^-9 below 2^-6. 1.0625 lies between 1 and 1.125: even is 1.
  const std::vector<float> want = {
      1.0f, 1.0f,      1.25f, 448, 448,   448, -448, 0.001953125f, 0.0f, 0.00390625f / 2 * 2,
      0.0f, 0.015625f, 16,    18,  3.25f, 240};
  const Coded got = through(one, c, KvSide::keys, x);
  for (size_t i = 0; i < x.size(); ++i) {
    INFO(x[i]);
    CHECK(got.values[i] == want[i]);
  }
  // Per token: the largest number of a row is exact up to the float16 of its scale.
  const Method token("fp8", {}, c);
  std::vector<float> y = noise(16, 3);
  y[5] = 896;  // s = 2
  const Coded scaled = through(token, c, KvSide::keys, y);
  CHECK(scaled.values[5] == 896);
  CHECK(scaled.bytes == 16 + 2 + 4 * 256);
  for (size_t i = 0; i < 16; ++i)  // half a step of 2^-3 of the number, or of the smallest step
    CHECK(std::abs(scaled.values[i] - y[i]) <= std::abs(y[i]) / 16 + 2 * 0.001f);
}

TEST_CASE("kv methods: the study's KVQuant keeps the largest number of a token") {
  const ModelConfig c = shape(1, 1, 4);
  const std::vector<float> x = {0.1f, -0.4f, 6.0f, 0.3f};
  const Coded with = through(Method("kvquant_study", {}, c), c, KvSide::values, x);
  const std::vector<float> want = {0.0667f, -0.4f, 6.0f, 0.3f};
  for (size_t i = 0; i < 4; ++i) CHECK(with.values[i] == Approx(want[i]).margin(1e-3));
  CHECK(with.bytes == 1 + 4 + 3);  // codes, scale and minimum, value and index
  const Coded without = through(Method("kivi_study", {}, c), c, KvSide::values, x);
  const std::vector<float> plain = {-0.4f, -0.4f, 6.0f, -0.4f};
  for (size_t i = 0; i < 4; ++i) CHECK(without.values[i] == Approx(plain[i]).margin(4e-3));
  // The same numbers through the version that encodes once.
  CHECK(through(Method("kvquant_lite", {}, c), c, KvSide::values, x).values == with.values);
}

TEST_CASE("kv methods: KVQuant finds ranges, levels and outliers of its sample") {
  // Four channels of one head: constant, small, large, with rare outliers.
  const ModelConfig c = shape(1, 1, 4);
  const int64_t tokens = 1000;
  std::mt19937 random(2);
  std::vector<float> x;
  for (int64_t t = 0; t < tokens; ++t) {
    const float u = float(random() >> 8) / float(1 << 23) - 1;  // uniform in [-1, 1)
    x.insert(x.end(), {3.0f, 0.1f * u, 10 * u + 5, t % 100 == 50 ? 100.0f : u});
  }
  const std::vector<float> fisher(x.size(), 1.0f);
  Method m("kvquant", {{"q_norm", false}, {"outlier_share", 0.02}}, c);
  m.kv->calibrate(KvSide::keys, 0, tokens, tokens, x.data(), fisher.data());
  // Uniform numbers: four levels at about -3/4, -1/4, 1/4, 3/4, so the error is at most 1/4 of the
  // range; outliers come back exactly; a constant channel decodes to its constant.
  const std::vector<float> row = {3.0f, 0.05f, 9.0f, 100.0f, 3.0f, -0.09f, 5.5f, 0.5f};
  const Coded got = through(m, c, KvSide::keys, row);
  CHECK(got.values[0] == 3.0f);
  CHECK(std::abs(got.values[1] - 0.05f) < 0.03f);
  CHECK(std::abs(got.values[2] - 9.0f) < 3.0f);
  CHECK(got.values[3] == 100.0f);
  CHECK(got.values[4] == 3.0f);
  CHECK(std::abs(got.values[5] + 0.09f) < 0.03f);
  CHECK(std::abs(got.values[7] - 0.5f) < 0.3f);
  // 2 bits per number, 16 levels of 4 bytes... once; per token a pointer; per outlier 4 bytes.
  CHECK(got.bytes == 2 * 1 + 4 * 4 + 2 * 4 * 2 + 2 * 4 + 1 * 4);
  // Without a sample: a sentence, not a number.
  Method bare("kvquant", {}, c);
  EncodedRows rows(1, 4, 1, 0, "test");
  rows.expect(2);
  CHECK_THROWS_WITH(bare.kv->encode(KvSide::keys, 0, 0, 2, row.data(), rows),
                    Catch::Contains("no calibration sample"));
  // The Fisher information moves levels to where it is large: weight on (0.5, 1) only.
  std::vector<float> upper(x.size());
  for (size_t i = 0; i < x.size(); ++i)
    upper[i] = i % 4 == 1 && x[i] > 0.05f ? 1.0f : i % 4 == 1 ? 1e-6f : 0.0f;
  Method weighted("kvquant", {{"q_norm", false}, {"outlier_share", 0.02}}, c);
  weighted.kv->calibrate(KvSide::keys, 0, tokens, tokens, x.data(), upper.data());
  double plain_error = 0, weighted_error = 0;
  for (float v = 0.055f; v < 0.095f; v += 0.004f) {
    const std::vector<float> probe = {3.0f, v, 5.0f, 0.0f};
    plain_error += std::abs(through(m, c, KvSide::keys, probe).values[1] - v);
    weighted_error += std::abs(through(weighted, c, KvSide::keys, probe).values[1] - v);
  }
  CHECK(weighted_error < 0.5 * plain_error);
}

TEST_CASE("kv methods: the cap of kvquant keeps the numbers farthest out") {
  const ModelConfig c = shape(1, 2, 4);
  const int64_t tokens = 1000;
  std::mt19937 random(2);
  std::vector<float> x;
  for (int64_t i = 0; i < tokens * 8; ++i) x.push_back(float(random() >> 8) / float(1 << 23) - 1);
  const std::vector<float> fisher(x.size(), 1.0f);
  // One token of two heads: four numbers above the ranges, three below, one inside.
  const std::vector<float> row = {2, 5, -2, -3, 0.1f, 4, 3, -4};
  for (const bool nuq : {true, false}) {
    const auto kept = [&](int64_t cap) {
      Method m("kvquant", {{"nuq", nuq}, {"outlier_share", 0.02}, {"cap_outliers", cap}}, c);
      m.kv->calibrate(KvSide::keys, 0, tokens, tokens, x.data(), nuq ? fisher.data() : nullptr);
      const Coded got = through(m, c, KvSide::keys, row);
      std::string exact;
      for (size_t i = 0; i < row.size(); ++i) {
        exact += got.values[i] == row[i] ? 'x' : '.';
        // What is not kept is the nearest end of the range.
        if (got.values[i] != row[i]) CHECK(std::abs(got.values[i]) < 1.1f);
      }
      return exact;
    };
    CHECK(kept(0) == "xxxx.xxx");
    CHECK(kept(21) == "xxxx.xxx");
    CHECK(kept(2) == ".x.x.x.x");
    CHECK(kept(1) == ".x.....x");
  }
}

}  // namespace ptq::test
