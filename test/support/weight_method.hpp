// A method for weights of build/plugins, and the inputs of a linear as the host sums them up.
#pragma once

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "ptq/run/plugins.hpp"

namespace ptq::test {

// With options over its defaults.
struct WeightInstance {
  std::unique_ptr<MethodInstance> instance;
  WeightMethod* weights = nullptr;

  WeightInstance(const std::string& name, nlohmann::ordered_json options) {
    static const PluginSet plugins =
        PluginSet::scan({std::filesystem::path(PTQ_BINARY_DIR) / "plugins"});
    const MethodInfo* info = plugins.find(name);
    REQUIRE(info != nullptr);
    if (options.is_null()) options = nlohmann::ordered_json::object();
    instance = plugins.create(*info, validate_options(info->options, options, "test"), 0);
    weights = instance->weights();
    REQUIRE(weights != nullptr);
  }
};

// Everything that can be wanted of the rows x [n, columns], by plain loops.
struct SampleInputs {
  std::vector<float> square, magnitude, largest, gram, rows;
  LinearInputs view;

  SampleInputs(const std::vector<float>& x, int64_t columns) : rows(x) {
    const size_t width = size_t(columns), n = x.size() / width;
    for (size_t i = 0; i < width; ++i) {
      double s = 0, m = 0;
      float most = 0;
      for (size_t t = 0; t < n; ++t) {
        const float v = x[t * width + i];
        s += double(v) * double(v);
        m += std::fabs(double(v));
        most = std::max(most, std::fabs(v));
      }
      square.push_back(float(s / double(n)));
      magnitude.push_back(float(m / double(n)));
      largest.push_back(most);
      for (size_t j = 0; j < width; ++j) {
        double product = 0;
        for (size_t t = 0; t < n; ++t)
          product += double(x[t * width + i]) * double(x[t * width + j]);
        gram.push_back(float(product / double(n)));
      }
    }
    static uint64_t id = 0;
    view = {++id, int64_t(n), columns, square, magnitude, largest, gram, rows, {}};
  }
  SampleInputs(const SampleInputs&) = delete;
};

}  // namespace ptq::test
