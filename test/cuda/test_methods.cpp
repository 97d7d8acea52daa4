// The cache methods of this tree on the CUDA engine against the CPU's: logits, bytes, what was
// read. The kernels run on the host; a GPU's turn is bench/gpu.toml, because nvcc does not compile
// the loader of plugins.
#ifndef __CUDACC__
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "ptq/calibrate/weights.hpp"
#include "ptq/engine/cpu/transformer.hpp"
#include "ptq/engine/cuda/transformer.hpp"
#include "test/support/difference.hpp"
#include "test/support/plugin_method.hpp"
#include "test/support/random_model.hpp"
#include "test/support/random_numbers.hpp"

using namespace ptq;
using ptq::test::difference;
using ptq::test::ids;
using ptq::test::Method;
using CudaTransformer = Transformer<cuda::Device<float>>;
using CpuTransformer = Transformer<cpu::Device>;

namespace {

struct Engines {
  std::string folder;
  CpuTransformer cpu;
  CudaTransformer cuda;

  static ptq::test::RandomModel model() {
    ptq::test::RandomModel m;
    m.architecture = "Qwen2ForCausalLM";  // biases
    m.model_type = "qwen2";
    m.head_dim = 32;
    return m;
  }
  explicit Engines(const std::string& name, const ptq::test::RandomModel& m = model())
      : folder(ptq::test::write_random_model(m, name)),
        cpu(folder, cpu::Device(1)),
        cuda(folder, cuda::Device<float>(0, 0)) {
    // A 16-bit window would turn last bits the other way and with them codes.
    cpu.set_test_hooks({false, DType::f32});
    cuda.set_test_hooks({false, DType::f32});
  }
  ~Engines() { std::filesystem::remove_all(folder); }
};

// Logits of `text` in one call, appended to out.
void run(Engine& engine, Sequence& s, std::span<const int32_t> text, Regime regime,
         std::vector<float>& out) {
  const size_t vocab = size_t(engine.config().vocab_size);
  engine.forward(s, text, regime, 0, [&](int64_t, int64_t rows, const float* p) {
    out.insert(out.end(), p, p + size_t(rows) * vocab);
  });
}

void check_bytes(const CacheBytes& a, const CacheBytes& b) {
  CHECK(a.encoded == b.encoded);
  CHECK(a.window == b.window);
  CHECK(a.sink == b.sink);
  CHECK(a.tokens == b.tokens);
  CHECK(a.scalars == b.scalars);
  CHECK(a.encoded_is_dense == b.encoded_is_dense);
}

struct Case {
  const char *name, *options;
};
// Windows and blocks that a short text fills several times.
const Case kCases[] = {
    {"kvquant", R"({})"},
    {"kvquant", R"({"bits": 4, "outlier_share": 0, "nuq": false})"},
    {"kvquant_lite", R"({"residual_length": 12, "group_size": 16})"},
    {"kvquant_lite", R"({"residual_length": 12, "group_size": 8, "pre_rope": false})"},
    {"forge", R"({"window": 10, "energy": 0.8})"},
    {"forge", R"({"window": 0, "sink": 3, "center": false, "raw_fallback": false})"},
    {"forge_study", R"({})"},
    {"fp8", R"({})"},
    {"fp8", R"({"scaling": "token", "rotate": true})"},
    {"q8_0", R"({})"},
    {"q4_0", R"({"rotate": true})"},
    {"kivi", R"({"bits": 2, "group_size": 8, "residual_length": 16, "rotate": true})"},
    {"kivi", R"({"bits": 4, "group_size": 16, "residual_length": 16})"},
    {"streaming_llm", R"({"start_size": 3, "recent_size": 20})"},
    {"fp16", R"({})"},
};

}  // namespace

TEST_CASE("cuda engine: every cache method as on the CPU", "[cuda]") {
  Engines engines("cuda-methods");
  for (const Case& c : kCases) {
    INFO(c.name << " " << c.options);
    const Method method(c.name, nlohmann::ordered_json::parse(c.options), engines.cpu.config());
    method.calibrate(engines.cpu.config());
    // A number on the edge of two codes turns one way on this processor and the other way on the
    // next, and moves logits by a hundredth. Such a text tells nothing: another is taken.
    const auto compare = [&](const std::vector<int32_t>& text, Regime regime) {
      auto a = engines.cpu.start(method.kv), b = engines.cuda.start(method.kv);
      std::vector<float> want, got;
      const size_t prompt = 45;
      run(engines.cpu, *a, std::span(text).first(prompt), regime, want);
      run(engines.cuda, *b, std::span(text).first(prompt), regime, got);
      check_bytes(a->bytes(), b->bytes());
      for (size_t i = prompt; i < text.size(); ++i) {
        run(engines.cpu, *a, std::span(text).subspan(i, 1), Regime::streaming, want);
        run(engines.cuda, *b, std::span(text).subspan(i, 1), Regime::streaming, got);
      }
      check_bytes(a->bytes(), b->bytes());
      CHECK(a->reads().exposure() == b->reads().exposure());
      return difference(want, got);
    };
    for (const Regime regime : {Regime::streaming, Regime::prefill_exact}) {
      double apart = 1;
      for (int32_t first = 0; first < 3 && apart >= 1e-3; ++first) {
        auto text = ids(75 + first, 96);
        text.erase(text.begin(), text.begin() + first);
        apart = compare(text, regime);
      }
      CHECK(apart < 1e-3);
    }
  }
}

TEST_CASE("cuda engine: in bfloat16 no further from the CPU's than that is from float32",
          "[cuda]") {
  Engines engines("cuda-methods-bf16");
  CpuTransformer cpu(engines.folder, cpu::Device(1, Compute::bf16));
  Transformer<cuda::Device<cuda::Bf16>> cuda(engines.folder, cuda::Device<cuda::Bf16>(0, 0));
  const auto text = ids(50, 96);
  const auto mean = [](const std::vector<float>& x, const std::vector<float>& y) {
    double sum = 0;
    for (size_t i = 0; i < x.size(); ++i) sum += std::abs(double(x[i]) - double(y[i]));
    return sum / double(x.size());
  };
  for (const auto& [name, options] : std::vector<std::pair<std::string, std::string>>{
           {"streaming_llm", R"({"start_size": 3, "recent_size": 20})"},
           {"kvquant_lite", R"({"key_bits": 8, "value_bits": 8, "residual_length": 4})"},
           {"fp8", R"({"rotate": true})"}}) {
    INFO(name);
    const Method method(name, nlohmann::ordered_json::parse(options), cpu.config());
    auto a = cpu.start(method.kv), b = cuda.start(method.kv), c = engines.cpu.start(method.kv);
    std::vector<float> want, got, full;
    run(cpu, *a, text, Regime::streaming, want);
    run(cuda, *b, text, Regime::streaming, got);
    run(engines.cpu, *c, text, Regime::streaming, full);
    CHECK(mean(want, got) < mean(want, full));
    check_bytes(a->bytes(), b->bytes());
  }
}

TEST_CASE("cuda engine: graphs of plain caches and of others are kept apart", "[cuda]") {
  Engines engines("cuda-graphs");
  const ModelConfig& config = engines.cpu.config();
  const Method lite("kvquant_lite", {{"residual_length", 200}}, config),
      forge("forge", {{"window", 4}, {"sink", 1}}, config),
      streaming("streaming_llm", {{"start_size", 2}, {"recent_size", 9}}, config);
  const auto text = ids(60, 96);
  // Decoded in turns, so that a step follows one of another kind; all of them as many rows.
  struct Turn {
    KvMethod* method;
    std::unique_ptr<Sequence> cpu, cuda;
    std::vector<float> want, got;
  };
  std::vector<Turn> turns;
  for (KvMethod* method : {static_cast<KvMethod*>(nullptr), lite.kv, forge.kv, streaming.kv})
    turns.push_back({method, engines.cpu.start(method), engines.cuda.start(method), {}, {}});
  for (Turn& t : turns) {
    run(engines.cpu, *t.cpu, std::span(text).first(22), Regime::streaming, t.want);
    run(engines.cuda, *t.cuda, std::span(text).first(22), Regime::streaming, t.got);
  }
  const uint64_t before = engines.cuda.device_for_tests().graph_launches();
  for (size_t i = 22; i < text.size(); ++i)
    for (Turn& t : turns) {
      run(engines.cpu, *t.cpu, std::span(text).subspan(i, 1), Regime::streaming, t.want);
      run(engines.cuda, *t.cuda, std::span(text).subspan(i, 1), Regime::streaming, t.got);
    }
  for (const Turn& t : turns) CHECK(difference(t.want, t.got) < 1e-3);
  // 38 steps of each; FORGE encodes in few of them, and the first two kinds are seen once before.
  CHECK(engines.cuda.device_for_tests().graph_launches() - before >= 140);
}

TEST_CASE("cuda engine: sequences of several methods in one call", "[cuda]") {
  Engines engines("cuda-mixed");
  const ModelConfig& config = engines.cpu.config();
  const Method lite("kvquant_lite", {{"residual_length", 6}, {"group_size", 8}}, config),
      kivi("kivi", {{"residual_length", 8}, {"group_size", 8}}, config),
      fp8("fp8", {{"rotate", true}}, config);
  const auto text = ids(40, 96);
  const auto logits = [&](Engine& engine) {
    std::vector<std::unique_ptr<Sequence>> all;
    for (KvMethod* m : {lite.kv, static_cast<KvMethod*>(nullptr), kivi.kv, fp8.kv})
      all.push_back(engine.start(m));
    std::vector<std::vector<float>> out(all.size());
    for (const auto& [begin, n] : std::vector<std::pair<size_t, size_t>>{
             {0, 20}, {20, 1}, {21, 1}, {22, 1}, {23, 12}, {35, 1}, {36, 1}}) {
      std::vector<Request> requests;
      for (size_t i = 0; i < all.size(); ++i)
        requests.push_back({*all[i], std::span(text).subspan(begin, n), 0,
                            [&, i](int64_t, int64_t rows, const float* p) {
                              out[i].insert(out[i].end(), p, p + rows * config.vocab_size);
                            }});
      engine.forward(requests, Regime::streaming);
    }
    return out;
  };
  const auto want = logits(engines.cpu), got = logits(engines.cuda);
  for (size_t i = 0; i < want.size(); ++i) CHECK(difference(want[i], got[i]) < 1e-3);
}

TEST_CASE("cuda engine: memory of evicted rows comes back", "[cuda]") {
  Engines engines("cuda-evict");
  const Method streaming("streaming_llm", {{"start_size", 4}, {"recent_size", 8}},
                         engines.cpu.config());
  auto s = engines.cuda.start(streaming.kv);
  std::vector<float> out;
  const auto text = ids(900, 96);
  run(engines.cuda, *s, text, Regime::prefill_exact, out);
  const CacheBytes b = s->bytes();
  // float32 keys and values of 2 layers and 2 heads of 32 channels
  CHECK(b.window == 8u * 2 * 2 * 2 * 32 * 4);
  CHECK(b.sink == 4u * 2 * 2 * 2 * 32 * 4);
  CHECK(b.reserved < 4 * 65536 + 4 * b.total());
}

TEST_CASE("cuda engine: keys before rotation want whole vectors", "[cuda]") {
  ptq::test::RandomModel m = Engines::model();
  m.head_dim = 24;
  Engines engines("cuda-narrow", m);
  const Method lite("kvquant_lite", {}, engines.cpu.config());
  CHECK_THROWS_WITH(engines.cuda.start(lite.kv), Catch::Contains("head_dim 24"));
  const Method study("kivi_study", {}, engines.cpu.config());
  CHECK_THROWS_WITH(engines.cuda.start(study.kv), Catch::Contains("rewrites"));
}

namespace {

// Keys 30000 times as large.
struct HugeKeys final : WeightMethod {
  void encode(const LinearView& l, RowSink& out) override {
    if (l.kind != "k_proj") return;
    std::vector<float> x(l.w, l.w + l.rows * l.columns);
    for (float& v : x) v *= 30000;
    out.dense(DType::bf16, 1, l.rows, l.columns, x.data());
  }
};
// Keeps rows as they are, in a format with the range of float32.
struct Keep final : KvMethod {
  bool cuda = true;
  KvPolicy policy(KvSide) const override { return {0, 4, 1}; }
  void encode(KvSide, int, int64_t, int64_t tokens, const float* x, RowSink& out) override {
    out.dense(DType::bf16, 2, tokens, 32, x);
  }
  bool on_cuda() const override { return cuda; }
  void encode_on(const CudaPlace&, KvSide side, int layer, int64_t first, int64_t tokens,
                 const float* x, RowSink& out) override {
    encode(side, layer, first, tokens, x, out);
  }
};

}  // namespace

TEST_CASE("cuda engine: a number that cannot be cached is said once", "[cuda]") {
  Engines engines("cuda-infinite");
  HugeKeys huge;
  calibrate::encode_weights(engines.cuda, huge);
  Keep method;
  const auto text = ids(20, 96);
  for (const bool on_device : {true, false, true}) {
    method.cuda = on_device;
    std::vector<float> out;
    engines.cuda.set_test_hooks({false, DType::f16});  // keys overflow the window
    auto bad = engines.cuda.start(&method);
    CHECK_THROWS_WITH(run(engines.cuda, *bad, text, Regime::streaming, out),
                      Catch::Contains("not finite") && Catch::Contains("layer 0, keys"));
    engines.cuda.set_test_hooks({false, DType::f32});
    auto good = engines.cuda.start(&method);
    CHECK_NOTHROW(run(engines.cuda, *good, text, Regime::streaming, out));
  }
}
#endif
