// Encoding of weights block by block: what methods are shown of inputs, in which order, and that
// moving scales changes nothing.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "ptq/calibrate/weights.hpp"
#include "ptq/engine/cpu/transformer.hpp"
#include "ptq/engine/trace.hpp"
#include "test/support/random_model.hpp"

namespace ptq::test {
namespace {

using Numbers = std::vector<float>;

struct ModelFolder {
  std::string path;
  explicit ModelFolder(const RandomModel& m, const std::string& name)
      : path(write_random_model(m, name)) {}
  ~ModelFolder() { std::filesystem::remove_all(path); }
};

std::vector<std::vector<int32_t>> sequences(int64_t vocab) {
  std::vector<std::vector<int32_t>> all;
  for (int64_t s = 0; s < 3; ++s) {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < 40 + s; ++i)
      ids.push_back(int32_t((i * i * 31 + 7 * i + 11 * s) % vocab));
    all.push_back(ids);
  }
  return all;
}

Numbers logits_of(Engine& engine, const std::vector<int32_t>& ids, Tap* tap = nullptr) {
  const auto sequence = engine.start(nullptr);
  Numbers out;
  engine.forward(
      *sequence, ids, Regime::independent, 0,
      [&](int64_t, int64_t rows, const float* p) {
        out.insert(out.end(), p, p + rows * engine.config().vocab_size);
      },
      tap);
  return out;
}

// Remembers what it is shown; zeroes the weights where it is told to.
struct Watching final : WeightMethod {
  InputsWanted wanted;
  std::function<bool(const LinearView&)> zeroes = [](const LinearView&) { return false; };
  struct Seen {
    uint64_t id;
    int64_t rows;
    Numbers gram, square, magnitude, largest, sample, cross;
  };
  std::map<std::string, Seen> seen;

  InputsWanted encode_wants() const override { return wanted; }
  void encode(const LinearView& l, RowSink& out) override {
    if (l.inputs) {
      const LinearInputs& in = *l.inputs;
      const auto copy = [](std::span<const float> x) { return Numbers(x.begin(), x.end()); };
      seen[l.name] = {in.id,
                      in.rows,
                      copy(in.gram),
                      copy(in.mean_square),
                      copy(in.mean_abs),
                      copy(in.largest),
                      copy(in.sample),
                      copy(in.cross)};
    }
    if (!zeroes(l)) return;
    out.dense(DType::f16, 1, l.rows, l.columns, Numbers(size_t(l.rows * l.columns)).data());
  }
};

// XtX / rows of a point, from traces of single sequences.
Numbers gram_of(Engine& engine, const std::vector<std::vector<int32_t>>& all,
                const std::string& point) {
  std::vector<double> sum;
  double rows = 0;
  for (const auto& ids : all) {
    Trace trace(anatomy_of(engine.config()));
    logits_of(engine, ids, &trace);
    for (const Trace::Entry& e : trace.entries()) {
      if (e.name != point) continue;
      const size_t w = size_t(e.width);
      sum.resize(w * w);
      rows += double(e.rows());
      for (int64_t r = 0; r < e.rows(); ++r)
        for (size_t i = 0; i < w; ++i)
          for (size_t j = 0; j < w; ++j)
            sum[i * w + j] +=
                double(e.values[size_t(r) * w + i]) * double(e.values[size_t(r) * w + j]);
    }
  }
  Numbers mean;
  for (const double s : sum) mean.push_back(float(s / rows));
  return mean;
}

double distance(const Numbers& a, const Numbers& b) {
  REQUIRE(a.size() == b.size());
  double error = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error = std::max(error, std::fabs(double(a[i]) - double(b[i])));
    size = std::max(size, std::fabs(double(b[i])));
  }
  return error / size;
}

const std::string kBlock1 = "model.layers.1.";

}  // namespace

TEST_CASE("weights: a method is given the inputs of the full-precision model") {
  const ModelFolder folder({}, "weights-full");
  auto engine = make_cpu_engine(folder.path, 2);
  const auto all = sequences(engine->config().vocab_size);
  const auto plain = make_cpu_engine(folder.path, 1);
  Watching method;
  method.wanted = {.columns = true, .gram = true, .sample_rows = 7};
  method.zeroes = [](const LinearView& l) { return l.layer == 0; };
  const auto done = calibrate::encode_weights(*engine, method, {all});
  CHECK(done.encoded == 7);
  CHECK(done.plain.size() == 7);
  for (const auto& [linear, point] : {std::pair{"self_attn.q_proj", "input_layernorm"},
                                      {"self_attn.o_proj", "self_attn.o_proj.input"},
                                      {"mlp.up_proj", "post_attention_layernorm"},
                                      {"mlp.down_proj", "mlp.down_proj.input"}}) {
    INFO(linear);
    const auto& seen = method.seen.at(kBlock1 + linear);
    CHECK(seen.rows == 123);
    CHECK(distance(seen.gram, gram_of(*plain, all, kBlock1 + point)) < 1e-5);
    const size_t w = seen.square.size();
    CHECK(seen.sample.size() == 7 * w);
    for (size_t i = 0; i < w; ++i) {
      CHECK(seen.square[i] == Approx(seen.gram[i * w + i]).epsilon(1e-4));
      CHECK(seen.magnitude[i] <= seen.largest[i]);
      CHECK(seen.square[i] <= seen.largest[i] * seen.largest[i] * 1.0001f);
    }
  }
  // Shared inputs have one id, others have their own.
  const auto id = [&](const char* name) { return method.seen.at(kBlock1 + name).id; };
  CHECK(id("self_attn.q_proj") == id("self_attn.v_proj"));
  CHECK(id("mlp.gate_proj") == id("mlp.up_proj"));
  CHECK(id("self_attn.q_proj") != id("mlp.up_proj"));
  CHECK(id("self_attn.q_proj") != method.seen.at("model.layers.0.self_attn.q_proj").id);
}

TEST_CASE("weights: inputs come through the encoded blocks, or the encoded linears") {
  const ModelFolder folder({}, "weights-order");
  const auto all = sequences(96);
  for (const InputOrder order : {InputOrder::blocks, InputOrder::groups}) {
    auto engine = make_cpu_engine(folder.path, 2);
    Watching method;
    method.wanted = {.gram = true, .order = order};
    // Without v nothing comes out of the attention of both layers.
    method.zeroes = [](const LinearView& l) { return l.kind == "v_proj"; };
    calibrate::encode_weights(*engine, method, {all});
    // `engine` has the encoded weights now: of block 1 its inputs are those that were shown.
    CHECK(distance(method.seen.at(kBlock1 + "self_attn.q_proj").gram,
                   gram_of(*engine, all, kBlock1 + "input_layernorm")) < 1e-5);
    // Only by linears does o see that v is gone in its own block.
    const Numbers& o = method.seen.at(kBlock1 + "self_attn.o_proj").gram;
    const float most = *std::max_element(o.begin(), o.end());
    if (order == InputOrder::groups)
      CHECK(most == 0);
    else
      CHECK(most > 0);
  }
}

TEST_CASE("weights: the error of the inputs is what the full-precision model's are more") {
  const ModelFolder folder({}, "weights-cross");
  auto engine = make_cpu_engine(folder.path, 2);
  const auto all = sequences(96);
  Watching method;
  method.wanted = {.gram = true, .cross = true};
  method.zeroes = [](const LinearView& l) { return l.layer == 0 && l.kind == "down_proj"; };
  calibrate::encode_weights(*engine, method, {all});
  for (const float x : method.seen.at("model.layers.0.self_attn.q_proj").cross) CHECK(x == 0);
  const Numbers& cross = method.seen.at(kBlock1 + "self_attn.q_proj").cross;
  CHECK(*std::max_element(cross.begin(), cross.end()) > 1e-3f);
}

TEST_CASE("weights: scales move without changing what the model computes") {
  struct Scaling final : WeightMethod {
    std::vector<int> places;
    bool scales() const override { return true; }
    bool encodes() const override { return false; }
    void encode(const LinearView&, RowSink&) override {}
    void scale(const Site& site, std::span<float> factor) override {
      places.push_back(int(site.place));
      for (size_t i = 0; i < factor.size(); ++i)
        factor[i] = std::exp2(float(int(i * 7 % 9) - 4) / 2);
    }
  };
  RandomModel grouped, single;
  single.kv_heads = single.heads;
  for (const auto& [m, sites] : {std::pair{grouped, std::vector<int>{1, 3, 4, 1, 3, 4}},
                                 {single, std::vector<int>{1, 2, 3, 4, 1, 2, 3, 4}}}) {
    const ModelFolder folder(m, "weights-scale");
    auto engine = make_cpu_engine(folder.path, 2);
    const auto all = sequences(m.vocab);
    const Numbers before = logits_of(*engine, all[0]);
    const uint64_t bytes = engine->weight_bytes().total();
    Scaling method;
    const auto done = calibrate::encode_weights(*engine, method, {all});
    CHECK(method.places == sites);
    CHECK(done.scaled_sites == int64_t(sites.size()));
    CHECK(done.encoded == 0);
    CHECK(done.transform_change > 0);  // factors that are no powers of two round
    CHECK(done.transform_change < 1e-5);
    CHECK(distance(logits_of(*engine, all[0]), before) < 1e-5);
    CHECK(engine->weight_bytes().total() > bytes);  // the factors that are kept
  }
}

TEST_CASE("weights: a factor that cannot be divided by is refused") {
  struct Scaling final : WeightMethod {
    float bad = 0;
    bool scales() const override { return true; }
    bool encodes() const override { return false; }
    void encode(const LinearView&, RowSink&) override {}
    void scale(const Site&, std::span<float> factor) override { factor[3] = bad; }
  };
  const ModelFolder folder({}, "weights-bad");
  const auto all = sequences(96);
  for (const float bad : {0.0f, -1.0f, INFINITY, NAN}) {
    auto engine = make_cpu_engine(folder.path, 1);
    Scaling method;
    method.bad = bad;
    CHECK_THROWS_WITH(calibrate::encode_weights(*engine, method, {all}),
                      Catch::Contains("factor of a transform") && Catch::Contains("channel 3"));
    CHECK_THROWS_WITH(calibrate::encode_weights(*engine, method), Catch::Contains("calibration"));
  }
}

TEST_CASE("weights: what a layer's output loses is measured on its inputs") {
  struct Half final : WeightMethod {
    void encode(const LinearView& l, RowSink& out) override {
      Numbers half(l.w, l.w + l.rows * l.columns);
      for (float& x : half) x *= 0.75f;
      out.dense(DType::bf16, 1, l.rows, l.columns, half.data());
    }
  };
  const ModelFolder folder({}, "weights-errors");
  auto engine = make_cpu_engine(folder.path, 1);
  Half method;
  const auto all = sequences(96);
  const auto done = calibrate::encode_weights(*engine, method, {all, true});
  REQUIRE(done.errors.size() == 14);
  for (const auto& [name, error] : done.errors) CHECK(error == Approx(0.25).epsilon(0.01));
}

TEST_CASE("weights: inputs are rounded as a layer's activations say") {
  struct Rounding final : WeightMethod {
    Activation how;
    bool encodes() const override { return false; }
    void encode(const LinearView&, RowSink&) override {}
    Activation activation(const LinearView& l) override {
      return l.layer == 1 && l.kind == "down_proj" ? how : Activation{};
    }
  };
  const ModelFolder folder({}, "weights-activations");
  const auto all = sequences(96);
  const auto plain = make_cpu_engine(folder.path, 1);
  Trace trace(anatomy_of(plain->config()));
  logits_of(*plain, all[0], &trace);
  const auto entry = [](const Trace& t, const std::string& name) {
    return *std::find_if(t.entries().begin(), t.entries().end(),
                         [&](const Trace::Entry& e) { return e.name == name; });
  };
  const Trace::Entry x = entry(trace, kBlock1 + "mlp.down_proj.input");
  const LinearWeight& down = plain->blocks().weight(1, Role::down);
  Numbers w(size_t(down.scalars()));
  down.decode(0, down.out(), w.data());
  for (const Activation how : {Activation{ActivationKind::int8_token, 0, 0},
                               Activation{ActivationKind::int8_static, 0.05f, 0},
                               Activation{ActivationKind::int8_token, 0, 0.4f},
                               Activation{ActivationKind::fp8_token, 0, 0},
                               Activation{ActivationKind::fp8_static, 0.01f, 0}}) {
    INFO(calibrate::activation_name(how.kind) << " " << how.outlier_threshold);
    auto engine = make_cpu_engine(folder.path, 2);
    Rounding method;
    method.how = how;
    const auto done = calibrate::encode_weights(*engine, method);
    CHECK(done.activations.at(calibrate::activation_name(how.kind)) == 1);
    Trace rounded(anatomy_of(engine->config()));
    logits_of(*engine, all[0], &rounded);
    const Trace::Entry y = entry(rounded, kBlock1 + "mlp.down_proj");
    const size_t in = size_t(x.width), out = size_t(y.width);
    bool changed = false;
    for (size_t t = 0; t < 10; ++t) {
      float most = 0;
      for (size_t i = 0; i < in; ++i) {
        const float size = std::fabs(x.values[t * in + i]);
        if (how.outlier_threshold == 0 || size < how.outlier_threshold) most = std::max(most, size);
      }
      const bool fp8 =
          how.kind == ActivationKind::fp8_token || how.kind == ActivationKind::fp8_static;
      const double step = how.scale > 0 ? double(how.scale) : double(most) / (fp8 ? 448 : 127);
      for (size_t o = 0; o < out; ++o) {
        double sum = 0, exact = 0;
        for (size_t i = 0; i < in; ++i) {
          const double v = double(x.values[t * in + i]);
          double q = v;
          if (how.outlier_threshold == 0 || std::fabs(v) < double(how.outlier_threshold)) {
            double code = v / step;
            if (fp8) {  // four significant bits, steps of 2^-9 below 2^-6
              const int e = std::max(std::ilogb(code == 0 ? 1e-9 : code), -6);
              code = std::clamp(std::ldexp(std::nearbyint(std::ldexp(code, 3 - e)), e - 3), -448.0,
                                448.0);
            } else {
              code = std::clamp(std::nearbyint(code), -127.0, 127.0);
            }
            q = code * step;
          }
          sum += q * double(w[o * in + i]);
          exact += v * double(w[o * in + i]);
        }
        CHECK(double(y.values[t * out + o]) == Approx(sum).epsilon(1e-3).margin(2e-4));
        changed |= std::fabs(sum - exact) > 1e-4;
      }
    }
    CHECK(changed);
  }
}

}  // namespace ptq::test
