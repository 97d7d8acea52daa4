// Gradients against worked numbers, finite differences of a forward pass in plain loops, and
// directional derivatives of the embedded models.
#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "ptq/engine/cpu/backward.hpp"
#include "ptq/engine/engine.hpp"
#include "test/support/random_model.hpp"
#include "test/support/reference_model.hpp"

using namespace ptq;
using ptq::test::ReferenceModel;
using Place = ReferenceModel::Place;

namespace {

// Everything a pass can hand over.
template <class Real>
struct Collect : GradientVisitor<Real> {
  struct Layer {
    std::vector<Real> value[3], gradient[3];  // [Place]
  };
  std::map<int, Layer> layers;
  std::map<std::string, std::vector<Real>> tensors;
  bool weights = true;

  void keys_values(int layer, const KvGradients<Real>& kv) override {
    Layer& to = layers[layer];
    const Real* from[3][2] = {
        {kv.keys, kv.d_keys}, {kv.rotated_keys, kv.d_rotated_keys}, {kv.values, kv.d_values}};
    for (int place = 0; place < 3; ++place) {
      const size_t n = size_t(kv.tokens) * width;
      to.value[place].assign(from[place][0], from[place][0] + n);
      if (from[place][1]) to.gradient[place].assign(from[place][1], from[place][1] + n);
    }
  }
  bool wants(const std::string&) override { return weights; }
  void gradient(const std::string& name, const Real* d, int64_t rows, int64_t columns) override {
    CHECK(tensors.count(name) == 0);
    tensors[name].assign(d, d + rows * columns);
  }

  explicit Collect(const ModelConfig& c) : width(size_t(c.num_key_value_heads * c.head_dim)) {}
  size_t width;
};

// |a - b| relative to the size of the whole tensor: single entries may be zero.
template <class A, class B>
double relative_error(const std::vector<A>& a, const std::vector<B>& b) {
  REQUIRE(a.size() == b.size());
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference = std::max(difference, std::abs(double(a[i]) - double(b[i])));
    size = std::max(size, std::abs(double(b[i])));
  }
  return difference / size;
}

std::vector<int32_t> random_tokens(int64_t n, int64_t vocab, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(int32_t(random() % uint32_t(vocab)));
  return ids;
}

ptq::test::RandomModel small_model(const std::string& type = "llama") {
  ptq::test::RandomModel m;
  m.model_type = type;
  m.architecture = char(type[0] - 32) + type.substr(1) + "ForCausalLM";
  m.hidden = 16, m.layers = 2, m.heads = 4, m.kv_heads = 2, m.head_dim = 4, m.intermediate = 24,
  m.vocab = 31, m.tied = false;
  return m;
}

constexpr double kStep = 1e-5;

// Derivative of the loss by entry `at` of keys or values, central difference.
double difference_quotient(const ReferenceModel& model, const std::vector<int32_t>& ids,
                           Place place, int64_t layer, size_t at) {
  const auto moved = [&](double by) {
    return model.loss(ids, [&](Place p, int64_t l, ReferenceModel::Vector& x) {
      if (p == place && l == layer) x[at] += by;
    });
  };
  return (moved(kStep) - moved(-kStep)) / (2 * kStep);
}
// By entry `at` of a weight.
double difference_quotient(ReferenceModel& model, const std::vector<int32_t>& ids,
                           const std::string& tensor, size_t at) {
  double& w = model.tensors.at(tensor)[at];
  const double original = w;
  w = original + kStep;
  const double above = model.loss(ids);
  w = original - kStep;
  const double below = model.loss(ids);
  w = original;
  return (above - below) / (2 * kStep);
}

}  // namespace

TEMPLATE_TEST_CASE("gradients: worked numbers of every operation", "[backward]", float, double) {
  using V = std::vector<TestType>;
  ThreadPool pool(2);
  const cpu::GradientOps<TestType> ops(pool);
  // A few units in the last place of float, or ten digits as the numbers are given.
  const double bound = sizeof(TestType) == 4 ? 1e-6 : 2e-10;
  const auto near = [&](const V& got, const std::vector<double>& want) {
    REQUIRE(got.size() == want.size());
    for (size_t i = 0; i < got.size(); ++i)
      CHECK(double(got[i]) == Approx(want[i]).epsilon(bound).margin(bound));
  };

  SECTION("RMSNorm") {
    const V x{1, 2, 3, 4}, w{1, TestType(.5), 2, -1}, dy{1, 1, 1, 1};
    V y(4), dx{1, 1, 1, 1}, dw(4);
    ops.rms_norm(x.data(), w.data(), TestType(1e-5), 1, 4, y.data());
    near(y, {0.3651481282, 0.3651481282, 2.1908887694, -1.4605925130});
    ops.rms_norm_gradient(x.data(), w.data(), TestType(1e-5), dy.data(), 1, 4, dx.data());
    near(dx, {1.3164617761, 1.0852013598, 1.5842371999, 0.4401064630});  // added to ones
    ops.rms_norm_weight_gradient(x.data(), TestType(1e-5), dy.data(), 1, 4, false, dw.data());
    near(dw, {0.3651481282, 0.7302962565, 1.0954443847, 1.4605925130});
  }
  SECTION("SwiGLU") {
    V gate{1.5}, up{-2}, a(1);
    const V da{1};
    ops.swiglu(gate.data(), up.data(), 1, 1, a.data());
    near(a, {-2.4527234286});
    ops.swiglu_gradient(da.data(), 1, 1, gate.data(), up.data());
    near(gate, {-2.0825883086});
    near(up, {1.2263617143});
  }
  SECTION("cross-entropy") {
    V z{2, 1, TestType(.1)};
    const int32_t target = 0;
    CHECK(ops.cross_entropy(z.data(), &target, 1, 3, 1) == Approx(0.4170300163).epsilon(bound));
    near(z, {-0.3409988611, 0.2424329707, 0.0985658904});
  }
  SECTION("rotary embedding, and back by its gradient") {
    V q{1, 2, 3, 4, 5, 6, 7, 8}, cosine, sine;
    for (int i = 0; i < 4; ++i) {
      const double angle = 3 * std::pow(1e4, -i / 4.0);
      cosine.push_back(TestType(std::cos(angle)));
      sine.push_back(TestType(std::sin(angle)));
    }
    ops.rope(q.data(), 1, 1, 8, cosine.data(), sine.data(), 1);
    CHECK(double(q[0]) == Approx(-1.6955925).epsilon(1e-7));
    CHECK(double(q[5]) == Approx(6.3230593).epsilon(1e-7));
    ops.rope(q.data(), 1, 1, 8, cosine.data(), sine.data(), -1);
    near(q, {1, 2, 3, 4, 5, 6, 7, 8});
  }
  SECTION("linear") {
    // W [3, 2] through a file's view, x [2, 2].
    const std::vector<float> stored{1, 2, 3, 4, 5, 6};
    TensorInfo info;
    info.shape = {3, 2};
    info.dtype = DType::f32;
    info.data = reinterpret_cast<const uint8_t*>(stored.data());
    const LinearWeight w("w", info);
    const V x{1, -1, 2, 0}, bias{10, 20, 30}, dy{1, 0, 2, 0, -1, 1};
    V y(6), dx(4, 1), dw(6), db(3);
    ops.linear(w, bias.data(), x.data(), 2, y.data());
    near(y, {9, 19, 29, 12, 26, 40});
    ops.linear_input_gradient(w, dy.data(), 2, false, dx.data());
    near(dx, {11, 14, 2, 2});
    ops.linear_input_gradient(w, dy.data(), 2, true, dx.data());
    near(dx, {22, 28, 4, 4});
    ops.linear_weight_gradient(dy.data(), x.data(), 2, 3, 2, false, dw.data());
    near(dw, {1, -1, -2, 0, 4, -2});
    ops.bias_gradient(dy.data(), 2, 3, db.data());
    near(db, {1, -1, 3});
  }
  SECTION("attention") {
    const cpu::SequenceShape shape{2, 1, 1, 2, 0};
    const V q{1, 0, TestType(.5), -1}, k{1, 1, 2, 0}, v{1, 2, 3, -1}, d_o{1, 1, 1, -1};
    V o(4), dq(4), dk(4), dv(4);
    cpu::sequence_attention(pool, shape, q.data(), k.data(), v.data(), o.data());
    near(o, {1, 2, 2.4856333695, -0.2284500543});
    cpu::sequence_attention_gradient(pool, shape, q.data(), k.data(), v.data(), o.data(),
                                     d_o.data(), dq.data(), dk.data(), dv.data());
    near(dq, {0, 0, 0.6754286010, -0.6754286010});
    near(dk, {-0.3377143005, 0.6754286010, 0.3377143005, -0.6754286010});
    near(dv, {1.2571833152, 0.7428166848, 0.7428166848, -0.7428166848});
  }
}

TEST_CASE("gradients: every entry against finite differences", "[backward]") {
  for (const auto& [type, tensors] :
       {std::pair{"llama", 21u}, {"qwen2", 27u}, {"qwen3", 25u}, {"phi3", 21u}}) {
    INFO(type);
    const std::string folder = ptq::test::write_random_model(small_model(type), "gradcheck");
    cpu::BackwardPass<double> pass(folder, 2);
    ReferenceModel model(folder);
    const auto ids = random_tokens(5, 31, 3);
    Collect<double> got(pass.config());
    CHECK(pass.backward(ids, got) == Approx(model.loss(ids)).epsilon(1e-12));
    CHECK(got.tensors.size() == tensors - 1u);  // all but the embedding

    // A central difference of step 1e-5 is off by 1e-10 of the third derivative, and by rounding
    // of the loss, 1e-16 / 1e-5.
    for (int64_t layer = 0; layer < 2; ++layer)
      for (const Place place : {Place::keys, Place::rotated_keys, Place::values}) {
        const auto& d = got.layers[int(layer)].gradient[int(place)];
        std::vector<double> want;
        for (size_t i = 0; i < d.size(); ++i)
          want.push_back(difference_quotient(model, ids, place, layer, i));
        INFO("layer " << layer << ", place " << int(place));
        CHECK(relative_error(d, want) < 1e-6);
      }
    for (const auto& [name, d] : got.tensors) {
      std::vector<double> want;
      for (size_t i = 0; i < d.size(); ++i)
        want.push_back(difference_quotient(model, ids, name, i));
      INFO(name);
      CHECK(relative_error(d, want) < 1e-6);
    }
    std::filesystem::remove_all(folder);
  }
}

TEST_CASE("gradients: blocks of queries, sliding windows, grouped heads", "[backward]") {
  // Longer than two blocks of queries and one of logits, so that every border is crossed.
  ptq::test::RandomModel m = small_model();
  m.architecture = "MistralForCausalLM", m.model_type = "mistral";
  m.heads = 6, m.kv_heads = 2, m.tied = true;
  for (const int64_t window : {0, 50, 64, 100}) {
    INFO("window " << window);
    m.sliding_window = window;
    const std::string folder = ptq::test::write_random_model(m, "blocks");
    ReferenceModel model(folder);
    const auto ids = random_tokens(window == 50 ? 300 : 150, 31, 4);
    cpu::BackwardPass<double> pass(folder, 2);
    Collect<double> got(pass.config());
    CHECK(pass.backward(ids, got) == Approx(model.loss(ids)).epsilon(1e-12));
    std::mt19937 random(5);
    for (int i = 0; i < 12; ++i) {
      const Place place = Place(i % 3);
      const int64_t layer = i / 3 % 2;
      const auto& d = got.layers[int(layer)].gradient[i % 3];
      const size_t at = random() % d.size();
      const double want = difference_quotient(model, ids, place, layer, at);
      INFO("layer " << layer << ", place " << i % 3 << ", entry " << at);
      // Single entries are small beside the loss (about 3.5), whose rounding is 1e-15 / 2e-5.
      CHECK(d[at] == Approx(want).epsilon(1e-6).margin(1e-9));
    }
    for (const auto& [name, d] : got.tensors) {
      const size_t at = random() % d.size();
      INFO(name << ", entry " << at);
      CHECK(d[at] == Approx(difference_quotient(model, ids, name, at)).epsilon(1e-6).margin(1e-9));
    }

    // float is the same arithmetic.
    cpu::BackwardPass<float> single(folder, 2), one_thread(folder, 1);
    Collect<float> f(pass.config()), f1(pass.config());
    const double loss = single.backward(ids, f);
    CHECK(loss == Approx(model.loss(ids)).epsilon(1e-6));
    CHECK(one_thread.backward(ids, f1) == loss);
    for (const auto& [name, d] : f.tensors) {
      INFO(name);
      CHECK(relative_error(d, got.tensors[name]) < 2e-5);
      CHECK(d == f1.tensors[name]);  // any number of threads
    }
    for (auto& [l, layer] : f.layers)
      for (int place = 0; place < 3; ++place) {
        INFO("layer " << l << ", place " << place);
        CHECK(relative_error(layer.gradient[place], got.layers[l].gradient[place]) < 2e-5);
        CHECK(layer.gradient[place] == f1.layers[l].gradient[place]);
      }

    // A forward pass shows the same keys and values.
    Collect<float> forward(pass.config());
    single.forward(ids, forward);
    for (auto& [l, layer] : f.layers)
      for (int place = 0; place < 3; ++place)
        CHECK(forward.layers[l].value[place] == layer.value[place]);
    CHECK(forward.layers[0].gradient[0].empty());
    std::filesystem::remove_all(folder);
  }
}
