#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "ptq/model/anatomy.hpp"
#include "ptq/model/safetensors.hpp"
#include "ptq/model/safetensors_write.hpp"
#include "ptq/model/weight_files.hpp"

using namespace ptq;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

// A folder that is removed at the end of the test.
struct TemporaryFolder {
  fs::path path;
  TemporaryFolder() {
    static int counter = 0;
    path = fs::temp_directory_path() /
           ("ptq-safetensors-" + std::to_string(::getpid()) + "-" + std::to_string(counter++));
    fs::create_directories(path);
  }
  ~TemporaryFolder() { fs::remove_all(path); }
};

void write_file(const fs::path& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

std::string with_length(uint64_t length, const std::string& rest) {
  std::string text(8, '\0');
  for (int i = 0; i < 8; ++i) text[size_t(i)] = char(length >> (8 * i));
  return text + rest;
}

// A file of a header and that many zero bytes of data.
std::string file_of(const std::string& header, size_t data_bytes) {
  return with_length(header.size(), header) + std::string(data_bytes, '\0');
}

std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"t":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

std::string file_error(const std::string& content) {
  TemporaryFolder folder;
  const fs::path file = folder.path / "x.safetensors";
  write_file(file, content);
  try {
    SafetensorsFile opened(file);
  } catch (const Error& e) {
    CHECK(e.code() == ExitCode::environment);
    CHECK_THAT(e.where(), Contains("x.safetensors"));
    return e.what();
  }
  return "no error";
}

ModelConfig small_config(bool tied) {
  ModelConfig c;
  c.hidden_size = 4;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 2;
  c.num_key_value_heads = 1;
  c.head_dim = 2;
  c.intermediate_size = 6;
  c.vocab_size = 8;
  c.tie_word_embeddings = tied;
  return c;
}

const std::vector<float> kZeros(64, 0.0f);

std::vector<TensorToWrite> tensors_of(const ModelConfig& config) {
  std::vector<TensorToWrite> list;
  for (const ExpectedTensor& t : anatomy_of(config).tensors()) {
    list.push_back({t.name, DType::f32, t.shape, kZeros.data()});
  }
  return list;
}

std::string check_error(const fs::path& folder, const ModelConfig& config) {
  try {
    WeightFiles(folder).check_tensors(config);
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("safetensors: files that must be refused") {
  const std::string f32_2x2 = one("F32", "[2,2]", "[0,16]");
  CHECK_THAT(file_error(""), Contains("shorter than the 8 bytes"));
  CHECK_THAT(file_error("1234567"), Contains("7 bytes"));
  CHECK_THAT(file_error(with_length(0xFFFFFF000000003C, "")), Contains("above the limit"));
  CHECK_THAT(file_error(with_length(100'000'001, "{}")), Contains("above the limit"));
  CHECK_THAT(file_error(with_length(60, "")), Contains("exceeds the file"));
  CHECK_THAT(file_error(with_length(3, "{}")), Contains("exceeds the file"));
  CHECK_THAT(file_error(with_length(0, "")), Contains("does not start with"));
  CHECK_THAT(file_error(with_length(1, "\xFF")), Contains("does not start with"));
  CHECK_THAT(file_error(file_of("{\"\xFF\":1}", 0)), Contains("UTF-8 at byte 2"));
  CHECK_THAT(file_error(with_length(1, "{")), Contains("not valid JSON"));
  CHECK_THAT(file_error(file_of("{} x", 0)), Contains("not valid JSON"));
  CHECK_THAT(file_error(file_of(" {}", 0)), Contains("does not start with"));
  CHECK_THAT(file_error(file_of("[]", 0)), Contains("does not start with"));
  CHECK_THAT(
      file_error(file_of(R"({"t":{"dtype":"F32","shape":[[[[1]]]],"data_offsets":[0,4]}})", 4)),
      Contains("nested deeper than 4"));
  CHECK_THAT(file_error(file_of(f32_2x2, 17)), Contains("1 bytes behind the last tensor"));
  CHECK_THAT(file_error(file_of(f32_2x2, 14)), Contains("behind the 14 bytes"));
  CHECK_THAT(file_error(file_of(one("I32", "[2,2]", "[0,4]"), 4)),
             Contains("takes 16 bytes, the offsets give 4") && Contains("tensor `t` at byte"));
  CHECK_THAT(file_error(file_of(one("I32", "[2,18446744073709551614]", "[0,16]"), 16)),
             Contains("t.shape[1]"));
  CHECK_THAT(file_error(file_of(one("I32", "[2,9223372036854775807]", "[0,16]"), 16)),
             Contains("t.shape[1]"));
  CHECK_THAT(file_error(file_of(one("I32", "[1099511627776,1099511627776]", "[0,16]"), 16)),
             Contains("overflows 64 bits"));
  CHECK_THAT(file_error(file_of(one("F32", "[0,281474976710655,281474976710655]", "[0,16]"), 16)),
             Contains("takes 0 bytes"));
  CHECK_THAT(file_error(file_of(one("F32", "[2,2]", "[16,0]"), 16)), Contains("before the begin"));
  CHECK_THAT(file_error(file_of(one("F32", "[2,2]", "[0]"), 16)), Contains("two numbers"));
  CHECK_THAT(file_error(file_of(one("F32", "[2,2]", "[0,16,16]"), 16)), Contains("two numbers"));
  CHECK_THAT(file_error(file_of(one("F32", "[2,2]", "[4,20]"), 20)), Contains("unused bytes"));
  CHECK_THAT(file_error(file_of(one("F99", "[2,2]", "[0,16]"), 16)),
             Contains("unknown number format"));
  CHECK_THAT(file_error(file_of(one("F64", "[2,1]", "[0,16]"), 16)),
             Contains("not supported here") && Contains("t.dtype"));
  for (const char* n : {"-1", "1.0", "1e3", "\"1\"", "null", "true", "281474976710656", "1e999"}) {
    INFO(n);
    CHECK(file_error(file_of(one("U8", std::string("[") + n + "]", "[0,1]"), 1)) != "no error");
    CHECK(file_error(file_of(one("U8", "[1]", std::string("[0,") + n + "]"), 1)) != "no error");
  }
  CHECK_THAT(file_error(file_of(one("U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1)),
             Contains("more than 8 dimensions"));
  CHECK_THAT(file_error(file_of(R"({"t":{"dtype":"U8","shape":[1]}})", 1)),
             Contains("data_offsets"));
  CHECK_THAT(file_error(file_of(R"({"t":{"shape":[1],"data_offsets":[0,1]}})", 1)),
             Contains("dtype"));
  CHECK_THAT(
      file_error(file_of(R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}})", 1)),
      Contains("unknown key"));
  CHECK_THAT(file_error(file_of(R"({"t":5})", 0)), Contains("an object is expected"));
}

TEST_CASE("safetensors: repeated, overlapping and misnamed tensors are refused") {
  std::string ten = "{";
  for (int i = 0; i < 10; ++i) {
    ten += (i > 0 ? "," : "") + ("\"t" + std::to_string(i)) +
           R"(":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]})";
  }
  CHECK_THAT(file_error(file_of(ten + "}", 16)), Contains("overlaps"));
  const std::string entry = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  CHECK_THAT(file_error(file_of("{\"a\":" + entry + ",\"a\":" + entry + "}", 1)),
             Contains("twice"));
  CHECK_THAT(file_error(file_of("{\"a\":" + entry + ",\"\\u0061\":" + entry + "}", 1)),
             Contains("twice"));
  CHECK_THAT(file_error(file_of(
                 R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1)),
             Contains("twice"));
  CHECK_THAT(file_error(file_of("{\"__metadata__\":" + entry + "}", 1)), Contains("__metadata__"));
  CHECK_THAT(file_error(file_of(R"({"__metadata__":{"a":1}})", 0)), Contains("__metadata__.a"));
  CHECK_THAT(file_error(file_of(R"({"__metadata__":[]})", 0)), Contains("__metadata__"));
  CHECK_THAT(file_error(file_of("{\"a\\n\":" + entry + "}", 1)), Contains("control character"));
  CHECK_THAT(file_error(file_of("{\"" + std::string(1025, 'a') + "\":" + entry + "}", 1)),
             Contains("1025 bytes"));
  const std::string holes = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                            R"("b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})";
  CHECK_THAT(file_error(file_of(holes, 3)), Contains("unused bytes") && Contains("tensor `b`"));
}

TEST_CASE("safetensors: unusual files that are valid") {
  CHECK(file_error(file_of("{}", 0)) == "no error");
  CHECK(file_error(file_of("{}   \n\t\r", 0)) == "no error");
  CHECK(file_error(file_of(one("F32", "[2,0]", "[0,0]"), 0)) == "no error");
  CHECK(file_error(file_of(one("F32", "[]", "[0,4]"), 4)) == "no error");
  CHECK(file_error(file_of(R"({"__metadata__":{"format":"pt"}})", 0)) == "no error");
  // Zero-size tensors may stand where another one begins or ends.
  CHECK(file_error(file_of(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                           R"("b":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                           R"("c":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
                           2)) == "no error");
  CHECK_THAT(file_error(file_of(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                                R"("b":{"dtype":"U8","shape":[0],"data_offsets":[1,1]}})",
                                2)),
             Contains("overlaps"));
}

TEST_CASE("safetensors: every truncation of a file is refused") {
  TemporaryFolder folder;
  const fs::path file = folder.path / "m.safetensors";
  write_safetensors(file, tensors_of(small_config(false)));
  const std::string whole(MappedFile(file).text());
  const std::string too_long = whole + '\0';
  CHECK_THAT(file_error(too_long), Contains("behind the last tensor"));
  const uint64_t header = uint8_t(whole[0]) | uint64_t(uint8_t(whole[1])) << 8;
  for (size_t n = 0; n < whole.size(); n += n < 64 || n + 64 > 8 + header ? 7 : 97) {
    if (file_error(whole.substr(0, n)) == "no error") FAIL("accepted with " << n << " bytes");
  }
}

TEST_CASE("safetensors: flipped header bits never crash") {
  TemporaryFolder folder;
  const fs::path file = folder.path / "m.safetensors";
  write_safetensors(
      file, {{"a", DType::f32, {2, 3}, kZeros.data()}, {"b", DType::u8, {5}, kZeros.data()}});
  const std::string whole(MappedFile(file).text());
  const size_t header_end = whole.size() - 29;
  int refused = 0;
  for (size_t bit = 0; bit < 8 * header_end; ++bit) {
    std::string damaged = whole;
    damaged[bit / 8] = char(damaged[bit / 8] ^ (1 << bit % 8));
    refused += file_error(damaged) != "no error";
  }
  CHECK(refused > int(4 * header_end));  // the others change a name or the padding
}

TEST_CASE("safetensors: written files have the layout of the reference writer") {
  TemporaryFolder folder;
  const fs::path file = folder.path / "m.safetensors";
  const float f[2] = {1.5f, -2.0f};
  const uint16_t h[3] = {0x3C00, 0xBC00, 0};
  const uint8_t u[1] = {7};
  const int64_t l[1] = {-5};
  write_safetensors(file, {{"u\"8\\", DType::u8, {}, u},
                           {"z", DType::f32, {2}, f},
                           {"empty", DType::f32, {0, 4}, nullptr},
                           {"half", DType::f16, {3, 1}, h},
                           {"long", DType::i64, {1}, l}});
  const SafetensorsFile read(file);
  CHECK(read.metadata().at("format") == "pt");
  std::vector<std::string> order;
  for (const TensorInfo& t : read.tensors()) {
    order.push_back(t.name);
    CHECK(reinterpret_cast<uintptr_t>(t.data) % size_t(dtype_bytes(t.dtype)) == 0);
  }
  CHECK(order == std::vector<std::string>{"long", "empty", "z", "half", "u\"8\\"});
  CHECK(std::memcmp(read.find("z")->data, f, sizeof f) == 0);
  CHECK(std::memcmp(read.find("half")->data, h, sizeof h) == 0);
  CHECK(std::memcmp(read.find("long")->data, l, sizeof l) == 0);
  CHECK(read.find("half")->shape == std::vector<int64_t>{3, 1});
  CHECK(read.find("u\"8\\")->shape.empty());
  CHECK(read.find("nothing") == nullptr);

  // A new version replaces the file; the mapping of the old one stays readable.
  write_safetensors(file, {{"z", DType::f32, {1}, f + 1}});
  CHECK(std::memcmp(read.find("z")->data, f, sizeof f) == 0);
  CHECK(SafetensorsFile(file).tensors().size() == 1);
  CHECK(std::distance(fs::directory_iterator(folder.path), fs::directory_iterator()) == 1);
  const auto link = file.parent_path() / "link";
  fs::create_symlink(file, link);
  CHECK_THROWS_AS(write_safetensors(link, {{"z", DType::f32, {1}, f + 1}}), Error);
  CHECK(fs::is_symlink(link));

  CHECK_THROWS_AS(write_safetensors(file, {{"a", DType::u8, {1}, u}, {"a", DType::u8, {1}, u}}),
                  Error);
  CHECK_THROWS_AS(write_safetensors(file, {{"__metadata__", DType::u8, {1}, u}}), Error);
  CHECK_THROWS_AS(write_safetensors(file, {{"a", DType::u8, {-1}, u}}), Error);
  CHECK_THROWS_AS(write_safetensors(file, {{"a\xFF", DType::u8, {1}, u}}), Error);
  CHECK_THROWS_WITH(write_safetensors(folder.path / "no" / "m", {}), Contains("cannot create"));
  CHECK(SafetensorsFile(file).tensors().size() == 1);
}

TEST_CASE("safetensors: a folder with one file") {
  TemporaryFolder folder;
  CHECK_THROWS_WITH(WeightFiles(folder.path / "no"), Contains("does not exist"));
  CHECK_THROWS_WITH(WeightFiles(folder.path), Contains("no weights"));
  write_file(folder.path / "pytorch_model.bin", "x");
  CHECK_THROWS_WITH(WeightFiles(folder.path), Contains("pickle"));
  write_file(folder.path / "consolidated.safetensors", "x");
  CHECK_THROWS_WITH(WeightFiles(folder.path), Contains("consolidated"));
  write_file(folder.path / "model-00001-of-00002.safetensors", "x");
  CHECK_THROWS_WITH(WeightFiles(folder.path), Contains("index.json is missing"));
  write_file(folder.path / "model.safetensors",
             "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n");
  CHECK_THROWS_WITH(WeightFiles(folder.path), Contains("git lfs pull"));

  const ModelConfig config = small_config(false);
  const fs::path file = folder.path / "model.safetensors";
  auto tensors = tensors_of(config);
  write_safetensors(file, tensors);
  CHECK(check_error(folder.path, config) == "no error");
  const WeightFiles weights(folder.path);
  CHECK(weights.size() == 3 + 2 * 9);
  CHECK(weights.get("model.norm.weight", {4}).bytes == 16);
  CHECK_THROWS_WITH(weights.get("model.norm.weight", {5}), Contains("[4]") && Contains("[5]"));
  CHECK_THROWS_WITH(weights.get("norm.weight", {4}), Contains("missing") && Contains("lm_head"));

  // Tied embeddings: the head is absent, or present and ignored with a warning.
  const ModelConfig tied = small_config(true);
  WeightFiles with_head(folder.path);
  with_head.check_tensors(tied);
  REQUIRE(with_head.warnings().size() == 1);
  CHECK_THAT(with_head.warnings()[0], Contains("lm_head.weight"));
  write_safetensors(file, tensors_of(tied));
  CHECK(check_error(folder.path, tied) == "no error");
  CHECK_THAT(check_error(folder.path, config), Contains("lm_head.weight"));

  tensors.push_back(
      {"model.layers.0.self_attn.rotary_emb.inv_freq", DType::f32, {1}, kZeros.data()});
  write_safetensors(file, tensors);
  CHECK(check_error(folder.path, config) == "no error");
  tensors.push_back({"model.layers.0.self_attn.q_proj.bias", DType::f32, {4}, kZeros.data()});
  write_safetensors(file, tensors);
  CHECK_THAT(check_error(folder.path, config),
             Contains("q_proj.bias") && Contains("does not belong"));
  tensors.resize(tensors.size() - 2);
  tensors[3].dtype = DType::i32;
  write_safetensors(file, tensors);
  CHECK_THAT(check_error(folder.path, config), Contains("I32"));
}

TEST_CASE("safetensors: of one file and an index the file is read") {
  TemporaryFolder folder;
  const ModelConfig config = small_config(true);
  write_safetensors(folder.path / "model.safetensors", tensors_of(config));
  CHECK(weight_layout(folder.path) == WeightLayout::single_file);
  CHECK(WeightFiles(folder.path).warnings().empty());
  write_file(folder.path / "model.safetensors.index.json",
             R"({"weight_map": {"model.norm.weight": "old.safetensors"}})");
  CHECK(check_error(folder.path, config) ==
        "no error");  // the files of the index are not even there
  REQUIRE(WeightFiles(folder.path).warnings().size() == 1);
  CHECK_THAT(WeightFiles(folder.path).warnings()[0], Contains("model.safetensors is read"));
  CHECK(weight_file_names(folder.path) == std::set<std::string>{"model.safetensors"});
  fs::remove(folder.path / "model.safetensors");
  CHECK(weight_layout(folder.path) == WeightLayout::index);
  CHECK(weight_file_names(folder.path) == std::set<std::string>{"old.safetensors"});
}

TEST_CASE("safetensors: a folder with an index") {
  TemporaryFolder folder;
  const ModelConfig config = small_config(true);
  const auto tensors = tensors_of(config);
  const size_t half = tensors.size() / 2;
  write_safetensors(folder.path / "a.safetensors", {tensors.begin(), tensors.begin() + long(half)});
  write_safetensors(folder.path / "b.safetensors", {tensors.begin() + long(half), tensors.end()});
  write_file(folder.path / "consolidated.safetensors", "not read");
  const auto index = [&](const std::string& extra, const std::string& second, size_t skipped = 99) {
    std::string text = R"({"metadata":{"total_size":)" + extra + R"(},"weight_map":{)";
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (i == skipped) continue;
      text += (i > 0 ? ",\"" : "\"") + tensors[i].name + "\":\"" +
              (i < half ? "a.safetensors" : second) + "\"";
    }
    write_file(folder.path / "model.safetensors.index.json", text + "}}");
  };
  uint64_t total = 0;
  for (const auto& t : tensors) total += *safetensors_detail::checked_bytes(t.shape, t.dtype);

  index(std::to_string(total), "b.safetensors");
  CHECK(check_error(folder.path, config) == "no error");
  CHECK(WeightFiles(folder.path).warnings().empty());
  index("1.0", "b.safetensors");
  CHECK(WeightFiles(folder.path).warnings().size() == 1);
  index("1", "b.safetensors", half);
  CHECK_THAT(check_error(folder.path, config), Contains("not named by the index"));
  index("1", "c.safetensors");
  CHECK_THAT(check_error(folder.path, config),
             Contains("`c.safetensors` named by the index is missing"));
  index("1", "a.safetensors");
  CHECK_THAT(check_error(folder.path, config), Contains("where it is not"));
  for (const char* bad : {"../b.safetensors", "/etc/passwd", "x\\\\b", "..", "", "b\\u0000"}) {
    INFO(bad);
    index("1", bad);
    CHECK_THAT(check_error(folder.path, config), Contains("not a plain file name"));
  }
  write_safetensors(folder.path / "c.safetensors", tensors);
  index("1", "c.safetensors");
  CHECK_THAT(check_error(folder.path, config), Contains("is in two files"));
  write_file(folder.path / "model.safetensors.index.json", R"({"weight_map":{}})");
  CHECK_THAT(check_error(folder.path, config), Contains("names no files"));
  write_file(folder.path / "model.safetensors.index.json", R"({"weight_map":{"a":"b","a":"c"}})");
  CHECK_THAT(check_error(folder.path, config), Contains("twice"));
}

TEST_CASE("safetensors: links stay in the folder or in the blob store of a cache") {
  TemporaryFolder cache;
  const fs::path snapshot = cache.path / "snapshots" / "0123", blobs = cache.path / "blobs";
  fs::create_directories(snapshot);
  fs::create_directories(blobs);
  const ModelConfig config = small_config(true);
  write_safetensors(blobs / "abc", tensors_of(config));
  fs::create_symlink("../../blobs/abc", snapshot / "model.safetensors");
  CHECK(check_error(snapshot, config) == "no error");

  fs::rename(blobs / "abc", cache.path / "abc");
  fs::remove(snapshot / "model.safetensors");
  fs::create_symlink("../../abc", snapshot / "model.safetensors");
  CHECK_THAT(check_error(snapshot, config), Contains("leaves the model folder"));
  fs::remove(snapshot / "model.safetensors");
  fs::create_directories(snapshot / "model.safetensors");
  CHECK_THAT(check_error(snapshot, config), Contains("is a folder"));
}

TEST_CASE("safetensors: real model folder") {
  const fs::path folder = fs::path(PTQ_SHARED_DIR) / "data/weights/stories260K/hf";
  if (!fs::exists(folder)) {
    WARN("skipped: the shared data is not here");
    return;
  }
  const ModelConfig config = load_config(folder);
  WeightFiles weights(folder);
  weights.check_tensors(config);
  CHECK(weights.warnings().empty());
  uint64_t bytes = 0;
  for (const auto& t : anatomy_of(config).tensors()) bytes += weights.get(t.name, t.shape).bytes;
  CHECK(bytes == 4 * uint64_t(parameter_count(config)));
}

TEST_CASE("safetensors: mapped file") {
  TemporaryFolder folder;
  CHECK_THROWS_WITH(MappedFile(folder.path / "no"), Contains("No such file"));
  CHECK_THROWS_WITH(MappedFile(folder.path), Contains("folder"));
  CHECK_THROWS_WITH(MappedFile("/dev/null"), Contains("regular"));
  write_file(folder.path / "empty", "");
  CHECK(MappedFile(folder.path / "empty").size() == 0);
  CHECK(MappedFile(folder.path / "empty").text().empty());
  write_file(folder.path / "x", "abc");
  MappedFile a(folder.path / "x"), b(std::move(a));
  CHECK(b.text() == "abc");
  CHECK(read_text_file(folder.path / "x", 3) == "abc");
  CHECK_THROWS_WITH(read_text_file(folder.path / "x", 2), Contains("limit of 2"));
}
