// Answers that the host refuses leave nothing behind, so that a method may try another; and the
// check's own host refuses and rounds as the real one does.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "host/check/host.hpp"
#include "ptq/core/safe_text.hpp"
#include "ptq/engine/cpu/encoded_rows.hpp"
#include "ptq/engine/weights/linear.hpp"
#include "ptq/run/surroundings.hpp"

using namespace ptq;

namespace {

constexpr int64_t kHeads = 2, kDim = 16, kRows = 8;

std::vector<float> noise(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> x(n);
  for (float& v : x) v = float(random()) / float(1u << 31) - 1;
  return x;
}
// Codes of both heads, of which the second is wrong.
void wrong_codes(RowSink& out) {
  std::vector<uint8_t> codes(size_t(kHeads * kRows * kDim), 3);
  codes.back() = 200;
  const std::vector<float> scale(size_t(kHeads * kRows), 1.0f);
  out.affine_codes({2, Grid::sym_narrow, 1, 0}, kHeads, kRows, kDim, codes.data(), scale.data(),
                   nullptr);
}
std::vector<float> read(const EncodedRows& rows, int64_t n) {
  std::vector<float> out(size_t(kHeads * n * kDim));
  for (int64_t h = 0; h < kHeads; ++h) rows.read(h, 0, n, out.data() + h * n * kDim, kDim);
  return out;
}

}  // namespace

TEST_CASE("a refused answer leaves the cache as it was", "[refusal]") {
  const auto x = noise(size_t(kHeads * kRows * kDim), 1);
  const AffineFormat f{4, Grid::min, 1, 0};
  EncodedRows rows(kHeads, kDim, kRows, 0, "layer 0 keys");
  rows.expect(kRows);
  CHECK_THROWS_WITH(rows.affine({5, Grid::min, 1, 0}, kHeads, kRows, kDim, x.data()),
                    Catch::Contains("bits = 5"));
  CHECK(!rows.filled());
  CHECK_THROWS_WITH(wrong_codes(rows), Catch::Contains("code 200"));
  CHECK(!rows.filled());
  CHECK(rows.rows() == 0);
  // Another kind of answer is taken in its place.
  rows.affine(f, kHeads, kRows, kDim, x.data());
  CHECK(rows.filled());
  EncodedRows plain(kHeads, kDim, kRows, 0, "layer 0 keys");
  plain.expect(kRows);
  plain.affine(f, kHeads, kRows, kDim, x.data());
  CHECK(read(rows, kRows) == read(plain, kRows));
  CHECK(rows.bytes() == plain.bytes());
  // So it is behind rows that are there.
  rows.expect(kRows);
  CHECK_THROWS_WITH(rows.dense(DType::f16, kHeads, kRows, kDim, x.data()),
                    Catch::Contains("different formats"));
  CHECK_THROWS_WITH(rows.affine(f, kHeads, kRows / 2, kDim, x.data()), Catch::Contains("shape"));
  CHECK(!rows.filled());
  CHECK(rows.rows() == kRows);
  rows.affine(f, kHeads, kRows, kDim, x.data());
  CHECK(rows.rows() == 2 * kRows);
}

TEST_CASE("refused codes of one head leave no rows in the other", "[refusal]") {
  EncodedRows rows(kHeads, kDim, kRows, 0, "layer 0 keys");
  const std::vector<uint8_t> codes(size_t(kHeads * kRows * kDim), 3);
  const std::vector<float> scale(size_t(kHeads * kRows), 1.0f);
  const AffineFormat f{2, Grid::sym_narrow, 1, 0};
  rows.expect(kRows);
  rows.affine_codes(f, kHeads, kRows, kDim, codes.data(), scale.data(), nullptr);
  const uint64_t before = rows.bytes();
  rows.expect(kRows);
  CHECK_THROWS_WITH(wrong_codes(rows), Catch::Contains("code 200"));
  CHECK(rows.bytes() == before);
  rows.affine_codes(f, kHeads, kRows, kDim, codes.data(), scale.data(), nullptr);
  CHECK(rows.bytes() == 2 * before);
}

TEST_CASE("refused outliers may come again in another form", "[refusal]") {
  const auto x = noise(size_t(kHeads * kRows * kDim), 1);
  EncodedRows rows(kHeads, kDim, kRows, 0, "layer 0 keys");
  rows.expect(kRows);
  rows.dense(DType::f16, kHeads, kRows, kDim, x.data());
  std::vector<int32_t> index(size_t(kHeads * kRows), int32_t(kDim));
  const std::vector<float> value(index.size(), 2.0f);
  CHECK_THROWS(rows.outliers(true, kHeads, kRows, 1, index.data(), value.data()));
  for (int32_t& i : index) i = 1;
  rows.outliers(false, kHeads, kRows, 1, index.data(), value.data());
  CHECK(read(rows, kRows)[1] == 2.0f);
}

TEST_CASE("a refused answer leaves a weight as it is", "[refusal]") {
  const std::vector<float> w = noise(size_t(kRows * kDim), 2);
  TensorInfo tensor;
  tensor.dtype = DType::f32;
  tensor.shape = {kRows, kDim};
  tensor.data = reinterpret_cast<const uint8_t*>(w.data());
  LinearWeight weight("up_proj", tensor);
  CHECK_THROWS(weight.affine({9, Grid::min, 1, 0}, 1, kRows, kDim, w.data()));
  std::vector<uint8_t> codes(size_t(kRows * kDim), 9);
  const std::vector<float> scale(size_t(kRows), 1.0f);
  CHECK_THROWS(weight.affine_codes({2, Grid::sym_narrow, 1, 0}, 1, kRows, kDim, codes.data(),
                                   scale.data(), nullptr));
  CHECK(!weight.encoded());
  std::vector<float> decoded(w.size());
  weight.decode(0, kRows, decoded.data());
  CHECK(decoded == w);
  weight.affine({8, Grid::min, 1, 0}, 1, kRows, kDim, w.data());
  CHECK(weight.encoded());
}

TEST_CASE("the check's host rounds as the host does", "[refusal][check]") {
  constexpr int64_t rows = 8, columns = 24;
  const auto inputs = [&] {
    std::vector<std::vector<float>> all;
    for (const float size : {1.0f, 1e-7f, 1e-12f, 3e4f, 2e5f})
      for (std::vector<float> x : {noise(size_t(rows * columns), 3)}) {
        for (float& v : x) v *= size;
        all.push_back(x);
      }
    all.emplace_back(size_t(rows * columns), 0.0f);
    all.emplace_back(size_t(rows * columns), 3.0f);
    all.emplace_back(size_t(rows * columns), -7e4f);
    all.push_back(noise(size_t(rows * columns), 4));
    for (float& v : all.back()) v = std::abs(v);
    for (size_t i = 0; i < 2 * columns; ++i) all.back()[i] = 0;  // groups of zeros among others
    return all;
  }();
  check::Host host;
  const ptq_call* call = host.begin();
  const auto* service = static_cast<const ptq_encode_service*>(call->service(call, PTQ_ENCODE_1));
  for (int grid = 1; grid <= 6; ++grid)
    for (const int bits : {1, 2, 3, 4, 8})
      for (const int axis : {0, 1})
        for (const std::vector<float>& x : inputs) {
          ptq_tensor view{};
          view.data = const_cast<float*>(x.data());
          view.dtype = {PTQ_FLOAT, 32, 1};
          view.ndim = 2;
          view.device_type = PTQ_CPU;
          for (int i = 0; i < 6; ++i) view.shape[i] = view.stride[i] = 1;
          view.shape[0] = rows, view.shape[1] = columns;
          view.stride[0] = columns;
          const ptq_affine how{sizeof how, bits, grid, axis, 4, nullptr};
          check::Encoding answer;
          answer.cache = false;
          const ptq_status status =
              service->affine(call, &view, &how, reinterpret_cast<ptq_encoding*>(&answer));
          const AffineFormat format{bits, Grid(grid), axis, 4};
          INFO("grid " << grid << ", bits " << bits << ", axis " << axis << ", x[0] " << x[0]);
          bool taken = true;
          try {
            check_format(format, "test");
          } catch (const Error&) {
            taken = false;
          }
          CHECK((status == PTQ_OK) == taken);
          if (!taken || status != PTQ_OK) continue;
          AffineRows stored(format, columns);
          stored.append(x.data(), rows);
          std::vector<float> want(x.size());
          stored.decode(0, rows, want.data(), columns);
          const std::vector<float> got = answer.decode();
          double largest = 0, difference = 0;
          for (size_t i = 0; i < x.size(); ++i) {
            largest = std::max(largest, std::abs(double(want[i])));
            difference = std::max(difference, std::abs(double(want[i]) - double(got[i])));
          }
          CHECK(difference <= 1e-6 * largest);  // code * scale + offset, fused or not
        }
}

TEST_CASE("words of others are one line of plain text", "[refusal]") {
  CHECK(safe_text("scale 0,5 \xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80") ==
        "scale 0,5 \xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80");
  CHECK(safe_text("a\nb\tc\x1b[2J\x7f") == "a b c\\x1b[2J\\x7f");
  CHECK(safe_text("\xc2\x9b"
                  "1m \xe2\x80\xae") == "\\u009b1m \\u202e");
  CHECK(safe_text("\xff\xc0\x80 \xed\xa0\x80 \xe2\x82") ==
        "\\xff\\xc0\\x80 \\xed\\xa0\\x80 \\xe2\\x82");
  const std::string cut = safe_text(std::string(100000, 'x'), 10);
  CHECK(cut == "xxxxxxxxxx... (100000 bytes in all)");
}

TEST_CASE("settings of the process are put back and named", "[refusal]") {
  const Surroundings before;
  CHECK(before.restore().empty());
  std::fesetround(FE_UPWARD);
  ::umask(0777);
  ::setenv("PTQ_TEST_SURROUNDINGS", "1", 1);
  ::signal(SIGUSR2, SIG_IGN);
  const std::string changed = before.restore();
  CHECK_THAT(changed, Catch::Contains("rounding mode") && Catch::Contains("file mode mask") &&
                          Catch::Contains("environment") && Catch::Contains("SIGUSR2"));
  CHECK(std::fegetround() == FE_TONEAREST);
  CHECK(::getenv("PTQ_TEST_SURROUNDINGS") == nullptr);
  CHECK(before.restore().empty());
}
