// GGUF files: the container, what its metadata mean, and its numbers against the public package.
#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "ptq/engine/engine.hpp"
#include "ptq/model/gguf_model.hpp"
#include "ptq/model/load_tokenizer.hpp"
#include "ptq/model/safetensors.hpp"
#include "ptq/model/weight_files.hpp"
#include "test/support/difference.hpp"
#include "test/support/temporary_file.hpp"

using namespace ptq;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

const fs::path kFixtures = fs::path(PTQ_SOURCE_DIR) / "test/fixtures/gguf";

template <class T>
std::string raw(T x) {
  return std::string(reinterpret_cast<const char*>(&x), sizeof x);
}
std::string text(const std::string& s) { return raw(uint64_t(s.size())) + s; }

// Writes files of the format, and wrong ones.
struct Builder {
  uint32_t version = 3;
  uint64_t keys = 0, tensors = 0, alignment = 32, offset = 0;
  std::string head, infos, data;

  Builder& key(const std::string& name, GgufType type, const std::string& value) {
    ++keys;
    head += text(name) + raw(uint32_t(type)) + value;
    return *this;
  }
  Builder& u32(const std::string& name, uint32_t x) { return key(name, GgufType::u32, raw(x)); }
  Builder& f32(const std::string& name, float x) { return key(name, GgufType::f32, raw(x)); }
  Builder& string(const std::string& name, const std::string& x) {
    return key(name, GgufType::string, text(x));
  }
  // dims: the fastest first.
  Builder& tensor(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type,
                  const std::string& bytes) {
    ++tensors;
    infos += text(name) + raw(uint32_t(dims.size()));
    for (const uint64_t n : dims) infos += raw(n);
    infos += raw(type) + raw(offset);
    if (data.size() < offset) data.resize(size_t(offset), '\0');
    data += bytes;
    offset = (data.size() + alignment - 1) / alignment * alignment;
    return *this;
  }
  Builder& floats(const std::string& name, const std::vector<uint64_t>& dims,
                  const std::vector<float>& x) {
    return tensor(name, dims, 0,
                  std::string(reinterpret_cast<const char*>(x.data()), x.size() * 4));
  }
  std::string file() const {
    std::string all = "GGUF" + raw(version) + raw(tensors) + raw(keys) + head + infos;
    all.resize((all.size() + alignment - 1) / alignment * alignment, '\0');
    return all + data;
  }
};

// What a llama of one head of four numbers needs, but for its layers.
Builder tiny(const std::string& arch = "llama") {
  Builder b;
  b.string("general.architecture", arch);
  for (const auto& [name, x] :
       std::vector<std::pair<std::string, uint32_t>>{{"block_count", 1},
                                                     {"context_length", 64},
                                                     {"embedding_length", 8},
                                                     {"feed_forward_length", 8},
                                                     {"attention.head_count", 2},
                                                     {"attention.head_count_kv", 1}}) {
    b.u32(arch + "." + name, x);
  }
  b.f32(arch + ".attention.layer_norm_rms_epsilon", 1e-5f);
  b.floats("token_embd.weight", {8, 3}, std::vector<float>(24, 0.5f));
  return b;
}

ModelConfig config_of(const Builder& b) {
  const std::string file = b.file();
  return gguf_config(
      GgufContent({reinterpret_cast<const uint8_t*>(file.data()), file.size()}, "x.gguf"));
}

// The message that a file is refused with; "" where it is read.
std::string refusal(const std::string& file) {
  // Memory of exactly that size, so that a sanitizer sees a read past the end.
  const std::vector<uint8_t> bytes(file.begin(), file.end());
  try {
    const GgufContent content(bytes, "x.gguf");
    if (content.contains("general.architecture")) gguf_weights(content, gguf_config(content));
  } catch (const Error& e) {
    CHECK(e.code() == ExitCode::environment);
    CHECK_THAT(e.where(), Contains("x.gguf"));
    return e.what();
  }
  return "";
}

std::vector<float> numbers(const TensorInfo& t) {
  const StoredRows rows = t.rows();
  std::vector<float> x(size_t(t.shape[0] * rows.columns));
  rows.decode(0, t.shape[0], x.data());
  return x;
}

std::string bytes_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

TEST_CASE("gguf: decoded numbers of every type equal the public package's to the last bit") {
  const GgufFile file(kFixtures / "blocks.gguf");
  const SafetensorsFile want(kFixtures / "blocks.safetensors");
  REQUIRE(file.content().tensors().size() == 15);
  for (const TensorInfo& t : file.content().tensors()) {
    INFO(t.name);
    const TensorInfo* expected = want.find(t.name);
    REQUIRE(expected != nullptr);
    REQUIRE(t.shape == expected->shape);
    const std::vector<float> x = numbers(t), y = numbers(*expected);
    CHECK(std::memcmp(x.data(), y.data(), 4 * x.size()) == 0);
    // A part of the rows is the same as that part of all.
    std::vector<float> second(512);
    t.rows().decode(1, 2, second.data());
    CHECK(std::memcmp(second.data(), x.data() + 512, 4 * 512) == 0);
    CHECK(uint64_t(t.shape[0] * t.rows().row_bytes()) == t.bytes);
  }
}

TEST_CASE("gguf: models run from packed weights with the logits of transformers") {
  for (const std::string name : {"llama", "qwen2", "qwen3"}) {
    INFO(name);
    const SafetensorsFile want(kFixtures / (name + ".safetensors"));
    const TensorInfo& stored = *want.find("ids");
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < stored.shape[0]; ++i) {
      int64_t id;
      std::memcpy(&id, stored.data + 8 * i, 8);
      ids.push_back(int32_t(id));
    }
    auto engine = make_cpu_engine((kFixtures / (name + ".gguf")).string(), 2);
    std::vector<float> logits;
    const auto sequence = engine->start(nullptr);
    engine->forward(*sequence, ids, Regime::independent, 0,
                    [&](int64_t, int64_t rows, const float* p) {
                      logits.insert(logits.end(), p, p + rows * engine->config().vocab_size);
                    });
    CHECK(test::difference(logits, numbers(*want.find("logits"))) < 2e-5);

    // Counted are the bytes of the file, but for the divisors of the rotary frequencies.
    const GgufFile file(kFixtures / (name + ".gguf"));
    uint64_t bytes = 0;
    for (const TensorInfo& t : file.content().tensors())
      if (t.name != "rope_freqs.weight") bytes += t.bytes;
    CHECK(engine->weight_bytes().dense == bytes);
    CHECK(engine->weight_bytes().encoded == 0);
  }
}

TEST_CASE("gguf: metadata become the configuration") {
  const ModelConfig llama = load_config(kFixtures / "llama.gguf");
  CHECK(llama.architecture == Architecture::llama);
  CHECK(llama.hidden_size == 256);
  CHECK(llama.num_attention_heads == 4);
  CHECK(llama.num_key_value_heads == 2);
  CHECK(llama.head_dim == 16);
  CHECK(llama.vocab_size == 64);
  CHECK(llama.max_position_embeddings == 128);
  CHECK(llama.tie_word_embeddings);
  CHECK_FALSE(llama.qkv_bias);
  CHECK(llama.rms_norm_eps == 1e-5f);
  CHECK(llama.rope_theta == 10000);
  CHECK(llama.bos_token_id == 1);
  CHECK(llama.eos_token_ids == std::vector<int64_t>{2});
  REQUIRE(llama.rope_scaling);
  // The same frequencies as from the settings of Llama 3.
  RopeScaling scaling;
  scaling.type = RopeScaling::Type::llama3;
  scaling.factor = 8;
  scaling.original_max_position_embeddings = 16;
  const Rope want = make_rope(10000, 16, scaling), rope = rope_of(llama);
  for (size_t i = 0; i < 8; ++i) CHECK(rope.inv_freq[i] == Approx(want.inv_freq[i]).epsilon(3e-7));

  const ModelConfig qwen2 = load_config(kFixtures / "qwen2.gguf");
  CHECK(qwen2.architecture == Architecture::qwen2);
  CHECK(qwen2.num_hidden_layers == 2);
  CHECK(qwen2.rope_theta == 50000);
  CHECK(qwen2.qkv_bias);
  CHECK_FALSE(qwen2.o_bias);
  CHECK_FALSE(qwen2.tie_word_embeddings);
  CHECK_FALSE(qwen2.rope_scaling);

  CHECK(config_of(tiny()).head_dim == 4);
  CHECK(config_of(tiny()).rope_theta == 10000);
  Builder linear = tiny().string("llama.rope.scaling.type", "linear");
  linear.f32("llama.rope.scaling.factor", 4);
  CHECK(config_of(linear).rope_scaling->factor == 4);
  Builder yarn = tiny().string("llama.rope.scaling.type", "yarn");
  yarn.f32("llama.rope.scaling.factor", 4).u32("llama.rope.scaling.original_context_length", 16);
  CHECK(config_of(yarn).rope_scaling->original_max_position_embeddings == 16);
  CHECK(config_of(yarn).rope_scaling->attention_factor == Approx(1 + 0.1 * std::log(4)));
}

TEST_CASE("gguf: rows of q and k are put back into the order of Hugging Face") {
  for (const std::string arch : {"llama", "qwen2"}) {
    INFO(arch);
    Builder b = tiny(arch);
    // Rows of q as its two heads of four have them, each filled with its number.
    std::vector<float> q, bias;
    for (int r = 0; r < 8; ++r) {
      q.insert(q.end(), 8, float(r));
      bias.push_back(float(r));
    }
    b.floats("blk.0.attn_q.weight", {8, 8}, q).floats("blk.0.attn_q.bias", {8}, bias);
    b.floats("blk.0.attn_v.weight", {8, 8}, q);
    const std::string file = b.file();
    const GgufContent content({reinterpret_cast<const uint8_t*>(file.data()), file.size()}, "x");
    const std::vector<TensorInfo> list = gguf_weights(content, gguf_config(content));
    REQUIRE(list[1].name == "model.layers.0.self_attn.q_proj.weight");
    REQUIRE(list[2].name == "model.layers.0.self_attn.q_proj.bias");
    const std::vector<float> first = arch == "llama" ? std::vector<float>{0, 2, 1, 3, 4, 6, 5, 7}
                                                     : std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7};
    CHECK(numbers(list[2]) == first);
    const std::vector<float> rows = numbers(list[1]), v = numbers(list[3]);
    for (size_t r = 0; r < 8; ++r) {
      CHECK(rows[8 * r] == first[r]);
      CHECK(rows[8 * r + 7] == first[r]);
      CHECK(v[8 * r] == float(r));
    }
  }
}

TEST_CASE("gguf: a damaged container is refused with one message") {
  CHECK(refusal(Builder().file()).empty());
  CHECK(refusal(tiny().file()).empty());
  CHECK_THAT(refusal(""), Contains("does not begin with `GGUF`"));
  CHECK_THAT(refusal("version https://git-lfs.github.com/spec/v1\n"), Contains("git lfs pull"));
  Builder b;
  b.version = 1;
  CHECK_THAT(refusal(b.file()), Contains("version 1 is not supported"));
  b.version = 0x03000000;
  CHECK_THAT(refusal(b.file()), Contains("big-endian"));
  b = Builder();
  b.keys = uint64_t(1) << 40;
  CHECK_THAT(refusal(b.file()), Contains("number of keys"));
  b = Builder();
  b.tensors = 900'000;
  CHECK_THAT(refusal(b.file()), Contains("number of tensors"));

  const auto with_key = [](const std::string& name, uint32_t type, const std::string& value) {
    return refusal(Builder().key(name, GgufType(type), value).file());
  };
  CHECK_THAT(with_key("a", 99, ""), Contains("the type 99 of the value is unknown"));
  CHECK_THAT(with_key("a", 7, raw(uint8_t(2))), Contains("neither 0 nor 1"));
  CHECK_THAT(with_key("a\n", 0, raw(uint8_t(2))), Contains("not plain ASCII"));
  CHECK_THAT(with_key("a", 8, raw(UINT64_MAX)), Contains("the file ends inside a text"));
  CHECK_THAT(with_key("a", 9, raw(uint32_t(4)) + raw(UINT64_MAX / 2)),
             Contains("number of elements of a list"));
  CHECK_THAT(with_key("a", 9, raw(uint32_t(9)) + raw(uint32_t(4)) + raw(uint64_t(0))),
             Contains("lists of lists"));
  CHECK_THAT(refusal(Builder().u32("a", 1).u32("a", 1).file()), Contains("`a` appears twice"));
  CHECK_THAT(refusal(Builder().u32("general.alignment", 24).file()),
             Contains("not a power of two"));

  const std::string sixteen(64, '\0');
  const auto with_tensor = [](const std::vector<uint64_t>& dims, uint32_t type,
                              const std::string& bytes) {
    return refusal(Builder().tensor("t", dims, type, bytes).file());
  };
  CHECK(with_tensor({4, 4}, 0, sixteen).empty());
  CHECK_THAT(with_tensor({}, 0, sixteen), Contains("has 0 dimensions"));
  CHECK_THAT(with_tensor({1, 1, 1, 1, 1}, 0, sixteen), Contains("has 5 dimensions"));
  CHECK_THAT(with_tensor({4, 0}, 0, sixteen), Contains("is 0 or too large"));
  CHECK_THAT(with_tensor({uint64_t(1) << 40, uint64_t(1) << 40}, 0, sixteen),
             Contains("is 0 or too large"));
  CHECK_THAT(with_tensor({5, 4}, 0, sixteen), Contains("the file ends before"));
  CHECK_THAT(with_tensor({48}, 2, sixteen), Contains("do not divide into blocks of 32"));
  CHECK_THAT(with_tensor({64}, 2, sixteen), Contains("a vector in the format Q4_0"));
  CHECK_THAT(with_tensor({32}, 39, sixteen), Contains("MXFP4 is not supported"));
  CHECK_THAT(with_tensor({32}, 4711, sixteen), Contains("4711 is not supported"));
  CHECK_THAT(with_tensor({1, 1}, 0, sixteen), Contains("bytes behind the last tensor"));
  b = Builder().tensor("t", {16}, 0, sixteen).tensor("t", {16}, 0, sixteen);
  CHECK_THAT(refusal(b.file()), Contains("`t` appears twice"));
  b = Builder().tensor("t", {16}, 0, sixteen);
  b.offset = 32;
  CHECK_THAT(refusal(b.tensor("u", {8}, 0, "").file()), Contains("overlaps"));
  b = Builder().tensor("t", {16}, 0, sixteen);
  b.offset = 96;
  CHECK_THAT(refusal(b.tensor("u", {8}, 0, sixteen).file()), Contains("unused bytes"));
  b = Builder();
  b.offset = 8;
  CHECK_THAT(refusal(b.tensor("t", {16}, 0, sixteen).file()), Contains("no multiple of 32"));
}

TEST_CASE("gguf: no part of a file is read as a file") {
  const std::string whole = bytes_of(kFixtures / "llama.gguf");
  CHECK(refusal(whole).empty());
  size_t read = 0;
  for (size_t n = 0; n < whole.size(); n += n < 3000 ? 1 : 997)
    read += refusal(whole.substr(0, n)).empty();
  CHECK(read == 0);
  CHECK_FALSE(refusal(whole.substr(0, whole.size() - 33)).empty());
}

TEST_CASE("gguf: what would change the results is refused by name") {
  CHECK_THAT(refusal(tiny("gemma3").file()),
             Contains("architecture `gemma3` is not supported") && Contains("llama, qwen2"));
  const auto with = [](const std::string& key, uint32_t x) {
    return refusal(tiny().u32("llama." + key, x).file());
  };
  for (const std::string key : {"expert_count", "attention.sliding_window", "logit_scale"}) {
    CHECK_THAT(with(key, 4), Contains("llama." + key) && Contains("not supported"));
    CHECK(with(key, 0).empty());
  }
  CHECK_THAT(with("rope.dimension_count", 2), Contains("rope.dimension_count"));
  CHECK_THAT(with("attention.value_length", 8), Contains("not the length of a key"));
  CHECK_THAT(refusal(tiny().u32("split.count", 2).file()), Contains("--merge"));
  CHECK_THAT(refusal(tiny().string("llama.rope.scaling.type", "longrope").file()),
             Contains("`llama.rope.scaling.factor`") || Contains("scaling.factor"));
  CHECK_THAT(refusal(tiny()
                         .string("llama.rope.scaling.type", "longrope")
                         .f32("llama.rope.scaling.factor", 2)
                         .file()),
             Contains("`longrope` is not supported"));
  CHECK_THAT(refusal(tiny().f32("llama.rope.freq_base", -1).file()), Contains("above 0"));
  CHECK_THAT(refusal(tiny().floats("rope_freqs.weight", {1}, {1}).file()),
             Contains("needs 2 plain numbers"));
  CHECK_THAT(refusal(tiny().floats("rope_freqs.weight", {2}, {1, 0}).file()), Contains("above 0"));
  Builder missing;
  missing.string("general.architecture", "llama");
  CHECK_THAT(refusal(missing.file()), Contains("no `llama.embedding_length`"));
  Builder of_layers = missing;  // as models have it whose layers differ
  of_layers.key("llama.embedding_length", GgufType::array,
                raw(uint32_t(GgufType::u32)) + raw(uint64_t(1)) + raw(uint32_t(8)));
  CHECK_THAT(refusal(of_layers.file()), Contains("one value is expected"));
}

TEST_CASE("gguf: the tokenizer's lists come from the metadata, or from a file beside it") {
  const auto list = [](GgufType type, uint64_t n, const std::string& values) {
    return raw(uint32_t(type)) + raw(n) + values;
  };
  Builder b =
      tiny().string("tokenizer.ggml.model", "no-such-kind").string("tokenizer.ggml.pre", "p");
  b.key("tokenizer.ggml.tokens", GgufType::array,
        list(GgufType::string, 3, text("a") + text("") + text("bc")));
  b.key("tokenizer.ggml.token_type", GgufType::array,
        list(GgufType::i32, 3, raw(int32_t(1)) + raw(int32_t(3)) + raw(int32_t(6))));
  b.key("tokenizer.ggml.scores", GgufType::array, list(GgufType::f32, 2, raw(0.5f) + raw(-1.0f)));
  b.key("tokenizer.ggml.add_bos_token", GgufType::boolean, raw(uint8_t(1)));
  b.u32("tokenizer.ggml.bos_token_id", 2);
  test::TemporaryFolder folder;
  const fs::path path = folder.write("x.gguf", b.file());
  const TokenizerLists lists = gguf_tokenizer(GgufFile(path).content());
  CHECK(lists.model == "no-such-kind");
  CHECK(lists.pre == "p");
  CHECK(lists.tokens == std::vector<std::string>{"a", "", "bc"});
  CHECK(lists.types == std::vector<int32_t>{1, 3, 6});
  CHECK(lists.scores == std::vector<float>{0.5f, -1.0f});
  CHECK(lists.merges.empty());
  CHECK(lists.bos == 2);
  CHECK(lists.eos == -1);
  CHECK(lists.add_bos == 1);
  CHECK(lists.add_eos == -1);

  CHECK_THROWS_WITH(load_tokenizer(path), Contains("tokenizer.json of the same model beside"));
  fs::copy_file(fs::path(PTQ_SOURCE_DIR) / "models/tiny-qwen2/tokenizer.json",
                folder.path() / "tokenizer.json");
  CHECK_FALSE(load_tokenizer(path).encode("a word", false).empty());
}

TEST_CASE("gguf: a model without its tensors, or with others, is refused") {
  test::TemporaryFolder folder;
  const auto check = [&](const Builder& b) {
    const fs::path path = folder.write("x.gguf", b.file());
    WeightFiles(path).check_tensors(load_config(path));
  };
  CHECK_THROWS_WITH(check(tiny()), Contains("input_layernorm.weight` is missing"));
  Builder norm = tiny().floats("blk.0.attn_norm.weight", {4}, std::vector<float>(4, 1));
  CHECK_THROWS_WITH(check(norm), Contains("the shape is [4], its metadata needs [8]"));

  CHECK_THROWS_WITH(load_config(folder.path()),
                    Contains("name the GGUF file itself") && Contains("x.gguf"));
  folder.write("config.json", "{}");
  CHECK_THROWS_WITH(WeightFiles(folder.path()), Contains("name the GGUF file itself"));
  // By its first bytes, whatever it is called.
  CHECK(is_gguf(folder.write("blob", tiny().file())));
  CHECK_FALSE(is_gguf(folder.path() / "config.json"));
}
