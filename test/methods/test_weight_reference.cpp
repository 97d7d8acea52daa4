// Methods for weights against an independent implementation in NumPy, written from the papers
// (test/fixtures/weights/make.py).
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "ptq/engine/weights/linear.hpp"
#include "test/support/weight_method.hpp"

namespace ptq::test {
namespace {

using Numbers = std::vector<float>;

struct Case {
  int64_t rows, columns, group;
  Numbers w, x;
  nlohmann::json expected;
  Numbers awq_scales, awq_duo_scales, smooth_scales;
};

std::vector<Case> cases() {
  std::ifstream file(std::string(PTQ_SOURCE_DIR) + "/test/fixtures/weights/weights.json");
  REQUIRE(file.good());
  std::vector<Case> all;
  for (const auto& c : nlohmann::json::parse(file))
    all.push_back({c["rows"], c["columns"], c["group"], c["w"], c["x"], c["expected"],
                   c["awq_scales"], c["awq_duo_scales"], c["smooth_scales"]});
  return all;
}

// What the method makes of a linear of a decoder layer.
Numbers encoded(const Case& c, const std::string& name, nlohmann::ordered_json options,
                const std::string& kind = "up_proj") {
  const WeightInstance method(name, std::move(options));
  const SampleInputs inputs(c.x, c.columns);
  const TensorInfo tensor{"w",
                          DType::f32,
                          {c.rows, c.columns},
                          reinterpret_cast<const uint8_t*>(c.w.data()),
                          4 * c.w.size()};
  LinearWeight weight("model.layers.0.mlp." + kind, tensor);
  method.weights->encode({0, weight.name(), kind, c.w.data(), c.rows, c.columns, &inputs.view},
                         weight);
  REQUIRE(weight.encoded());
  Numbers out(c.w.size());
  weight.decode(0, c.rows, out.data());
  return out;
}

void check_equal(const Numbers& got, const Numbers& expected) {
  REQUIRE(got.size() == expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    INFO(i);
    CHECK(got[i] == Approx(expected[i]).margin(1e-6));
  }
}

Numbers factors(const Case& c, const std::string& name, nlohmann::ordered_json options) {
  const WeightInstance method(name, std::move(options));
  const SampleInputs inputs(c.x, c.columns);
  Numbers factor(size_t(c.columns), 1.0f);
  method.weights->scale(
      {0,
       SitePlace::mlp_in,
       {{0, "model.layers.0.mlp.up_proj", "up_proj", c.w.data(), c.rows, c.columns, &inputs.view}}},
      factor);
  return factor;
}

}  // namespace

TEST_CASE("weight methods: what they store equals the papers' arithmetic") {
  for (const Case& c : cases()) {
    const auto group = [&](nlohmann::ordered_json more = nlohmann::ordered_json::object()) {
      more["group_size"] = c.group;
      return more;
    };
    const auto expect = [&](const std::string& label, const Numbers& got) {
      INFO(label << " of " << c.columns << " columns");
      check_equal(got, c.expected.at(label));
    };
    expect("rtn", encoded(c, "rtn", group()));
    expect("gptq", encoded(c, "gptq", group()));
    expect("gptq act_order", encoded(c, "gptq", group({{"act_order", true}})));
    expect("gptq static",
           encoded(c, "gptq", group({{"act_order", true}, {"static_groups", true}})));
    expect("awq clip", encoded(c, "awq", group({{"scale", false}})));
    expect("imatrix", encoded(c, "imatrix_mse", group()));
    expect("hqq", encoded(c, "hqq", group()));
    expect("nvfp4", encoded(c, "nvfp4", {}));
  }
}

TEST_CASE("weight methods: the scales that are moved equal the papers' arithmetic") {
  for (const Case& c : cases()) {
    const auto awq = [&](bool duo) {
      return factors(c, "awq", {{"group_size", c.group}, {"duo_scaling", duo}});
    };
    const auto expect = [](const Numbers& got, const Numbers& expected) {
      REQUIRE(got.size() == expected.size());
      for (size_t i = 0; i < got.size(); ++i) CHECK(got[i] == Approx(expected[i]).epsilon(1e-4));
    };
    expect(awq(false), c.awq_scales);
    expect(awq(true), c.awq_duo_scales);
    expect(factors(c, "smoothquant", {}), c.smooth_scales);
    CHECK(*std::max_element(c.awq_scales.begin(), c.awq_scales.end()) > 1);  // it does something
  }
}

TEST_CASE("gptq: the second column makes up for the first") {
  // By hand: the inputs (1, 0.5), (0.5, 1), (1, 1) give H = 2 XtX = [[4.5, 4], [4, 4.5]], damping
  // 0.045, U = [[0.987899, -0.869438], [0, 0.469065]]. A third column, which no other row uses,
  // sets the step to 1. w = (0.45, 0.30): q = 0, e = 0.455512, the next is 0.30 + 0.396039 = 0.696
  // -> 1. Rounding to nearest gives (0, 0).
  const Case c{1,  3,  0, {0.45f, 0.30f, 15}, {1, 0.5f, 0, 0.5f, 1, 0, 1, 1, 0, 0, 0, 1.5f}, {},
               {}, {}, {}};
  CHECK(encoded(c, "gptq", {{"group_size", 0}}) == Numbers{0, 1, 15});
  CHECK(encoded(c, "rtn", {{"group_size", 0}}) == Numbers{0, 0, 15});
}

TEST_CASE("weight methods: without what they learn from they say so") {
  const Case c = cases().front();
  for (const char* name : {"gptq", "awq", "imatrix_mse"}) {
    INFO(name);
    const WeightInstance method(name, {});
    const TensorInfo tensor{"w",
                            DType::f32,
                            {c.rows, c.columns},
                            reinterpret_cast<const uint8_t*>(c.w.data()),
                            4 * c.w.size()};
    LinearWeight weight("model.layers.0.mlp.up_proj", tensor);
    CHECK_THROWS_WITH(
        method.weights->encode(
            {0, weight.name(), "up_proj", c.w.data(), c.rows, c.columns, nullptr}, weight),
        Catch::Contains("calibration text"));
  }
}

// Inputs that enter exactly must not widen the steps of the others.
TEST_CASE("weight methods: a static scale is that of the inputs that are rounded") {
  const std::vector<float> w = {0.5f, -1, 0.25f, 2};
  const auto scale = [&](const char* name, nlohmann::ordered_json options, float largest) {
    const SampleInputs inputs({1, -largest, 0.5f, 1}, 2);
    options["static"] = true;
    const WeightInstance method(name, options);
    return method.weights
        ->activation({0, "model.layers.0.mlp.up_proj", "up_proj", w.data(), 2, 2, &inputs.view})
        .scale;
  };
  CHECK(scale("w8a8", {}, 20) == Approx(20.0 / 127));
  CHECK(scale("llm_int8", {}, 20) == Approx(6.0 / 127));
  CHECK(scale("llm_int8", {{"threshold", 1.5}}, 20) == Approx(1.5 / 127));
  CHECK(scale("llm_int8", {}, 5) == Approx(5.0 / 127));
}

TEST_CASE("weight methods: degenerate matrices decode to finite numbers near the originals") {
  for (const char* name : {"rtn", "gptq", "awq", "imatrix_mse", "hqq", "nf4", "mxfp4", "nvfp4",
                           "fp8_w8a8", "w8a8", "w4a8", "smoothquant", "llm_int8"}) {
    Case c = cases().front();
    // By definition: AWQ's grid has no number near a group far from zero; HQQ takes steps of at
    // least 5e-5; GPTQ sets columns that no input uses to zero.
    const std::string method = name;
    const auto tried = [&](const std::string& what) {
      if (method == "awq" && (what == "one number everywhere" || what == "positive numbers"))
        return;
      if (method == "hqq" && (what == "tiny numbers" || what == "inputs that are never used"))
        return;
      if (method == "gptq" && what == "inputs that are never used") return;
      INFO(name << ", " << what);
      const Numbers got = encoded(c, name, {});
      double error = 0, size = 0;
      for (size_t i = 0; i < got.size(); ++i) {
        REQUIRE(std::isfinite(got[i]));
        error += std::pow(double(got[i]) - double(c.w[i]), 2);
        size += std::pow(double(c.w[i]), 2);
      }
      CHECK(error <= 0.2 * size);
    };
    std::fill(c.w.begin(), c.w.end(), 0.0f);
    tried("zeros");
    std::fill(c.w.begin(), c.w.end(), -0.25f);
    tried("one number everywhere");
    for (size_t i = 0; i < c.w.size(); ++i) c.w[i] = 0.1f + 0.001f * float(i % 7);
    tried("positive numbers");
    for (size_t i = 0; i < c.w.size(); ++i) c.w[i] = (i % 2 ? 1.0f : -1.0f) * 1e-6f;
    tried("tiny numbers");
    for (float& x : c.x) x = 0;
    tried("inputs that are never used");
  }
}

}  // namespace ptq::test
