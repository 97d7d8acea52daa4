#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "ptq/core/suggest.hpp"
#include "ptq/model/anatomy.hpp"
#include "ptq/model/load_config.hpp"
#include "test/support/replaced.hpp"

using namespace ptq;
using Catch::Matchers::Contains;
using ptq::test::replaced;

namespace {

const std::string kQwen = R"({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
  "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
  "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064,
  "hidden_act": "silu", "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
  "max_position_embeddings": 131072, "sliding_window": 131072, "use_sliding_window": false,
  "max_window_layers": 28, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
  "bos_token_id": 151643, "eos_token_id": 151643})";
const std::string kMistral = R"({"architectures": ["MistralForCausalLM"], "model_type": "mistral",
  "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
  "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32768,
  "hidden_act": "silu", "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
  "max_position_embeddings": 32768, "sliding_window": null, "tie_word_embeddings": false,
  "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2})";
const std::string kLlama = R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
  "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
  "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
  "hidden_act": "silu", "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
  "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                   "original_max_position_embeddings": 8192, "rope_type": "llama3"},
  "max_position_embeddings": 131072, "attention_bias": false, "mlp_bias": false,
  "tie_word_embeddings": false, "torch_dtype": "bfloat16", "bos_token_id": 128000,
  "eos_token_id": [128001, 128008, 128009]})";

// `json` with the first occurrence of `from` replaced, or with `"key": value` text put in front.
std::string adding(const std::string& json, const std::string& member) {
  return "{" + member + ", " + json.substr(1);
}

ModelConfig parse(const std::string& json) { return parse_config(json, "config.json"); }

std::string config_error(const std::string& json) {
  try {
    parse(json);
  } catch (const Error& e) {
    CHECK(e.code() == ExitCode::environment);
    CHECK_THAT(e.where(), Contains("config.json"));
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("config: parameter counts of the three models") {
  CHECK(parameter_count(parse(kQwen)) == 7'615'616'512);
  CHECK(parameter_count(parse(kMistral)) == 7'248'023'552);
  CHECK(parameter_count(parse(kLlama)) == 8'030'261'248);
  CHECK(kv_bytes_per_token_fp16(parse(kQwen)) == 57'344);
  CHECK(kv_bytes_per_token_fp16(parse(kMistral)) == 131'072);
  CHECK(kv_bytes_per_token_fp16(parse(kLlama)) == 131'072);
}

// Published sizes: the number of weights in the safetensors files of each model's page.
TEST_CASE("config: parameter counts of further models") {
  const auto count = [](const std::string& type, int64_t hidden, int64_t layers, int64_t heads,
                        int64_t kv_heads, int64_t inner, int64_t vocab,
                        const std::string& more = "") {
    return parameter_count(
        parse("{\"model_type\": \"" + type + "\", \"hidden_size\": " + std::to_string(hidden) +
              ", \"num_hidden_layers\": " + std::to_string(layers) + ", \"num_attention_heads\": " +
              std::to_string(heads) + ", \"num_key_value_heads\": " + std::to_string(kv_heads) +
              ", \"intermediate_size\": " + std::to_string(inner) + ", \"vocab_size\": " +
              std::to_string(vocab) + ", \"max_position_embeddings\": 4096" + more + "}"));
  };
  const std::string tied = ", \"tie_word_embeddings\": true", dim = ", \"head_dim\": 128";
  CHECK(count("qwen3", 4096, 36, 32, 8, 12288, 151936, dim) == 8'190'735'360);
  CHECK(count("qwen3", 1024, 28, 16, 8, 3072, 151936, dim + tied) == 596'049'920);
  CHECK(count("phi3", 3072, 32, 32, 32, 8192, 32064) == 3'821'079'552);
  CHECK(count("llama", 576, 30, 9, 3, 1536, 49152, tied) == 134'515'008);   // SmolLM2-135M
  CHECK(count("llama", 2048, 22, 32, 4, 5632, 32000) == 1'100'048'384);     // TinyLlama
  CHECK(count("llama", 4096, 32, 32, 4, 11008, 64000) == 6'061'035'520);    // Yi-6B
  CHECK(count("llama", 4096, 30, 32, 32, 11008, 102400) == 6'910'365'696);  // DeepSeek-LLM-7B
  CHECK(count("mistral", 5120, 40, 32, 8, 14336, 131072, dim) == 12'247'782'400);  // Mistral-NeMo
}

TEST_CASE("config: biases and norms that an architecture has") {
  const ModelConfig qwen3 = parse(R"({"model_type": "qwen3", "attention_bias": true})"),
                    plain = parse(R"({"model_type": "qwen3"})"),
                    phi3 = parse(R"({"model_type": "phi3"})");
  CHECK((qwen3.qkv_bias && qwen3.o_bias && qwen3.head_norms));
  CHECK((!plain.qkv_bias && !plain.o_bias && plain.head_norms && !plain.fused));
  CHECK((phi3.fused && !phi3.head_norms && !phi3.qkv_bias));
  CHECK_THAT(config_error(R"({"model_type": "phi3", "attention_bias": true})"),
             Contains("do not exist in this architecture"));
  CHECK_THAT(config_error(R"({"model_type": "phi3", "partial_rotary_factor": 0.75})"),
             Contains("partial rotary embedding"));
  CHECK_THAT(
      config_error(
          R"({"model_type": "phi3", "rope_scaling": {"type": "longrope", "short_factor": [1]}})"),
      Contains("longrope"));
}

TEST_CASE("config: fields of the three models") {
  const ModelConfig q = parse(kQwen), m = parse(kMistral), l = parse(kLlama);
  CHECK(q.architecture == Architecture::qwen2);
  CHECK(q.head_dim == 128);
  CHECK(q.qkv_bias);
  CHECK_FALSE(q.o_bias);
  CHECK(q.rms_norm_eps == 1e-6f);
  CHECK(q.window_of_layer(27) == 0);
  CHECK(q.torch_dtype == DType::bf16);
  CHECK(m.architecture == Architecture::mistral);
  CHECK(m.sliding_window == 0);
  CHECK_FALSE(m.qkv_bias);
  CHECK(m.eos_token_ids == std::vector<int64_t>{2});
  CHECK(l.architecture == Architecture::llama);
  CHECK(l.rope_scaling.has_value());
  CHECK(l.rope_scaling->original_max_position_embeddings == 8192);
  CHECK(l.eos_token_ids == std::vector<int64_t>{128001, 128008, 128009});
  CHECK(l.bos_token_id == 128000);
}

TEST_CASE("config: optional keys") {
  CHECK(parse(replaced(kLlama, "\"num_key_value_heads\": 8,", "")).num_key_value_heads == 32);
  CHECK(parse(replaced(kMistral, "\"num_key_value_heads\": 8,", "")).num_key_value_heads == 8);
  CHECK(parse(replaced(kMistral, "\"num_key_value_heads\": 8", "\"num_key_value_heads\": null"))
            .num_key_value_heads == 32);
  CHECK(parse(adding(kLlama, R"("head_dim": null)")).head_dim == 128);
  CHECK(parse(adding(kLlama, R"("head_dim": 64)")).head_dim == 64);
  CHECK(parse(replaced(kQwen, "\"bos_token_id\": 151643,", "")).bos_token_id == -1);
  CHECK(parse(replaced(kQwen, "151643}", "null}")).eos_token_ids.empty());
  CHECK(parse(replaced(kQwen, "\"torch_dtype\"", "\"dtype\"")).torch_dtype == DType::bf16);
  const ModelConfig biased =
      parse(replaced(kLlama, "\"attention_bias\": false", "\"attention_bias\": true"));
  CHECK(biased.qkv_bias);
  CHECK(biased.o_bias);
  CHECK(parameter_count(biased) == 8'030'261'248 + 32 * (4096 + 2 * 1024 + 4096));
  const ModelConfig tied =
      parse(replaced(kLlama, "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true"));
  CHECK(parameter_count(tied) == 8'030'261'248 - 525'336'576);
}

TEST_CASE("config: sliding windows") {
  const std::string absent = replaced(kMistral, "\"sliding_window\": null, ", "");
  CHECK(parse(absent).window_of_layer(0) == 4096);  // the class default
  CHECK(parse(replaced(kMistral, "\"sliding_window\": null", "\"sliding_window\": 1024"))
            .window_of_layer(31) == 1024);
  const std::string used =
      replaced(kQwen, "\"use_sliding_window\": false", "\"use_sliding_window\": true");
  CHECK(parse(used).window_of_layer(27) == 0);
  const std::string some_used =
      replaced(replaced(used, "\"num_hidden_layers\": 28", "\"num_hidden_layers\": 30"),
               "\"sliding_window\": 131072, ", "");
  const ModelConfig some =
      parse(replaced(used, "\"max_window_layers\": 28", "\"max_window_layers\": 21"));
  CHECK(some.window_of_layer(20) == 0);
  CHECK(some.window_of_layer(21) == 131072);
  CHECK(parse(replaced(some_used, "\"max_window_layers\": 28, ", "")).window_of_layer(28) == 4096);
  CHECK(parse(replaced(some_used, "\"max_window_layers\": 28, ", "")).window_of_layer(27) == 0);
  CHECK(parse(adding(kLlama, R"("sliding_window": 4096)")).window_of_layer(0) == 0);
  CHECK_THAT(config_error(adding(kLlama, R"("layer_types": ["sliding_attention"])")),
             Contains("layer_types[0]") && Contains("sliding_attention"));
  CHECK_THAT(config_error(adding(kLlama, R"("layer_types": ["full_attention"])")),
             Contains("1 entries"));
}

TEST_CASE("config: both spellings of the rotary settings") {
  std::string v5 =
      replaced(kLlama, "\"rope_scaling\": {", "\"rope_parameters\": {\"rope_theta\": 5e5, ");
  v5 = replaced(v5, "\"rope_theta\": 500000.0,", "");
  CHECK(parse(v5).rope_theta == 500000.0);
  CHECK(parse(v5).rope_scaling == parse(kLlama).rope_scaling);
  const std::string plain =
      replaced(replaced(kMistral, "\"rope_theta\": 1000000.0,", ""), "{",
               R"({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},)");
  CHECK(parse(plain).rope_theta == 1e6);
  CHECK_FALSE(parse(plain).rope_scaling.has_value());
  CHECK(parse(replaced(kLlama, "\"rope_type\"", "\"type\"")).rope_scaling.has_value());

  CHECK_THAT(config_error(adding(v5, R"("rope_theta": 10000.0)")),
             Contains("rope_parameters.rope_theta"));
  CHECK_THAT(config_error(replaced(kLlama, "\"rope_type\"", "\"type\": \"yarn\", \"rope_type\"")),
             Contains("contradict"));
  CHECK_THAT(config_error(adding(kLlama, R"("rope_parameters": {"rope_type": "default"})")),
             Contains("contradict"));
}

TEST_CASE("config: rotary frequencies") {
  const auto check = [](const std::vector<float>& freq, size_t i, double expected) {
    INFO("index " << i);
    CHECK(std::abs(freq.at(i) - expected) <= 2e-6 * expected);
  };
  const auto llama = rope_of(parse(kLlama)).inv_freq;
  REQUIRE(llama.size() == 64);
  check(llama, 0, 1.000000000e+00);
  check(llama, 1, 8.146172339e-01);
  check(llama, 16, 3.760603093e-02);
  check(llama, 28, 3.211445995e-03);
  check(llama, 29, 2.166570764e-03);
  check(llama, 30, 1.371893568e-03);
  check(llama, 31, 8.567514129e-04);
  check(llama, 32, 5.248461610e-04);
  check(llama, 33, 3.126937504e-04);
  check(llama, 34, 1.785078128e-04);
  check(llama, 35, 9.556212354e-05);
  check(llama, 63, 3.068925989e-07);
  const auto qwen = rope_of(parse(kQwen)).inv_freq;
  check(qwen, 1, 8.058421878e-01);
  check(qwen, 2, 6.493816316e-01);
  check(qwen, 16, 3.162277660e-02);
  check(qwen, 32, 1.000000000e-03);
  check(qwen, 48, 3.162277660e-05);
  check(qwen, 63, 1.240937761e-06);
}

TEST_CASE("config: what would change the mathematics is refused by name") {
  const auto refused = [](const std::string& json, const std::string& key) {
    INFO(key);
    CHECK_THAT(config_error(json), Contains(key));
  };
  refused(replaced(kLlama, "LlamaForCausalLM", "LlamaForCausalLm"), "supported: LlamaForCausalLM");
  CHECK_THAT(config_error(replaced(kQwen, "Qwen2ForCausalLM", "Qwen3ForCausalLM")),
             !Contains("did you mean"));
  refused(replaced(kLlama, "LlamaForCausalLM", "GemmaForCausalLM"), "GemmaForCausalLM");
  refused(replaced(kLlama, "\"model_type\": \"llama\"", "\"model_type\": \"mistral\""),
          "model_type");
  refused(adding(kLlama, R"("quantization_config": {"quant_method": "awq"})"),
          "quantization_config");
  refused(replaced(kLlama, "\"llama3\"", "\"longrope\""), "rope_scaling.rope_type");
  CHECK_THAT(config_error(replaced(kLlama, "\"llama3\"", "\"longrope\"")), !Contains("removed"));
  refused(replaced(kLlama, ", \"rope_type\": \"llama3\"", ""), "`rope_type` is missing");
  refused(adding(kQwen, R"("rope_parameters": {"full_attention": {"rope_type": "default"}})"),
          "single layers");
  refused(replaced(kLlama, "\"silu\"", "\"gelu\""), "hidden_act");
  refused(adding(kLlama, R"("partial_rotary_factor": 0.5)"), "partial_rotary_factor");
  refused(adding(kLlama, R"("final_logit_softcapping": 30.0)"), "final_logit_softcapping");
  refused(adding(kLlama, R"("attn_logit_softcapping": 50.0)"), "attn_logit_softcapping");
  refused(adding(kLlama, R"("logit_scale": 0.0625)"), "logit_scale");
  refused(adding(kLlama, R"("residual_multiplier": 0.22)"), "residual_multiplier");
  refused(adding(kLlama, R"("pretraining_tp": 2)"), "pretraining_tp");
  refused(replaced(kLlama, "\"mlp_bias\": false", "\"mlp_bias\": true"), "mlp_bias");
  refused(adding(kMistral, R"("attention_bias": true)"), "attention_bias");
  refused(replaced(kLlama, "\"factor\": 8.0", "\"factor\": 0"), "factor");
  refused(replaced(replaced(kLlama, "\"llama3\"", "\"yarn\""), "500000.0", "1.0"), "not finite");
  refused(replaced(kLlama, "\"low_freq_factor\": 1.0, ", ""), "low_freq_factor");
  refused(replaced(kLlama, "\"bfloat16\"", "\"float8\""), "torch_dtype");
  refused(adding(kLlama, R"("dtype": "float16")"), "contradict");
  CHECK(parse(adding(kLlama, R"("pretraining_tp": 1, "unknown_key": [1, {"x": 2}])")).hidden_size ==
        4096);
  CHECK(parse(replaced(kLlama, "\"silu\"", "\"swish\"")).hidden_size == 4096);
}

TEST_CASE("config: absent keys are the defaults of the class") {
  const auto expected = nlohmann::json::parse(
      std::ifstream(std::string(PTQ_SOURCE_DIR) + "/test/fixtures/config/defaults.json"));
  for (const char* type : {"llama", "mistral", "phi3", "qwen2", "qwen3"}) {
    INFO(type);
    const nlohmann::json& want = expected.at(type);
    const ModelConfig c = parse("{\"model_type\": \"" + std::string(type) + "\"}");
    CHECK(c.vocab_size == want.at("vocab_size"));
    CHECK(c.hidden_size == want.at("hidden_size"));
    CHECK(c.intermediate_size == want.at("intermediate_size"));
    CHECK(c.num_hidden_layers == want.at("num_hidden_layers"));
    CHECK(c.num_attention_heads == want.at("num_attention_heads"));
    CHECK(c.num_key_value_heads == want.at("num_key_value_heads"));
    CHECK(c.head_dim == want.at("head_dim"));
    CHECK(c.max_position_embeddings == want.at("max_position_embeddings"));
    CHECK(c.rms_norm_eps == float(want.at("rms_norm_eps")));
    CHECK(c.rope_theta == want.at("rope_theta"));
    CHECK(c.tie_word_embeddings == want.at("tie_word_embeddings"));
    CHECK(c.sliding_window ==
          (want.at("sliding_window").is_null() ? 0 : want.at("sliding_window").get<int64_t>()));
    CHECK(c.bos_token_id ==
          (want.at("bos_token_id").is_null() ? -1 : want.at("bos_token_id").get<int64_t>()));
    std::vector<int64_t> eos;
    if (!want.at("eos_token_id").is_null()) eos.push_back(want.at("eos_token_id"));
    CHECK(c.eos_token_ids == eos);
    CHECK_THAT(class_defaults_note(c).value(),
               Contains("hidden_size") && Contains("rms_norm_eps") && Contains(type));
  }
  for (const std::string type : {"qwen2", "qwen3"}) {
    const nlohmann::json& qwen = expected.at(type);
    const ModelConfig used =
        parse("{\"model_type\": \"" + type + "\", \"use_sliding_window\": true}");
    CHECK(used.sliding_window == qwen.at("sliding_window_when_used"));
    CHECK(used.window_first_layer == qwen.at("max_window_layers"));
  }
  for (const std::string& json : {kQwen, kMistral, kLlama}) {
    CHECK_FALSE(class_defaults_note(parse(json)).has_value());
  }
}

TEST_CASE("config: ids outside the vocabulary never begin or end a text") {
  CHECK(parse(replaced(kQwen, "151643}", "152064}")).eos_token_ids.empty());
  CHECK(parse(replaced(kQwen, "151643}", "-1}")).eos_token_ids.empty());
  CHECK(parse(replaced(kLlama, "128009]", "999999999]")).eos_token_ids ==
        std::vector<int64_t>{128001, 128008});
  CHECK(parse(replaced(kQwen, "\"bos_token_id\": 151643", "\"bos_token_id\": -1")).bos_token_id ==
        -1);
  CHECK(
      parse(replaced(kQwen, "\"bos_token_id\": 151643", "\"bos_token_id\": 152064")).bos_token_id ==
      -1);
  CHECK(parse(replaced(kQwen, "\"bos_token_id\": 151643", "\"bos_token_id\": [151644]"))
            .bos_token_id == 151644);
}

TEST_CASE("config: rotary scalings by the published formulas") {
  const auto cases = nlohmann::json::parse(
      std::ifstream(std::string(PTQ_SOURCE_DIR) + "/test/fixtures/config/rope.json"));
  CHECK(cases.size() == 10);
  for (const nlohmann::json& one : cases) {
    INFO(one.at("config").dump());
    const Rope rope = rope_of(parse(one.at("config").dump()));
    const std::vector<double> want = one.at("inv_freq");
    REQUIRE(rope.inv_freq.size() == want.size());
    // float32 of a power and a ramp: a few units in the last place of the larger summand.
    for (size_t i = 0; i < want.size(); ++i) {
      INFO("index " << i);
      CHECK(std::abs(rope.inv_freq[i] - want[i]) <= 2e-6 * want[i]);
    }
    CHECK(rope.attention_factor == Approx(double(one.at("attention_factor"))).epsilon(1e-7));
  }
}

TEST_CASE("config: rotary settings without a type change nothing") {
  const std::string plain = replaced(kQwen, "\"rope_theta\": 1000000.0,", "");
  CHECK(parse(plain).rope_theta == 10000);  // the class default
  const ModelConfig typeless = parse(adding(plain, R"("rope_parameters": {"rope_theta": 5e5})"));
  CHECK(typeless.rope_theta == 5e5);
  CHECK_FALSE(typeless.rope_scaling.has_value());
  // The typeless object of 5.x beside the scaling of 4.x, and the length outside of the object.
  const ModelConfig both = parse(adding(kLlama, R"("rope_parameters": {"rope_theta": 5e5},
      "original_max_position_embeddings": 4096)"));
  REQUIRE(both.rope_scaling.has_value());
  CHECK(both.rope_scaling->original_max_position_embeddings == 4096);
}

TEST_CASE("config: damaged values name the key") {
  for (const char* key :
       {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
        "vocab_size", "max_position_embeddings", "rms_norm_eps"}) {
    INFO(key);
    const std::string quoted = "\"" + std::string(key) + "\"";
    for (const char* value : {"null", "0", "-1", "\"7\"", "[]", "1e400", "99999999999999999999"}) {
      INFO(value);
      CHECK(config_error(replaced(kQwen, quoted + ":", quoted + ": " + value + ", \"x\":")) !=
            "no error");
    }
  }
  CHECK_THAT(config_error(replaced(kQwen, "3584", "3584.0")), Contains("an integer is expected"));
  CHECK_THAT(
      config_error(replaced(kQwen, "\"num_key_value_heads\": 4", "\"num_key_value_heads\": 5")),
      Contains("num_key_value_heads"));
  CHECK_THAT(config_error(replaced(kQwen, "3584", "3585")), Contains("head_dim"));
  CHECK_THAT(config_error(adding(kQwen, R"("head_dim": 127)")), Contains("odd"));
  CHECK_THAT(config_error(adding(kQwen, R"("vocab_size": 5)")), Contains("twice"));
  CHECK_THAT(config_error(replaced(kLlama, "128009]", "\"x\"]")), Contains("eos_token_id[2]"));
  CHECK_THAT(config_error(kQwen + "x"), Contains("not valid JSON"));
  CHECK_THAT(config_error(""), Contains("not valid JSON"));
  CHECK_THAT(config_error("[1]"), Contains("an object is expected"));
  CHECK_THAT(config_error("{\"a\": \"\xFF\"}"), Contains("UTF-8 at byte 7"));
  CHECK_THAT(config_error(std::string(100, '[') + std::string(100, ']')),
             Contains("nested deeper"));
  CHECK_THAT(config_error(std::string((1 << 20) + 1, ' ')), Contains("limit"));
  CHECK_THAT(config_error(R"({"model_type": "\ud800"})"), Contains("JSON"));
}

TEST_CASE("config: missing folder and missing file") {
  const auto folder =
      std::filesystem::temp_directory_path() / ("ptq-config-" + std::to_string(::getpid()));
  CHECK_THROWS_WITH(load_config(folder), Contains(folder.string()) && Contains("tokenizer.json"));
  std::filesystem::create_directories(folder);
  CHECK_THROWS_WITH(load_config(folder), Contains("no config.json"));
  std::ofstream(folder / "config.json") << kQwen;
  CHECK(load_config(folder).hidden_size == 3584);
  CHECK_THROWS_WITH(load_config(folder / "config.json"), Contains("not a folder"));
  std::ofstream(folder / "config.json") << "version https://git-lfs.github.com/spec/v1\n";
  CHECK_THROWS_WITH(load_config(folder), Contains("git lfs pull"));
  std::filesystem::remove_all(folder);
}

TEST_CASE("config: real model folder") {
  const std::filesystem::path folder =
      std::filesystem::path(PTQ_SHARED_DIR) / "data/weights/stories260K/hf";
  if (!std::filesystem::exists(folder)) {
    WARN("skipped: the shared data is not here");
    return;
  }
  const ModelConfig c = load_config(folder);
  CHECK(c.hidden_size == 64);
  CHECK(c.tie_word_embeddings);
  CHECK(parameter_count(c) == 260'032);
}

TEST_CASE("suggest: nearest name") {
  const std::vector<std::string> names = {"bits", "group_size", "method"};
  CHECK(nearest("bist", names) == "bits");
  CHECK(nearest("gruop_size", names) == "group_size");
  CHECK(nearest("x", names).empty());
  CHECK(nearest("", names).empty());
  CHECK(edit_distance("ca", "abc") == 3);
  CHECK(edit_distance("", "abc") == 3);
  CHECK(edit_distance("kitten", "sitting") == 3);
  CHECK(did_you_mean("metod", names) == "did you mean `method`?");
  CHECK(did_you_mean("zzzz", names) == "known: bits, group_size, method");
}

TEST_CASE("config: layers of a pruned model have sizes of their own") {
  const std::string three =
      replaced(replaced(kLlama, "\"num_hidden_layers\": 32", "\"num_hidden_layers\": 3"),
               "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
  const ModelConfig c = parse(
      adding(three, R"("layer_sizes": [{}, {"num_attention_heads": 16, "num_key_value_heads": 4},
                                {"intermediate_size": 1024}])"));
  const Anatomy a = anatomy_of(c);
  CHECK(a.layers[0].shape.heads == 32);
  CHECK(a.layers[1].shape.heads == 16);
  CHECK(a.layers[1].shape.kv_width() == 4 * 128);
  CHECK(a.layers[1].at(Role::o).columns == 16 * 128);
  CHECK(a.layers[2].at(Role::down).columns == 1024);
  CHECK(a.widest().inner == 14336);
  const int64_t whole = parameter_count(parse(three)), h = 4096;
  CHECK(parameter_count(c) == whole - 2 * 16 * 128 * h - 2 * 4 * 128 * h - 3 * h * (14336 - 1024));

  // Blocks that are gone have neither tensors nor a cache.
  const ModelConfig gone = parse(
      adding(three, R"("layer_sizes": [{"num_attention_heads": 0, "num_key_value_heads": 0}, {},
                                {"num_attention_heads": 0, "num_key_value_heads": 0,
                                 "intermediate_size": 0}])"));
  const int64_t attention = h * (2 * 32 + 2 * 8) * 128 + h, mlp = 3 * h * 14336 + h;
  CHECK(parameter_count(gone) == whole - 2 * attention - mlp);
  CHECK(kv_bytes_per_token_fp16(gone) == kv_bytes_per_token_fp16(parse(three)) / 3);
  CHECK(anatomy_of(gone).layers[2].linears.empty());
  CHECK(anatomy_of(gone).layers[0].at(Role::down).columns == 14336);
  CHECK_THAT(config_error(adding(three, R"("layer_sizes": [{}, {"num_attention_heads": 0}, {}])")),
             Contains("does not divide"));

  CHECK_THAT(config_error(adding(three, R"("layer_sizes": [{}, {}])")),
             Contains("2 entries for 3"));
  CHECK_THAT(config_error(adding(three, R"("layer_sizes": [{}, {"num_attention_heads": 33}, {}])")),
             Contains("num_attention_heads"));
  CHECK_THAT(config_error(adding(three, R"("layer_sizes": [{}, {"num_attention_heads": 12}, {}])")),
             Contains("does not divide"));
  CHECK_THAT(config_error(adding(three, R"("layer_sizes": [{}, {"hidden_size": 12}, {}])")),
             Contains("is not a size of a layer"));
}
