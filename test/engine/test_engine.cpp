// The engine: what a cache holds and what attention reads from it.
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <random>
#include <vector>

#include "ptq/engine/cpu/transformer.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/model/anatomy.hpp"
#include "test/support/random_model.hpp"
#include "test/support/reference_model.hpp"

using namespace ptq;
using CpuTransformer = Transformer<cpu::Device>;

namespace {

// KIVI without a plugin: the engine's tests stand on their own.
struct TestKivi final : KvMethod {
  int bits = 2;
  int64_t group = 8, residual = 16, sink = 0;
  KvPolicy policy(KvSide side) const override {
    return side == KvSide::keys ? KvPolicy{sink, 0, residual} : KvPolicy{sink, residual, 1};
  }
  void encode(KvSide side, int, int64_t, int64_t tokens, const float* x, RowSink& out) override {
    out.affine({bits, Grid::min, side == KvSide::keys ? 0 : 1, group}, heads, tokens, dim, x);
  }
  int64_t heads = 2, dim = 16;
};

// Every row but the current one in the dense encoding.
struct TestDense final : KvMethod {
  int64_t heads = 2, dim = 16, window = 0;
  KvPolicy policy(KvSide) const override { return {0, window, 1}; }
  void encode(KvSide, int, int64_t, int64_t tokens, const float* x, RowSink& out) override {
    out.dense(DType::f16, heads, tokens, dim, x);
  }
};

std::vector<int32_t> random_ids(int64_t n, int64_t vocab, uint32_t seed = 9) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (auto& id : ids) id = int32_t(random() % uint32_t(vocab));
  return ids;
}

// Logits [tokens, vocab]; `cut` tokens per forward call, 0 = all at once.
std::vector<float> run(Engine& engine, Sequence& s, const std::vector<int32_t>& ids, Regime regime,
                       int64_t cut = 0) {
  const size_t vocab = size_t(engine.config().vocab_size);
  std::vector<float> out(ids.size() * vocab);
  if (cut == 0) cut = int64_t(ids.size());
  for (size_t at = 0; at < ids.size(); at += size_t(cut)) {
    const size_t n = std::min(size_t(cut), ids.size() - at);
    engine.forward(
        s, {ids.data() + at, n}, regime, 0, [&](int64_t row, int64_t rows, const float* p) {
          std::copy_n(p, size_t(rows) * vocab, out.begin() + int64_t((at + size_t(row)) * vocab));
        });
  }
  return out;
}
std::vector<float> run(Engine& engine, KvMethod* kv, const std::vector<int32_t>& ids, Regime regime,
                       int64_t cut = 0) {
  auto s = engine.start(kv);
  return run(engine, *s, ids, regime, cut);
}

double max_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(double(a[i]) - double(b[i]));
    if (!(d <= worst)) worst = d;  // a NaN becomes the result
  }
  return worst;
}

struct Folder {
  std::string path;
  explicit Folder(const ptq::test::RandomModel& m, const std::string& name)
      : path(ptq::test::write_random_model(m, name)) {}
  ~Folder() { std::filesystem::remove_all(path); }
};

}  // namespace

// Compares two ways of feeding the same tokens, to the last bit.
void check_same_decoding(CpuTransformer& engine, KvMethod& kivi, const std::vector<int32_t>& ids,
                         int64_t cut) {
  INFO(ids.size() << " tokens, pieces of " << cut);
  CHECK((run(engine, &kivi, ids, Regime::streaming) ==
         run(engine, &kivi, ids, Regime::streaming, cut)));
}

TEST_CASE("engine: streaming in parallel equals token by token") {
  Folder folder({}, "frontier");
  CpuTransformer engine(folder.path, cpu::Device(2));
  for (const int64_t length : {15, 16, 17, 31, 32, 33, 47, 48, 49, 150})
    for (const int bits : {1, 2, 4, 8})
      for (const int64_t cut : {1, 13}) {
        TestKivi kivi;
        kivi.bits = bits;
        check_same_decoding(engine, kivi, random_ids(length, engine.config().vocab_size), cut);
      }
}

TEST_CASE("engine: the same with sinks, biases and a sliding window") {
  for (const int64_t window : {0, 40}) {
    ptq::test::RandomModel m;
    m.architecture = window ? "MistralForCausalLM" : "Qwen2ForCausalLM";
    m.model_type = window ? "mistral" : "qwen2";
    m.sliding_window = window;
    Folder folder(m, "frontier2");
    CpuTransformer engine(folder.path, cpu::Device(2));
    TestKivi kivi;
    kivi.sink = 3;
    check_same_decoding(engine, kivi, random_ids(150, engine.config().vocab_size), 1);
  }
}

TEST_CASE("engine: a window longer than the text is bit-identical to full precision") {
  Folder folder({}, "identity");
  CpuTransformer engine(folder.path, cpu::Device(2));
  const auto ids = random_ids(120, engine.config().vocab_size);
  const auto full = run(engine, nullptr, ids, Regime::streaming);
  TestKivi kivi;
  kivi.residual = 128;
  CHECK(run(engine, &kivi, ids, Regime::streaming) == full);
  CHECK(run(engine, &kivi, ids, Regime::prefill_exact) == full);
  // The dense encoding holds the same float16 numbers; sums over the two kinds of rows are ordered
  // differently, which may turn the last bit of a later layer's float16.
  TestDense dense;
  CHECK(!(max_difference(run(engine, &dense, ids, Regime::streaming), full) > 1e-4));
  // Against a pass without a cache the only difference is the float16 of the cache.
  const auto fresh = run(engine, nullptr, ids, Regime::independent);
  const double cache_rounding = max_difference(fresh, full);
  CHECK(cache_rounding > 0);
  CHECK(!(cache_rounding > 2e-2));
}

TEST_CASE("engine: prefill-exact reads the prompt dense and the rest as the cache holds it") {
  Folder folder({}, "prefill");
  CpuTransformer engine(folder.path, cpu::Device(2));
  const auto ids = random_ids(100, engine.config().vocab_size);
  const std::vector<int32_t> prompt(ids.begin(), ids.begin() + 80),
      rest(ids.begin() + 80, ids.end());
  const auto full = run(engine, nullptr, ids, Regime::streaming);
  TestKivi kivi;
  auto s = engine.start(&kivi);
  const auto first = run(engine, *s, prompt, Regime::prefill_exact);
  // As in the pass over all, but for the order in which a BLAS adds up 80 rows and 100, which a
  // float16 cache would show in its last bit.
  {
    CpuTransformer wide(folder.path, cpu::Device(2));
    wide.set_test_hooks({false, DType::f32});
    const auto all = run(wide, nullptr, ids, Regime::streaming);
    CHECK(!(max_difference(run(wide, &kivi, prompt, Regime::prefill_exact), all) > 1e-5));
  }
  CHECK(s->reads().exposure() == 0.0);
  // After 80 tokens with R = 16: keys 80 encoded, values 64.
  const auto& layer = CpuTransformer::cache(*s).layer(0);
  CHECK(layer.keys.encoded().rows() == 80);
  CHECK(layer.values.encoded().rows() == 64);
  const auto second = run(engine, *s, rest, Regime::streaming, 1);
  const std::vector<float> exact(full.begin() + int64_t(first.size()), full.end());
  CHECK(max_difference(second, exact) > 1e-3);
  CHECK(s->reads().exposure() > 0.0);
}

TEST_CASE("engine: prefill-encoded reads the whole prompt as the cache holds it afterwards") {
  ptq::test::RandomModel shape;
  shape.layers = 3;
  Folder folder(shape, "encoded");
  CpuTransformer engine(folder.path, cpu::Device(2));
  const auto ids = random_ids(100, engine.config().vocab_size);
  TestKivi kivi;
  kivi.bits = 4;
  auto s = engine.start(&kivi);
  const auto logits = run(engine, *s, ids, Regime::prefill_encoded);
  // The last query has 99 tokens before it: 96 keys and 83 values are read encoded, by all queries.
  const int64_t keys = 96, values = 83, width = kivi.heads * kivi.dim;
  const ptq::test::ReferenceModel reference(folder.path);
  const auto changed = [&](ptq::test::ReferenceModel::Place place, int64_t,
                           ptq::test::ReferenceModel::Vector& x) {
    using Place = ptq::test::ReferenceModel::Place;
    if (place == Place::keys) return;
    for (double& v : x) v = round_f16(float(v));
    const int64_t rows = place == Place::values ? values : keys;
    const int64_t step = place == Place::values ? 1 : width;  // along channels, or along tokens
    const auto code = [&](int64_t first) {                    // 8 numbers, 16 levels
      double lo = 1e9, hi = -1e9;
      for (int64_t i = 0; i < 8; ++i) {
        lo = std::min(lo, x[size_t(first + i * step)]);
        hi = std::max(hi, x[size_t(first + i * step)]);
      }
      const double scale = round_f16(float((hi - lo) / 15));
      for (int64_t i = 0; i < 8; ++i) {
        double& v = x[size_t(first + i * step)];
        v = std::nearbyint(std::clamp((v - lo) / scale, 0.0, 15.0)) * scale + lo;
      }
    };
    if (place == Place::values)
      for (int64_t i = 0; i < rows * width; i += 8) code(i);
    else
      for (int64_t r = 0; r < rows; r += 8)
        for (int64_t c = 0; c < width; ++c) code(r * width + c);
  };
  double loss = 0;
  const size_t vocab = size_t(engine.config().vocab_size);
  for (size_t i = 0; i + 1 < ids.size(); ++i) {
    const float* row = logits.data() + i * vocab;
    double sum = 0;
    for (size_t v = 0; v < vocab; ++v) sum += std::exp(double(row[v]));
    loss += std::log(sum) - double(row[ids[i + 1]]);
  }
  loss /= double(ids.size() - 1);
  CHECK(loss == Approx(reference.loss(ids, changed)).margin(2e-4));
  CHECK(std::abs(loss - reference.loss(ids)) > 2e-3);
  // Of query i, all but what lies behind it: 1 for the first, 96/100 and 83/100 for the last.
  double share = 0;
  for (int64_t i = 0; i < 100; ++i)
    share += double(std::min(i + 1, keys) + std::min(i + 1, values)) / double(2 * (i + 1)) / 100;
  CHECK(s->reads().exposure() == Approx(share));
  // Token by token there is nothing ahead.
  CHECK(run(engine, &kivi, ids, Regime::prefill_encoded, 1) ==
        run(engine, &kivi, ids, Regime::streaming, 1));
}

TEST_CASE("engine: KIVI's schedule, prefill of 100 tokens and 28 steps") {
  Folder folder({}, "schedule");
  CpuTransformer engine(folder.path, cpu::Device(1));
  TestKivi kivi;
  kivi.residual = 32;
  auto s = engine.start(&kivi);
  const auto ids = random_ids(128, engine.config().vocab_size);
  run(engine, *s, {ids.begin(), ids.begin() + 100}, Regime::prefill_exact);
  const auto& layer = CpuTransformer::cache(*s).layer(1);
  CHECK(layer.keys.encoded().rows() == 96);
  CHECK(layer.values.encoded().rows() == 68);
  run(engine, *s, {ids.begin() + 100, ids.begin() + 101}, Regime::streaming);
  CHECK(layer.keys.encoded().rows() == 96);
  CHECK(layer.values.encoded().rows() == 69);
  run(engine, *s, {ids.begin() + 101, ids.end()}, Regime::streaming, 1);
  CHECK(layer.keys.encoded().rows() == 128);
  CHECK(layer.values.encoded().rows() == 96);
}

TEST_CASE("engine: bytes of the cache are the formula, and nothing dense is left behind") {
  Folder folder({}, "bytes");
  CpuTransformer engine(folder.path, cpu::Device(2));
  const ModelConfig& c = engine.config();
  const int64_t width = c.num_key_value_heads * c.head_dim, n = 150;
  for (const int bits : {1, 2, 4, 8})
    for (const int64_t cut : {0, 1}) {
      TestKivi kivi;
      kivi.bits = bits;
      auto s = engine.start(&kivi);
      run(engine, *s, random_ids(n, c.vocab_size), Regime::streaming, cut);
      const int64_t k_rows = n / 16 * 16, v_rows = n - 16;
      const CacheBytes b = s->bytes();
      // b bits and, per group, a float16 scale and a float16 minimum.
      const double per_row = double(width) * (bits + 32.0 / double(kivi.group)) / 8;
      CHECK(double(b.encoded) == double(c.num_hidden_layers) * per_row * double(k_rows + v_rows));
      CHECK(b.window == uint64_t(c.num_hidden_layers * width * 2 * (2 * n - k_rows - v_rows)));
      CHECK(b.sink == 0);
      CHECK(b.tokens == n);
      CHECK(b.scalars == 2 * c.num_hidden_layers * n * width);
    }
  auto full = engine.start(nullptr);
  run(engine, *full, random_ids(n, c.vocab_size), Regime::streaming);
  CHECK(full->bytes().bytes_per_token() == double(kv_bytes_per_token_fp16(c)));
  CHECK(full->bytes().effective_bits() == 16.0);
}

TEST_CASE("engine: exposure is the share of rows read from encoded storage") {
  Folder folder({}, "exposure");
  CpuTransformer engine(folder.path, cpu::Device(2));
  TestKivi kivi;
  auto s = engine.start(&kivi);
  const int64_t n = 150;
  run(engine, *s, random_ids(n, engine.config().vocab_size), Regime::streaming);
  double share = 0;
  for (int64_t t = 0; t < n; ++t)
    share += 0.5 * (double(t / 16 * 16) + double(std::max<int64_t>(0, t - 16))) / double(t + 1);
  CHECK(s->reads().exposure() == Approx(share / double(n)).epsilon(1e-12));
}

TEST_CASE("engine: poison in freed and scratch rows changes nothing") {
  Folder folder({}, "poison");
  CpuTransformer engine(folder.path, cpu::Device(2));
  const auto ids = random_ids(100, engine.config().vocab_size);
  for (const Regime regime : {Regime::streaming, Regime::prefill_exact}) {
    TestKivi kivi;
    engine.set_test_hooks({false, DType::f16});
    const auto clean = run(engine, &kivi, ids, regime);
    engine.set_test_hooks({true, DType::f16});
    CHECK(run(engine, &kivi, ids, regime) == clean);
  }
}

TEST_CASE("engine: a flipped code bit is seen by every later query and by none before") {
  Folder folder({}, "bitflip");
  CpuTransformer engine(folder.path, cpu::Device(2));
  const auto ids = random_ids(110, engine.config().vocab_size);
  const std::vector<int32_t> past(ids.begin(), ids.begin() + 90),
      later(ids.begin() + 90, ids.end());
  for (const bool keys : {true, false}) {
    TestKivi kivi;
    auto plain = engine.start(&kivi), flipped = engine.start(&kivi);
    const auto before = run(engine, *plain, past, Regime::streaming);
    CHECK(run(engine, *flipped, past, Regime::streaming) == before);
    KvLayer& layer = CpuTransformer::cache(*flipped).layer(0);
    (keys ? layer.keys : layer.values).encoded().affine_matrix(1).flip_code_bit(40, 3, 1);
    const auto a = run(engine, *plain, later, Regime::streaming),
               b = run(engine, *flipped, later, Regime::streaming);
    const size_t vocab = size_t(engine.config().vocab_size);
    for (size_t t = 0; t < later.size(); ++t)
      CHECK(!std::equal(a.begin() + int64_t(t * vocab), a.begin() + int64_t((t + 1) * vocab),
                        b.begin() + int64_t(t * vocab)));
  }
}

TEST_CASE("engine: results do not depend on the number of threads") {
  Folder folder({}, "threads");
  CpuTransformer one(folder.path, cpu::Device(1)), three(folder.path, cpu::Device(3));
  const auto ids = random_ids(140, one.config().vocab_size);
  TestKivi kivi;
  for (KvMethod* method : {static_cast<KvMethod*>(nullptr), static_cast<KvMethod*>(&kivi)})
    CHECK((run(one, method, ids, Regime::streaming) == run(three, method, ids, Regime::streaming)));
}

TEST_CASE("engine: a linear layer from packed codes equals its decoded weights") {
  std::mt19937 random(4);
  for (const int bits : {2, 3, 4, 8})
    for (const int64_t n : {1, 3, 40}) {
      const int64_t out = 83, in = 75;
      std::vector<float> w(size_t(out * in)), x(size_t(n * in));
      for (float& v : w) v = float(random() >> 8) / float(1 << 23) - 1;
      for (float& v : x) v = float(random() >> 8) / float(1 << 23) - 1;
      TensorInfo info;
      info.dtype = DType::f32;
      info.shape = {out, in};
      info.data = reinterpret_cast<const uint8_t*>(w.data());
      LinearWeight linear("test", info);
      linear.affine({bits, Grid::asym_gptq, 1, 32}, 1, out, in, w.data());
      std::vector<float> decoded(w.size()), y(size_t(n * out));
      linear.decode(0, out, decoded.data());
      cpu::Device device(2);
      device.linear(linear, nullptr, x.data(), n, y.data());
      for (int64_t i = 0; i < n; ++i)
        for (int64_t r = 0; r < out; ++r) {
          double want = 0;
          for (int64_t c = 0; c < in; ++c)
            want += double(x[size_t(i * in + c)]) * double(decoded[size_t(r * in + c)]);
          REQUIRE(!(std::abs(want - double(y[size_t(i * out + r)])) > 1e-4));
        }
    }
}

TEST_CASE("engine: requests run together get what each gets alone") {
  Folder folder({}, "batch");
  CpuTransformer engine(folder.path, cpu::Device(2));
  const size_t vocab = size_t(engine.config().vocab_size);
  for (const Regime regime : {Regime::streaming, Regime::prefill_exact, Regime::independent}) {
    const std::vector<std::vector<int32_t>> texts = {random_ids(70, 96, 1), random_ids(1, 96, 2),
                                                     random_ids(33, 96, 3)};
    TestDense method;
    std::vector<std::unique_ptr<Sequence>> together;
    std::vector<std::vector<float>> got(texts.size());
    std::vector<Request> requests;
    for (size_t i = 0; i < texts.size(); ++i) {
      together.push_back(engine.start(i == 2 ? nullptr : &method));
      got[i].resize((texts[i].size() - i) * vocab);  // request i leaves out its first i rows
      if (texts[i].size() <= i) got[i].clear();
      requests.push_back({*together[i], texts[i], int64_t(i),
                          [&got, i, vocab](int64_t row, int64_t rows, const float* p) {
                            std::copy_n(p, size_t(rows) * vocab,
                                        got[i].begin() + (row - int64_t(i)) * int64_t(vocab));
                          }});
    }
    engine.forward(requests, regime);
    for (size_t i = 0; i < texts.size(); ++i) {
      auto alone = engine.start(i == 2 ? nullptr : &method);
      const auto want = run(engine, *alone, texts[i], regime);
      CHECK(std::equal(got[i].begin(), got[i].end(), want.end() - int64_t(got[i].size())));
      CHECK(together[i]->length() == alone->length());
      CHECK(together[i]->reads().exposure() == Approx(alone->reads().exposure()).epsilon(1e-12));
    }
  }
  auto s = engine.start(nullptr);
  const auto ids = random_ids(2, 96);
  const std::vector<Request> twice = {{*s, ids, 2, {}}, {*s, ids, 2, {}}};
  CHECK_THROWS_WITH(engine.forward(twice, Regime::streaming), Catch::Contains("two requests"));
}

TEST_CASE("engine: clear errors instead of wrong numbers") {
  Folder folder({}, "errors");
  CpuTransformer engine(folder.path, cpu::Device(1));
  auto s = engine.start(nullptr);
  const auto ignore = [](int64_t, int64_t, const float*) {};
  const std::vector<int32_t> bad = {1, 2, 96}, negative = {-1}, fine = {1, 2};
  CHECK_THROWS_WITH(engine.forward(*s, bad, Regime::streaming, 0, ignore),
                    Catch::Contains("token id 96"));
  CHECK_THROWS_AS(engine.forward(*s, negative, Regime::streaming, 0, ignore), Error);
  const std::vector<int32_t> endless(1025, 1);
  CHECK_THROWS_WITH(engine.forward(*s, endless, Regime::streaming, 0, ignore),
                    Catch::Contains("1025 tokens"));
  engine.forward(*s, fine, Regime::streaming, 0, ignore);
  CHECK_THROWS_AS(engine.forward(*s, fine, Regime::independent, 0, ignore), Error);
  // A dropped row has no encoding that earlier queries could read.
  struct Evicts final : KvMethod {
    KvPolicy policy(KvSide) const override { return {2, 8, 1, false, true, false, true, false}; }
    void encode(KvSide, int, int64_t, int64_t, const float*, RowSink&) override {}
  } evicts;
  auto e = engine.start(&evicts);
  CHECK_THROWS_WITH(engine.forward(*e, fine, Regime::prefill_encoded, 0, ignore),
                    Catch::Contains("drops rows"));
  // A method whose groups do not fit its blocks.
  TestKivi kivi;
  kivi.group = 12;
  auto k = engine.start(&kivi);
  const auto ids = random_ids(64, 96);
  CHECK_THROWS_WITH(engine.forward(*k, ids, Regime::streaming, 0, ignore),
                    Catch::Contains("not a multiple of group_size"));
}
