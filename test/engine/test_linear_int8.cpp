// Integer products (W8A8): sums are exact, so that every kernel gives the same numbers.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <optional>
#include <span>
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

std::vector<float> product(const cpu::Kernels& k, const AffineRows& w, const std::vector<float>& x,
                           int64_t n, std::optional<float> scale, const float* bias = nullptr,
                           int threads = 2, bool bf16 = false) {
  ThreadPool pool(threads);
  std::vector<float> y(size_t(n * w.rows()));
  const cpu::Int8Product one{&w, bias, y.data()};
  cpu::linears_int8(pool, k, std::span(&one, 1), x.data(), n, scale, bf16);
  return y;
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
    const cpu::Int8Product all[] = {
        {&wide, bias.data(), a.data()}, {&narrow, nullptr, b.data()}, {&wide, nullptr, c.data()}};
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
  AffineRows groups({8, Grid::sym_narrow, 1, 32}, 70), four({4, Grid::sym_narrow, 1, 0}, 70),
      zeros({8, Grid::asym_gptq, 1, 0}, 70);
  for (AffineRows* rows : {&groups, &four, &zeros}) {
    rows->append(x.data(), 1);
    CHECK_THROWS_AS(product(cpu::chosen_kernels(), *rows, std::vector<float>(70), 1, {}), Error);
  }
}

}  // namespace
}  // namespace ptq::test
