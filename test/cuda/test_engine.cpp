// The CUDA engine against the CPU's, end to end. Without a GPU its kernels run on the host
// (test/cuda/shim), so the models are small and the texts short.
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <vector>

#include "ptq/calibrate/block_inputs.hpp"
#include "ptq/calibrate/weights.hpp"
#include "ptq/engine/cpu/transformer.hpp"
#include "ptq/engine/cuda/transformer.hpp"
#include "ptq/engine/trace.hpp"
#include "test/support/difference.hpp"
#include "test/support/random_model.hpp"
#include "test/support/random_numbers.hpp"

using namespace ptq;
using ptq::test::difference;
using ptq::test::ids;
template <class T>
using Cuda = Transformer<cuda::Device<T>>;
using CpuTransformer = Transformer<cpu::Device>;

namespace {

struct TestKivi final : KvMethod {
  int bits = 2;
  int64_t group = 8, residual = 16, sink = 0, heads = 2, dim = 16;
  bool cuda = true;
  int encoded_on_device = 0;
  KvPolicy policy(KvSide side) const override {
    return side == KvSide::keys ? KvPolicy{sink, 0, residual} : KvPolicy{sink, residual, 1};
  }
  void encode(KvSide side, int, int64_t, int64_t tokens, const float* x, RowSink& out) override {
    out.affine({bits, Grid::min, side == KvSide::keys ? 0 : 1, group}, heads, tokens, dim, x);
  }
  bool on_cuda() const override { return cuda; }
  void encode_on(const CudaPlace&, KvSide side, int layer, int64_t first, int64_t tokens,
                 const float* x, RowSink& out) override {
    ++encoded_on_device;
    encode(side, layer, first, tokens, x, out);
  }
};

struct TestRtn final : WeightMethod {
  void encode(const LinearView& l, RowSink& out) override {
    if (l.layer >= 0) out.affine({4, Grid::asym_gptq, 1, 16}, 1, l.rows, l.columns, l.w);
  }
};

std::vector<float> run(Engine& engine, Sequence& s, std::span<const int32_t> text, Regime regime,
                       int64_t cut = 0) {
  const size_t vocab = size_t(engine.config().vocab_size);
  std::vector<float> out;
  if (cut == 0) cut = int64_t(text.size());
  for (size_t at = 0; at < text.size(); at += size_t(cut))
    engine.forward(s, text.subspan(at, std::min(size_t(cut), text.size() - at)), regime, 0,
                   [&](int64_t, int64_t rows, const float* p) {
                     out.insert(out.end(), p, p + size_t(rows) * vocab);
                   });
  return out;
}

struct Folder {
  std::string path;
  explicit Folder(const ptq::test::RandomModel& m, const std::string& name)
      : path(ptq::test::write_random_model(m, name)) {}
  ~Folder() { std::filesystem::remove_all(path); }
};

}  // namespace

TEST_CASE("cuda engine: logits within 1e-3 of the CPU's, dense and KIVI", "[cuda]") {
  ptq::test::RandomModel plain, qwen, mistral, qwen3, phi3;
  qwen.architecture = "Qwen2ForCausalLM";
  qwen.model_type = "qwen2";
  qwen3.architecture = "Qwen3ForCausalLM";
  qwen3.model_type = "qwen3";
  phi3.architecture = "Phi3ForCausalLM";
  phi3.model_type = "phi3";
  mistral.architecture = "MistralForCausalLM";
  mistral.model_type = "mistral";
  mistral.sliding_window = 20;
  mistral.tied = false;
  for (const auto& model : {plain, qwen, mistral, qwen3, phi3}) {
    Folder folder(model, "cuda-" + model.model_type);
    CpuTransformer cpu(folder.path, cpu::Device(1));
    Cuda<float> cuda(folder.path, cuda::Device<float>(0));
    // A 16-bit window would turn last bits the other way and with them codes.
    cpu.set_test_hooks({false, DType::f32});
    cuda.set_test_hooks({false, DType::f32});
    const auto text = ids(50, cpu.config().vocab_size);
    for (const Regime regime : {Regime::independent, Regime::streaming, Regime::prefill_exact}) {
      auto a = cpu.start(nullptr), b = cuda.start(nullptr);
      CHECK(difference(run(cpu, *a, text, regime), run(cuda, *b, text, regime)) < 1e-4);
    }
    for (const auto& [regime, cut] :
         {std::pair(Regime::streaming, 0), {Regime::streaming, 7}, {Regime::prefill_encoded, 0}}) {
      TestKivi kivi;
      kivi.sink = model.tied ? 0 : 3;
      auto a = cpu.start(&kivi), b = cuda.start(&kivi);
      const auto want = run(cpu, *a, text, regime, cut), got = run(cuda, *b, text, regime, cut);
      CHECK(difference(want, got) < 1e-3);
      CHECK(kivi.encoded_on_device > 0);
      CHECK(a->reads().exposure() == b->reads().exposure());
      const CacheBytes x = a->bytes(), y = b->bytes();
      CHECK(x.encoded == y.encoded);
      CHECK(x.window == y.window);
      CHECK(x.sink == y.sink);
      CHECK(x.scalars == y.scalars);
    }
  }
}

TEST_CASE("cuda engine: noise on the hidden state is that of the CPU", "[cuda]") {
  Folder folder({}, "cuda-noise");
  CpuTransformer cpu(folder.path, cpu::Device(1));
  Cuda<float> cuda(folder.path, cuda::Device<float>(0));
  const auto text = ids(20, cpu.config().vocab_size);
  auto clean = cuda.start(nullptr), a = cpu.start(nullptr), b = cuda.start(nullptr);
  for (Sequence* s : {a.get(), b.get()}) s->disturb({kRoundingNoise, 3});
  // The last tokens one by one, as steps of a decode.
  const auto decode = [&](Engine& engine, Sequence& s) {
    auto out = run(engine, s, std::span(text).first(12), Regime::streaming);
    const auto rest = run(engine, s, std::span(text).subspan(12), Regime::streaming, 1);
    out.insert(out.end(), rest.begin(), rest.end());
    return out;
  };
  const auto plain = decode(cuda, *clean), got = decode(cuda, *b);
  const double moved = difference(got, plain);
  CHECK(moved > 1e-4);
  CHECK(difference(got, decode(cpu, *a)) < 0.05 * moved);
}

TEST_CASE("cuda engine: packed and reordered weights of GGUF files are those of the CPU",
          "[cuda]") {
  for (const std::string name : {"llama", "qwen2", "qwen3"}) {
    const std::string file = std::string(PTQ_SOURCE_DIR) + "/test/fixtures/gguf/" + name + ".gguf";
    CpuTransformer cpu(file, cpu::Device(1));
    Cuda<float> cuda(file, cuda::Device<float>(0));
    const auto text = ids(12, cpu.config().vocab_size);
    auto a = cpu.start(nullptr), b = cuda.start(nullptr);
    CHECK(difference(run(cpu, *a, text, Regime::independent),
                     run(cuda, *b, text, Regime::independent)) < 1e-4);
  }
}

TEST_CASE("cuda engine: checkpoints that others packed stay packed", "[cuda]") {
  for (const std::string name : {"ct-group-sym", "ct-channel-8bit", "gptq", "gptq-act-order"}) {
    INFO(name);
    const std::string folder = std::string(PTQ_SOURCE_DIR) + "/test/fixtures/packed/" + name;
    CpuTransformer cpu(folder, cpu::Device(1));
    Cuda<float> cuda(folder, cuda::Device<float>(0));
    CHECK(cuda.weight_bytes().total() == cpu.weight_bytes().total());
    const auto text = ids(12, cpu.config().vocab_size);
    const auto compare = [&] {
      auto a = cpu.start(nullptr), b = cuda.start(nullptr);
      CHECK(difference(run(cpu, *a, text, Regime::independent),
                       run(cuda, *b, text, Regime::independent)) < 1e-4);
    };
    compare();
    TestRtn rtn;  // what a method makes of them replaces them
    calibrate::encode_weights(cpu, rtn);
    calibrate::encode_weights(cuda, rtn);
    CHECK(cuda.weight_bytes().encoded == cpu.weight_bytes().encoded);
    compare();
  }
}

TEST_CASE("cuda engine: a method that works on the host", "[cuda]") {
  Folder folder({}, "cuda-host");
  CpuTransformer cpu(folder.path, cpu::Device(1));
  Cuda<float> cuda(folder.path, cuda::Device<float>(0));
  cpu.set_test_hooks({false, DType::f32});
  cuda.set_test_hooks({false, DType::f32});
  TestKivi kivi;
  kivi.cuda = false;
  const auto text = ids(40, 96);
  auto a = cpu.start(&kivi), b = cuda.start(&kivi);
  CHECK(difference(run(cpu, *a, text, Regime::streaming), run(cuda, *b, text, Regime::streaming)) <
        1e-3);
  CHECK(kivi.encoded_on_device == 0);
}

TEST_CASE("cuda engine: packed weights", "[cuda]") {
  Folder folder({}, "cuda-rtn");
  CpuTransformer cpu(folder.path, cpu::Device(1));
  Cuda<float> cuda(folder.path, cuda::Device<float>(0));
  cpu.set_test_hooks({false, DType::f32});
  cuda.set_test_hooks({false, DType::f32});
  TestRtn rtn;
  calibrate::encode_weights(cpu, rtn);
  calibrate::encode_weights(cuda, rtn);
  CHECK(cpu.weight_bytes().encoded == cuda.weight_bytes().encoded);
  CHECK(cpu.weight_bytes().total() == cuda.weight_bytes().total());
  const auto text = ids(30, 96);
  for (const int64_t cut : {0, 1}) {
    auto a = cpu.start(nullptr), b = cuda.start(nullptr);
    CHECK(difference(run(cpu, *a, text, Regime::streaming, cut),
                     run(cuda, *b, text, Regime::streaming, cut)) < 1e-3);
  }
}

TEST_CASE("cuda engine: plain weights that a method chose", "[cuda]") {
  // Half of each weight: layers must not get one another's, though the host's copies of them come
  // and go at the same addresses.
  struct Half final : WeightMethod {
    void encode(const LinearView& l, RowSink& out) override {
      std::vector<float> half(l.w, l.w + l.rows * l.columns);
      for (float& x : half) x *= 0.5f;
      if (l.layer >= 0) out.dense(DType::f16, 1, l.rows, l.columns, half.data());
    }
  } half;
  Folder folder({}, "cuda-plain");
  CpuTransformer cpu(folder.path, cpu::Device(1));
  Cuda<float> cuda(folder.path, cuda::Device<float>(0));
  cpu.set_test_hooks({false, DType::f32});
  cuda.set_test_hooks({false, DType::f32});
  calibrate::encode_weights(cpu, half);
  calibrate::encode_weights(cuda, half);
  auto a = cpu.start(nullptr), b = cuda.start(nullptr);
  const auto text = ids(20, 96);
  CHECK(difference(run(cpu, *a, text, Regime::streaming), run(cuda, *b, text, Regime::streaming)) <
        1e-4);
}

TEST_CASE("cuda engine: a decoded step comes from a graph and gives the same logits", "[cuda]") {
  Folder folder({}, "cuda-graph");
  Cuda<float> engine(folder.path, cuda::Device<float>(0));
  CpuTransformer cpu(folder.path, cpu::Device(1));
  cpu.set_test_hooks({false, DType::f32});
  engine.set_test_hooks({false, DType::f32});
  const auto text = ids(40, 96);
  auto a = cpu.start(nullptr), b = engine.start(nullptr);
  const auto want = run(cpu, *a, text, Regime::streaming);
  auto got = run(engine, *b, std::span(text).first(20), Regime::streaming);
  const auto rest = run(engine, *b, std::span(text).subspan(20), Regime::streaming, 1);
  got.insert(got.end(), rest.begin(), rest.end());
  CHECK(difference(want, got) < 1e-4);
  CHECK(engine.device_for_tests().graph_launches() >= 15);
}

TEST_CASE("cuda engine: graphs from before the weights were encoded are not replayed", "[cuda]") {
  Folder folder({}, "cuda-stale");
  TestRtn rtn;
  const auto text = ids(24, 96);
  const auto decoded = [&](Cuda<float>& engine) {
    auto s = engine.start(nullptr);
    return run(engine, *s, text, Regime::streaming, 1);
  };
  Cuda<float> fresh(folder.path, cuda::Device<float>(0)), used(folder.path, cuda::Device<float>(0));
  calibrate::encode_weights(fresh, rtn);
  decoded(used);
  CHECK(used.device_for_tests().graph_launches() > 0);
  calibrate::encode_weights(used, rtn);
  CHECK(decoded(used) == decoded(fresh));
}

TEST_CASE("cuda engine: plain rows of packed weights take one piece of memory", "[cuda]") {
  const auto peak = [](int64_t layers) {
    ptq::test::RandomModel m;
    m.layers = layers;
    m.intermediate = 512;
    Folder folder(m, "cuda-slice");
    Cuda<float> engine(folder.path, cuda::Device<float>(0, 0));
    TestRtn rtn;
    calibrate::encode_weights(engine, rtn);
    auto s = engine.start(nullptr);
    engine.forward(*s, ids(256, 96), Regime::streaming, 255, [](int64_t, int64_t, const float*) {});
    return engine.device_for_tests().ledger().peak[int(cuda::Region::workspace)];
  };
  // A layer adds its tables (segments, and a few numbers a row; room is doubled), but no copy of
  // its weights, 7 * 48 * 96 to 48 * 512 numbers each.
  const uint64_t tables = 2 * (3 * sizeof(cuda::SegmentView) + 256 * 20 + 512);
  CHECK(peak(4) - peak(1) <= 3 * tables + 256 * 3);
}

TEST_CASE("cuda engine: bfloat16 stays within its own rounding of float32", "[cuda]") {
  Folder folder({}, "cuda-bf16");
  Cuda<cuda::Bf16> engine(folder.path, cuda::Device<cuda::Bf16>(0));
  CpuTransformer cpu(folder.path, cpu::Device(1, Compute::bf16)),
      exact(folder.path, cpu::Device(1));
  const auto text = ids(40, 96);
  auto a = cpu.start(nullptr), b = engine.start(nullptr), c = exact.start(nullptr);
  const auto want = run(cpu, *a, text, Regime::streaming),
             got = run(engine, *b, text, Regime::streaming),
             full = run(exact, *c, text, Regime::streaming);
  // No further from the CPU's bfloat16 than bfloat16 is from float32.
  const auto mean = [](const std::vector<float>& x, const std::vector<float>& y) {
    double sum = 0;
    for (size_t i = 0; i < x.size(); ++i) sum += std::abs(double(x[i]) - double(y[i]));
    return sum / double(x.size());
  };
  CHECK(mean(want, got) < mean(want, full));
}

TEST_CASE("cuda engine: memory is counted, and running out is one sentence", "[cuda]") {
  Folder folder({}, "cuda-memory");
  size_t free_before = 0, free_after = 0, total = 0;
  cudaMemGetInfo(&free_before, &total);
  Cuda<float> engine(folder.path, cuda::Device<float>(0, size_t{2} << 20));
  auto s = engine.start(nullptr);
  run(engine, *s, ids(30, 96), Regime::streaming);
  const cuda::Ledger& ledger = engine.device_for_tests().ledger();
  cudaMemGetInfo(&free_after, &total);
#ifdef __CUDACC__
  // A driver loads kernels when they are first used and keeps pools of its own.
  CHECK(ledger.reserved <= free_before - free_after);
#else
  CHECK(ledger.reserved == free_before - free_after);
#endif
  CHECK(ledger.used[0] + ledger.used[1] + ledger.used[2] <= ledger.reserved);
  CHECK(ledger.used[1] >= s->bytes().total());
}

TEST_CASE("cuda engine: short of memory, passes become smaller, then one sentence", "[cuda]") {
#ifndef __CUDACC__
  auto& device = ptq_shim::Device::get();
  const size_t all = device.total;
  ptq::test::RandomModel wide;  // logits that dominate a pass
  wide.vocab = 3000;
  Folder folder(wide, "cuda-short");
  const auto text = ids(60, 3000);
  std::vector<float> want;
  {
    Cuda<float> engine(folder.path, cuda::Device<float>(0, 0));
    engine.set_test_hooks({false, DType::f32});
    auto s = engine.start(nullptr);
    want = run(engine, *s, text, Regime::streaming);
  }
  // What is left after the weights holds logits of some ten tokens.
  device.total = device.used + (size_t{34} << 20);
  {
    Cuda<float> engine(folder.path, cuda::Device<float>(0, 0));
    engine.set_test_hooks({false, DType::f32});
    device.total = device.used + (size_t{5} << 18);
    auto s = engine.start(nullptr);
    CHECK(difference(run(engine, *s, text, Regime::streaming), want) < 1e-4);
    device.total = device.used + 1000;
    auto t = engine.start(nullptr);
    CHECK_THROWS_WITH(run(engine, *t, text, Regime::streaming),
                      Catch::Contains("out of device memory"));
  }
  device.total = all;
#endif
}

TEST_CASE("cuda engine: policies that read the current row, and those it does not have", "[cuda]") {
  Folder folder({}, "cuda-policy");
  CpuTransformer cpu(folder.path, cpu::Device(1));
  Cuda<float> cuda(folder.path, cuda::Device<float>(0));
  cpu.set_test_hooks({false, DType::f32});
  cuda.set_test_hooks({false, DType::f32});
  struct Current final : KvMethod {
    KvPolicy asked;
    KvPolicy policy(KvSide) const override { return asked; }
    void encode(KvSide, int, int64_t, int64_t tokens, const float* x, RowSink& out) override {
      out.affine({4, Grid::min, 1, 16}, 2, tokens, 16, x);
    }
  } method;
  method.asked.sink = 1;
  method.asked.current = true;
  const auto text = ids(30, 96);
  for (const int64_t cut : {0, 1}) {
    auto a = cpu.start(&method), b = cuda.start(&method);
    CHECK(difference(run(cpu, *a, text, Regime::streaming, cut),
                     run(cuda, *b, text, Regime::streaming, cut)) < 1e-3);
    CHECK(a->reads().exposure() == b->reads().exposure());
  }
  method.asked = {};
  method.asked.rewrites = true;
  CHECK_THROWS_WITH(cuda.start(&method), Catch::Contains("--device cpu"));
}

#ifndef __CUDACC__  // what a test can ask of a pretended device only

TEST_CASE("cuda engine: a request of more rows than a grid has in y", "[cuda]") {
  ptq::test::RandomModel m;
  m.max_positions = 70000;
  m.layers = 1;
  Folder folder(m, "cuda-long");
  Cuda<float> engine(folder.path, cuda::Device<float>(0));
  auto& device = ptq_shim::Device::get();
  device.run_kernels = false;  // launches are checked; running them would take minutes
  TestKivi kivi;
  auto s = engine.start(&kivi);
  CHECK_NOTHROW(engine.forward(*s, ids(65600, 96), Regime::prefill_exact, 65599,
                               [](int64_t, int64_t, const float*) {}));
  device.run_kernels = true;
}

TEST_CASE("cuda engine: cuBLAS without an algorithm that adds a bias", "[cuda]") {
  ptq::test::RandomModel qwen;
  qwen.architecture = "Qwen2ForCausalLM";
  qwen.model_type = "qwen2";
  Folder folder(qwen, "cuda-no-epilogue");
  const auto text = ids(20, 96);
  const auto logits = [&] {
    Cuda<float> engine(folder.path, cuda::Device<float>(0));
    auto s = engine.start(nullptr);
    return run(engine, *s, text, Regime::independent);
  };
  const auto want = logits();
  ptq_shim::refuse_bias = true;
  const auto got = logits();
  ptq_shim::refuse_bias = false;
  CHECK(difference(want, got) < 1e-5);
}

TEST_CASE("cuda engine: a card with too little shared memory is one sentence", "[cuda]") {
  ptq::test::RandomModel m;
  m.head_dim = 128;
  m.heads = 2;
  m.kv_heads = 1;
  Folder folder(m, "cuda-shared");
  auto& device = ptq_shim::Device::get();
  const size_t all = device.shared_limit;
  device.shared_limit = 99 << 10;  // compute capability 8.6 and 8.9
  Cuda<float> engine(folder.path, cuda::Device<float>(0));
  Cuda<cuda::Bf16> small(folder.path, cuda::Device<cuda::Bf16>(0));
  auto a = engine.start(nullptr), b = small.start(nullptr);
  CHECK_THROWS_WITH(run(engine, *a, ids(20, 96), Regime::streaming),
                    Catch::Contains("needs 116 KiB of shared memory") &&
                        Catch::Contains("this device has 99 KiB") && Catch::Contains("bf16"));
  CHECK_NOTHROW(run(small, *b, ids(20, 96), Regime::streaming));
  device.shared_limit = all;
}

#endif

TEST_CASE("cuda engine: a model whose layers differ gives the CPU's logits and points", "[cuda]") {
  ptq::test::RandomModel m;
  m.layers = 6;
  m.layer_sizes =
      R"([{"num_attention_heads": 0, "num_key_value_heads": 0}, {},
          {"num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 40},
          {"num_attention_heads": 0, "num_key_value_heads": 0, "intermediate_size": 0},
          {"num_attention_heads": 4, "intermediate_size": 64}, {"intermediate_size": 0}])";
  const Folder folder(m, "cuda-uneven");
  Cuda<float> cuda(folder.path, cuda::Device<float>(0));
  CpuTransformer cpu(folder.path, cpu::Device(1));
  const auto text = ids(13, m.vocab);
  const auto trace_of = [&](Engine& engine, Regime regime) {
    Trace trace(anatomy_of(engine.config()));
    const auto sequence = engine.start(nullptr);
    engine.forward(
        *sequence, text, regime, 0, [](int64_t, int64_t, const float*) {}, &trace);
    return trace;
  };
  const auto compare = [&](Regime regime) {
    const Trace there = trace_of(cuda, regime), here = trace_of(cpu, regime);
    const auto points = compare_traces(
        there, [&](const std::string& name, int64_t, int64_t) -> std::optional<std::vector<float>> {
          for (const Trace::Entry& e : here.entries())
            if (e.name == name) return e.values;
          return {};
        });
    // Without norms of heads a layer has 8 points of attention, 5 of the MLP, and what leaves it.
    CHECK(points.size() == size_t(4 * 8 + 4 * 5 + 6 + 3));
    for (const PointDifference& p : points) {
      INFO(p.name);
      CHECK(p.relative <= 1e-5);
    }
  };
  for (Engine* engine : {static_cast<Engine*>(&cuda), static_cast<Engine*>(&cpu)}) {
    const auto sequence = engine->start(nullptr);
    engine->forward(*sequence, text, Regime::streaming, 0, [](int64_t, int64_t, const float*) {});
    CHECK(sequence->bytes().total() == 13 * kv_bytes_per_token_fp16(engine->config()));
  }
  compare(Regime::independent);
  // Through a cache of float32 rows: in one of float16 a last bit of float32 can send a number to
  // the other neighbour, 2^-11 of it away.
  cpu.set_test_hooks({false, DType::f32});
  cuda.set_test_hooks({false, DType::f32});
  compare(Regime::streaming);
}

TEST_CASE("cuda engine: rounded inputs, moved scales and every encoding of weights", "[cuda]") {
  struct Mixed final : WeightMethod {
    bool scales() const override { return true; }
    void scale(const Site&, std::span<float> factor) override {
      for (size_t i = 0; i < factor.size(); ++i) factor[i] = float(1 + i % 3);
    }
    void encode(const LinearView& l, RowSink& out) override {
      const std::vector<uint8_t> codes(size_t(l.rows * l.columns), 9);
      if (l.kind == "q_proj") return;  // stays, scaled
      if (l.kind == "k_proj") {
        const std::vector<float> levels = {-3, -2, -1, -0.5f, 0, 0.5f, 1, 2,
                                           3,  4,  5,  6,     7, 8,    9, 10},
                                 scale(size_t(l.rows * ((l.columns + 7) / 8)), 0.01f);
        return out.grouped_codes({4, 8, ScaleType::f16, 0}, l.rows, l.columns, codes.data(),
                                 levels.data(), scale.data());
      }
      if (l.kind == "v_proj") {
        std::vector<int32_t> order;
        for (int64_t c = l.columns; c-- > 0;) order.push_back(int32_t(c));
        std::vector<float> scale, zero;
        for (int64_t i = 0; i < l.rows * ((l.columns + 15) / 16); ++i) {
          scale.push_back(0.001f * float(1 + i % 5));
          zero.push_back(float(i % 16));
        }
        return out.ordered_codes({4, Grid::asym_gptq, 1, 16}, order.data(), l.rows, l.columns,
                                 codes.data(), scale.data(), zero.data());
      }
      out.affine({8, Grid::sym_narrow, 1, 0}, 1, l.rows, l.columns, l.w);
    }
    Activation activation(const LinearView& l) override {
      if (l.kind == "gate_proj") return {ActivationKind::int8_token, 0, 1.5f};
      if (l.kind == "up_proj") return {ActivationKind::int8_static, 0.02f, 0};
      if (l.kind == "down_proj") return {ActivationKind::fp8_token, 0, 0};
      return {};
    }
  } mixed;
  Folder folder({}, "cuda-mixed");
  CpuTransformer cpu(folder.path, cpu::Device(1));
  Cuda<float> cuda(folder.path, cuda::Device<float>(0));
  cpu.set_test_hooks({false, DType::f32});
  cuda.set_test_hooks({false, DType::f32});
  const std::vector<std::vector<int32_t>> learnt = {ids(21, 96)};
  const auto here = calibrate::encode_weights(cpu, mixed, {learnt, true}),
             there = calibrate::encode_weights(cuda, mixed, {learnt, true});
  CHECK(here.encoded == there.encoded);
  CHECK(here.activations == there.activations);
  CHECK(there.transform_change < 1e-5);
  for (size_t i = 0; i < here.errors.size(); ++i)
    CHECK(there.errors[i].second == Approx(here.errors[i].second).epsilon(1e-3).margin(1e-6));
  CHECK(cpu.weight_bytes().total() == cuda.weight_bytes().total());
  auto a = cpu.start(nullptr), b = cuda.start(nullptr);
  const auto text = ids(17, 96);
  const auto expected = run(cpu, *a, text, Regime::streaming),
             got = run(cuda, *b, text, Regime::streaming);
  // Where a number lies near the middle of two steps the devices may take different ones.
  double error = 0, size = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    error += std::pow(double(got[i]) - double(expected[i]), 2);
    size += std::pow(double(expected[i]), 2);
  }
  CHECK(std::sqrt(error / size) < 1e-2);
}

TEST_CASE("cuda engine: the sums of a tap are the CPU's", "[cuda]") {
  ptq::test::RandomModel m;
  const Folder folder(m, "cuda-tap");
  Cuda<float> cuda(folder.path, cuda::Device<float>(0));
  CpuTransformer cpu(folder.path, cpu::Device(1));
  const auto text = ids(37, m.vocab);
  const auto sums_of = [&](Engine& engine) {
    calibrate::BlockInputs inputs(1, {.gram = true}, 74);
    for (int pass = 0; pass < 2; ++pass) {  // sums go on over passes
      const auto sequence = engine.start(nullptr);
      engine.forward(*sequence, text, Regime::independent, 37, {}, &inputs);
    }
    return inputs;
  };
  const auto there = sums_of(cuda), here = sums_of(cpu);
  for (const Point point :
       {Point::attention_in, Point::heads_out, Point::mlp_in, Point::mlp_inner}) {
    const calibrate::PointSums &a = there.at(point), &b = here.at(point);
    INFO(int(point));
    REQUIRE(a.rows == 74);
    REQUIRE(a.width == b.width);
    REQUIRE(a.gram.size() == size_t(a.width * a.width));
    for (size_t i = 0; i < size_t(a.width); ++i) {
      CHECK(a.squares[i] == Approx(b.squares[i]).epsilon(1e-4));
      CHECK(a.magnitudes[i] == Approx(b.magnitudes[i]).epsilon(1e-4));
      CHECK(a.largest[i] == Approx(b.largest[i]).epsilon(1e-4));
      for (size_t j = 0; j < size_t(a.width); ++j)
        CHECK(std::fabs(a.gram[i * size_t(a.width) + j] - b.gram[i * size_t(a.width) + j]) <=
              1e-4 * std::sqrt(b.squares[i] * b.squares[j]));
    }
  }
}
