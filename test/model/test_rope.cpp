// The scaled rotary embedding in the engine: both sides of the product, the rows that a cache holds
// before rotation, and the gradients use the same angles and the same factor on cos and sin.
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "ptq/engine/cpu/backward.hpp"
#include "ptq/engine/cpu/transformer.hpp"
#include "test/support/random_model.hpp"
#include "test/support/reference_model.hpp"

using namespace ptq;
using CpuTransformer = Transformer<cpu::Device>;

namespace {

// A random model whose config.json has these settings as well.
struct ScaledModel {
  std::string path;
  explicit ScaledModel(const std::string& member) {
    ptq::test::RandomModel shape;
    shape.vocab = 64;
    path = ptq::test::write_random_model(shape, "rope");
    const std::filesystem::path file = std::filesystem::path(path) / "config.json";
    std::ifstream in(file);
    std::string text{std::istreambuf_iterator<char>(in), {}};
    std::ofstream(file) << "{" + member + ", " + text.substr(1);
  }
  ~ScaledModel() { std::filesystem::remove_all(path); }
};

// Keys before rotation, every row but the current one dense.
struct PreRope final : KvMethod {
  bool before;
  explicit PreRope(bool b) : before(b) {}
  KvPolicy policy(KvSide side) const override {
    KvPolicy p{0, 0, 1};
    p.pre_rope = before && side == KvSide::keys;
    return p;
  }
  void encode(KvSide, int, int64_t, int64_t tokens, const float* x, RowSink& out) override {
    out.dense(DType::f16, 2, tokens, 16, x);
  }
};

double loss_of(Engine& engine, KvMethod* kv, const std::vector<int32_t>& ids) {
  const size_t vocab = size_t(engine.config().vocab_size);
  double loss = 0;
  const auto sequence = engine.start(kv);
  engine.forward(*sequence, ids, Regime::streaming, 0,
                 [&](int64_t first, int64_t rows, const float* logits) {
                   for (int64_t r = 0; r < rows && first + r + 1 < int64_t(ids.size()); ++r) {
                     const float* row = logits + size_t(r) * vocab;
                     double sum = 0;
                     for (size_t v = 0; v < vocab; ++v) sum += std::exp(double(row[v]));
                     loss += std::log(sum) - double(row[ids[size_t(first + r + 1)]]);
                   }
                 });
  return loss / double(ids.size() - 1);
}

}  // namespace

TEST_CASE("rope: scalings reach attention, unrotated caches and gradients alike") {
  std::mt19937 random(3);
  std::vector<int32_t> ids(48);
  for (auto& id : ids) id = int32_t(random() % 64);
  double plain = 0;
  for (const char* scaling :
       {R"({"rope_type": "default"})", R"({"rope_type": "linear", "factor": 4.0})",
        R"({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32})",
        R"({"rope_type": "yarn", "factor": 4.0, "attention_factor": 2.0})"}) {
    INFO(scaling);
    const ScaledModel model("\"rope_scaling\": " + std::string(scaling));
    CpuTransformer engine(model.path, cpu::Device(1));
    const double want = ptq::test::ReferenceModel(model.path).loss(ids);
    const double loss = loss_of(engine, nullptr, ids);
    CHECK(loss == Approx(want).margin(2e-4));  // rows of the cache are float16
    if (plain == 0) {
      plain = loss;
    } else {
      CHECK(std::abs(loss - plain) > 2e-3);
    }
    GradientVisitor<double> nothing;
    CHECK(cpu::BackwardPass<double>(model.path, 1).backward(ids, nothing) ==
          Approx(want).epsilon(1e-12));
    PreRope before(true), after(false);
    CHECK(loss_of(engine, &before, ids) == Approx(loss_of(engine, &after, ids)).margin(2e-4));
  }
}
