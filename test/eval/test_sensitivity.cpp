// Parts of a model through a method, one at a time.
#include <catch2/catch.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "ptq/calibrate/weights.hpp"
#include "ptq/engine/cpu/transformer.hpp"
#include "ptq/eval/sensitivity.hpp"
#include "test/support/random_model.hpp"

namespace ptq::test {
namespace {

using namespace ptq::eval;

struct Kivi final : KvMethod {
  std::vector<std::pair<int, KvSide>> calls;
  KvPolicy policy(KvSide) const override { return {0, 8, 8}; }
  void encode(KvSide side, int layer, int64_t, int64_t n, const float* x, RowSink& out) override {
    calls.emplace_back(layer, side);
    out.affine({2, Grid::min, side == KvSide::keys ? 0 : 1, 8}, 2, n, 16, x);
  }
};

struct Rtn final : WeightMethod {
  std::vector<std::string> calls;
  void encode(const LinearView& l, RowSink& out) override {
    calls.push_back(l.name);
    out.affine({3, Grid::asym_gptq, 1, 16}, 1, l.rows, l.columns, l.w);
  }
};

struct Model {
  Model() : folder(write_random_model({}, "sensitivity")), engine(folder, cpu::Device(1)) {
    for (int64_t i = 0; i < 60; ++i)
      tokens.push_back(int32_t((i * i * 31 + 7 * i + 3) % engine.config().vocab_size));
  }
  ~Model() { std::filesystem::remove_all(folder); }
  std::string folder;
  Transformer<cpu::Device> engine;
  std::vector<int32_t> tokens;
};

}  // namespace

TEST_CASE("a cache method in one side of one layer moves less than everywhere", "[sensitivity]") {
  Model model;
  const StoredReference reference(model.engine, model.tokens, Regime::streaming);
  CHECK(reference.divergence(model.engine, nullptr).kl_mean() == 0);
  const Anatomy anatomy = anatomy_of(model.engine.config());
  const auto kl_of = [&](int layer, KvSide side) {
    Kivi kivi;
    OnlySide only(kivi, anatomy, DType::f16, layer, side);
    const double kl = reference.divergence(model.engine, &only).kl_mean();
    CHECK(kivi.calls.empty() == (layer < 0));
    for (const auto& call : kivi.calls) CHECK(call == std::pair(layer, side));
    return kl;
  };
  Kivi kivi;
  const Divergence all = reference.divergence(model.engine, &kivi);
  CHECK(all.count() == 59);
  // Rows kept in 16 bits are those of a full-precision cache, read in other pieces.
  CHECK(kl_of(-1, KvSide::keys) < 1e-7);
  double sum = 0;
  for (int l = 0; l < int(anatomy.layers.size()); ++l)
    for (const KvSide side : {KvSide::keys, KvSide::values}) {
      const double kl = kl_of(l, side);
      CHECK(kl > 0);
      CHECK(kl < all.kl_mean());
      sum += kl;
    }
  CHECK(sum > 0.2 * all.kl_mean());
  CHECK(sum < 5 * all.kl_mean());
}

TEST_CASE("a weight method in one layer, or in one matrix, leaves the others", "[sensitivity]") {
  Model model;
  const StoredReference reference(model.engine, model.tokens, Regime::independent);
  const Anatomy anatomy = anatomy_of(model.engine.config());
  const auto kl_of = [&](int layer, const std::string& name, size_t encoded) {
    Rtn rtn;
    OnlyLinears only(rtn, layer, name);
    Transformer<cpu::Device> engine(model.folder, cpu::Device(1));
    calibrate::encode_weights(engine, only);
    CHECK(rtn.calls.size() == encoded);
    CHECK(only.encoded() == (encoded > 0));
    if (!name.empty() && encoded > 0) CHECK(rtn.calls[0] == name);
    return reference.divergence(engine, nullptr).kl_mean();
  };
  const std::string down = anatomy.layers[0].at(Role::down).name;
  const double layer = kl_of(0, "", 7), one = kl_of(0, down, 1);
  CHECK(layer > 0);
  CHECK(one > 0);
  CHECK(one < layer);
  CHECK(kl_of(1, down, 0) == 0);  // another layer has no matrix of this name
}

}  // namespace ptq::test
