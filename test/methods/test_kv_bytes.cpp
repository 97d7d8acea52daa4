// The cache methods of this tree: what their encodings cost in bytes, and what more bits buy.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "test/methods/coded.hpp"

namespace ptq::test {
namespace {

double squared_error(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
  return sum;
}

}  // namespace

TEST_CASE("kv methods: bytes equal the formulas") {
  const int64_t heads = 2, dim = 128, tokens = 64, n = heads * tokens * dim;
  const ModelConfig c = shape(1, heads, dim);
  const std::vector<float> x = noise(n, 11);
  const auto bits = [&](const std::string& name, nlohmann::ordered_json options, KvSide side,
                        uint64_t once = 0) {
    Method m(name, options, c);
    m.calibrate(c);
    return 8.0 * double(through(m, c, side, x).bytes - once) / double(n);
  };
  for (const KvSide side : {KvSide::keys, KvSide::values}) {
    CHECK(bits("q8_0", {}, side) == 8.5);
    CHECK(bits("q4_0", {}, side) == 4.5);
    CHECK(bits("fp8", {}, side, 1024) == 8 + 16.0 / dim);
    CHECK(bits("fp8", {{"scaling", "one"}}, side, 1024 + 2 * heads * dim) == 8);
  }
  for (const int b : {1, 2, 4}) {
    const nlohmann::ordered_json o = {{"bits", b}};
    CHECK(bits("kivi", o, KvSide::keys) == b + 32.0 / 32);
    CHECK(bits("kivi", o, KvSide::values) == b + 32.0 / 32);
  }
  // An outlier per token and head: 16 bits of value, 8 of index.
  CHECK(bits("kvquant_lite", {}, KvSide::keys) == 2 + 32.0 / 32 + 24.0 / dim);
  CHECK(bits("kvquant_lite", {}, KvSide::values) == 2 + 32.0 / dim + 24.0 / dim);
  CHECK(bits("kivi_study", {}, KvSide::keys) == 2 + 32.0 / tokens);
  CHECK(bits("kivi_study", {}, KvSide::values) == 2 + 32.0 / dim);
  CHECK(bits("kvquant_study", {}, KvSide::keys) == 2 + 32.0 / tokens + 24.0 / dim);
  // KVQuant: levels, and scales of channels, once; a token of all heads has a pointer (with
  // outliers), values a scale and an offset.
  for (const int b : {2, 3, 4}) {
    const nlohmann::ordered_json o = {{"bits", b}, {"outlier_share", 0}};
    const uint64_t levels = 4u << b;
    CHECK(bits("kvquant", o, KvSide::keys, levels + 4 * heads * dim) == b);
    CHECK(bits("kvquant", o, KvSide::values, levels) == b + 32.0 / double(heads * dim));
  }
  Method sparse("kvquant", {}, c);
  sparse.calibrate(c);
  EncodedRows rows(heads, dim, 1, 0, "test");
  rows.expect(tokens);
  sparse.kv->encode(KvSide::values, 0, 0, tokens, x.data(), rows);
  REQUIRE(rows.outliers().has_value());
  const double outliers = double(rows.outliers()->count());
  CHECK(outliers / double(n) == Approx(0.01).margin(0.006));  // quantiles of 256 numbers
  CHECK(double(rows.bytes()) == double(n) * 2 / 8 + 16 + 4 * tokens + 4 * tokens + 4 * outliers);
  // FORGE: 2 r (T + D) + 1 bytes per chunk and head, 2 D more when centred.
  Method forge("forge", {{"energy", 0.5}}, c);
  EncodedRows factors(heads, dim, 16, 0, "test");
  factors.expect(tokens);
  forge.kv->encode(KvSide::keys, 0, 0, tokens, x.data(), factors);
  uint64_t want = 0;
  for (const uint8_t r : factors.lowrank_matrices().ranks()) {
    CHECK(r > 1);
    want += uint64_t(2 * (r * (16 + dim) + dim) + 1);
  }
  CHECK(factors.bytes() == want);
}

TEST_CASE("kv methods: more bits, less error") {
  const int64_t heads = 2, dim = 64, tokens = 128;
  const ModelConfig c = shape(1, heads, dim);
  std::vector<float> x = noise(heads * tokens * dim, 12);
  const auto error = [&](const std::string& name, nlohmann::ordered_json options, KvSide side) {
    Method m(name, options, c);
    m.calibrate(c);
    return squared_error(x, through(m, c, side, x).values);
  };
  for (const KvSide side : {KvSide::keys, KvSide::values}) {
    for (const std::string name : {"kivi", "kvquant"}) {
      INFO(name << (side == KvSide::keys ? " keys" : " values"));
      const auto at = [&](int bits) { return error(name, {{"bits", bits}}, side); };
      CHECK(at(8) < at(4));
      CHECK(at(4) < at(2));
      CHECK(at(2) < at(1));
    }
    const auto lite = [&](int bits) {
      return error("kvquant_lite", {{"key_bits", bits}, {"value_bits", bits}}, side);
    };
    CHECK(lite(8) < lite(4));
    CHECK(lite(4) < lite(3));
    CHECK(lite(3) < lite(2));
    CHECK(lite(2) < lite(1));
    const auto forge = [&](double energy) {
      return error("forge", {{"energy", energy}, {"raw_fallback", false}}, side);
    };
    CHECK(forge(0.99) < forge(0.95));
    CHECK(forge(0.95) < forge(0.8));
    CHECK(error("q8_0", {}, side) < error("fp8", {}, side));
    CHECK(error("fp8", {}, side) < error("q4_0", {}, side));
    // On a bell curve, levels from k-means beat equal steps of the same bits (KVQuant, table 1).
    CHECK(error("kvquant", {{"outlier_share", 0}}, side) <
          error("kvquant", {{"outlier_share", 0}, {"nuq", false}}, side));
    // Exact outliers leave a smaller range for the others.
    CHECK(error("kvquant", {}, side) < error("kvquant", {{"outlier_share", 0}}, side));
  }
  // Channels with large offsets, as keys have them: per channel beats per token; a rotation helps
  // where a group lies along channels.
  for (int64_t i = 0; i < int64_t(x.size()); ++i)
    if (i % dim % 16 == 3) x[size_t(i)] += 8;
  CHECK(error("kivi", {}, KvSide::keys) < 0.2 * error("kivi", {}, KvSide::values));
  CHECK(error("kivi", {}, KvSide::keys) <
        0.2 * error("kivi", {{"key_axis", "token"}}, KvSide::keys));
}

}  // namespace ptq::test
