// Noise on the hidden state: what it is, and that it depends on places alone.
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "ptq/engine/cpu/transformer.hpp"
#include "test/support/difference.hpp"
#include "test/support/random_model.hpp"

namespace ptq::test {
namespace {

struct Model {
  Model() : folder(write_random_model({}, "noise")), engine(folder, cpu::Device(1)) {}
  ~Model() { std::filesystem::remove_all(folder); }

  std::vector<float> logits(const LayerNoise& noise, size_t cut) {
    const auto sequence = engine.start(nullptr);
    if (noise.relative != 0) sequence->disturb(noise);
    std::vector<float> out;
    const size_t vocab = size_t(engine.config().vocab_size);
    for (size_t at = 0; at < text.size(); at += cut) {
      engine.forward(*sequence, std::span(text).subspan(at, std::min(cut, text.size() - at)),
                     Regime::streaming, 0, [&](int64_t, int64_t rows, const float* p) {
                       out.insert(out.end(), p, p + size_t(rows) * vocab);
                     });
    }
    return out;
  }

  std::string folder;
  Transformer<cpu::Device> engine;
  const std::vector<int32_t> text = {5, 9, 17, 3, 44, 60, 2, 8, 5, 9, 31, 7, 70, 1, 12, 6, 5, 90};
};

}  // namespace

TEST_CASE("noise has mean 0 and variance 1, and no place like another", "[noise]") {
  double sum = 0, squares = 0, neighbours = 0, largest = 0;
  constexpr int kRows = 200, kColumns = 500;
  for (int row = 0; row < kRows; ++row)
    for (int c = 0; c < kColumns; ++c) {
      const double z = double(unit_noise(7, 3, row, c));
      sum += z;
      squares += z * z;
      neighbours += z * double(unit_noise(7, 3, row, c + 1)) +
                    z * double(unit_noise(7, 4, row, c)) +
                    z * double(unit_noise(7, 3, row + 1, c)) + z * double(unit_noise(8, 3, row, c));
      largest = std::max(largest, std::abs(z));
    }
  const double n = kRows * kColumns;  // 100,000: standard errors 0.003, 0.004, 0.006
  CHECK(std::abs(sum / n) < 0.015);
  CHECK(squares / n == Approx(1).margin(0.02));
  CHECK(std::abs(neighbours / n) < 0.03);
  CHECK(largest > 3);
  CHECK(largest <= 3.4642);
}

TEST_CASE("noise on the hidden state is small, the same every time and for every cut", "[noise]") {
  Model model;
  const LayerNoise noise{kRoundingNoise, 1};
  const std::vector<float> clean = model.logits({}, 100), noisy = model.logits(noise, 100);
  const double moved = difference(noisy, clean);
  CHECK(moved > 1e-4);
  CHECK(moved < 0.1);
  CHECK(model.logits(noise, 100) == noisy);
  CHECK(difference(model.logits(noise, 5), noisy) < 1e-2 * moved);  // sums in another order
  CHECK(difference(model.logits({kRoundingNoise, 2}, 100), noisy) > 0.1 * moved);
  // Twice the noise moves about twice as far.
  const double twice = difference(model.logits({2 * kRoundingNoise, 1}, 100), clean);
  CHECK(twice / moved == Approx(2).epsilon(0.1));
}

TEST_CASE("in a call of two sequences only the disturbed one is disturbed", "[noise]") {
  Model model;
  const size_t vocab = size_t(model.engine.config().vocab_size);
  const auto plain = model.engine.start(nullptr), other = model.engine.start(nullptr);
  other->disturb({kRoundingNoise, 1});
  std::vector<float> a, b;
  const auto into = [&](std::vector<float>& out) {
    return [&, vocab](int64_t, int64_t rows, const float* p) {
      out.insert(out.end(), p, p + size_t(rows) * vocab);
    };
  };
  const std::vector<Request> requests = {{*plain, model.text, 0, into(a)},
                                         {*other, model.text, 0, into(b)}};
  model.engine.forward(requests, Regime::streaming);
  const std::vector<float> clean = model.logits({}, 100);
  const double moved = difference(model.logits({kRoundingNoise, 1}, 100), clean);
  CHECK(difference(a, clean) < 1e-2 * moved);
  CHECK(difference(b, model.logits({kRoundingNoise, 1}, 100)) < 1e-2 * moved);
  // A copy goes on with the same noise.
  const auto copy = other->fork();
  std::vector<float> c, d;
  model.engine.forward(*copy, std::span(model.text).first(3), Regime::streaming, 0, into(c));
  model.engine.forward(*other, std::span(model.text).first(3), Regime::streaming, 0, into(d));
  CHECK(c == d);
}

}  // namespace ptq::test
