#include "bench/linear.hpp"

#include <fmt/format.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "ptq/engine/cpu/linear.hpp"
#include "ptq/engine/cpu/linear_int8.hpp"

namespace ptq::bench {
namespace {

constexpr int64_t kIn = 2048, kOut = 32768;  // 16 layers of a 1B shape, read one behind the other
constexpr int64_t kTokens = 512;

std::vector<float> random_numbers(int64_t n) {
  std::mt19937 random(1);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = float(random() >> 8) / float(1 << 23) - 1;
  return x;
}

// A weight and what it is a view of.
struct Stored {
  std::string what;
  std::vector<uint8_t> bytes;
  LinearWeight weight;
};

Stored dense(DType dtype, const std::vector<float>& w) {
  Stored s{std::string(dtype_name(dtype)),
           std::vector<uint8_t>(w.size() * size_t(dtype_bytes(dtype))),
           {}};
  from_float(dtype, w.data(), int64_t(w.size()), s.bytes.data());
  TensorInfo info;
  info.dtype = dtype;
  info.shape = {kOut, kIn};
  info.data = s.bytes.data();
  s.weight = LinearWeight("w", info);
  return s;
}

Stored codes(const AffineFormat& format, const std::string& what, const std::vector<float>& w) {
  TensorInfo info;
  info.shape = {kOut, kIn};
  Stored s{what, {}, LinearWeight("w", info)};
  s.weight.affine(format, 1, kOut, kIn, w.data());
  return s;
}

Stored blocks(const BlockFormat& format) {
  const int64_t count = kOut * kIn / format.numbers;
  Stored s{format.name, std::vector<uint8_t>(size_t(count * format.bytes)), {}};
  std::mt19937 random(1);
  for (uint8_t& b : s.bytes) b = uint8_t(random());
  const uint16_t scale = float_to_f16(0.01f);
  for (int64_t i = 0; i < count; ++i) {  // a minimum, too, where the format has one
    std::memcpy(s.bytes.data() + i * format.bytes, &scale, 2);
    if (std::string(format.name).ends_with("_1"))
      std::memcpy(s.bytes.data() + i * format.bytes + 2, &scale, 2);
  }
  TensorInfo info;
  info.shape = {kOut, kIn};
  info.data = s.bytes.data();
  info.blocks = &format;
  s.weight = LinearWeight("w", info);
  return s;
}

class Layers {
 public:
  Layers(Sheet& sheet, const Limits& limits, int threads)
      : sheet_(sheet), limits_(limits), pool_(threads), x_(random_numbers(kTokens * kIn)) {}

  void run() {
    const auto w = random_numbers(kOut * kIn);
    const double half = decode(dense(DType::f16, w), {});
    decode(dense(DType::bf16, w), half);
    decode(dense(DType::f32, w), half);
    for (const int bits : {8, 4, 3, 2})
      for (const int64_t group : {128, 32})
        decode(codes({bits, Grid::asym_gptq, 1, group},
                     fmt::format("{} bits, group {}", bits, group), w),
               half);
    using namespace blocks_detail;
    for (const BlockFormat* format :
         {&kFormat<Q8_0>, &kFormat<Q5_1>, &kFormat<Q5_0>, &kFormat<Q4_1>, &kFormat<Q4_0>})
      decode(blocks(*format), half);
    const double single = prefill(dense(DType::f32, w), {});
    prefill(dense(DType::f16, w), single);
    prefill(codes({4, Grid::asym_gptq, 1, 128}, "4 bits, group 128", w), single);
    prefill(blocks(kFormat<Q4_1>), single);
    if (kernels_.pairs)
      for (const Stored& s :
           {dense(DType::bf16, w), dense(DType::f16, w),
            codes({4, Grid::asym_gptq, 1, 128}, "4 bits, group 128", w), blocks(kFormat<Q4_1>)}) {
        decode(s, half, true);
        pairs(s, single);
      }
    integers("W8A8, integers", {8, Grid::sym_narrow, 1, 0}, w, single);
    integers("W4A8, integers, groups of 128", {4, Grid::asym_gptq, 1, 128}, w, single);
    for (const BlockFormat* format : {&kFormat<Q8_0>, &kFormat<Q4_1>}) {
      const Stored s = blocks(*format);
      integers(s.what + ", compute int8", cpu::WeightRows(s.weight.file()), {{}, true}, single);
    }
  }

 private:
  // One token; the bytes are those of the weight.
  double decode(const Stored& s, std::optional<double> half, bool bf16 = false) {
    std::vector<float> y(static_cast<size_t>(kOut));
    const Timing t = measure(
        [&] { cpu::linear(pool_, kernels_, s.weight, nullptr, x_.data(), 1, y.data(), bf16); });
    const double rate = double(s.weight.bytes()) / t.median;
    const Ratio share{rate / limits_.bytes, "of the memory's rate", true, {}};
    sheet_.row("1 token, " + s.what + (bf16 ? ", compute bf16" : ""), rate / 1e9, "GB/s", share, t);
    if (half)
      sheet_.row("  tokens", 1 / t.median, "1/s", Ratio{*half / t.median, "x float16", false, {}},
                 t);
    return t.median;
  }

  // Many tokens.
  double prefill(const Stored& s, std::optional<double> single) {
    std::vector<float> y(size_t(kTokens * kOut));
    const Timing t = measure([&] {
      cpu::linear(pool_, kernels_, s.weight, nullptr, x_.data(), kTokens, y.data(), false);
    });
    return row(s.what, t, single, limits_.flops, limits_.flops_of);
  }
  void pairs(const Stored& s, double single) {
    std::vector<float> y(size_t(kTokens * kOut));
    const Timing t = measure([&] {
      cpu::linear(pool_, kernels_, s.weight, nullptr, x_.data(), kTokens, y.data(), true);
    });
    row(s.what + ", compute bf16", t, single, limits_.bf16_flops, "of the rate of bfloat16 dots");
  }
  void integers(const std::string& what, const AffineFormat& format, const std::vector<float>& w,
                double single) {
    AffineRows rows(format, kIn);
    rows.append(w.data(), kOut);
    integers(what, cpu::WeightRows(rows), {}, single);
  }
  void integers(const std::string& what, const cpu::WeightRows& w, const cpu::InputScale& how,
                double single) {
    std::vector<float> y(size_t(kTokens * kOut));
    const cpu::Int8Product product{w, kOut, nullptr, y.data()};
    const Timing t = measure([&] {
      cpu::linears_int8(pool_, kernels_, std::span(&product, 1), x_.data(), kTokens, how, false);
    });
    row(what, t, single, limits_.int8_ops, "of the rate of 8-bit dots");
  }
  // limit: operations per second; 0: none was measured.
  double row(const std::string& what, const Timing& t, std::optional<double> single, double limit,
             const char* of) {
    const double rate = 2.0 * kTokens * kIn * kOut / t.median;
    sheet_.row(fmt::format("{} tokens, {}", kTokens, what), rate / 1e9, "GFLOP/s",
               Ratio{rate / (limit > 0 ? limit : limits_.flops),
                     limit > 0 ? of : limits_.flops_of,
                     true,
                     {}},
               t);
    if (single)
      sheet_.row("  time", 1e3 * t.median, "ms",
                 Ratio{*single / t.median, "x as fast as float32", false, {}}, t);
    return t.median;
  }

  Sheet& sheet_;
  const Limits& limits_;
  ThreadPool pool_;
  const cpu::Kernels& kernels_ = cpu::chosen_kernels();
  std::vector<float> x_;
};

}  // namespace

void measure_linear(Sheet& sheet, const Limits& limits, int threads) {
  fmt::print("linear layer of {} inputs and {} outputs, kernels {}\n", kIn, kOut,
             cpu::chosen_kernels().name);
  sheet.fact("kernels", cpu::chosen_kernels().name);
  Layers(sheet, limits, threads).run();
}

}  // namespace ptq::bench
