// The logits of a token are the same bits however its sequence is computed: any number of threads,
// any cut into passes, any other sequences beside it, on one set of kernels.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "ptq/engine/cpu/transformer.hpp"
#include "ptq/engine/kept_prompts.hpp"
#include "ptq/engine/logits_digest.hpp"
#include "test/support/random_model.hpp"

namespace ptq::test {
namespace {

using CpuTransformer = Transformer<cpu::Device>;
using Logits = std::vector<float>;

constexpr int64_t kTokens = 600;  // more than one span of attention
constexpr int64_t kHeads = 2, kDim = 16;

// Sinks and a window, as in StreamingLLM: the keys are rotated when they are read.
struct Evicts final : KvMethod {
  KvPolicy policy(KvSide side) const override {
    KvPolicy p{3, 40, 1};
    p.pre_rope = side == KvSide::keys;
    p.evicts = true;
    return p;
  }
  void encode(KvSide, int, int64_t, int64_t, const float*, RowSink&) override {
    FAIL("rows are dropped");
  }
};

// KIVI's two policies, or one row at a time behind a window.
struct Codes final : KvMethod {
  bool kivi, unrotated;
  explicit Codes(bool k, bool u = false) : kivi(k), unrotated(u) {}
  KvPolicy policy(KvSide side) const override {
    if (!kivi) {
      KvPolicy p{3, 5, 1};
      p.pre_rope = unrotated && side == KvSide::keys;
      return p;
    }
    return side == KvSide::keys ? KvPolicy{0, 0, 16} : KvPolicy{0, 16, 1};
  }
  void encode(KvSide side, int, int64_t, int64_t tokens, const float* x, RowSink& out) override {
    const int axis = kivi && side == KvSide::keys ? 0 : 1;
    out.affine({kivi ? 2 : 4, Grid::min, axis, 8}, kHeads, tokens, kDim, x);
  }
};

std::vector<int32_t> text(uint32_t seed, int64_t n = kTokens) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (auto& id : ids) id = int32_t(random() % 96);
  return ids;
}

// Logits of all tokens, of which `first` go into the first pass and `cut` into each other one.
Logits run(CpuTransformer& engine, KvMethod* method, const std::vector<int32_t>& ids, int64_t first,
           int64_t cut) {
  Logits all;
  auto sequence = engine.start(method);
  const std::span<const int32_t> rest(ids);
  for (int64_t at = 0, n = first; at < int64_t(ids.size()); at += n, n = cut) {
    n = std::min(n, int64_t(ids.size()) - at);
    engine.forward(*sequence, rest.subspan(size_t(at), size_t(n)), Regime::streaming, 0,
                   [&](int64_t, int64_t rows, const float* logits) {
                     all.insert(all.end(), logits, logits + rows * 96);
                   });
  }
  return all;
}

// The second of three sequences that are computed together.
Logits run_beside_others(CpuTransformer& engine, KvMethod* method,
                         const std::vector<int32_t>& ids) {
  const auto before = text(7, 37), behind = text(8, 211);
  auto a = engine.start(method), b = engine.start(method), c = engine.start(nullptr);
  Logits all;
  const std::vector<Request> requests = {{*a, before, 0, [](int64_t, int64_t, const float*) {}},
                                         {*b, ids, 0,
                                          [&](int64_t, int64_t rows, const float* logits) {
                                            all.insert(all.end(), logits, logits + rows * 96);
                                          }},
                                         {*c, behind, 0, [](int64_t, int64_t, const float*) {}}};
  engine.forward(requests, Regime::streaming);
  return all;
}

enum class Weights { float32, float16, int4, int4_units, int8 };

// Changes every linear layer of a model.
void encode(CpuTransformer& engine, Weights how) {
  if (how == Weights::float32) return;
  Blocks& blocks = engine.blocks();
  for (int l = 0; l < int(blocks.anatomy().layers.size()); ++l)
    for (int role = 0; role < kRoles; ++role) {
      LinearWeight& w = blocks.weight(l, Role(role));
      Logits x(size_t(w.scalars()));
      w.decode(0, w.out(), x.data());
      if (how == Weights::float16) w.dense(DType::f16, 1, w.out(), w.in(), x.data());
      if (how == Weights::int4) w.affine({4, Grid::asym_gptq, 1, 16}, 1, w.out(), w.in(), x.data());
      if (how == Weights::int4_units)
        w.affine({4, Grid::asym_gptq, 1, l == 0 ? 32 : 0}, 1, w.out(), w.in(), x.data());
      if (how == Weights::int8) {
        w.affine({8, Grid::sym_narrow, 1, 0}, 1, w.out(), w.in(), x.data());
        w.set_activation({ActivationKind::int8_token, 0, 0});
      }
      blocks.changed(l, Role(role));
    }
}

struct OnDisk {
  std::string path;
  explicit OnDisk(const RandomModel& m) : path(write_random_model(m, "same-bits")) {}
  ~OnDisk() { std::filesystem::remove_all(path); }
  std::unique_ptr<CpuTransformer> open(int threads, Weights weights, Compute compute,
                                       const cpu::Kernels& kernels) const {
    auto engine = std::make_unique<CpuTransformer>(path, cpu::Device(threads, compute, kernels));
    encode(*engine, weights);
    return engine;
  }
};

void check(const OnDisk& model, Weights weights, Compute compute, const cpu::Kernels& kernels) {
  INFO("kernels " << kernels.name << ", weights " << int(weights) << ", " << compute_word(compute));
  Codes kivi(true), rows(false);
  Evicts evicts;
  const auto ids = text(1);
  const auto two = model.open(2, weights, compute, kernels);
  const auto other = [&](int threads) { return model.open(threads, weights, compute, kernels); };
  for (KvMethod* method : {static_cast<KvMethod*>(nullptr), static_cast<KvMethod*>(&kivi),
                           static_cast<KvMethod*>(&rows), static_cast<KvMethod*>(&evicts)}) {
    INFO("cache " << (!method           ? "16 bit"
                      : method == &kivi ? "kivi"
                      : method == &rows ? "4 bit, one row at a time"
                                        : "sinks and window"));
    const Logits whole = run(*two, method, ids, kTokens, 1);
    REQUIRE(int64_t(whole.size()) == kTokens * 96);
    // In brackets: of what differs, 57,600 numbers are not printed.
    CHECK((run(*other(1), method, ids, kTokens, 1) == whole));
    CHECK((run(*other(3), method, ids, 100, 77) == whole));
    CHECK((run(*other(64), method, ids, 301, 5) == whole));
    CHECK((run(*two, method, ids, 530, 1) == whole));  // prefill, then token by token
    CHECK((run_beside_others(*two, method, ids) == whole));
  }
}

// What a prompt of 300 tokens leaves: the logits of the tokens behind it, the cache's bytes and
// what was read.
struct Left {
  Logits logits;
  uint64_t bytes;
  double queries, exposure, rows;
  bool operator==(const Left&) const = default;
};
Left behind_prompt(Engine& engine, KvMethod* method) {
  const auto ids = text(3, 340);
  const std::span<const int32_t> prompt = std::span(ids).first(300), rest = std::span(ids).last(40);
  Left left;
  const auto sequence = engine.start(method);
  engine.forward(*sequence, prompt, Regime::prefill_exact, 300, {});
  engine.forward(*sequence, rest, Regime::streaming, 0,
                 [&](int64_t, int64_t rows, const float* logits) {
                   left.logits.insert(left.logits.end(), logits, logits + rows * 96);
                 });
  left.bytes = sequence->bytes().total();
  const CacheReads reads = sequence->reads();
  left.queries = reads.queries;
  left.exposure = reads.exposure();
  left.rows = reads.total[0] + reads.total[1] + reads.encoded[0] + reads.encoded[1];
  return left;
}

}  // namespace

TEST_CASE("engine: logits do not depend on threads, cuts or neighbours", "[same-bits]") {
  const OnDisk model(RandomModel{});
  for (const cpu::Kernels& kernels : cpu::runnable_kernels())
    for (const Weights weights : {Weights::float32, Weights::float16, Weights::int4, Weights::int8})
      check(model, weights, Compute::fp32, kernels);
}

TEST_CASE("engine: the same where inputs become integers as the weights are", "[same-bits]") {
  RandomModel m;
  m.hidden = 64;
  m.intermediate = 160;
  const OnDisk model(m);
  for (const cpu::Kernels& kernels : cpu::runnable_kernels()) {
    check(model, Weights::int4_units, Compute::int8, kernels);
    // A method that rounds inputs its own way, and weights that are no integers.
    check(model, Weights::int8, Compute::int8, kernels);
    const auto logits = [&](Weights weights, Compute compute) {
      return run(*model.open(2, weights, compute, kernels), nullptr, text(1), kTokens, 1);
    };
    const auto same = [&](Weights weights) {
      return logits(weights, Compute::int8) == logits(weights, Compute::fp32);
    };
    CHECK(same(Weights::float16));
    CHECK(same(Weights::int8));
    const Logits exact = logits(Weights::int4_units, Compute::fp32),
                 rounded = logits(Weights::int4_units, Compute::int8);
    double worst = 0, largest = 0;
    for (size_t i = 0; i < exact.size(); ++i) {
      worst = std::max(worst, std::abs(double(exact[i]) - double(rounded[i])));
      largest = std::max(largest, std::abs(double(exact[i])));
    }
    CHECK(worst > 0);
    CHECK(worst < 0.03 * largest);
  }
}

TEST_CASE("engine: a digest of all logits says whether two runs are the same", "[same-bits]") {
  const OnDisk model(RandomModel{});
  const auto engine =
      model.open(2, Weights::float32, Compute::fp32, cpu::runnable_kernels().back());
  const LogitsFn ignored = [](int64_t, int64_t, const float*) {};
  const auto digest = [&](std::vector<std::vector<int32_t>> texts, int64_t cut, bool together) {
    DigestedEngine digested(*engine);
    std::vector<std::unique_ptr<Sequence>> sequences;
    for (size_t i = 0; i < texts.size(); ++i) sequences.push_back(digested.start(nullptr));
    std::vector<Request> requests;
    for (size_t i = 0; i < texts.size(); ++i) {
      const std::span<const int32_t> ids(texts[i]);
      if (!together)
        digested.forward(*sequences[i], ids.first(size_t(cut)), Regime::streaming, 0, ignored);
      requests.push_back({*sequences[i], together ? ids : ids.subspan(size_t(cut)), 0, ignored});
    }
    digested.forward(requests, Regime::streaming);
    CHECK(digested.digest().rows() == int64_t(texts[0].size() + texts[1].size()));
    return digested.digest().hex();
  };
  const auto a = text(1, 50), b = text(2, 70);
  const std::string both = digest({a, b}, 0, true);
  CHECK(both.size() == 32);
  CHECK(digest({b, a}, 20, false) == both);
  auto changed = b;
  changed.back() = (changed.back() + 1) % 96;
  CHECK(digest({a, changed}, 0, true) != both);
}

TEST_CASE("engine: the same in bfloat16 and within a sliding window", "[same-bits]") {
  RandomModel m;
  m.architecture = "MistralForCausalLM";
  m.model_type = "mistral";
  m.sliding_window = 90;
  const OnDisk model(m);
  for (const Compute compute : {Compute::fp32, Compute::bf16})
    check(model, Weights::float32, compute, cpu::chosen_kernels());
}

TEST_CASE("engine: a prompt that is taken leaves what running it leaves", "[same-bits]") {
  RandomModel plain, norms, window, uneven;
  norms.architecture = "Qwen3ForCausalLM";
  norms.model_type = "qwen3";
  window.architecture = "MistralForCausalLM";
  window.model_type = "mistral";
  window.sliding_window = 90;
  uneven.layer_sizes = R"([{}, {"num_attention_heads": 0, "num_key_value_heads": 0}])";
  Codes kivi(true), rows(false), unrotated(false, true);
  Evicts evicts;
  for (const RandomModel& shape : {plain, norms, window, uneven})
    for (const Compute compute : {Compute::fp32, Compute::bf16}) {
      INFO(shape.architecture << ", " << compute_word(compute));
      const OnDisk model(shape);
      const auto engine = model.open(2, Weights::float32, compute, cpu::chosen_kernels());
      KeptPrompts kept(1 << 20), none(uint64_t{1000});
      PromptKeeper keeper(*engine, *engine, kept), no_room(*engine, *engine, none);
      const Left dense = behind_prompt(keeper, nullptr);
      CHECK_FALSE(kept.empty());
      CHECK((behind_prompt(no_room, nullptr) == dense));
      CHECK(none.empty());
      for (KvMethod* method :
           std::initializer_list<KvMethod*>{nullptr, &kivi, &rows, &unrotated, &evicts}) {
        PromptedEngine prompted(*engine, kept, method);
        CHECK((behind_prompt(prompted, method) == behind_prompt(*engine, method)));
        CHECK(prompted.taken() == 1);
        CHECK(prompted.seconds() > 0);
      }
    }
}

}  // namespace ptq::test
