// Checkpoints that other programs packed: read, run, and held against the model that they were made
// of; see test/fixtures/packed/make.py.
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "ptq/calibrate/weights.hpp"
#include "ptq/encoding/dense.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/model/checkpoint_check.hpp"
#include "ptq/model/load_config.hpp"
#include "ptq/model/safetensors_write.hpp"
#include "test/support/difference.hpp"

using namespace ptq;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

const fs::path kPacked = fs::path(PTQ_SOURCE_DIR) / "test/fixtures/packed";
const std::vector<std::string> kLayouts = {
    "ct-group-sym", "ct-group-asym", "ct-channel-8bit", "ct-fp8-channel", "ct-fp8-tensor",
    "ct-fp8-block", "gptq",          "gptq-act-order",  "gptq-v2",        "gptq-8bit",
    "awq"};
const std::string kQuery = "model.layers.0.self_attn.q_proj";

// A copy of a fixture in which tensors were changed and a piece of config.json was replaced.
class Copy {
 public:
  using Tensors = std::map<std::string, std::vector<uint8_t>>;
  Copy(const std::string& layout, const std::function<void(Tensors&)>& change,
       const std::string& from = "", const std::string& to = "")
      : folder(fs::temp_directory_path() / ("ptq-packed-" + std::to_string(::getpid()))) {
    fs::create_directories(folder);
    std::string config = read_text_file(kPacked / layout / "config.json", 1 << 20);
    if (!from.empty()) {
      REQUIRE(config.find(from) != std::string::npos);
      config.replace(config.find(from), from.size(), to);
    }
    std::ofstream(folder / "config.json") << config;
    const SafetensorsFile file(kPacked / layout / "model.safetensors");
    Tensors data;
    for (const TensorInfo& t : file.tensors()) data[t.name].assign(t.data, t.data + t.bytes);
    if (change) change(data);
    std::vector<TensorToWrite> tensors;
    for (const TensorInfo& t : file.tensors())
      tensors.push_back({t.name, t.dtype, t.shape, data[t.name].data()});
    write_safetensors(folder / "model.safetensors", tensors);
  }
  ~Copy() { fs::remove_all(folder); }
  const fs::path folder;
};

std::string problem_of(const fs::path& folder, const std::string& module) {
  for (const CheckedTensor& t : check_checkpoint(kPacked / "base", folder))
    if (t.name == module) return t.problem;
  return "no such tensor";
}

size_t problems(const fs::path& folder) {
  const auto all = check_checkpoint(kPacked / "base", folder);
  return size_t(std::count_if(all.begin(), all.end(),
                              [](const CheckedTensor& t) { return !t.problem.empty(); }));
}

void each_word(std::vector<uint8_t>& bytes, const std::function<uint32_t(uint32_t)>& change) {
  for (size_t i = 0; i < bytes.size(); i += 4) {
    uint32_t w;
    std::memcpy(&w, bytes.data() + i, 4);
    w = change(w);
    std::memcpy(bytes.data() + i, &w, 4);
  }
}

std::string config_refusal(const std::string& quantization) {
  try {
    parse_config(R"({"model_type": "llama", "quantization_config": )" + quantization + "}",
                 "config.json");
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("packed: every layout runs with the logits of its unpacked weights") {
  for (const std::string& layout : kLayouts) {
    INFO(layout);
    const SafetensorsFile want(kPacked / layout / "expected.safetensors");
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < want.find("ids")->shape[0]; ++i) {
      int64_t id;
      std::memcpy(&id, want.find("ids")->data + 8 * i, 8);
      ids.push_back(int32_t(id));
    }
    const auto engine = make_cpu_engine((kPacked / layout).string(), 2);
    std::vector<float> logits, expected(ids.size() * 80);
    const auto sequence = engine->start(nullptr);
    engine->forward(*sequence, ids, Regime::independent, 0,
                    [&](int64_t, int64_t rows, const float* p) {
                      logits.insert(logits.end(), p, p + rows * 80);
                    });
    to_float(DType::f32, want.find("logits")->data, int64_t(expected.size()), expected.data());
    CHECK(test::difference(logits, expected) < 2e-5);

    // In memory: codes, one float16 scale and at most one packed zero point a group; of FP8 codes
    // and a float32 scale for each row at most.
    const int64_t linear = linear_parameter_count(engine->config()),
                  plain = 2 * (parameter_count(engine->config()) - linear);
    const bool eight = Contains("8bit").match(layout) || Contains("fp8").match(layout);
    const int64_t bits = eight ? 8 : 4;
    int64_t order = 0;  // of the columns
    if (layout == "gptq-act-order")
      for (const LayerPlan& layer : anatomy_of(engine->config()).layers)
        for (const LinearPlan& l : layer.linears) order += 4 * l.columns;
    const uint64_t bytes = engine->weight_bytes().dense;
    CHECK(engine->weight_bytes().encoded == 0);
    CHECK(bytes > uint64_t(plain + linear * bits / 8));
    CHECK(bytes <= uint64_t(plain + linear * bits / 8 + linear / 32 * 3 + order));
  }
}

TEST_CASE("packed: a weight method works on the unpacked numbers") {
  struct Zero final : WeightMethod {
    void encode(const LinearView& l, RowSink& out) override {
      const std::vector<float> zero(size_t(l.rows * l.columns));
      out.dense(DType::f16, 1, l.rows, l.columns, zero.data());
    }
  } zero;
  const auto engine = make_cpu_engine((kPacked / "gptq").string(), 1);
  const uint64_t before = engine->weight_bytes().dense;
  calibrate::encode_weights(*engine, zero);
  CHECK(engine->weight_bytes().encoded > 0);
  CHECK(engine->weight_bytes().dense < before);
}

TEST_CASE("packed: what is not read is refused by name") {
  CHECK_THAT(config_refusal(R"({"quant_method": "bitsandbytes"})"), Contains("bitsandbytes"));
  CHECK_THAT(config_refusal(R"({"quant_method": "gptq", "bits": 3})"), Contains("3 bits"));
  CHECK_THAT(
      config_refusal(R"({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"})"),
      Contains("marlin") && Contains("gptq_v2"));
  CHECK_THAT(config_refusal(R"({"quant_method": "awq", "bits": 4, "version": "gemv"})"),
             Contains("gemv"));
  CHECK_THAT(
      config_refusal(R"({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"})"),
      Contains("float-quantized"));
  const auto float8 = [](const std::string& weights) {
    return config_refusal(R"({"quant_method": "compressed-tensors", "format": "float-quantized",
        "config_groups": {"a": {"weights": {"num_bits": 8, )" +
                          weights + "}}}}");
  };
  CHECK_THAT(float8(R"("type": "int", "strategy": "channel")"), Contains("FP8"));
  CHECK_THAT(float8(R"("type": "float", "strategy": "token")"), Contains("channel, group, block"));
  CHECK_THAT(float8(R"("type": "float", "strategy": "block", "block_structure": [128])"),
             Contains("two numbers"));
  CHECK_THAT(config_refusal(R"({"quant_method": "compressed-tensors", "format": "pack-quantized",
      "config_groups": {"a": {"weights": {"num_bits": 4, "type": "int", "strategy": "group"},
                              "input_activations": {"num_bits": 8}}}})"),
             Contains("activations"));

  const auto error_of = [](const Copy& copy) {
    try {
      make_cpu_engine(copy.folder.string(), 1);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  CHECK_THAT(error_of(Copy("gptq", [](Copy::Tensors& t) { t[kQuery + ".g_idx"][4] = 1; })),
             Contains("32 columns") && Contains(kQuery));
  CHECK_THAT(error_of(Copy("gptq", {}, "\"group_size\": 32", "\"group_size\": 64")),
             Contains("scales") && Contains("expected"));
  CHECK_THAT(error_of(Copy("ct-fp8-block", {}, "     48,\n", "     32,\n")),
             Contains("weight_scale") && Contains("expected numbers [3, 2]"));
  CHECK_THAT(error_of(Copy("ct-fp8-channel",
                           [](Copy::Tensors& t) {
                             std::fill_n(t[kQuery + ".weight_scale"].begin(), 4, uint8_t(0xFF));
                           })),
             Contains("not finite") && Contains(kQuery));
}

TEST_CASE(
    "packed: activations that a checkpoint wants quantized stay as they are, with a warning") {
  WeightFiles files(kPacked / "ct-fp8-channel");
  files.check_tensors(load_config(kPacked / "ct-fp8-channel"));
  REQUIRE(files.warnings().size() == 1);
  CHECK_THAT(files.warnings()[0], Contains("activations keep their precision"));
}

TEST_CASE("packed: the doctor finds what the label hides") {
  for (const std::string& layout : kLayouts) {
    INFO(layout);
    CHECK(problems(kPacked / layout) == 0);
  }
  SECTION("zero points that are off by one") {
    const Copy v2("gptq-v2", {}, "\"checkpoint_format\": \"gptq_v2\"",
                  "\"checkpoint_format\": \"gptq\"");
    CHECK(problems(v2.folder) == 14);
    CHECK_THAT(problem_of(v2.folder, kQuery), Contains("zero points stored as they are"));
  }
  SECTION("the other way round") {
    const Copy v1("gptq", {}, "\"checkpoint_format\": \"gptq\"",
                  "\"checkpoint_format\": \"gptq_v2\"");
    CHECK_THAT(problem_of(v1.folder, kQuery), Contains("zero points stored less one"));
  }
  SECTION("numbers of a word in another order") {
    const auto deal = [](uint32_t w) {  // AWQ's order to the plain one
      uint32_t out = 0;
      const int order[8] = {0, 4, 1, 5, 2, 6, 3, 7};
      for (int i = 0; i < 8; ++i) out |= (w >> (4 * order[i]) & 15u) << (4 * i);
      return out;
    };
    const Copy plain("awq", [&](Copy::Tensors& t) {
      each_word(t[kQuery + ".qweight"], deal);
      each_word(t[kQuery + ".qzeros"], deal);
    });
    CHECK(problems(plain.folder) == 1);
    CHECK_THAT(problem_of(plain.folder, kQuery), Contains("numbers of a word in their order"));
  }
  SECTION("nibbles of a byte that are swapped, which no layout has") {
    const Copy swapped("gptq", [](Copy::Tensors& t) {
      each_word(t[kQuery + ".qweight"],
                [](uint32_t w) { return (w & 0x0F0F0F0Fu) << 4 | (w >> 4 & 0x0F0F0F0Fu); });
    });
    CHECK(problems(swapped.folder) == 1);
    CHECK_THAT(problem_of(swapped.folder, kQuery), Contains("not the base's matrix"));
  }
  SECTION("FP8: a layer of another model, a number that is none") {
    const Copy other("ct-fp8-channel", [&](Copy::Tensors& t) {
      std::swap(t[kQuery + ".weight"], t["model.layers.1.self_attn.q_proj.weight"]);
      t["model.layers.0.self_attn.k_proj.weight"][7] = 0x7F;
    });
    CHECK(problems(other.folder) == 3);
    CHECK_THAT(problem_of(other.folder, kQuery), Contains("not the base's matrix"));
  }
  SECTION("a layer of another model") {
    const Copy other("ct-group-sym", [&](Copy::Tensors& t) {
      std::swap(t[kQuery + ".weight_packed"], t["model.layers.1.self_attn.q_proj.weight_packed"]);
    });
    CHECK(problems(other.folder) == 2);
    CHECK_THAT(problem_of(other.folder, kQuery), Contains("not the base's matrix"));
  }
  SECTION("a norm that was changed, a group that is flat") {
    const Copy changed("ct-group-sym", [&](Copy::Tensors& t) {
      t["model.norm.weight"][1] ^= 1;
      std::fill_n(t[kQuery + ".weight_packed"].begin(), 16, uint8_t(0x88));  // 32 zeros
    });
    CHECK(problems(changed.folder) == 2);
    CHECK_THAT(problem_of(changed.folder, "model.norm.weight"), Contains("differs from the base"));
    CHECK_THAT(problem_of(changed.folder, kQuery), Contains("1 of 128 groups"));
  }
}
