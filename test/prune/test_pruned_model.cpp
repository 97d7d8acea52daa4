// A pruned model computes what the whole model computes when the removed groups give nothing.
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "ptq/engine/backward.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/model/safetensors_write.hpp"
#include "ptq/prune/write.hpp"
#include "test/support/difference.hpp"
#include "test/support/random_model.hpp"

using namespace ptq;
using namespace ptq::prune;

namespace ptq::test {
namespace {

namespace fs = std::filesystem;

struct PrunedFolder {
  fs::path path;
  explicit PrunedFolder(const std::string& name)
      : path(fs::temp_directory_path() /
             ("ptq-test-pruned-" + name + "-" + std::to_string(::getpid()))) {}
  ~PrunedFolder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
};

RandomModel model_of(const std::string& class_name, const std::string& type) {
  RandomModel m;
  m.architecture = class_name, m.model_type = type;
  m.layers = 5;
  return m;
}

// Some of everything: an untouched layer, a thin one, one without attention, one without MLP, and
// one without both.
Plan some_plan(const Anatomy& anatomy) {
  Plan plan = keep_all(anatomy);
  plan[1] = {{1}, {}};
  for (int64_t c = 0; c < anatomy.layers[1].shape.inner; c += 3) plan[1].channels.push_back(c);
  plan[2].heads.clear();
  plan[2].channels.erase(plan[2].channels.begin() + 5, plan[2].channels.begin() + 40);
  plan[3].channels.clear();
  plan[4] = {};
  return plan;
}

// The same folder with zeros in what reads the removed groups, and in the biases behind blocks that
// are gone.
void write_masked(const fs::path& model, const Plan& plan, const fs::path& out) {
  const ModelConfig config = load_config(model);
  const Anatomy anatomy = anatomy_of(config);
  const WeightFiles files(model);
  std::map<std::string, std::vector<float>> data;
  std::vector<TensorToWrite> tensors;
  for (const ExpectedTensor& t : anatomy.tensors()) {
    const TensorInfo& from = files.get(t.name, t.shape);
    std::vector<float>& x = data[t.name];
    x.resize(from.bytes / 4);
    from.rows().decode(0, t.shape[0], x.data());
    tensors.push_back({t.name, DType::f32, t.shape, x.data()});
  }
  for (size_t l = 0; l < anatomy.layers.size(); ++l)
    for (const Role role : {Role::o, Role::down}) {
      const LinearPlan& linear = anatomy.layers[l].at(role);
      const Share share = share_of(anatomy.layers[l].shape, role);
      const auto& kept = role == Role::o ? plan[l].heads : plan[l].channels;
      for (int64_t c = 0; c < linear.columns; ++c) {
        if (std::count(kept.begin(), kept.end(), c / share.size) > 0) continue;
        for (int64_t r = 0; r < linear.rows; ++r)
          data[linear.name + ".weight"][size_t(r * linear.columns + c)] = 0;
      }
      if (kept.empty() && linear.bias)
        for (float& b : data[linear.name + ".bias"]) b = 0;
    }
  fs::create_directories(out);
  fs::copy_file(model / "config.json", out / "config.json", fs::copy_options::overwrite_existing);
  write_safetensors(out / "model.safetensors", tensors);
}

std::vector<int32_t> some_ids(int64_t n, int64_t vocab) {
  std::mt19937 random(7);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(int32_t(random() % uint32_t(vocab)));
  return ids;
}

std::vector<float> logits_of(Engine& engine, const std::vector<int32_t>& ids, Regime regime,
                             CacheBytes* bytes = nullptr) {
  std::vector<float> all;
  const auto sequence = engine.start(nullptr);
  engine.forward(*sequence, ids, regime, 0, [&](int64_t, int64_t rows, const float* x) {
    all.insert(all.end(), x, x + rows * engine.config().vocab_size);
  });
  if (bytes) *bytes = sequence->bytes();
  return all;
}

}  // namespace

TEST_CASE("pruning: logits, bytes and parameters of a pruned model are those of the plan",
          "[prune]") {
  const auto [class_name, type] =
      GENERATE(table<std::string, std::string>({{"LlamaForCausalLM", "llama"},
                                                {"Qwen2ForCausalLM", "qwen2"},
                                                {"Qwen3ForCausalLM", "qwen3"},
                                                {"MistralForCausalLM", "mistral"},
                                                {"Phi3ForCausalLM", "phi3"}}));
  INFO(type);
  const PrunedFolder pruned(type), masked(type + "-masked");
  const fs::path model = write_random_model(model_of(class_name, type), "prune-" + type);
  const ModelConfig config = load_config(model);
  const Plan plan = some_plan(anatomy_of(config));
  write_pruned(model, config, plan, pruned.path);
  write_masked(model, plan, masked.path);

  const auto small = make_cpu_engine(pruned.path.string(), 2),
             whole = make_cpu_engine(masked.path.string(), 2);
  const std::vector<int32_t> ids = some_ids(40, config.vocab_size);
  for (const Regime regime : {Regime::independent, Regime::streaming}) {
    CacheBytes bytes;
    // What is left is summed in another order. Rows of the cache are 16-bit numbers: where one lies
    // between two of them, the last bit may turn it into the other.
    const double bound = regime == Regime::independent ? 1e-5 : 5e-4;
    CHECK(difference(logits_of(*small, ids, regime, &bytes), logits_of(*whole, ids, regime)) <
          bound);
    if (regime == Regime::streaming) {
      int64_t heads = 0;
      for (const KeptLayer& layer : plan) heads += int64_t(layer.heads.size());
      CHECK(bytes.tokens == 40);
      CHECK(bytes.total() == uint64_t(40 * 2 * heads * config.head_dim * 2));
    }
  }

  // Counted from the plan alone: what left, biases and norms with it.
  int64_t removed = 0;
  const Anatomy anatomy = anatomy_of(config);
  for (size_t l = 0; l < plan.size(); ++l) {
    const LayerPlan& layer = anatomy.layers[l];
    const Shape& s = layer.shape;
    const int64_t heads = s.kv_heads - int64_t(plan[l].heads.size()),
                  channels = s.inner - int64_t(plan[l].channels.size()),
                  rows = heads * (s.heads / s.kv_heads + 2) * s.head_dim;
    removed += heads * cost_of(layer, Block::attention) + channels * cost_of(layer, Block::mlp);
    if (config.qkv_bias) removed += rows;
    if (plan[l].heads.empty()) removed += config.hidden_size + (layer.q_norm ? 2 * s.head_dim : 0);
    if (plan[l].channels.empty()) removed += config.hidden_size;
  }
  CHECK(parameter_count(load_config(pruned.path)) == parameter_count(config) - removed);
  CHECK(small->weight_bytes().total() == uint64_t(4 * parameter_count(small->config())));
}

TEST_CASE("pruning: a plan that keeps everything writes the same bytes", "[prune]") {
  const PrunedFolder out("whole");
  const fs::path model = write_random_model(model_of("Qwen2ForCausalLM", "qwen2"), "prune-whole");
  const ModelConfig config = load_config(model);
  write_pruned(model, config, keep_all(anatomy_of(config)), out.path);
  CHECK(read_text_file(out.path / "model.safetensors", 1 << 30) ==
        read_text_file(model / "model.safetensors", 1 << 30));
  CHECK(load_config(out.path).layer_sizes.empty());
}

TEST_CASE("pruning: a pruned model is pruned again", "[prune]") {
  const PrunedFolder once("once"), twice("twice");
  const fs::path model = write_random_model(model_of("LlamaForCausalLM", "llama"), "prune-again");
  const ModelConfig config = load_config(model);
  write_pruned(model, config, some_plan(anatomy_of(config)), once.path);
  const ModelConfig first = load_config(once.path);
  Plan plan = keep_all(anatomy_of(first));
  plan[0].heads = {0};
  plan[1].channels = {1, 2};
  write_pruned(once.path, first, plan, twice.path);
  CHECK(load_config(twice.path).size_of_layer(0).key_value_heads == 1);
  CHECK(load_config(twice.path).size_of_layer(1).intermediate_size == 2);
  CHECK(load_config(twice.path).size_of_layer(4) == LayerSize{0, 0, 0});
  const auto engine = make_cpu_engine(twice.path.string(), 1);
  CHECK(logits_of(*engine, {1, 2, 3}, Regime::streaming).size() == size_t(3 * config.vocab_size));
}

TEST_CASE("pruning: losses without a layer or block are those of the pruned models", "[prune]") {
  const PrunedFolder out("removed");
  const fs::path model = write_random_model(model_of("Qwen2ForCausalLM", "qwen2"), "prune-loss");
  const ModelConfig config = load_config(model);
  const std::vector<int32_t> ids = some_ids(23, config.vocab_size);
  GradientVisitor<float> nobody;
  const auto loss = [&](const fs::path& folder) {
    return make_cpu_gradients(folder.string(), {})->backward(ids, nobody);
  };
  const RemovalLosses losses = make_cpu_gradients(model.string(), {})->removal_losses(ids);
  CHECK(losses.whole == Approx(loss(model)).epsilon(1e-6));
  for (size_t l = 0; l < size_t(config.num_hidden_layers); ++l) {
    const auto without = [&](bool attention, bool mlp) {
      Plan plan = keep_all(anatomy_of(config));
      if (attention) plan[l].heads.clear();
      if (mlp) plan[l].channels.clear();
      write_pruned(model, config, plan, out.path);
      return loss(out.path);
    };
    CHECK(losses.attention[l] == Approx(without(true, false)).epsilon(1e-6));
    CHECK(losses.mlp[l] == Approx(without(false, true)).epsilon(1e-6));
    CHECK(losses.layer[l] == Approx(without(true, true)).epsilon(1e-6));
  }
}

TEST_CASE("pruning: gradients of a pruned model are those of the masked one", "[prune]") {
  const PrunedFolder pruned("gradients"), masked("gradients-masked");
  const fs::path model = write_random_model(model_of("Qwen3ForCausalLM", "qwen3"), "prune-grad");
  const ModelConfig config = load_config(model);
  const Anatomy anatomy = anatomy_of(config);
  const Plan plan = some_plan(anatomy);
  write_pruned(model, config, plan, pruned.path);
  write_masked(model, plan, masked.path);
  struct Collect : GradientVisitor<float> {
    std::map<std::string, std::vector<float>> tensors;
    bool wants(const std::string&) override { return true; }
    void gradient(const std::string& name, const float* d, int64_t rows, int64_t columns) override {
      tensors[name].assign(d, d + rows * columns);
    }
  } small, whole;
  const std::vector<int32_t> ids = some_ids(17, config.vocab_size);
  make_cpu_gradients(pruned.path.string(), {})->backward(ids, small);
  make_cpu_gradients(masked.path.string(), {})->backward(ids, whole);
  // Columns of down that stay, and a norm in front of a block that stays.
  const std::string down = "model.layers.1.mlp.down_proj.weight";
  const int64_t width = anatomy.layers[1].shape.inner, left = int64_t(plan[1].channels.size());
  for (int64_t r = 0; r < config.hidden_size; ++r)
    for (int64_t i = 0; i < left; ++i)
      CHECK(double(small.tensors[down][size_t(r * left + i)]) ==
            Approx(double(whole.tensors[down][size_t(r * width + plan[1].channels[size_t(i)])]))
                .epsilon(1e-4)
                .margin(1e-6));
  const std::string norm = "model.layers.3.input_layernorm.weight";
  CHECK(difference(small.tensors[norm], whole.tensors[norm]) < 1e-5);
  CHECK(small.tensors.count("model.layers.4.input_layernorm.weight") == 0);
}

}  // namespace ptq::test
