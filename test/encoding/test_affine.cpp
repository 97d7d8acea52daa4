// The affine encoding: grids against worked examples and a float64 reference, packing, bytes.
#include <catch2/catch.hpp>
#include <cmath>
#include <random>
#include <vector>

#include "ptq/encoding/affine.hpp"

using namespace ptq;

namespace {

std::vector<float> decoded(const AffineRows& m) {
  std::vector<float> out(size_t(m.rows() * m.columns()));
  m.decode(0, m.rows(), out.data(), m.columns());
  return out;
}

std::vector<float> round_trip(const AffineFormat& f, const std::vector<float>& x, int64_t rows) {
  AffineRows m(f, int64_t(x.size()) / rows);
  m.append(x.data(), rows);
  return decoded(m);
}

std::vector<float> random_numbers(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> x(n);
  for (float& v : x) v = float(random() >> 8) / float(1 << 23) - 1.0f;
  return x;
}

}  // namespace

TEST_CASE("affine: worked examples of the weight grids, 4 bits") {
  using V = std::vector<float>;
  // GPTQ and AWQ asymmetric: 0.125 / 0.25 = 0.5 goes to the even code.
  const V asym = {-2, -0.75f, 0.125f, 1.75f}, asym_out = {-2, -0.75f, 0, 1.75f};
  CHECK(round_trip({4, Grid::asym_gptq, 1, 0}, asym, 1) == asym_out);
  CHECK(round_trip({4, Grid::asym_awq, 1, 0}, asym, 1) == asym_out);
  CHECK(round_trip({4, Grid::sym_narrow, 1, 0}, {-1.75f, -0.75f, 0.125f, 1.5f}, 1) ==
        V{-1.75f, -0.75f, 0, 1.5f});
  CHECK(round_trip({4, Grid::sym_gptq, 1, 0}, {-1.875f, -0.75f, 0.125f, 1.5f}, 1) ==
        V{-2, -0.75f, 0, 1.5f});
  // The two holes: half of the symmetric range, and a range without zero.
  CHECK(round_trip({4, Grid::sym_gptq, 1, 0}, {0.125f, 0.25f, 0.5f, 0.9375f}, 1) ==
        V{0.125f, 0.25f, 0.4375f, 0.4375f});
  CHECK(round_trip({4, Grid::asym_awq, 1, 0}, {2, 2.25f, 2.5f, 5.75f}, 1) ==
        V{2, 2.25f, 2.5f, 3.75f});
}

TEST_CASE("affine: KIVI's worked example, a key channel over four tokens") {
  const std::vector<float> x = {-1, 0.2f, 0.5f, 2};
  CHECK(round_trip({2, Grid::min, 0, 4}, x, 4) == std::vector<float>{-1, 0, 1, 2});
  CHECK(round_trip({1, Grid::min, 1, 0}, x, 1) == std::vector<float>{-1, -1, -1, 2});
}

TEST_CASE("affine: codes are packed little end first") {
  const uint8_t codes[16] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
  uint8_t two[4] = {};
  pack_row(codes, 16, 2, two);
  CHECK((two[0] == 0xE4 && two[1] == 0xE4 && two[2] == 0xE4 && two[3] == 0xE4));
  const uint8_t nibbles[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  uint8_t four[4] = {};
  pack_row(nibbles, 8, 4, four);
  CHECK((four[0] == 0x10 && four[1] == 0x32 && four[2] == 0x54 && four[3] == 0x76));
}

TEST_CASE("affine: unpack undoes pack for every width and length") {
  std::mt19937 random(3);
  for (const int bits : {1, 2, 3, 4, 5, 6, 7, 8})
    for (int64_t n = 1; n <= 70; ++n) {
      std::vector<uint8_t> codes(static_cast<size_t>(n)), packed(size_t(packed_bytes(n, bits)) + 4);
      for (auto& c : codes) c = uint8_t(random() & ((1u << bits) - 1));
      pack_row(codes.data(), n, bits, packed.data());
      std::vector<float> out(static_cast<size_t>(n)), scale(out), offset(out);
      for (size_t i = 0; i < out.size(); ++i) {
        scale[i] = float(1 << i % 5);
        offset[i] = float(i);
      }
      with_bits(bits, [&](auto b) {
        decode_row<b(), true>(packed.data(), n, scale.data(), offset.data(), out.data());
        for (size_t i = 0; i < codes.size(); ++i)
          REQUIRE(out[i] == float(codes[i]) * scale[i] + offset[i]);
        decode_row<b(), false>(packed.data(), n, scale.data() + n - 1, offset.data() + n - 1,
                               out.data());
        for (size_t i = 0; i < codes.size(); ++i)
          REQUIRE(out[i] == float(codes[i]) * scale.back() + offset.back());
      });
    }
}

TEST_CASE("affine: every grid stays within half a step of a float64 reference") {
  const int64_t rows = 6, columns = 75;
  const auto x = random_numbers(size_t(rows * columns), 7);
  for (const Grid grid : {Grid::min, Grid::sym_narrow, Grid::sym_full, Grid::sym_gptq,
                          Grid::asym_gptq, Grid::asym_awq})
    for (const int bits : {1, 2, 3, 4, 5, 6, 7, 8})
      for (const int64_t group : {int64_t(0), int64_t(32), int64_t(7)}) {
        if (bits == 1 && (grid == Grid::sym_narrow || grid == Grid::sym_full)) continue;
        const auto y = round_trip({bits, grid, 1, group}, x, rows);
        const int64_t g = group ? group : columns;
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t c = 0; c < columns; ++c) {
            const int64_t begin = c / g * g, end = std::min(begin + g, columns);
            double lo = 1e30, hi = -1e30;
            for (int64_t i = begin; i < end; ++i) {
              lo = std::min(lo, double(x[size_t(r * columns + i)]));
              hi = std::max(hi, double(x[size_t(r * columns + i)]));
            }
            const double top = std::max(std::abs(lo), std::abs(hi)), n = (1 << bits) - 1;
            double step = 0;
            switch (grid) {
              case Grid::min:
              case Grid::asym_awq: step = (hi - lo) / n; break;
              case Grid::asym_gptq: step = (std::max(hi, 0.0) - std::min(lo, 0.0)) / n; break;
              case Grid::sym_gptq: step = 2 * top / n; break;
              default: step = top / ((1 << (bits - 1)) - 1); break;
            }
            // Half a step, a whole one where the zero point's rounding or sym_gptq's missing top
            // code costs another half; plus the rounding of scale and zero to float16.
            const bool whole =
                grid == Grid::asym_gptq || grid == Grid::asym_awq || grid == Grid::sym_gptq;
            // Groups that do not straddle zero fall into the known holes of two grids.
            if ((grid == Grid::asym_awq || grid == Grid::sym_gptq) && lo * hi >= 0) continue;
            const double bound = step * (whole ? 1.0 : 0.5) + 2e-3 * top;
            const double error =
                std::abs(double(y[size_t(r * columns + c)]) - double(x[size_t(r * columns + c)]));
            INFO("grid " << int(grid) << " bits " << bits << " group " << group);
            REQUIRE(!(error > bound));
          }
      }
}

TEST_CASE("affine: more bits, less error") {
  const auto x = random_numbers(4096, 11);
  for (const Grid grid : {Grid::min, Grid::asym_gptq, Grid::sym_gptq}) {
    double last = 1e30;
    for (const int bits : {1, 2, 3, 4, 8}) {
      const auto y = round_trip({bits, grid, 1, 32}, x, 64);
      double error = 0;
      for (size_t i = 0; i < x.size(); ++i) error += (y[i] - x[i]) * (y[i] - x[i]);
      CHECK(error < last);
      last = error;
    }
  }
}

TEST_CASE("affine: constant and zero groups decode exactly") {
  for (const Grid grid : {Grid::min, Grid::sym_narrow, Grid::sym_full, Grid::sym_gptq,
                          Grid::asym_gptq, Grid::asym_awq}) {
    const std::vector<float> zero(64, 0.0f);
    CHECK(round_trip({4, grid, 1, 32}, zero, 1) == zero);
  }
  const std::vector<float> constant(64, 3.25f);
  CHECK(round_trip({2, Grid::min, 1, 32}, constant, 1) == constant);
  CHECK(round_trip({2, Grid::min, 0, 8}, constant, 8) == constant);
}

TEST_CASE("affine: appending piece by piece gives the same numbers as at once") {
  const int64_t rows = 64, columns = 20;
  const auto x = random_numbers(size_t(rows * columns), 5);
  for (const int axis : {0, 1}) {
    const AffineFormat f{2, Grid::min, axis, 8};
    AffineRows whole(f, columns), pieces(f, columns);
    whole.append(x.data(), rows);
    for (int64_t r = 0; r < rows; r += 8) pieces.append(x.data() + r * columns, 8);
    CHECK(decoded(whole) == decoded(pieces));
    CHECK(whole.bytes() == pieces.bytes());
    // A part of the rows decodes to the same part of the numbers.
    std::vector<float> part(size_t(13 * columns));
    whole.decode(19, 32, part.data(), columns);
    const auto all = decoded(whole);
    CHECK(std::equal(part.begin(), part.end(), all.begin() + 19 * columns));
  }
}

TEST_CASE("affine: bytes are those of the formulas") {
  const auto x = random_numbers(128 * 256, 9);
  const auto bits_per_element = [&](const AffineFormat& f) {
    AffineRows m(f, 256);
    m.append(x.data(), 128);
    CHECK(m.allocated() >= m.bytes());
    return 8.0 * double(m.bytes()) / double(x.size());
  };
  CHECK(bits_per_element({4, Grid::sym_gptq, 1, 128}) == 4 + 16.0 / 128);
  CHECK(bits_per_element({4, Grid::asym_gptq, 1, 128}) == 4 + 20.0 / 128);
  CHECK(bits_per_element({3, Grid::asym_gptq, 1, 64}) == 3 + 19.0 / 64);
  CHECK(bits_per_element({8, Grid::asym_awq, 1, 64}) == 8 + 24.0 / 64);
  CHECK(bits_per_element({2, Grid::min, 1, 32}) == 3.0);
  CHECK(bits_per_element({2, Grid::min, 0, 32}) == 3.0);
  CHECK(bits_per_element({1, Grid::min, 0, 32}) == 2.0);
}

TEST_CASE("affine: a method's own codes, checked") {
  const AffineFormat f{2, Grid::min, 1, 4};
  AffineRows m(f, 4);
  const uint8_t codes[4] = {0, 1, 2, 3};
  const float scale = 0.5f, zero = -1.0f;
  m.append_codes(codes, &scale, &zero, 1, "test");
  CHECK(decoded(m) == std::vector<float>{-1, -0.5f, 0, 0.5f});
  const uint8_t wide[4] = {0, 1, 4, 3};
  CHECK_THROWS_AS(m.append_codes(wide, &scale, &zero, 1, "test"), Error);
  CHECK_THROWS_AS(m.append_codes(codes, &scale, nullptr, 1, "test"), Error);
  const float bad = std::nanf("");
  CHECK_THROWS_AS(m.append_codes(codes, &bad, &zero, 1, "test"), Error);
  CHECK(m.rows() == 1);
  // Integer zero points that straddle a byte.
  AffineRows three({3, Grid::asym_gptq, 1, 1}, 4);
  const uint8_t c3[4] = {7, 6, 5, 4};
  const float s3[4] = {1, 1, 1, 1}, z3[4] = {7, 0, 5, 2};
  three.append_codes(c3, s3, z3, 1, "test");
  three.append_codes(c3, s3, z3, 1, "test");
  CHECK(decoded(three) == std::vector<float>{0, 6, 0, 2, 0, 6, 0, 2});
}
