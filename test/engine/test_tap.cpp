// The tap: what a pass shows, the sums that devices form of it, and traces held against another
// implementation.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <vector>

#include "ptq/calibrate/block_inputs.hpp"
#include "ptq/encoding/dense.hpp"
#include "ptq/engine/backward.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/engine/trace.hpp"
#include "ptq/model/safetensors.hpp"
#include "test/support/difference.hpp"
#include "test/support/random_model.hpp"
#include "test/support/reference_model.hpp"

using namespace ptq;
using ptq::test::RandomModel;

namespace {

std::vector<int32_t> some_ids(int64_t n, int64_t vocab) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(int32_t((i * 37 + i * i % 11) % vocab));
  return ids;
}

std::vector<float> logits_of(Engine& engine, const std::vector<int32_t>& ids, Tap* tap) {
  std::vector<float> all;
  const auto sequence = engine.start(nullptr);
  engine.forward(
      *sequence, ids, Regime::streaming, 0,
      [&](int64_t, int64_t rows, const float* x) {
        all.insert(all.end(), x, x + rows * engine.config().vocab_size);
      },
      tap);
  return all;
}

RandomModel uneven_model() {
  RandomModel m;
  m.layers = 3;
  m.layer_sizes =
      R"([{}, {"num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 40},
          {"num_attention_heads": 4, "intermediate_size": 64}])";
  return m;
}

}  // namespace

TEST_CASE("tap: looking changes no logit and shows every point once per pass") {
  const std::string folder = test::write_random_model({}, "tap");
  const auto engine = make_cpu_engine(folder, 2);
  const std::vector<int32_t> ids = some_ids(19, engine->config().vocab_size);
  Trace trace(anatomy_of(engine->config()));
  CHECK(logits_of(*engine, ids, &trace) == logits_of(*engine, ids, nullptr));
  CHECK(trace.entries().size() == size_t(2 * (kPoints - 5) + 3));  // without norms of heads
  CHECK(trace.entries().front().name == "model.embed_tokens");
  CHECK(trace.entries().back().name == "lm_head");
  for (const Trace::Entry& e : trace.entries()) {
    INFO(e.name);
    CHECK(e.rows() == 19);
  }
}

TEST_CASE("tap: sums of several passes are those of all rows") {
  RandomModel m;
  m.max_positions = 4096;
  const std::string folder = test::write_random_model(m, "tap-sums");
  const auto engine = make_cpu_engine(folder, 2);
  const std::vector<int32_t> ids = some_ids(2500, engine->config().vocab_size);  // two passes
  Trace trace(anatomy_of(engine->config()));
  calibrate::BlockInputs inputs(1, {.gram = true}, 2500);
  logits_of(*engine, ids, &trace);
  logits_of(*engine, ids, &inputs);
  for (const auto& [point, name] :
       {std::pair{Point::attention_in, "model.layers.1.input_layernorm"},
        std::pair{Point::heads_out, "model.layers.1.self_attn.o_proj.input"},
        std::pair{Point::mlp_inner, "model.layers.1.mlp.down_proj.input"}}) {
    const calibrate::PointSums& sums = inputs.at(point);
    const auto entry = std::find_if(trace.entries().begin(), trace.entries().end(),
                                    [&](const Trace::Entry& e) { return e.name == name; });
    INFO(name);
    REQUIRE(entry != trace.entries().end());
    REQUIRE(sums.rows == 2500);
    REQUIRE(sums.width == entry->width);
    const size_t width = size_t(sums.width);
    std::vector<double> squares(width), magnitudes(width), gram(width * width);
    std::vector<float> largest(width);
    for (int64_t r = 0; r < sums.rows; ++r) {
      const float* x = entry->values.data() + r * sums.width;
      for (size_t i = 0; i < width; ++i) {
        squares[i] += double(x[i]) * double(x[i]);
        magnitudes[i] += std::fabs(double(x[i]));
        largest[i] = std::max(largest[i], std::fabs(x[i]));
        for (size_t j = 0; j < width; ++j) gram[i * width + j] += double(x[i]) * double(x[j]);
      }
    }
    CHECK(sums.largest == largest);
    for (size_t i = 0; i < width; ++i) {
      CHECK(sums.squares[i] == Approx(squares[i]).epsilon(1e-12));
      CHECK(sums.magnitudes[i] == Approx(magnitudes[i]).epsilon(1e-12));
      // Sums of products of a pass are float32.
      for (size_t j = 0; j < width; ++j)
        CHECK(std::fabs(sums.gram[i * width + j] - gram[i * width + j]) <=
              1e-5 * std::sqrt(squares[i] * squares[j]));
    }
  }
}

TEST_CASE("tap: a layer is asked for alone") {
  calibrate::BlockInputs inputs(3, {.columns = true}, 1);
  CHECK(inputs.wants(3, Point::mlp_in).columns);
  CHECK_FALSE(inputs.wants(3, Point::mlp_in).gram);
  CHECK_FALSE(inputs.wants(2, Point::mlp_in).any());
  CHECK_FALSE(inputs.wants(3, Point::layer_out).any());
}

TEST_CASE("anatomy: a model whose layers differ runs as the formulas say") {
  const std::string folder = test::write_random_model(uneven_model(), "uneven");
  const test::ReferenceModel reference(folder);
  const auto engine = make_cpu_engine(folder, 2);
  const std::vector<int32_t> ids = some_ids(23, engine->config().vocab_size);
  const std::vector<float> logits = logits_of(*engine, ids, nullptr);
  const int64_t vocab = engine->config().vocab_size;
  double loss = 0;
  for (size_t i = 0; i + 1 < ids.size(); ++i) {
    double sum = 0;
    for (int64_t t = 0; t < vocab; ++t)
      sum += std::exp(double(logits[i * size_t(vocab) + size_t(t)]));
    loss += std::log(sum) - double(logits[i * size_t(vocab) + size_t(ids[i + 1])]);
  }
  loss /= double(ids.size() - 1);
  CHECK(loss == Approx(reference.loss(ids)).epsilon(1e-3));  // the cache is float16
  GradientVisitor<float> nothing;
  const auto gradients = make_cpu_gradients(folder, {1, Compute::fp32, nullptr});
  CHECK(gradients->backward(ids, nothing) == Approx(reference.loss(ids)).epsilon(1e-5));

  const ModelConfig& c = engine->config();
  const auto sequence = engine->start(nullptr);
  engine->forward(*sequence, ids, Regime::streaming, int64_t(ids.size()), {});
  CHECK(sequence->bytes().total() == ids.size() * kv_bytes_per_token_fp16(c));
  CHECK(kv_bytes_per_token_fp16(c) == 2 * 2 * 16 * (2 + 1 + 2));
}

TEST_CASE("trace: the embedded models and a Qwen3 give what transformers' modules give") {
  namespace fs = std::filesystem;
  for (const char* folder : {"models/tiny-qwen2", "models/tiny-mistral", "models/tiny-llama",
                             "test/fixtures/families/qwen3-head-dim"}) {
    const fs::path root(PTQ_SOURCE_DIR);
    const std::string name = fs::path(folder).filename();
    const SafetensorsFile golden(root / "test/fixtures/trace" / (name + ".safetensors"));
    const TensorInfo& stored = *golden.find("ids");
    std::vector<int32_t> ids(size_t(stored.shape[0]));
    std::memcpy(ids.data(), stored.data, stored.bytes);
    const auto engine = make_cpu_engine((root / folder).string(), 2);
    Trace trace(anatomy_of(engine->config()));
    const auto sequence = engine->start(nullptr);
    engine->forward(
        *sequence, ids, Regime::independent, 0, [](int64_t, int64_t, const float*) {}, &trace);
    const auto points =
        compare_traces(trace,
                       [&](const std::string& point, int64_t rows,
                           int64_t width) -> std::optional<std::vector<float>> {
                         const TensorInfo* tensor = golden.find(point);
                         if (tensor == nullptr) return {};
                         REQUIRE(tensor->shape == std::vector<int64_t>{rows, width});
                         std::vector<float> values(size_t(rows * width));
                         to_float(tensor->dtype, tensor->data, rows * width, values.data());
                         return values;
                       });
    CHECK(points.size() == golden.tensors().size() - 1);
    CHECK(points.size() == trace.entries().size());
    for (const PointDifference& p : points) {
      INFO(name << " " << p.name << " token " << p.row << " column " << p.column);
      CHECK(p.relative <= 2e-5);
    }
  }
}

TEST_CASE("trace: traces part where a number was changed, and not before") {
  const std::string folder = test::write_random_model({}, "trace-part");
  const auto engine = make_cpu_engine(folder, 1);
  Trace trace(anatomy_of(engine->config()));
  logits_of(*engine, some_ids(5, engine->config().vocab_size), &trace);
  const std::string changed = "model.layers.1.mlp.up_proj";
  const auto points = compare_traces(
      trace, [&](const std::string& name, int64_t, int64_t) -> std::optional<std::vector<float>> {
        if (name == "lm_head") return {};
        for (const Trace::Entry& e : trace.entries()) {
          if (e.name != name) continue;
          std::vector<float> values = e.values;
          if (name == changed) values[size_t(2 * e.width + 7)] = std::nanf("");
          return values;
        }
        return {};
      });
  CHECK(points.size() == trace.entries().size() - 1);
  for (const PointDifference& p : points) {
    INFO(p.name);
    CHECK((p.relative > 0) == (p.name == changed));
    if (p.name == changed) CHECK((std::isinf(p.relative) && p.row == 2 && p.column == 7));
  }
}
