// Integer products (W8A8, W4A8): sums are exact, so that every kernel gives the same numbers, but
// for the float32 sums of groups.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "ptq/engine/cpu/linear_int8.hpp"
#include "test/support/random_numbers.hpp"

using namespace ptq;

namespace ptq::test {
namespace {

AffineRows weights(int64_t out, int64_t in, Grid grid, bool extreme) {
  AffineRows rows({8, grid, 1, 0}, in);
  auto w = numbers(out * in, 5);
  if (extreme)  // codes 255 only: the largest sums
    std::fill(w.begin(), w.end(), 1.0f);
  rows.append(w.data(), out);
  return rows;
}

std::vector<float> product(const cpu::Kernels& k, const cpu::WeightRows& w, int64_t out,
                           const std::vector<float>& x, int64_t n, const cpu::InputScale& how,
                           const float* bias = nullptr, int threads = 2, bool bf16 = false) {
  ThreadPool pool(threads);
  std::vector<float> y(size_t(n * out));
  const cpu::Int8Product one{w, out, bias, y.data()};
  cpu::linears_int8(pool, k, std::span(&one, 1), x.data(), n, how, bf16);
  return y;
}
std::vector<float> product(const cpu::Kernels& k, const AffineRows& w, const std::vector<float>& x,
                           int64_t n, std::optional<float> scale, const float* bias = nullptr,
                           int threads = 2, bool bf16 = false) {
  return product(k, cpu::WeightRows(w), w.rows(), x, n, {scale}, bias, threads, bf16);
}

// The formula, with sums in 64 bits.
std::vector<float> formula(const AffineRows& w, const std::vector<float>& x, int64_t n,
                           std::optional<float> scale, const float* bias) {
  const int64_t in = w.columns(), out = w.rows();
  std::vector<float> s_w(static_cast<size_t>(out)), offset(static_cast<size_t>(out));
  w.read_params(0, out, s_w.data(), offset.data());
  std::vector<float> y;
  for (int64_t t = 0; t < n; ++t) {
    float top = 0;
    for (int64_t c = 0; c < in; ++c) top = std::max(top, std::abs(x[size_t(t * in + c)]));
    const float s_x = scale ? *scale : std::max(top, 1e-5f) / 127.0f;
    for (int64_t r = 0; r < out; ++r) {
      int64_t sum = 0;
      for (int64_t c = 0; c < in; ++c) {
        const float q = std::clamp(std::nearbyint(x[size_t(t * in + c)] / s_x), -127.0f, 127.0f);
        sum += int64_t(q) * (int64_t(w.row_codes(r)[c]) - 128);
      }
      y.push_back(float(sum) * (s_x * s_w[size_t(r)]) + (bias ? bias[r] : 0.0f));
    }
  }
  return y;
}

double largest_relative(const std::vector<float>& a, const std::vector<float>& b) {
  double worst = a.size() == b.size() ? 0 : std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double d = std::abs(double(a[i]) - double(b[i])) / std::max(1.0, std::abs(double(b[i])));
    if (!(d <= worst)) worst = d;
  }
  return worst;
}

TEST_CASE("int8: every kernel gives the formula, and all the same bits", "[linear]") {
  for (const int64_t in : {1, 63, 64, 100, 333})
    for (const int64_t out : {1, 50, 97})
      for (const int64_t n : {1, 7, 8, 21})
        for (const Grid grid : {Grid::sym_narrow, Grid::sym_full}) {
          const AffineRows w = weights(out, in, grid, false);
          const auto x = numbers(n * in, 6), bias = numbers(out, 7);
          for (const std::optional<float> scale : {std::optional<float>(), {0.005f}}) {
            const auto want = formula(w, x, n, scale, bias.data());
            const auto plain = product(cpu::kernels_named("plain"), w, x, n, scale, bias.data());
            INFO("in " << in << ", out " << out << ", n " << n << ", static " << bool(scale));
            REQUIRE(!(largest_relative(plain, want) >
                      1e-6));  // a sum and a bias may round once, or twice
            for (const cpu::Kernels& k : cpu::runnable_kernels()) {
              INFO(k.name);
              REQUIRE(product(k, w, x, n, scale, bias.data(), 1) == plain);
            }
          }
        }
}

TEST_CASE("int8: several products of one input are those of each alone, rounded where asked",
          "[linear]") {
  const int64_t in = 100, n = 11;
  const AffineRows wide = weights(97, in, Grid::sym_narrow, false),
                   narrow = weights(33, in, Grid::sym_full, false);
  const auto x = numbers(n * in, 6), bias = numbers(97, 7);
  ThreadPool pool(2);
  for (const cpu::Kernels& k : cpu::runnable_kernels()) {
    INFO(k.name);
    std::vector<float> a(size_t(n * 97)), b(size_t(n * 33)), c(a.size());
    const cpu::Int8Product all[] = {{cpu::WeightRows(wide), 97, bias.data(), a.data()},
                                    {cpu::WeightRows(narrow), 33, nullptr, b.data()},
                                    {cpu::WeightRows(wide), 97, nullptr, c.data()}};
    cpu::linears_int8(pool, k, all, x.data(), n, {}, false);
    CHECK(a == product(k, wide, x, n, {}, bias.data()));
    CHECK(b == product(k, narrow, x, n, {}));
    CHECK(c == product(k, wide, x, n, {}));
    for (float& v : a) v = cpu::round_bf16(v);
    CHECK(a == product(k, wide, x, n, {}, bias.data(), 1, true));
  }
}

TEST_CASE("int8: the largest sums of the longest rows stay exact", "[linear]") {
  const int64_t in = INT32_MAX / (255 * 127), n = 9;
  const AffineRows w = weights(2, in, Grid::sym_narrow, true);
  const std::vector<float> x(size_t(n * in), -1.0f);
  for (const cpu::Kernels& k : cpu::runnable_kernels()) {
    INFO(k.name);
    for (const int64_t tokens : {int64_t{1}, n})
      for (const float y : product(k, w, x, tokens, {}))
        CHECK(double(y) == Approx(-double(in)).epsilon(1e-3));  // the scale of w is a float16
  }
  CHECK_THROWS_AS(product(cpu::chosen_kernels(), weights(1, in + 1, Grid::sym_narrow, true),
                          std::vector<float>(size_t(in + 1)), 1, {}),
                  Error);
}

TEST_CASE("int8: zeros, numbers that are not finite, and formats that do not fit", "[linear]") {
  const AffineRows w = weights(3, 70, Grid::sym_narrow, false);
  std::vector<float> x(3 * 70, 0.0f);
  x[70 + 8] = std::numeric_limits<float>::quiet_NaN();
  x[140 + 9] = -std::numeric_limits<float>::infinity();
  for (const cpu::Kernels& k : cpu::runnable_kernels())
    for (const std::optional<float> scale : {std::optional<float>(), {1.0f}}) {
      const auto y = product(k, w, x, 3, scale);
      for (size_t i = 0; i < 3; ++i) CHECK(y[i] == 0);
      for (size_t i = 3; i < 9; ++i) CHECK(std::isnan(y[i]));  // only of the tokens that are broken
    }
  // No whole units of columns; three bits; groups of 48, 96 and 192 and along the other axis.
  std::vector<AffineRows> refused;
  refused.emplace_back(AffineFormat{8, Grid::sym_narrow, 1, 32}, 70);
  refused.emplace_back(AffineFormat{4, Grid::sym_narrow, 1, 0}, 70);
  refused.emplace_back(AffineFormat{8, Grid::asym_gptq, 1, 0}, 70);
  refused.emplace_back(AffineFormat{3, Grid::sym_narrow, 1, 32}, 384);
  for (const int64_t group : {48, 96, 192})
    refused.emplace_back(AffineFormat{4, Grid::sym_narrow, 1, group}, 384);
  refused.emplace_back(AffineFormat{4, Grid::sym_narrow, 0, 32}, 384);
  for (AffineRows& rows : refused) {
    const std::vector<float> zeros(size_t(32 * rows.columns()));
    rows.append(zeros.data(), 32);
    CHECK_THROWS_AS(product(cpu::chosen_kernels(), rows, zeros, 1, {}), Error);
  }
}

// Sums of the numbers themselves in 64 bits, and of their magnitudes.
struct Sums {
  std::vector<double> y, size;
};
Sums sums_of_numbers(const cpu::WeightRows& w, int64_t out, const std::vector<float>& x, int64_t n,
                     const cpu::InputScale& how, const float* bias) {
  const int64_t in = w.columns(), unit = how.per_unit ? 32 : in;
  std::vector<float> numbers(size_t(in * out));
  w.decode(0, out, numbers.data());
  Sums sums;
  for (int64_t t = 0; t < n; ++t) {
    std::vector<float> scales;
    for (int64_t c = 0; c < in; ++c) {
      if (c % unit == 0) scales.push_back(how.per_unit ? 1e-30f : 1e-5f);
      scales.back() = std::max(scales.back(), std::abs(x[size_t(t * in + c)]));
    }
    for (float& s : scales) s = how.fixed ? *how.fixed : s / 127.0f;
    for (int64_t r = 0; r < out; ++r) {
      double sum = bias[r], size = std::abs(bias[r]);
      for (int64_t c = 0; c < in; ++c) {
        const float s = scales[size_t(c / unit)];
        const double q = std::clamp(std::nearbyint(x[size_t(t * in + c)] / s), -127.0f, 127.0f);
        const double product = q * double(s) * double(numbers[size_t(r * in + c)]);
        sum += product;
        size += std::abs(product);
      }
      sums.y.push_back(sum);
      sums.size.push_back(size);
    }
  }
  return sums;
}

AffineRows grouped_weights(int bits, Grid grid, int64_t group, int64_t out, int64_t in) {
  AffineRows w({bits, grid, 1, group}, in);
  auto values = numbers(out * in, 5);
  // Groups differ in size, so that no one's scale passes for another's.
  for (size_t i = 0; i < values.size(); ++i) values[i] *= float(1 + i / 32 % 7);
  w.append(values.data(), out);
  return w;
}

// Every kernel's product against the sums of numbers; of few tokens and of many the same bits, and
// of AVX2 those of AVX-512.
void check_groups(const cpu::WeightRows& w, int64_t out, const std::vector<float>& x, int64_t n,
                  const cpu::InputScale& how) {
  const auto bias = numbers(out, 7);
  const Sums want = sums_of_numbers(w, out, x, n, how, bias.data());
  std::vector<float> fused;
  for (const cpu::Kernels& k : cpu::runnable_kernels()) {
    INFO("static " << bool(how.fixed) << ", per unit " << how.per_unit << ", " << k.name);
    const auto all = product(k, w, out, x, n, how, bias.data());
    double worst = 0;
    for (size_t i = 0; i < all.size(); ++i)
      worst = std::max(worst, std::abs(all[i] - want.y[i]) / want.size[i]);
    CHECK(worst < 1e-6);
    for (const int64_t tokens : {1, 2, 4, 5, 8}) {
      const auto some = product(k, w, out, x, tokens, how, bias.data(), 3);
      CHECK(std::equal(some.begin(), some.end(), all.begin()));
    }
    if (k.name == std::string("plain")) continue;
    if (fused.empty()) fused = all;
    CHECK(all == fused);
  }
}

TEST_CASE("int8: groups give the sums of the numbers, whatever the tokens, rows and threads",
          "[linear]") {
  struct Shape {
    int64_t group, in, out;
  };
  for (const Shape s :
       {Shape{32, 32, 1}, Shape{32, 96, 5}, Shape{32, 576, 101}, Shape{64, 320, 50},
        Shape{128, 576, 101}, Shape{256, 1184, 3}, Shape{0, 96, 2}, Shape{0, 160, 17}})
    for (const int bits : {4, 8})
      for (const Grid grid : {Grid::sym_narrow, Grid::sym_full, Grid::sym_gptq, Grid::asym_gptq,
                              Grid::asym_awq, Grid::min}) {
        const int64_t n = 11;
        const AffineRows w = grouped_weights(bits, grid, s.group, s.out, s.in);
        const auto x = numbers(n * s.in, 6);
        INFO("group " << s.group << ", in " << s.in << ", bits " << bits << ", grid " << int(grid));
        for (const cpu::InputScale& how :
             {cpu::InputScale{}, cpu::InputScale{0.005f}, cpu::InputScale{{}, true}})
          check_groups(cpu::WeightRows(w), s.out, x, n, how);
      }
}

TEST_CASE("int8: blocks of GGUF files give the sums of the numbers, also in llama.cpp's order",
          "[linear]") {
  using namespace blocks_detail;
  for (const BlockFormat* format : {&kFormat<Q4_0>, &kFormat<Q4_1>, &kFormat<Q8_0>})
    for (const int64_t in : {32, 64, 96, 128, 576})
      for (const int64_t out : {1, 6, 102})
        for (const int64_t paired : {0, 6}) {
          if (out % 6 != 0 && paired > 0) continue;
          INFO(format->name << ", in " << in << ", out " << out << ", paired " << paired);
          const int64_t n = 11, bytes = in / 32 * format->bytes;
          // No byte in front of the rows or behind them.
          const auto file = std::make_unique<uint8_t[]>(size_t(out * bytes));
          std::mt19937 random(1);
          for (int64_t i = 0; i < out * bytes; ++i) file[size_t(i)] = uint8_t(random());
          for (int64_t i = 0; i < out * in / 32; ++i) {
            const uint16_t two[2] = {float_to_f16(0.01f * float(1 + i % 7)),
                                     float_to_f16(-0.03f * float(1 + i % 5))};
            std::memcpy(file.get() + i * format->bytes, two, format == &kFormat<Q4_1> ? 4 : 2);
          }
          const StoredRows rows{file.get(), in, DType::f32, format, paired};
          const auto x = numbers(n * in, 6);
          for (const cpu::InputScale& how :
               {cpu::InputScale{}, cpu::InputScale{0.005f}, cpu::InputScale{{}, true}})
            check_groups(cpu::WeightRows(rows), out, x, n, how);
        }
}

TEST_CASE("int8: groups beside each other and beside rows, rounded, and broken tokens",
          "[linear]") {
  const int64_t in = 192, n = 9;
  const AffineRows four = grouped_weights(4, Grid::asym_gptq, 64, 97, in),
                   eight = grouped_weights(8, Grid::min, 32, 33, in),
                   rows = weights(50, in, Grid::sym_narrow, false);
  auto x = numbers(n * in, 6);
  const auto bias = numbers(97, 7);
  ThreadPool pool(2);
  for (const cpu::Kernels& k : cpu::runnable_kernels()) {
    INFO(k.name);
    std::vector<float> a(size_t(n * 97)), b(size_t(n * 33)), c(size_t(n * 50));
    const cpu::Int8Product all[] = {{cpu::WeightRows(four), 97, bias.data(), a.data()},
                                    {cpu::WeightRows(rows), 50, nullptr, c.data()},
                                    {cpu::WeightRows(eight), 33, nullptr, b.data()}};
    cpu::linears_int8(pool, k, all, x.data(), n, {}, true);
    CHECK(a == product(k, four, x, n, {}, bias.data(), 1, true));
    CHECK(b == product(k, eight, x, n, {}, nullptr, 1, true));
    CHECK(c == product(k, rows, x, n, {}, nullptr, 1, true));
    auto rounded = product(k, four, x, n, {}, bias.data());
    for (float& v : rounded) v = cpu::round_bf16(v);
    CHECK(a == rounded);

    // Also with a scale for each unit, which all but `rows` of one sum can have.
    const cpu::Int8Product units[] = {{cpu::WeightRows(four), 97, bias.data(), a.data()},
                                      {cpu::WeightRows(rows), 50, nullptr, c.data()},
                                      {cpu::WeightRows(eight), 33, nullptr, b.data()}};
    const cpu::InputScale per_unit{{}, true};
    cpu::linears_int8(pool, k, units, x.data(), n, per_unit, false);
    CHECK(a == product(k, cpu::WeightRows(four), 97, x, n, per_unit, bias.data(), 1));
    CHECK(b == product(k, cpu::WeightRows(eight), 33, x, n, per_unit, nullptr, 1));
    CHECK(c == product(k, cpu::WeightRows(rows), 50, x, n, per_unit, nullptr, 1));

    for (const cpu::InputScale& how : {cpu::InputScale{}, per_unit})
      for (const int64_t tokens : {int64_t{3}, n}) {
        const auto of = [&](const std::vector<float>& from) {
          return product(k, cpu::WeightRows(four), 97, from, tokens, how);
        };
        const auto clean = of(x);
        auto broken = x;
        broken[size_t(in + 7)] = std::numeric_limits<float>::infinity();
        broken[size_t(2 * in - 1)] = std::numeric_limits<float>::quiet_NaN();
        const auto y = of(broken);
        for (size_t i = 0; i < y.size(); ++i)
          CHECK((i / 97 == 1 ? std::isnan(y[i]) : y[i] == clean[i]));
        // Units of zeros, and of numbers far below those of others.
        auto small = x;
        std::fill(small.begin(), small.begin() + in, 0.0f);
        for (int64_t c0 = in; c0 < in + 32; ++c0) small[size_t(c0)] *= 1e-9f;
        const auto z = of(small);
        CHECK(std::all_of(z.begin(), z.begin() + 97, [](float v) { return v == 0; }));
        check_groups(cpu::WeightRows(four), 97, small, n, how);
      }
  }
}

}  // namespace
}  // namespace ptq::test
