// The loader and the host's side of the interface, on the real plugins and on wrong ones.
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "ptq/calibrate/weights.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/engine/pass/transformer.hpp"
#include "ptq/model/load_config.hpp"
#include "ptq/run/plugins.hpp"
#include "test/support/random_model.hpp"

using namespace ptq;
namespace fs = std::filesystem;

namespace {

const PluginSet& real_plugins() {
  static const PluginSet set = PluginSet::scan({fs::path(PTQ_BINARY_DIR) / "plugins"});
  return set;
}
const PluginSet& wrong_plugins() {
  static const PluginSet set = PluginSet::scan({fs::path(PTQ_BINARY_DIR) / "test-plugins"});
  return set;
}

std::unique_ptr<MethodInstance> make(const PluginSet& set, const std::string& name,
                                     const nlohmann::ordered_json& options = nullptr) {
  const MethodInfo* info = set.find(name);
  REQUIRE(info != nullptr);
  return set.create(*info, validate_options(info->options, options, "test"), 0);
}

std::string skip_reason(const PluginSet& set, const std::string& file) {
  for (const SkippedFile& s : set.skipped())
    if (s.path.filename() == file) return s.reason;
  return {};
}

// Feeds 100 tokens of a random model through the method; returns the logits' checksum.
double run(KvMethod* kv, CacheBytes* bytes = nullptr) {
  static const std::string folder = ptq::test::write_random_model({}, "plugins");
  auto engine = make_cpu_engine(folder, 1);
  auto s = engine->start(kv);
  std::vector<int32_t> ids;
  for (int i = 0; i < 100; ++i) ids.push_back((i * 37 + 11) % 96);
  double sum = 0;
  engine->forward(*s, ids, Regime::streaming, 0, [&](int64_t, int64_t rows, const float* p) {
    for (int64_t i = 0; i < rows * 96; ++i) sum += double(p[i]) * double(i % 7);
  });
  if (bytes) *bytes = s->bytes();
  return sum;
}

ModelConfig random_config() {
  static const std::string folder = ptq::test::write_random_model({}, "plugins-config");
  return load_config(folder);
}

}  // namespace

TEST_CASE("plugins: the methods of this project are found with their options") {
  const PluginSet& set = real_plugins();
  for (const char* name : {"fp16", "kivi", "rtn", "example_int8"}) {
    INFO(name);
    CHECK(set.find(name) != nullptr);
  }
  const MethodInfo* kivi = set.find("kivi");
  REQUIRE(kivi);
  CHECK(kivi->can_kv());
  CHECK(!kivi->can_weights());
  CHECK(!kivi->lossless());
  CHECK(set.find("fp16")->lossless());
  CHECK(set.find("rtn")->can_weights());
  const auto options = validate_options(kivi->options, {{"bits", 4}}, "test");
  CHECK(options["bits"] == 4);
  CHECK(options["group_size"] == 32);
  CHECK_THROWS_WITH(validate_options(kivi->options, {{"residual_lenght", 32}}, "x.toml:3"),
                    Catch::Contains("residual_length"));
  CHECK_THROWS_WITH(validate_options(kivi->options, {{"bits", 3}}, "x.toml:3"),
                    Catch::Contains("1, 2, 4, 8"));
}

TEST_CASE("plugins: kivi, fp16 and the plain-C example compress the cache") {
  const ModelConfig c = random_config();
  CacheBytes full, b;
  const double exact = run(nullptr, &full);
  auto fp16 = make(real_plugins(), "fp16");
  CHECK(run(fp16->kv(c), &b) == Approx(exact).epsilon(1e-4));
  CHECK(b.total() == full.total());
  CHECK(b.encoded_is_dense);

  auto kivi =
      make(real_plugins(), "kivi", {{"bits", 2}, {"group_size", 16}, {"residual_length", 16}});
  CHECK(run(kivi->kv(c), &b) != Approx(exact).epsilon(1e-4));
  // 100 tokens: 96 key rows and 84 value rows encoded at 2 + 32/16 bits, the rest float16.
  const double row = double(c.num_key_value_heads * c.head_dim),
               layers = double(c.num_hidden_layers);
  CHECK(double(b.total()) == layers * row * ((96 + 84) * 4.0 / 8 + (4 + 16) * 2.0));

  auto mixed =
      make(real_plugins(), "kivi",
           {{"key_bits", 4}, {"value_bits", 1}, {"group_size", 16}, {"residual_length", 16}});
  run(mixed->kv(c), &b);
  CHECK(double(b.total()) == layers * row * ((96 * 6.0 + 84 * 3.0) / 8 + (4 + 16) * 2.0));

  auto example = make(real_plugins(), "example_int8");
  CHECK(run(example->kv(c), &b) == Approx(exact).epsilon(0.05));
  CHECK(b.total() < full.total());
}

TEST_CASE("plugins: rtn encodes every linear layer and the engine runs from the codes") {
  ptq::test::RandomModel m;
  m.tied = false;
  const std::string folder = ptq::test::write_random_model(m, "rtn");
  std::vector<int32_t> ids;
  for (int i = 0; i < 40; ++i) ids.push_back((i * 29 + 5) % 96);
  const auto logits = [&](Engine& engine) {
    std::vector<float> out;
    auto s = engine.start(nullptr);
    engine.forward(*s, ids, Regime::streaming, 0, [&](int64_t, int64_t rows, const float* p) {
      out.insert(out.end(), p, p + rows * 96);
    });
    return out;
  };
  auto plain = make_cpu_engine(folder, 1);
  const auto exact = logits(*plain);
  const ModelConfig& c = plain->config();
  const int64_t linear = c.num_hidden_layers * (2 * 48 * 96 + 2 * 48 * 32 + 3 * 48 * 80);
  double last = 1e30;
  for (const int bits : {2, 3, 4, 8}) {
    auto engine = make_cpu_engine(folder, 1);
    auto rtn = make(real_plugins(), "rtn", {{"bits", bits}, {"group_size", 16}});
    calibrate::encode_weights(*engine, *rtn->weights());
    const WeightBytes b = engine->weight_bytes();
    CHECK(b.encoded_scalars == linear);
    CHECK(b.encoded_bits() == Approx(bits + (16.0 + bits) / 16).epsilon(1e-3));
    const auto y = logits(*engine);
    double error = 0;
    for (size_t i = 0; i < y.size(); ++i) error += std::pow(double(y[i]) - double(exact[i]), 2);
    CHECK(error < last);
    CHECK(error > 0);
    last = error;
  }
  auto engine = make_cpu_engine(folder, 1);
  auto rtn = make(real_plugins(), "rtn", {{"include_lm_head", true}, {"group_size", 16}});
  calibrate::encode_weights(*engine, *rtn->weights());
  CHECK(engine->weight_bytes().encoded_scalars == linear + 96 * 48);
  fs::remove_all(folder);
}

TEST_CASE("plugins: options that contradict each other fail with a sentence") {
  const MethodInfo* kivi = real_plugins().find("kivi");
  REQUIRE(kivi);
  CHECK_THROWS_WITH(make(real_plugins(), "kivi", {{"group_size", 32}, {"residual_length", 48}}),
                    Catch::Contains("residual_length = 48 is not a multiple of group_size = 32"));
}

TEST_CASE("plugins: files that cannot be used are skipped with a reason") {
  const PluginSet& set = wrong_plugins();
  CHECK_THAT(skip_reason(set, "bad_abi.so"), Catch::Contains("was built for ABI 99"));
  CHECK_THAT(skip_reason(set, "bad_magic.so"), Catch::Contains("magic"));
  CHECK_THAT(skip_reason(set, "bad_size.so"), Catch::Contains("struct_size"));
  CHECK_THAT(skip_reason(set, "bad_name.so"), Catch::Contains("Bad Name"));
  CHECK_THAT(skip_reason(set, "bad_option.so"), Catch::Contains("invalid default"));

  const fs::path folder = fs::temp_directory_path() / ("ptq-test-so-" + std::to_string(::getpid()));
  fs::create_directories(folder);
  std::ofstream(folder / "text.so") << "this is no library";
  std::ofstream(folder / "empty.so");
  const PluginSet texts = PluginSet::scan({folder, folder / "missing"});
  CHECK(texts.methods().empty());
  CHECK(texts.skipped().size() == 2);
  CHECK_THAT(skip_reason(texts, "text.so"), Catch::Contains("cannot be loaded"));
  fs::remove_all(folder);
}

TEST_CASE("plugins: what is no file is skipped, and looking loads nothing here") {
  const fs::path folder = fs::temp_directory_path() / ("ptq-test-ff-" + std::to_string(::getpid()));
  fs::create_directories(folder / "folder.so");
  REQUIRE(::mkfifo((folder / "pipe.so").c_str(), 0600) == 0);
  fs::create_symlink("nowhere", folder / "dangling.so");
  const PluginSet set = PluginSet::scan({folder});
  CHECK_THAT(skip_reason(set, "folder.so"), Catch::Contains("is no file but a folder"));
  CHECK_THAT(skip_reason(set, "pipe.so"), Catch::Contains("is no file but a pipe"));
  CHECK_THAT(skip_reason(set, "dangling.so"), Catch::Contains("cannot be read"));
  fs::remove_all(folder);
  const MethodInfo* kivi = real_plugins().find("kivi");
  REQUIRE(kivi);
  CHECK(kivi->table == nullptr);  // it was loaded elsewhere
  // What comes back is what the plugin says.
  const std::vector<MethodInfo> own = PluginSet::load(kivi->plugin_file);
  REQUIRE(own.size() == 1);
  CHECK(own[0].table != nullptr);
  CHECK(describe(own) == describe({*kivi}));
}

TEST_CASE("plugins: a method that misbehaves is named") {
  const ModelConfig c = random_config();
  const auto message = [&](const std::string& name) -> std::string {
    auto method = make(wrong_plugins(), name);
    try {
      run(method->kv(c));
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  CHECK_THAT(message("bad_fail"), Catch::Contains("method bad_fail, encode"));
  CHECK_THAT(message("bad_silent"), Catch::Contains("without a sentence"));
  CHECK_THAT(message("bad_unfilled"), Catch::Contains("without an encoding"));
  CHECK_THAT(message("bad_throw"), Catch::Contains("threw a C++ exception"));
  CHECK_THAT(message("bad_nan"), Catch::Contains("not finite"));
  CHECK_THAT(message("bad_bits"), Catch::Contains("does not fit"));
  CHECK_THAT(message("bad_policy"), Catch::Contains("block 0"));
}
