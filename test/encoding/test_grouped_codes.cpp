// Weights as codes into a table with a scale per group; numbers of 8 and fewer bits.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <set>
#include <vector>

#include "ptq/encoding/grouped_codes.hpp"
#include "ptq/engine/weights/linear.hpp"

namespace ptq::test {

TEST_CASE("small floats: every number of E4M3 survives, others go to the nearest, ties to even") {
  std::set<float> values;
  for (int byte = 0; byte < 256; ++byte) {
    if ((byte & 0x7F) == 0x7F) continue;  // NaN
    const float x = e4m3_to_float(uint8_t(byte));
    CHECK(round_e4m3(x) == x);
    if (byte != 0x80) CHECK(e4m3_byte(x) == byte);
    values.insert(x);
  }
  CHECK(values.size() == 253);  // both zeros are one
  CHECK(*values.rbegin() == 448);
  const std::vector<float> all(values.begin(), values.end());
  for (size_t i = 0; i + 1 < all.size(); ++i) {
    const float middle = (all[i] + all[i + 1]) / 2;
    CHECK(round_e4m3(std::nextafter(middle, -1e9f)) == all[i]);
    CHECK(round_e4m3(std::nextafter(middle, 1e9f)) == all[i + 1]);
    const float even = e4m3_byte(all[i]) % 2 == 0 ? all[i] : all[i + 1];
    CHECK(round_e4m3(middle) == even);
  }
  CHECK(round_e4m3(1e9f) == 448);
  CHECK(round_e4m3(-1e9f) == -448);
  for (int byte = 0; byte < 255; ++byte) CHECK(e8m0_byte(e8m0_to_float(uint8_t(byte))) == byte);
  CHECK(e8m0_to_float(127) == 1);
}

TEST_CASE("grouped codes: decode to level times scale times the matrix's scale") {
  const int64_t rows = 3, columns = 21, group = 8;
  const std::vector<float> levels = {0,     0.5f,  1,  1.5f,  2,  3,  4,  6,
                                     -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
  std::vector<uint8_t> codes;
  for (int64_t i = 0; i < rows * columns; ++i) codes.push_back(uint8_t(i * 5 % 16));
  const std::vector<float> scale = {1, 2, 0.5f, 0.25f, 4, 8, 16, 0.125f, 64};
  for (const auto& [type, bytes] : {std::pair{ScaleType::f16, 18},
                                    {ScaleType::f32, 36},
                                    {ScaleType::e4m3, 9},
                                    {ScaleType::e8m0, 9}}) {
    for (const float whole : {0.0f, 0.3f}) {
      const GroupedCodes stored({4, group, type, whole}, rows, columns, codes.data(), levels.data(),
                                scale.data(), "here");
      CHECK(stored.bytes() == uint64_t(rows * 11 + bytes + 64 + (whole > 0 ? 4 : 0)));
      std::vector<float> out(size_t(2 * columns));
      stored.decode(1, 3, out.data());
      for (int64_t i = 0; i < 2 * columns; ++i) {
        const int64_t r = 1 + i / columns, c = i % columns;
        const float s = scale[size_t(r * 3 + c / group)] * (whole > 0 ? whole : 1.0f);
        CHECK(out[size_t(i)] == levels[codes[size_t(r * columns + c)]] * s);
      }
    }
  }
}

TEST_CASE("grouped codes: what cannot be stored is refused by name") {
  const std::vector<float> levels(16, 1.0f);
  std::vector<uint8_t> codes(8);
  std::vector<float> scale = {1};
  const auto make = [&](GroupedFormat f) {
    GroupedCodes(f, 1, 8, codes.data(), levels.data(), scale.data(), "layer 3");
  };
  const auto refused = [&](GroupedFormat f, const char* text) {
    CHECK_THROWS_WITH(make(f), Catch::Contains(text));
  };
  make({4, 0, ScaleType::f16, 0});
  refused({5, 0, ScaleType::f16, 0}, "bits = 5");
  refused({4, -1, ScaleType::f16, 0}, "group_size = -1");
  refused({4, 0, ScaleType(9), 0}, "scale_type = 9");
  refused({4, 0, ScaleType::f16, NAN}, "tensor_scale");
  codes[5] = 16;
  refused({4, 0, ScaleType::f16, 0}, "code 16");
  codes[5] = 0;
  scale[0] = 1e6f;
  refused({4, 0, ScaleType::f16, 0}, "float16");
  refused({4, 0, ScaleType::e4m3, 0}, "448");
  scale[0] = 0;
  refused({4, 0, ScaleType::e8m0, 0}, "power of two");
  scale[0] = NAN;
  refused({4, 0, ScaleType::f32, 0}, "not finite");
}

TEST_CASE("affine weights with an order of columns decode to the layer's own order") {
  const int64_t rows = 2, columns = 6;
  const std::vector<float> w(12, 0.0f);
  LinearWeight weight(
      "layer",
      TensorInfo{"w", DType::f32, {rows, columns}, reinterpret_cast<const uint8_t*>(w.data()), 48});
  const std::vector<int32_t> order = {4, 0, 5, 1, 3, 2};
  std::vector<uint8_t> codes;
  for (int i = 0; i < 12; ++i) codes.push_back(uint8_t(i));
  const std::vector<float> scale = {1, 2, 3, 4}, zero = {0, 1, 2, 3};
  const AffineFormat format{4, Grid::asym_gptq, 1, 3};
  std::vector<int32_t> twice = order;
  twice[2] = 4;
  CHECK_THROWS_WITH(weight.ordered_codes(format, twice.data(), rows, columns, codes.data(),
                                         scale.data(), zero.data()),
                    Catch::Contains("no permutation"));
  weight.ordered_codes(format, order.data(), rows, columns, codes.data(), scale.data(),
                       zero.data());
  std::vector<float> out(12);
  weight.decode(0, rows, out.data());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < columns; ++j) {
      const size_t g = size_t(r * 2 + j / 3);
      CHECK(out[size_t(r * columns + order[size_t(j)])] ==
            (float(codes[size_t(r * columns + j)]) - zero[g]) * scale[g]);
    }
}

}  // namespace ptq::test
