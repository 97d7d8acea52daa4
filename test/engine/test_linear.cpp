// Linear layers: every kernel that the machine can run, with every form in which weights are
// stored.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "ptq/engine/cpu/linear.hpp"
#include "test/support/random_numbers.hpp"

using namespace ptq;

namespace ptq::test {
namespace {

// A weight and the bytes that it is a view of.
struct Stored {
  std::string what;
  std::vector<uint8_t> bytes;
  LinearWeight weight;
};

TensorInfo tensor(int64_t out, int64_t in, DType dtype, const uint8_t* data) {
  TensorInfo info;
  info.dtype = dtype;
  info.shape = {out, in};
  info.data = data;
  return info;
}

// Every form of the same numbers, blocks of random bytes besides.
std::vector<Stored> every_form(int64_t out, int64_t in) {
  std::vector<Stored> all;
  const auto w = numbers(out * in, 1);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    Stored s{std::string(dtype_name(dtype)), std::vector<uint8_t>(1 + w.size() * 4), {}};
    from_float(dtype, w.data(), int64_t(w.size()), s.bytes.data() + 1);  // at an odd address
    s.weight = LinearWeight("w", tensor(out, in, dtype, s.bytes.data() + 1));
    all.push_back(std::move(s));
  }
  const auto encode = [&](const AffineFormat& f, const std::string& what) {
    Stored s{what, {}, LinearWeight("w", tensor(out, in, DType::f32, nullptr))};
    s.weight.affine(f, 1, out, in, w.data());
    all.push_back(std::move(s));
  };
  for (const int bits : {1, 2, 3, 4, 5, 6, 7, 8})
    for (const int64_t group : {0, 16, 24, 32, 64, 128, 192})
      for (const Grid grid : {Grid::asym_gptq, Grid::min})
        encode({bits, grid, 1, group}, std::to_string(bits) + " bits, group " +
                                           std::to_string(group) + ", grid " +
                                           std::to_string(int(grid)));
  for (const int64_t group : {24, 32}) {
    Stored s{"columns in another order, group " + std::to_string(group),
             {},
             LinearWeight("w", tensor(out, in, DType::f32, nullptr))};
    std::vector<int32_t> order(static_cast<size_t>(in));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(5));
    const int64_t groups = in < group ? 1 : (in + group - 1) / group;
    std::vector<uint8_t> own(w.size());
    for (size_t i = 0; i < own.size(); ++i) own[i] = uint8_t(i * 7 % 16);
    const auto scale = numbers(out * groups, 6);
    s.weight.ordered_codes({4, Grid::sym_full, 1, group}, order.data(), out, in, own.data(),
                           scale.data(), nullptr);
    all.push_back(std::move(s));
  }
  encode({4, Grid::sym_narrow, 1, 128}, "4 bits, symmetric");
  encode({4, Grid::min, 0, 8}, "4 bits along the rows");
  {
    Stored s{
        "float16 made by a method", {}, LinearWeight("w", tensor(out, in, DType::f32, nullptr))};
    s.weight.dense(DType::f16, 1, out, in, w.data());
    all.push_back(std::move(s));
  }
  if (in % 32 != 0) return all;
  using namespace blocks_detail;
  for (const BlockFormat* format : {&kFormat<Q4_0>, &kFormat<Q4_1>, &kFormat<Q5_0>, &kFormat<Q5_1>,
                                    &kFormat<Q8_0>, &kFormat<Iq4Nl>})
    for (const int64_t paired : {int64_t{0}, out % 10 == 0 ? int64_t{10} : int64_t{0}}) {
      const int64_t count = out * in / 32;
      Stored s{std::string(format->name) + (paired ? ", paired" : ""),
               std::vector<uint8_t>(size_t(count * format->bytes)),
               {}};
      std::mt19937 random(3);
      for (uint8_t& b : s.bytes) b = uint8_t(random());
      for (int64_t i = 0; i < count; ++i)
        for (int64_t at = 0; at < 4; at += 2) {  // scale and, where there is one, minimum
          if (at == 2 && std::string(format->name).back() != '1') continue;
          const uint16_t h = float_to_f16(0.01f * float(1 + random() % 16));
          std::memcpy(s.bytes.data() + i * format->bytes + at, &h, 2);
        }
      TensorInfo info = tensor(out, in, DType::f32, s.bytes.data());
      info.blocks = format;
      info.paired = paired;
      s.weight = LinearWeight("w", info);
      all.push_back(std::move(s));
    }
  return all;
}

std::vector<float> product(const cpu::Kernels& kernels, const LinearWeight& w, const float* x,
                           int64_t n, int threads = 2, const float* bias = nullptr,
                           bool bf16 = false) {
  // Never destroyed: other tests fork, and their children have no threads to join when they exit.
  static auto& pools = *new std::map<int, ThreadPool>;
  std::vector<float> y(size_t(n * w.out()));
  cpu::linear(pools.try_emplace(threads, threads).first->second, kernels, w, bias, x, n, y.data(),
              bf16);
  return y;
}

// Largest error in units of the sum of magnitudes of a dot product and its bias.
double worst_error(const LinearWeight& w, const std::vector<float>& x, int64_t n,
                   const std::vector<float>& bias, const std::vector<float>& y) {
  const int64_t in = w.in(), out = w.out();
  std::vector<float> decoded(size_t(in * out));
  w.decode(0, out, decoded.data());
  double worst = 0;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t r = 0; r < out; ++r) {
      double sum = bias[size_t(r)], magnitude = std::abs(sum);
      for (int64_t c = 0; c < in; ++c) {
        const double term = double(x[size_t(i * in + c)]) * double(decoded[size_t(r * in + c)]);
        sum += term;
        magnitude += std::abs(term);
      }
      const double error = std::abs(double(y[size_t(i * out + r)]) - sum) / magnitude;
      if (!(error <= worst)) worst = error;  // a NaN becomes the result
    }
  return worst;
}

TEST_CASE("linear: every kernel multiplies by the weights as they decode", "[linear]") {
  for (const int64_t in : {75, 9, 32, 608})
    for (const int64_t out : {70, 1})
      for (const Stored& s : every_form(out, in))
        for (const int64_t n : {1, 7, 13}) {
          const auto x = numbers(n * in, 2), bias = numbers(s.weight.out(), 4);
          for (const cpu::Kernels& k : cpu::runnable_kernels()) {
            INFO(k.name << ", " << s.what << ", in " << in << ", n " << n);
            const auto y = product(k, s.weight, x.data(), n, 2, bias.data());
            REQUIRE(!(worst_error(s.weight, x, n, bias, y) > 2e-6));
          }
        }
}

TEST_CASE("linear: in bfloat16 every kernel multiplies rounded weights", "[linear]") {
  const int64_t out = 70, tokens = 13;
  for (const int64_t in : {75, 58, 74, 32, 608, 2112})  // 58, 74: ends of less and more than 16
    for (Stored& s : every_form(out, in)) {
      auto x = numbers(tokens * in, 2);
      for (float& v : x) v = cpu::round_bf16(v);
      std::vector<float> w(size_t(s.weight.out() * in));
      s.weight.decode(0, s.weight.out(), w.data());
      for (float& v : w) v = cpu::round_bf16(v);
      for (const cpu::Kernels& k : cpu::runnable_kernels()) {
        INFO(k.name << ", " << s.what << ", in " << in);
        const auto all = product(k, s.weight, x.data(), tokens, 2, nullptr, true);
        for (int64_t i = 0; i < tokens; ++i)
          for (int64_t r = 0; r < s.weight.out(); ++r) {
            double sum = 0, magnitude = 0;
            for (int64_t c = 0; c < in; ++c) {
              const double term = double(x[size_t(i * in + c)]) * double(w[size_t(r * in + c)]);
              sum += term;
              magnitude += std::abs(term);
            }
            const double y = double(all[size_t(i * s.weight.out() + r)]);
            REQUIRE(std::abs(y - sum) <= std::abs(sum) / 256 + 2e-6 * magnitude);
          }
        for (const int64_t n : {1, 3}) {  // few tokens, many threads
          const auto part = product(k, s.weight, x.data() + 6 * in, n, 64, nullptr, true);
          REQUIRE(std::equal(part.begin(), part.end(), all.begin() + 6 * s.weight.out()));
        }
      }
    }
}

TEST_CASE("linear: products are the same on every instruction set", "[linear]") {
  const auto& list = cpu::runnable_kernels();
  for (const int64_t in : {9, 75, 576, 1100, 1120})
    for (const Stored& s : every_form(40, in)) {
      const auto x = numbers(17 * in, 2);
      for (size_t i = 2; i < list.size(); ++i)  // the plain ones may add without fma
        for (const int64_t n : {7, 17}) {
          INFO(list[i].name << ", " << s.what << ", in " << in << ", n " << n);
          CHECK(product(list[i], s.weight, x.data(), n) == product(list[1], s.weight, x.data(), n));
        }
    }
}

TEST_CASE("linear: a token's result depends on neither its neighbours nor the threads",
          "[linear]") {
  const int64_t out = 110, tokens = 20;
  for (const int64_t in : {9, 608, 2112})  // 2112: more than one block of sums
    for (const cpu::Kernels& k : cpu::runnable_kernels())
      for (const Stored& s : every_form(out, in)) {
        INFO(k.name << ", " << s.what << ", in " << in);
        const int64_t rows = s.weight.out();
        const auto x = numbers(tokens * in, 2);
        const auto all = product(k, s.weight, x.data(), tokens);
        for (const int threads : {1, 3, 64})
          REQUIRE((all == product(k, s.weight, x.data(), tokens, threads)));
        for (const int64_t n : {1, 2, 5, 7, 9, 13})  // few and many at once
          for (const int64_t first : {0, 6}) {
            INFO("tokens " << first << " to " << first + n);
            const auto part = product(k, s.weight, x.data() + first * in, n, 1);
            REQUIRE(std::equal(part.begin(), part.end(), all.begin() + first * rows));
          }
      }
}

TEST_CASE("linear: several products of one x are those of each alone", "[linear]") {
  static auto& pool = *new ThreadPool(3);
  const int64_t in = 608;
  std::vector<Stored> weights = every_form(110, in);
  const auto bias = numbers(110, 4);
  for (const cpu::Kernels& k : cpu::runnable_kernels())
    for (const bool bf16 : {false, true})
      for (const int64_t n : {1, 13}) {
        INFO(k.name << (bf16 ? ", bf16" : "") << ", n " << n);
        const auto x = numbers(n * in, 2);
        std::vector<std::vector<float>> y;
        std::vector<cpu::Product> products;
        for (const Stored& s : weights) {
          y.emplace_back(size_t(n * s.weight.out()));
          products.push_back({&s.weight, y.size() % 2 ? bias.data() : nullptr, y.back().data()});
        }
        cpu::linears(pool, k, products, x.data(), n, bf16);
        for (size_t i = 0; i < weights.size(); ++i)
          REQUIRE(y[i] == product(k, weights[i].weight, x.data(), n, 2, products[i].bias, bf16));
      }
}

TEST_CASE("linear: kernels are chosen by name, and others refused", "[linear]") {
  CHECK(std::string(cpu::kernels_named("plain").name) == "plain");
  try {
    cpu::kernels_named("mmx");
    FAIL("no error");
  } catch (const Error& e) {
    CHECK(std::string(e.what()).find("plain") != std::string::npos);
  }
}

}  // namespace
}  // namespace ptq::test
