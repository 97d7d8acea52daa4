#include <fcntl.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include "ptq/model/weight_files.hpp"
#include "ptq/run/grid.hpp"

using namespace ptq;
namespace fs = std::filesystem;

namespace {

// A folder that is removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "ptq-test-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }
  fs::path write(const std::string& name, const std::string& content) const {
    fs::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << content;
    return path_ / name;
  }

 private:
  fs::path path_;
};

OptionSpec integer_option(const std::string& name, int value, std::vector<Json> allowed = {}) {
  OptionSpec spec;
  spec.name = name;
  spec.default_value = value;
  spec.allowed = std::move(allowed);
  spec.has_range = spec.allowed.empty();
  spec.max = 1024;
  return spec;
}

// fp16 (lossless, cache), kivi (cache), rtn (weights), kvq (cache).
std::vector<MethodInfo> installed(const fs::path& file) {
  std::vector<MethodInfo> methods(4);
  const char* names[] = {"fp16", "kivi", "rtn", "kvq"};
  for (size_t i = 0; i < methods.size(); ++i) {
    methods[i].name = names[i];
    methods[i].version = "1.0.0";
    methods[i].plugin_file = file.string();
    methods[i].capabilities = i == 2 ? PTQ_CAN_WEIGHTS : PTQ_CAN_KV;
  }
  methods[0].traits = PTQ_LOSSLESS;
  methods[1].options = {integer_option("bits", 2, {1, 2, 4, 8}), integer_option("group_size", 32)};
  return methods;
}

MethodVariant variant(const std::string& label, std::vector<std::string> methods,
                      Json options = Json::object()) {
  MethodVariant out{label, {}, "e.toml:9:1"};
  for (const std::string& method : methods) {
    out.parts.push_back({method, options, "e.toml:10:1", "e.toml:11:1 options"});
  }
  return out;
}

std::string error_of(const Experiment& experiment, const fs::path& plugin) {
  Problems problems;
  resolve_methods(experiment, installed(plugin), " SEARCHED", problems);
  try {
    problems.throw_if_any();
  } catch (const Error& error) {
    CHECK(error.code() == ExitCode::usage);
    return error.what();
  }
  return "no error";
}

GridModel model(const std::string& name, const std::string& fingerprint) {
  GridModel out;
  out.record = {name, name, fingerprint, 1};
  return out;
}

}  // namespace

using Catch::Contains;

TEST_CASE("methods get complete options", "[grid]") {
  TemporaryFolder folder;
  const fs::path plugin = folder.write("m.so", "code");
  Experiment e;
  e.methods = {variant("a", {"kivi"}, {{"bits", 4}}), variant("base", {"fp16"}),
               variant("both", {"rtn", "kvq"})};
  e.baseline = "base";
  Problems problems;
  const auto methods = resolve_methods(e, installed(plugin), "", problems);
  problems.throw_if_any();
  REQUIRE(methods.size() == 3);
  CHECK(methods[0].record.parts[0].options == Json({{"bits", 4}, {"group_size", 32}}));
  CHECK(methods[0].record.parts[0].plugin == "m.so");
  CHECK(methods[0].record.parts[0].plugin_sha256 == sha256_hex("code"));
  CHECK_FALSE(methods[0].record.lossless);
  CHECK(methods[1].record.lossless);
  CHECK(methods[2].record.parts.size() == 2);
}

TEST_CASE("mistakes in methods are named", "[grid]") {
  TemporaryFolder folder;
  const fs::path plugin = folder.write("m.so", "code");
  Experiment e;
  e.methods = {variant("a", {"kvii"})};
  CHECK_THAT(error_of(e, plugin),
             Contains("e.toml:10:1") && Contains("did you mean `kivi`?") && Contains("SEARCHED"));
  e.methods = {variant("a", {"kivi"}, {{"bitz", 4}, {"group_size", "32"}})};
  CHECK_THAT(error_of(e, plugin), Contains("did you mean `bits`?") &&
                                      Contains("expected integer, got string") &&
                                      Contains("e.toml:11:1"));
  e.methods = {variant("a", {"kivi"}, {{"bits", 17}})};
  CHECK_THAT(error_of(e, plugin), Contains("one of 1, 2, 4, 8"));
  e.methods = {variant("a", {"kivi"}, {{"group_size", 4096}})};
  CHECK_THAT(error_of(e, plugin), Contains("range 0 to 1024"));
  e.methods = {variant("a", {"kivi", "kvq"})};
  CHECK_THAT(error_of(e, plugin), Contains("both want to encode the cache"));
  e.methods = {variant("fp16", {"fp16"})};
  e.baseline = "fp61";
  CHECK_THAT(error_of(e, plugin), Contains("baseline") && Contains("did you mean `fp16`?"));
}

TEST_CASE("a star takes the methods of the track and the baselines", "[grid]") {
  TemporaryFolder folder;
  const fs::path plugin = folder.write("m.so", "code");
  const auto labels = [&](const std::string& track) {
    Experiment e;
    e.all_methods = true;
    e.track = track;
    Problems problems;
    std::vector<std::string> out;
    for (const auto& m : resolve_methods(e, installed(plugin), "", problems)) {
      out.push_back(m.record.label);
    }
    problems.throw_if_any();
    return out;
  };
  CHECK(labels("C") == std::vector<std::string>{"fp16", "kivi", "kvq"});
  CHECK(labels("A") == std::vector<std::string>{"fp16", "rtn"});
}

TEST_CASE("cells are the product, with ids that follow the content", "[grid]") {
  TemporaryFolder folder;
  const fs::path plugin = folder.write("m.so", "code");
  Experiment e;
  e.methods = {variant("a", {"kivi"}), variant("b", {"kivi"}, {{"bits", 4}}),
               variant("a2", {"kivi"}, {{"bits", 2}})};
  Problems problems;
  ExperimentGrid grid;
  grid.models = {model("m1", "f1"), model("m2", "f2")};
  grid.methods = resolve_methods(e, installed(plugin), "", problems);
  problems.throw_if_any();
  grid.evaluations = {{"p", "passkey", eval::PasskeySettings{}, "", ""},
                      {"t", "perplexity", eval::PerplexitySettings{}, "x/test.txt", "data1"}};
  expand_cells(grid, 0, "1.0", "cpu");
  REQUIRE(grid.cells.size() == 12);
  std::set<std::string> ids, places;
  for (const Cell& cell : grid.cells) {
    CHECK(cell.id.size() == 16);
    ids.insert(cell.id);
    places.insert(cell.place);
  }
  CHECK(ids.size() == 8);  // "a2" writes out the default of "a"
  CHECK(places.size() == 12);
  CHECK(grid.cells[0].place == "m1__a__p");
  CHECK(cell_name(grid, grid.cells[0]) == "m1 a p");

  const auto id = [&](ExperimentGrid g, uint64_t seed, const std::string& version,
                      const std::string& device) {
    g.cells.clear();
    expand_cells(g, seed, version, device);
    return g.cells[1].id;
  };
  const std::string before = grid.cells[1].id;
  CHECK(id(grid, 0, "1.0", "cpu") == before);
  CHECK(id(grid, 1, "1.0", "cpu") != before);
  CHECK(id(grid, 0, "1.1", "cpu") != before);
  CHECK(id(grid, 0, "1.0", "cuda") != before);
  ExperimentGrid moved = grid;
  moved.evaluations[1].data_file = "elsewhere/test.txt";
  moved.models[0].record.path = "elsewhere/m1";
  CHECK(id(moved, 0, "1.0", "cpu") == before);
  ExperimentGrid changed = grid;
  changed.evaluations[1].data_sha256 = "data2";
  CHECK(id(changed, 0, "1.0", "cpu") != before);
  changed = grid;
  changed.methods[0].record.parts[0].plugin_sha256 = "other";
  CHECK(id(changed, 0, "1.0", "cpu") != before);
  changed = grid;
  std::get<eval::PerplexitySettings>(changed.evaluations[1].settings).window = 1024;
  CHECK(id(changed, 0, "1.0", "cpu") != before);
  changed = grid;
  changed.models[0].record.fingerprint = "other";
  CHECK(id(changed, 0, "1.0", "cpu") != before);
  changed = grid;
  changed.models[0].source.compute = Compute::bf16;
  CHECK(id(changed, 0, "1.0", "cpu") != before);

  // A calibration counts where a method may use it: by content, not by name.
  changed = grid;
  changed.calibration = calibrate::CalibrationSource{{}, "calib.txt", "1234"};
  const std::string calibrated = id(changed, 0, "1.0", "cpu");
  CHECK(calibrated != before);
  changed.calibration->settings.text = "other name";
  CHECK(id(changed, 0, "1.0", "cpu") == calibrated);
  changed.calibration->sha256 = "5678";
  CHECK(id(changed, 0, "1.0", "cpu") != calibrated);
  changed.calibration = calibrate::CalibrationSource{{}, "calib.txt", "1234"};
  changed.calibration->settings.sequences = 8;
  CHECK(id(changed, 0, "1.0", "cpu") != calibrated);
  changed.methods[0].record.lossless = true;
  const std::string lossless = id(changed, 0, "1.0", "cpu");
  changed.calibration.reset();
  CHECK(id(changed, 0, "1.0", "cpu") == lossless);

  grid.methods[1].record.label = "a ";  // would share a folder with "a-"
  grid.methods[0].record.label = "a-";
  grid.cells.clear();
  CHECK_THROWS_AS(expand_cells(grid, 0, "1.0", "cpu"), Error);
}

namespace {
std::string fingerprint(const fs::path& folder, std::optional<uint64_t> random_seed = {}) {
  return model_fingerprint(folder, random_seed).hex;
}
}  // namespace

TEST_CASE("the fingerprint of a model follows what is read and nothing else", "[grid]") {
  TemporaryFolder folder;
  const auto fill = [&](const std::string& name, const std::string& weights) {
    folder.write(name + "/config.json", "{}");
    folder.write(name + "/tokenizer.json", "{}");
    folder.write(name + "/model.safetensors", weights);
    return folder.path() / name;
  };
  const std::string a = fingerprint(fill("a", "12345678weights"));
  CHECK(a.size() == 64);
  CHECK(fingerprint(fill("b", "12345678weights")) == a);  // the place does not matter
  CHECK(fingerprint(fill("c", "12345678weighty")) != a);
  folder.write("a/README.md", "text");
  CHECK(fingerprint(folder.path() / "a") == a);
  folder.write("a/tokenizer.json", "{ }");
  CHECK(fingerprint(folder.path() / "a") != a);
  fs::remove(folder.path() / "b/model.safetensors");
  CHECK_THROWS_AS(fingerprint(folder.path() / "b"), Error);
  CHECK(fingerprint(folder.path() / "b", 0) != fingerprint(folder.path() / "b", 1));
  folder.write("b/model.safetensors.index.json",
               R"({"weight_map": {"x": "model-2.safetensors", "y": "model-1.safetensors"}})");
  CHECK(weight_file_names(folder.path() / "b") ==
        std::set<std::string>{"model-1.safetensors", "model-2.safetensors"});
}

TEST_CASE("every byte of a large weight file counts", "[grid]") {
  TemporaryFolder folder;
  ::setenv("XDG_CACHE_HOME", (folder.path() / "cache").c_str(), 1);
  folder.write("m/config.json", "{}");
  const fs::path file = folder.write("m/model.safetensors", "");
  fs::resize_file(file, (uint64_t{64} << 20) + 5);  // two pieces, sparse
  const auto put = [&](uint64_t offset, char c) {
    std::fstream(file, std::ios::binary | std::ios::in | std::ios::out)
        .seekp(std::streamoff(offset))
        .put(c);
  };
  // Files that changed just now are never trusted unseen: the clock is too coarse.
  const auto age = [&] {
    const timespec old[2] = {{1'700'000'000, 0}, {1'700'000'000, 0}};
    REQUIRE(::utimensat(AT_FDCWD, file.c_str(), old, 0) == 0);
  };
  const auto hash = [&] { return hash_weight_file(file); };
  const std::string zeros = hash().hex;
  put(0, 'x');
  age();  // the time of the content is that of before, in the inode it is new
  const std::string first = hash().hex;
  CHECK(first != zeros);
  put((uint64_t{64} << 20) + 4, 'x');
  age();
  CHECK(hash().hex != first);
  put((uint64_t{64} << 20) + 4, 0);
  put(0, 0);
  CHECK(hash().hex == zeros);
  CHECK_FALSE(hash().kept);
  CHECK_FALSE(fs::exists(folder.path() / "cache"));
  CHECK(model_fingerprint(folder.path() / "m").made_of == "every byte of the weights");

  // A hash that was kept counts while the state of the file is the same.
  using namespace fingerprint_detail;
  const fs::path kept = kept_hash_file(file);
  REQUIRE(kept.parent_path() == folder.path() / "cache/ptq/hashes");
  const auto settled = [&] { return hash_weight_file(file, 0); };
  CHECK(settled().hex == zeros);
  CHECK(fs::exists(kept));
  CHECK(settled().kept);
  CHECK(settled().hex == zeros);
  CHECK_FALSE(hash().kept);  // not yet settled
  put(40'000'000, 'y');
  age();
  const WeightHash changed = settled();
  CHECK_FALSE(changed.kept);
  CHECK(changed.hex != zeros);
  ::unsetenv("XDG_CACHE_HOME");
}

TEST_CASE("names in any script have folders of their own", "[grid]") {
  const auto word = [](const std::string& name) { return grid_detail::place_word(name); };
  CHECK(word("kivi 2bit") == "kivi-2bit");
  CHECK(word("\u8a55\u4fa1") != word("\u691c\u8a3c"));
  CHECK(word("\u8a55\u4fa1") == word("\u8a55\u4fa1"));
}

TEST_CASE("models are looked up where they may lie", "[grid]") {
  TemporaryFolder folder;
  folder.write("models/tiny/config.json", "{}");
  folder.write("hub/models--Org--Big/snapshots/abc123/config.json", "{}");
  folder.write("hub/models--Org--Big/refs/main", "abc123\n");
  ::setenv("HF_HUB_CACHE", (folder.path() / "hub").c_str(), 1);
  const std::vector<fs::path> bases = {folder.path()};
  CHECK(find_model("models/tiny", bases, "").name == "tiny");
  CHECK(find_model("models/tiny/", bases, "").name == "tiny");
  CHECK(find_model("Org/tiny", bases, "").folder == folder.path() / "models/tiny");
  CHECK(find_model("Org/Big", bases, "").folder.filename() == "abc123");
  CHECK(find_model("Org/Big@abc", bases, "").name == "Big");
  const auto message = [&](const std::string& reference) -> std::string {
    try {
      find_model(reference, bases, "e.toml:3:1");
    } catch (const Error& error) {
      CHECK(error.code() == ExitCode::environment);
      return error.what();
    }
    return "";
  };
  CHECK_THAT(message("Org/Big@zzz"), Contains("--revision zzz"));
  CHECK_THAT(message("Org/Other"), Contains("hf download Org/Other --local-dir models/Other") &&
                                       Contains("e.toml:3:1") && Contains("models--Org--Other"));
  CHECK_THAT(message("meta-llama/X"), Contains("licence"));
  CHECK_THAT(message("models/none"), !Contains("hf download"));

  // Folders that hold no model hide nothing.
  fs::create_directories(folder.path() / "models/Big");
  fs::create_directories(folder.path() / "Org");
  CHECK(find_model("Org/Big", bases, "").folder.filename() == "abc123");
  fs::create_directories(folder.path() / "Org/Big");
  CHECK(find_model("Org/Big", bases, "").folder.filename() == "abc123");
  CHECK(find_model("models/Big", bases, "").folder == folder.path() / "models/Big");

  // Variables as the client of Hugging Face reads them.
  const std::string home = std::getenv("HOME") != nullptr ? std::getenv("HOME") : "";
  ::setenv("HOME", folder.path().c_str(), 1);
  ::setenv("PTQ_TEST_PLACE", "hub", 1);
  const auto found_by = [&](const char* variable, const char* value) {
    ::unsetenv("HF_HUB_CACHE");
    ::setenv(variable, value, 1);
    const std::string name = find_model("Org/Big", bases, "").folder.filename().string();
    ::unsetenv(variable);
    return name == "abc123";
  };
  CHECK(found_by("HF_HUB_CACHE", "~/hub"));
  CHECK(found_by("HF_HUB_CACHE", "$HOME/${PTQ_TEST_PLACE}"));
  CHECK(found_by("HUGGINGFACE_HUB_CACHE", "~/$PTQ_TEST_PLACE"));
  CHECK(found_by("HF_HOME", "~"));
  CHECK(lookup_detail::expanded("a$PTQ_NO_SUCH/${x") == "a$PTQ_NO_SUCH/${x");
  CHECK(find_model("~/models/tiny", bases, "").folder == folder.path() / "models/tiny");
  ::setenv("HOME", home.c_str(), 1);
  ::unsetenv("PTQ_TEST_PLACE");
}
