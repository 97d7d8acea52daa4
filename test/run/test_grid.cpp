// From an experiment to the list of cells.
#include <catch2/catch.hpp>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "ptq/model/weight_files.hpp"
#include "ptq/run/grid.hpp"
#include "test/support/temporary_file.hpp"

using namespace ptq;
using Catch::Contains;
using ptq::test::TemporaryFolder;
namespace fs = std::filesystem;

namespace {

eval::PerplexitySettings perplexity_of(const std::string& text) {
  eval::PerplexitySettings settings;
  settings.text = text;
  return settings;
}

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
  grid.evaluations = {{"p", "passkey", eval::PasskeySettings{}, {}, {}},
                      {"t", "perplexity", perplexity_of("test.txt"), {"x/test.txt"}, {"data1"}}};
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
  moved.evaluations[1].files = {"elsewhere/test.txt"};
  moved.models[0].record.path = "elsewhere/m1";
  CHECK(id(moved, 0, "1.0", "cpu") == before);
  ExperimentGrid changed = grid;
  changed.evaluations[1].hashes = {"data2"};
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

TEST_CASE("a noise floor is part of the cells that measure it, and of no other", "[grid]") {
  GridMethod lossless, other;
  lossless.record.lossless = true;
  GridEvaluation evaluation{
      "t", "perplexity", perplexity_of("test.txt"), {"x/test.txt"}, {"data1"}};
  const auto id = [&](const GridMethod& method) {
    return cell_id(cell_identity(model("m", "f"), method, evaluation, 0, "1", "cpu"));
  };
  const std::string before = id(lossless), before_other = id(other);
  evaluation.noise_floor = true;
  CHECK(id(lossless) != before);
  CHECK(id(other) == before_other);

  Experiment e;
  e.noise_floor = true;
  e.evaluations = {{"p", "passkey", eval::PasskeySettings{}, ""},
                   {"r", "retrieval", eval::RetrievalSettings{}, ""}};
  Problems problems;
  for (const GridEvaluation& found : resolve_evaluations(e, {}, problems)) {
    INFO(found.name);
    CHECK_FALSE(found.noise_floor);  // it scores no tokens
  }
  CHECK(eval::scores_tokens(eval::PerplexitySettings{}));
}

TEST_CASE("names in any script have folders of their own", "[grid]") {
  const auto word = [](const std::string& name) { return grid_detail::place_word(name); };
  CHECK(word("kivi 2bit") == "kivi-2bit");
  CHECK(word("\u8a55\u4fa1") != word("\u691c\u8a3c"));
  CHECK(word("\u8a55\u4fa1") == word("\u8a55\u4fa1"));
}
