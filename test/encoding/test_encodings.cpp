// The codebook, outlier and low-rank encodings, and the Hadamard transform.
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <random>
#include <vector>

#include "ptq/encoding/codebook.hpp"
#include "ptq/encoding/hadamard.hpp"
#include "ptq/encoding/lowrank.hpp"
#include "ptq/encoding/outliers.hpp"
#include "ptq/engine/cpu/encoded_rows.hpp"

using namespace ptq;

namespace {

std::vector<float> noise(int64_t n, uint32_t seed = 1) {
  std::mt19937 random(seed);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) {
    float u = -1.5f;
    for (int i = 0; i < 3; ++i) u += float(random() >> 8) / float(1 << 24);
    v = 2 * u;  // about normal, variance 1
  }
  return x;
}

double relative_error(const std::vector<float>& x, const std::vector<float>& y) {
  double error = 0, size = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    error += (double(x[i]) - y[i]) * (double(x[i]) - y[i]);
    size += double(x[i]) * x[i];
  }
  return std::sqrt(error / size);
}

// x [batch, n, columns] through the low-rank encoding.
std::vector<float> through(LowRankRows& rows, const std::vector<float>& x, int64_t batch, int64_t n,
                           int64_t columns) {
  rows.append(x.data(), n);
  std::vector<float> out(x.size());
  for (int64_t b = 0; b < batch; ++b) rows.decode(b, 0, n, out.data() + b * n * columns, columns);
  return out;
}

}  // namespace

TEST_CASE("codebook: codes, scales and offsets of every kind decode to level * scale + offset") {
  std::mt19937 random(3);
  const int64_t batch = 3, n = 7;
  for (const int bits : {1, 2, 3, 4, 8})
    for (const int64_t columns : {5, 16, 48, 300})
      for (const ScaleOf kind : {ScaleOf::row, ScaleOf::token, ScaleOf::column})
        for (const bool has_offset : {false, true}) {
          INFO(bits << " bits, " << columns << " columns, kind " << int(kind));
          const size_t count = size_t(kind == ScaleOf::row     ? batch * n
                                      : kind == ScaleOf::token ? n
                                                               : batch * columns);
          std::vector<uint8_t> codes(size_t(batch * n * columns));
          for (auto& c : codes) c = uint8_t(random() & ((1u << bits) - 1));
          std::vector<float> levels = noise(1 << bits, 5), scale = noise(int64_t(count), 6),
                             offset = noise(int64_t(count), 7);
          for (float& v : scale) v = round_f16(v);
          for (float& v : offset) v = round_f16(v);
          CodebookRows rows({bits, kind, has_offset}, batch, columns);
          const float* o = has_offset ? offset.data() : nullptr;
          rows.append(codes.data(), levels.data(), scale.data(), o, n, "test");
          for (int64_t b = 0; b < batch; ++b)
            for (const auto& [begin, end] : {std::array<int64_t, 2>{0, n}, {2, 5}}) {
              std::vector<float> out(size_t((end - begin) * (columns + 3)), -1.0f);
              rows.decode(b, begin, end, out.data(), columns + 3);
              for (int64_t r = begin; r < end; ++r)
                for (int64_t c = 0; c < columns; ++c) {
                  const size_t s = size_t(kind == ScaleOf::row     ? b * n + r
                                          : kind == ScaleOf::token ? r
                                                                   : b * columns + c);
                  const float level = levels[codes[size_t((b * n + r) * columns + c)]];
                  const float want = level * scale[s] + (has_offset ? offset[s] : 0.0f);
                  const float got = out[size_t((r - begin) * (columns + 3) + c)];
                  REQUIRE(std::abs(got - want) <= 1e-6f * (1 + std::abs(want)));
                }
            }
          CHECK(rows.bytes() == uint64_t(batch * n * packed_bytes(columns, bits)) +
                                    4 * (1u << bits) + 2 * count * (has_offset ? 2 : 1));
          CHECK(rows.allocated() >= rows.bytes());
        }
}

TEST_CASE("codebook: the packed words") {
  // 2 bits, codes 0 1 2 3 0 1 2 3: 0xE4 0xE4, as in the affine encoding.
  const std::array<uint8_t, 8> codes = {0, 1, 2, 3, 0, 1, 2, 3};
  uint8_t packed[6] = {};
  pack_row(codes.data(), 8, 2, packed);
  CHECK(packed[0] == 0xE4);
  CHECK(packed[1] == 0xE4);
  const float levels[4] = {-1, -0.25f, 0.25f, 1};
  float out[8];
  LevelTable<2>(levels).look_up(packed, 8, out);
  for (int i = 0; i < 8; ++i) CHECK(out[i] == levels[codes[size_t(i)]]);
}

TEST_CASE("codebook: numbers of E4M3 by arithmetic are those of the table") {
  std::array<uint8_t, 256> codes;
  std::array<float, 256> levels, out;
  for (int i = 0; i < 256; ++i) {
    codes[size_t(i)] = uint8_t(i);
    levels[size_t(i)] = e4m3_to_float(uint8_t(i));
  }
  look_up_e4m3(codes.data(), 256, out.data());
  for (int i = 0; i < 256; ++i)
    if ((i & 0x7F) != 0x7F) CHECK(float_bits(out[size_t(i)]) == float_bits(levels[size_t(i)]));
  // All of the codes, in one row with the two of NaN and in one without; other levels.
  for (const bool nan : {true, false})
    for (const bool other : {true, false}) {
      std::array<float, 256> of = levels;
      if (other) of[3] = 0.25f;
      std::array<uint8_t, 256> row = codes;
      if (!nan) row[0x7F] = row[0xFF] = 1;
      CodebookRows rows({8, ScaleOf::row, true}, 1, 256);
      const float scale[1] = {0.5f}, offset[1] = {0.25f};
      rows.append(codes.data(), of.data(), scale, offset, nan ? 1 : 0, "test");
      rows.append(row.data(), of.data(), scale, offset, 1, "test");
      rows.decode(0, rows.rows() - 1, rows.rows(), out.data(), 256);
      for (size_t i = 0; i < 256; ++i) CHECK(out[i] == of[row[i]] * 0.5f + 0.25f);
    }
}

TEST_CASE("codebook: what is stored once may not change, and nothing silly is stored") {
  const std::array<uint8_t, 2> codes = {0, 3};
  const float levels[4] = {0, 1, 2, 3}, other[4] = {0, 1, 2, 4}, one[2] = {1, 1}, two[2] = {1, 2};
  CodebookRows rows({2, ScaleOf::column, false}, 1, 2);
  rows.append(codes.data(), levels, one, nullptr, 1, "test");
  CHECK_THROWS_WITH(rows.append(codes.data(), other, one, nullptr, 1, "test"),
                    Catch::Contains("differ between blocks"));
  CHECK_THROWS_AS(rows.append(codes.data(), levels, two, nullptr, 1, "test"), Error);
  const std::array<uint8_t, 2> large = {0, 4};
  CHECK_THROWS_WITH(rows.append(large.data(), levels, one, nullptr, 1, "test"),
                    Catch::Contains("code 4 does not fit 2 bits"));
  const float bad[2] = {1, INFINITY};
  CHECK_THROWS_AS(CodebookRows({2, ScaleOf::column, false}, 1, 2)
                      .append(codes.data(), levels, bad, nullptr, 1, "test"),
                  Error);
}

TEST_CASE("outliers: both layouts put exact values back, and cost what they say") {
  const int64_t batch = 2, n = 5, columns = 128, k = 3;
  std::mt19937 random(8);
  for (const bool fixed : {true, false}) {
    std::vector<int32_t> index(size_t(batch * n * k));
    std::vector<float> value = noise(batch * n * k, 9);
    uint64_t used = 0;
    for (int64_t r = 0; r < batch * n; ++r)
      for (int64_t i = 0; i < k; ++i) {
        const bool empty = !fixed && random() % 2 == 0;
        index[size_t(r * k + i)] = empty ? -1 : int32_t(10 * i + int64_t(random() % 10));
        used += empty ? 0 : 1;
      }
    OutlierRows rows(fixed, batch, columns, k);
    rows.append(index.data(), value.data(), n, k, "test");
    for (int64_t b = 0; b < batch; ++b) {
      std::vector<float> out(size_t(n * columns)), want(out.size());
      for (int64_t r = 0; r < n; ++r)
        for (int64_t i = 0; i < k; ++i) {
          const size_t at = size_t((b * n + r) * k + i);
          if (index[at] >= 0) want[size_t(r * columns + index[at])] = round_f16(value[at]);
        }
      rows.apply(b, 0, n, out.data(), columns);
      CHECK(out == want);
    }
    // Fixed: 16 bits of value and 8 of index. Sparse: 16 and 16, and 32 per token.
    CHECK(rows.bytes() == (fixed ? 3 * used : 4 * used + 4 * uint64_t(n)));
  }
  OutlierRows wide(true, 1, 300, 1);  // an index above 255 takes two bytes
  const int32_t far = 299;
  const float big = 1e6f, x = 7;
  wide.append(&far, &x, 1, 1, "test");
  CHECK(wide.bytes() == 4);
  CHECK_THROWS_WITH(wide.append(&far, &big, 1, 1, "test"), Catch::Contains("float16"));
  const int32_t outside = 300;
  CHECK_THROWS_WITH(wide.append(&outside, &x, 1, 1, "test"), Catch::Contains("column 300 of 300"));
}

TEST_CASE("hadamard: H4 (8,0,0,0)/2 = (4,4,4,4), its own inverse, lengths kept") {
  float x[4] = {8, 0, 0, 0};
  hadamard(x, 4);
  for (const float v : x) CHECK(v == 4.0f);
  for (const int64_t n : {1, 2, 16, 32, 128}) {
    const std::vector<float> a = noise(n, 4);
    std::vector<float> b = a;
    hadamard(b.data(), n);
    double before = 0, after = 0;
    for (int64_t i = 0; i < n; ++i) {
      before += double(a[size_t(i)]) * a[size_t(i)];
      after += double(b[size_t(i)]) * b[size_t(i)];
    }
    CHECK(after == Approx(before).epsilon(1e-5));
    hadamard(b.data(), n);
    for (int64_t i = 0; i < n; ++i) CHECK(b[size_t(i)] == Approx(a[size_t(i)]).margin(1e-5));
  }
}

TEST_CASE("low rank: the worked examples of the specification") {
  // X = diag(3, 1, 0.5) over a zero row: energies 9, 1, 0.25.
  const std::vector<float> x = {3, 0, 0, 0, 1, 0, 0, 0, 0.5f, 0, 0, 0};
  const auto rank = [&](double energy, bool raw) {
    LowRankRows rows({4, 0, 0, energy, false, false, raw}, 1, 3);
    rows.append(x.data(), 4);
    return std::pair<int, uint64_t>(rows.ranks()[0], rows.bytes());
  };
  CHECK(rank(0.85, false) == std::pair<int, uint64_t>(1, 2 * 7 + 1));
  CHECK(rank(0.95, false) == std::pair<int, uint64_t>(2, 2 * 14 + 1));
  CHECK(rank(0.999, false) == std::pair<int, uint64_t>(3, 2 * 21 + 1));
  // Raw rows take 24 bytes: rank 1 is stored, rank 2 is not smaller.
  CHECK(rank(0.85, true) == std::pair<int, uint64_t>(1, 15));
  CHECK(rank(0.95, true) == std::pair<int, uint64_t>(LowRankRows::kRaw, 25));

  // A chunk of zeros: rank 0, one byte, zeros; also where the rank has a lower limit.
  LowRankRows zero({4, 2, 32, 0.95, false, false, true}, 1, 3);
  CHECK(through(zero, std::vector<float>(12), 1, 4, 3) == std::vector<float>(12));
  CHECK(zero.ranks()[0] == 0);
  CHECK(zero.bytes() == 1);

  // Constant rows, centred: rank 0, exact (float16 numbers).
  std::vector<float> same;
  for (int i = 0; i < 4; ++i) same.insert(same.end(), {1.5f, -2.25f, 0.125f});
  LowRankRows centred({4, 0, 0, 0.95, true, false, true}, 1, 3);
  CHECK(through(centred, same, 1, 4, 3) == same);
  CHECK(centred.ranks()[0] == 0);
  CHECK(centred.bytes() == 7);

  // A chunk of rank 1: any energy gives rank 1, and float16 accuracy.
  const std::vector<float> u = noise(16, 2), v = noise(64, 3);
  std::vector<float> one;
  for (const float a : u)
    for (const float b : v) one.push_back(a * b);
  for (const double energy : {0.5, 0.95, 1.0}) {
    LowRankRows rows({16, 0, 0, energy, false, false, true}, 1, 64);
    CHECK(relative_error(one, through(rows, one, 1, 16, 64)) < 1e-3);
    CHECK(rows.ranks()[0] == 1);
  }
}

TEST_CASE("low rank: the error is at most sqrt(1 - energy), and bytes are the formula") {
  const int64_t batch = 2, n = 64, d = 32, t = 16;
  std::vector<float> x = noise(batch * n * d, 4);
  for (size_t i = 0; i < x.size(); ++i)
    x[i] *= 1.0f / float(1 + i % size_t(d));  // falling spectrum
  double last = 1;
  for (const double energy : {0.5, 0.8, 0.95, 0.99, 0.999}) {
    LowRankRows rows({t, 0, 0, energy, false, false, false}, batch, d);
    const double error = relative_error(x, through(rows, x, batch, n, d));
    CHECK(error <= std::sqrt(1 - energy) + 2e-3);  // float16 factors
    CHECK(error < last);
    last = error;
    int64_t want = 0;
    for (const uint8_t rank : rows.ranks()) want += 2 * rank * (t + d) + 1;
    CHECK(rows.bytes() == uint64_t(want));
  }
  // A shared rank is the largest of the heads'.
  LowRankRows own({t, 0, 0, 0.95, false, false, false}, batch, d),
      shared({t, 0, 0, 0.95, false, true, false}, batch, d);
  own.append(x.data(), n);
  shared.append(x.data(), n);
  for (size_t c = 0; c < own.ranks().size(); c += 2)
    for (size_t b = 0; b < 2; ++b)
      CHECK(shared.ranks()[c + b] == std::max(own.ranks()[c], own.ranks()[c + 1]));
  // Full rank is float16 accuracy; factors of full rank are never smaller than rows.
  LowRankRows full({t, 0, 0, 1, true, false, false}, batch, d);
  CHECK(relative_error(x, through(full, x, batch, n, d)) < 1e-3);
  LowRankRows raw({t, 0, 0, 1, true, false, true}, batch, d);
  std::vector<float> rounded = x;
  for (float& v : rounded) v = round_f16(v);
  CHECK(through(raw, x, batch, n, d) == rounded);
  CHECK(raw.bytes() == uint64_t(batch * (2 * n * d + n / t)));
  // Numbers beyond float16 in a factor: the rows themselves still fit.
  std::vector<float> large(size_t(t * d), 60000.0f);
  LowRankRows huge({t, 0, 0, 0.95, false, false, false}, 1, d);
  CHECK(through(huge, large, 1, t, d) == std::vector<float>(large.size(), round_f16(60000.0f)));
}

TEST_CASE("symmetric eigenproblem: A = V^T diag V with orthonormal V, also where values repeat") {
  const auto check = [](int n, const std::vector<double>& a, std::vector<double> expected = {}) {
    INFO("n = " << n);
    const size_t size = size_t(n);
    std::vector<double> used = a, values(size), v(size * size), work(3 * size);
    symmetric_eigen(used.data(), n, values.data(), v.data(), work.data());
    double norm = 1e-300, wrong = 0, skew = 0;
    for (const double x : a) norm = std::max(norm, std::abs(x));
    for (size_t i = 0; i < size; ++i)
      for (size_t j = 0; j < size; ++j) {
        double sum = 0, product = 0;
        for (size_t k = 0; k < size; ++k) {
          sum += values[k] * v[k * size + i] * v[k * size + j];
          product += v[i * size + k] * v[j * size + k];
        }
        wrong = std::max(wrong, std::abs(sum - a[i * size + j]));
        skew = std::max(skew, std::abs(product - double(i == j)));
      }
    CHECK(wrong <= 1e-14 * n * norm);
    CHECK(skew <= 1e-14 * n);
    std::sort(values.begin(), values.end());
    std::sort(expected.begin(), expected.end());
    for (size_t i = 0; i < expected.size(); ++i)
      CHECK(values[i] == Approx(expected[i]).margin(1e-14 * n * norm));
  };
  check(1, {-3}, {-3});
  check(2, {2, 1, 1, 2}, {1, 3});
  check(2, {0, 1, 1, 0}, {-1, 1});
  check(3, {2, -1, 0, -1, 2, -1, 0, -1, 2}, {2 - std::sqrt(2.0), 2, 2 + std::sqrt(2.0)});
  for (const int n : {2, 3, 5, 16, 17, 64}) {
    const size_t size = size_t(n);
    std::vector<double> a(size * size), values;
    check(n, a, std::vector<double>(size));  // zeros
    // The second difference: 2 - 2 cos(pi k / (n + 1)).
    for (int i = 0; i < n; ++i) {
      values.push_back(2 - 2 * std::cos(std::acos(-1.0) * (i + 1) / (n + 1)));
      a[size_t(i) * size + size_t(i)] = 2;
      if (i > 0) a[size_t(i * n + i - 1)] = a[size_t((i - 1) * n + i)] = -1;
    }
    check(n, a, values);
    a.assign(size * size, 1.0);  // rank 1
    values.assign(size, 0.0);
    values[0] = n;
    check(n, a, values);
    const std::vector<float> x = noise(n * n, uint32_t(n));
    for (const double scale : {1.0, 1e-20, 1e20})
      for (size_t i = 0; i < size; ++i)
        for (size_t j = 0; j < size; ++j)
          a[i * size + j] = scale * (x[i * size + j] + x[j * size + i]);
    check(n, a);
  }
}

TEST_CASE("low rank: chunks of more rows than columns keep the energy, too") {
  const int64_t n = 96, d = 8, t = 48;
  std::vector<float> x = noise(n * d, 9);
  for (size_t i = 0; i < x.size(); ++i) x[i] *= 1.0f / float(1 + i % size_t(d));
  for (const double energy : {0.5, 0.9, 0.99})
    for (const bool center : {false, true}) {
      LowRankRows rows({t, 0, 0, energy, center, false, false}, 1, d);
      const double error = relative_error(x, through(rows, x, 1, n, d));
      CHECK(error <= std::sqrt(1 - energy) + 2e-3);
      // One rank less would lose more than that.
      for (const uint8_t rank : rows.ranks()) {
        REQUIRE(rank >= 1);
        CHECK(rank <= d);
      }
      LowRankRows less({t, 0, std::max(1, rows.ranks()[0] - 1), energy, center, false, false}, 1,
                       d);
      const double more = relative_error({x.begin(), x.begin() + t * d},
                                         through(less, {x.begin(), x.begin() + t * d}, 1, t, d));
      if (rows.ranks()[0] > 1 && !center) CHECK(more > std::sqrt(1 - energy));
    }
  LowRankRows full({t, 0, 0, 1, false, false, false}, 1, d);
  CHECK(relative_error(x, through(full, x, 1, n, d)) < 1e-3);
  CHECK(full.ranks() == std::vector<uint8_t>{8, 8});
}

TEST_CASE("encoded rows: outliers belong to the encoding that was just filled in") {
  const std::vector<float> x = noise(2 * 4 * 8);
  const std::vector<int32_t> index(8, 2);
  const std::vector<float> value(8, 9.0f);
  EncodedRows rows(2, 8, 4, 0, "test");
  rows.expect(4);
  CHECK_THROWS_WITH(rows.outliers(true, 2, 4, 1, index.data(), value.data()),
                    Catch::Contains("without the encoding"));
  rows.affine({4, Grid::min, 1, 0}, 2, 4, 8, x.data());
  rows.outliers(true, 2, 4, 1, index.data(), value.data());
  std::vector<float> out(32);
  rows.read(1, 0, 4, out.data(), 8);
  for (int r = 0; r < 4; ++r) CHECK(out[size_t(r * 8 + 2)] == 9.0f);
  rows.expect(4);
  CHECK_THROWS_WITH(rows.dense(DType::f16, 2, 4, 8, x.data()), Catch::Contains("formats"));
  EncodedRows missing(2, 8, 4, 0, "test");
  missing.expect(4);
  missing.affine({4, Grid::min, 1, 0}, 2, 4, 8, x.data());
  missing.outliers(true, 2, 4, 1, index.data(), value.data());
  missing.expect(4);
  missing.affine({4, Grid::min, 1, 0}, 2, 4, 8, x.data());
  CHECK_THROWS_AS(missing.expect(4), Error);
}
