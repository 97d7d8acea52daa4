#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "host/setting.hpp"
#include "ptq/core/toml.hpp"
#include "ptq/run/engine_loader.hpp"
#include "ptq/run/experiment.hpp"
#include "test/support/replaced.hpp"

using namespace ptq;
using ptq::test::replaced;

namespace {

constexpr const char* kSmall = R"(name = "small"
models = ["models/tiny-qwen2"]
baseline = "fp16"

[[methods]]
label = "fp16"
method = "fp16"

[[methods]]
method = "kivi"
options = { bits = 2, residual_length = 32 }

[[evaluations]]
kind = "passkey"
keys = 3

[[evaluations]]
kind = "perplexity"
text = "datasets/embedded/test.txt"
regime = "independent"
)";

Experiment read(const std::string& text, const std::vector<std::string>& settings = {}) {
  ConfigNode tree = parse_toml(text, "e.toml");
  for (const std::string& setting : settings) apply_setting(tree, setting);
  Problems problems;
  Experiment experiment = read_experiment(tree, "e.toml", problems);
  problems.throw_if_any();
  return experiment;
}

// The whole message of the error that reading `text` gives.
std::string error_of(const std::string& text, const std::vector<std::string>& settings = {}) {
  try {
    read(text, settings);
  } catch (const Error& error) {
    CHECK(error.code() == ExitCode::usage);
    return error.what();
  }
  return "no error";
}

const eval::PasskeySettings& passkey(const Experiment& e) {
  return std::get<eval::PasskeySettings>(e.evaluations.at(0).settings);
}

std::string file_text(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

using Catch::Contains;

TEST_CASE("a model may have a name of its own", "[experiment]") {
  const std::string text = replaced(kSmall, "[\"models/tiny-qwen2\"]",
                                    R"(["a/hf", { model = "b/hf", name = "other" }])");
  const Experiment e = read(text);
  REQUIRE(e.models.size() == 2);
  CHECK(e.models[0].text == "a/hf");
  CHECK(e.models[0].name.empty());
  CHECK(e.models[1].text == "b/hf");
  CHECK(e.models[1].name == "other");
  CHECK_THAT(error_of(replaced(text, "model = \"b/hf\", ", "")),
             Contains("names no folder") && Contains("e.toml:2:"));
  CHECK_THAT(error_of(replaced(text, "name = \"other\"", "label = \"other\"")),
             Contains("unknown key `models[1].label`"));
  CHECK_THAT(error_of(replaced(text, "\"a/hf\"", "7")), Contains("expected string"));
}

TEST_CASE("half-overlapping windows are even", "[experiment]") {
  const std::string text =
      replaced(kSmall, "regime = \"independent\"", "protocol = \"half_overlap\"\nwindow = 255");
  CHECK_THAT(error_of(text), Contains("evaluations[1].window") && Contains("e.toml:21:1") &&
                                 Contains("window = 254"));
  CHECK(error_of(replaced(text, "255", "256")) == "no error");
  CHECK(error_of(replaced(text, "half_overlap", "disjoint")) == "no error");
}

TEST_CASE("texts with NUL and keys of endless depth are refused", "[experiment]") {
  CHECK_THAT(error_of(replaced(kSmall, "tiny-qwen2", "tiny\\u0000qwen2")), Contains("NUL"));
  CHECK_THAT(error_of(replaced(kSmall, "keys = 3", "\"k\\u0000\" = 3")), Contains("NUL"));
  CHECK_THAT(error_of(kSmall, {"name=\"a\\u0000b\""}), Contains("NUL"));
  std::string deep;
  for (int i = 0; i < 20000; ++i) deep += "a.";
  CHECK_THAT(error_of("[" + deep + "a]"), Contains("more than 64 parts"));
  CHECK_THAT(error_of(kSmall, {deep + "a=1"}), Contains("64 levels"));
}

TEST_CASE("an experiment is read with its defaults", "[experiment]") {
  const Experiment e = read(kSmall);
  CHECK(e.name == "small");
  CHECK(e.track == "C");
  CHECK(e.limits.cell_seconds == 3600);
  REQUIRE(e.methods.size() == 2);
  CHECK(e.methods[1].label == "kivi bits=2 residual_length=32");
  REQUIRE(e.evaluations.size() == 2);
  CHECK(e.evaluations[0].name == "passkey");
  CHECK(passkey(e).keys == 3);
  CHECK(passkey(e).depths == std::vector<double>{0.1, 0.25, 0.5, 0.75});
  CHECK(passkey(e).regime == Regime::prefill_exact);
  CHECK(e.evaluations[1].name == "perplexity-disjoint");
  CHECK(std::get<eval::PerplexitySettings>(e.evaluations[1].settings).regime ==
        Regime::independent);
  CHECK(read(replaced(kSmall, "name = \"small\"", "")).name == "e");
}

TEST_CASE("settings survive the way through JSON", "[experiment]") {
  for (const Evaluation& e : read(kSmall).evaluations) {
    const auto json = settings_to_json(e.settings);
    CHECK(settings_to_json(settings_from_json(e.kind, json)) == json);
  }
  CHECK(settings_to_json(eval::make_settings("generation"))["regime"] == "prefill-exact");
}

TEST_CASE("deciding early is asked for by a table, and leaves no trace where it is not",
          "[experiment]") {
  const auto with = [](const std::string& table) {
    return replaced(kSmall, "regime = \"independent\"", "decide = " + table);
  };
  const Experiment experiment = read(with("{ metric = \"kl\", margin = 0.05 }"));
  const Json json = settings_to_json(experiment.evaluations[1].settings);
  CHECK(json["decide"] == Json{{"metric", "kl"}, {"alpha", 0.05}, {"margin", 0.05}});
  CHECK(settings_to_json(settings_from_json("perplexity", json)) == json);
  CHECK_FALSE(settings_to_json(experiment.evaluations[0].settings).contains("decide"));
  CHECK(settings_to_json(read(with("{}")).evaluations[1].settings)["decide"]["metric"] == "nll");
  const Experiment answers =
      read(replaced(kSmall, "keys = 3", "keys = 3\ndecide = { alpha = 0.01 }"));
  CHECK(settings_to_json(answers.evaluations[0].settings)["decide"] ==
        Json{{"metric", "answers"}, {"alpha", 0.01}, {"margin", 0.02}});
  CHECK(error_of(with("{ metric = \"answers\" }")).find("it can only be \"nll\", \"kl\"") !=
        std::string::npos);
  CHECK(error_of(with("{ alpha = 2 }")).find("outside its range") != std::string::npos);
  CHECK(error_of(with("true")).find("decide") != std::string::npos);
}

TEST_CASE("calibration has a text, and defaults for the rest", "[experiment]") {
  CHECK(read(kSmall).calibration_where.empty());
  const Experiment e =
      read(std::string(kSmall) + "[calibration]\ntext = \"c.txt\"\nsequences = 4\n");
  CHECK(e.calibration_where == "e.toml:21:2");
  CHECK(e.calibration.text == "c.txt");
  CHECK(e.calibration.join == "raw");
  CHECK(e.calibration.sequences == 4);
  CHECK(e.calibration.length == 2048);
  CHECK(e.calibration.memory_gib == 4);
  const auto json = settings_to_json(e.calibration);
  CHECK(settings_to_json(read_settings(calibrate::CalibrationSettings{}, json)) == json);

  CHECK_THAT(error_of(std::string(kSmall) + "[calibration]\nlength = 64\n"),
             Contains("`calibration.text` is missing: the file to calibrate on") &&
                 Contains("e.toml:21:2") && Contains("datasets/embedded/calib.txt"));
  const auto error_with = [&](const std::string& line) {
    return error_of(std::string(kSmall) + "[calibration]\ntext = \"c\"\n" + line + "\n");
  };
  CHECK_THAT(error_with("sequences = 0"), Contains("`calibration.sequences` is 0"));
  CHECK_THAT(error_with("length = 1"), Contains("`calibration.length` is 1"));
  CHECK_THAT(error_with("memory_gib = -1"), Contains("`calibration.memory_gib` is outside"));
  CHECK_THAT(error_with("join = \"wikitext\""), Contains("did you mean \"wikitext2\"?"));
  CHECK_THAT(error_with("lenght = 64"), Contains("did you mean `length`?"));
  CHECK_THAT(error_of(replaced(kSmall, "baseline", "calibration")), Contains("expected table"));
}

TEST_CASE("a misspelt key is named with its line and the nearest one", "[experiment]") {
  const std::string key = error_of(replaced(kSmall, "keys = 3", "kyes = 3"));
  CHECK_THAT(key, Contains("unknown key `evaluations[0].kyes`"));
  CHECK_THAT(key, Contains("e.toml:15:1"));
  CHECK_THAT(key, Contains("did you mean `keys`?"));
  CHECK_THAT(error_of(replaced(kSmall, "baseline", "baselin")),
             Contains("did you mean `baseline`?"));
  CHECK_THAT(error_of(replaced(kSmall, "[[methods]]", "[[method]]")), Contains("`methods`"));
}

TEST_CASE("wrong types, ranges and words are named with what is allowed", "[experiment]") {
  CHECK_THAT(error_of(replaced(kSmall, "keys = 3", "keys = \"3\"")),
             Contains("expected integer, got string") && Contains("keys = 3"));
  CHECK_THAT(error_of(replaced(kSmall, "keys = 3", "keys = 3.5")), Contains("got number"));
  CHECK_THAT(error_of(replaced(kSmall, "keys = 3", "keys = 0")), Contains("range 1 to"));
  CHECK_THAT(error_of(replaced(kSmall, "keys = 3", "depths = [0.5, nan]")),
             Contains("depths[1]") && Contains("outside its range"));
  CHECK_THAT(error_of(replaced(kSmall, "keys = 3", "depths = [0.5, 1, 0.50]")),
             Contains("`evaluations[0].depths` has 0.5 more than once"));
  CHECK_THAT(error_of(replaced(kSmall, "independent", "streeming")),
             Contains("did you mean \"streaming\"?"));
  CHECK_THAT(error_of(replaced(kSmall, "\"perplexity\"", "\"perplexty\"")),
             Contains("did you mean \"perplexity\"?"));
  CHECK_THAT(error_of(replaced(kSmall, "keys = 3", "keys = 2024-01-01")), Contains("dates"));
  CHECK_THAT(error_of(replaced(kSmall, "[\"models/tiny-qwen2\"]", "\"models/tiny-qwen2\"")),
             Contains("expected array of strings, got string"));
  CHECK_THAT(error_of(replaced(kSmall, "name = \"small\"", "name = \"a/b\"")), Contains("folder"));
  CHECK_THAT(error_of(std::string(kSmall) + "[model.tiny]\nx = 1\n"), Contains("`model.tiny`"));
  CHECK_THAT(error_of(std::string(kSmall) + "[model]\ncompute = \"bf61\"\n"),
             Contains("did you mean \"bf16\"?"));
  CHECK_THAT(error_of(std::string(kSmall) + "[model]\nrandom = \"yes\"\n"),
             Contains("`model.random`: expected true or false, got string"));
}

TEST_CASE("integers are for processors, which is said with the line", "[experiment]") {
  const Experiment experiment = read(std::string(kSmall) + "[model]\ncompute = \"int8\"\n");
  CHECK(experiment.model.compute == Compute::int8);
  check_compute("cpu", Compute::int8, experiment.model.compute_where);
  check_compute("cuda:0", Compute::bf16, experiment.model.compute_where);
  try {
    check_compute("cuda:1", Compute::int8, experiment.model.compute_where);
    FAIL("it is taken");
  } catch (const Error& error) {
    CHECK_THAT(error.message(), Contains("cuda:1"));
    CHECK_THAT(error.where(), Contains("e.toml:"));
    CHECK_THAT(error.hint(), Contains("--device cpu"));
  }
}

TEST_CASE("all problems come at once", "[experiment]") {
  const std::string text =
      error_of(replaced(replaced(replaced(kSmall, "keys", "kyes"), "baseline", "bse"),
                        "method = \"fp16\"", "parts = 3"));
  CHECK_THAT(text, Contains("kyes") && Contains("`bse`") && Contains("methods[0].parts"));
}

TEST_CASE("what is missing is said", "[experiment]") {
  const std::string text = error_of("name = \"x\"");
  CHECK_THAT(text, Contains("`models` is missing") && Contains("`methods` is missing") &&
                       Contains("`evaluations` is missing"));
  CHECK_THAT(error_of(replaced(kSmall, "text = \"datasets/embedded/test.txt\"", "")),
             Contains("`evaluations[1].text` is missing"));
  CHECK_THAT(error_of(replaced(kSmall, "label = \"fp16\"",
                               "label = \"kivi bits=2 "
                               "residual_length=32\"")),
             Contains("two methods are called"));
}

TEST_CASE("syntax errors show the line", "[experiment]") {
  CHECK_THAT(error_of(replaced(kSmall, "keys = 3", "keys = [4,}")),
             Contains("e.toml:15:") && Contains("keys = [4,}"));
  CHECK_THAT(error_of(replaced(kSmall, "keys = 3", "a = [}")), Contains("e.toml:15:"));
  CHECK_THAT(error_of(replaced(kSmall, "keys = 3", "keys \uFF1D 3")),
             Contains("full-width") && Contains("`=`"));
  CHECK_THAT(error_of(std::string(kSmall) + '[' + '\0'), Contains("NUL"));
  CHECK_THAT(error_of(std::string(kSmall) + "x = \"\xFF\""), Contains("UTF-8"));
  CHECK_THAT(error_of("x = " + std::string(5000, '[')), Contains("e.toml:1:"));
  // Keys of many parts make deep tables; strings with many dots do not.
  std::string parts = "a";
  for (int i = 0; i < 20000; ++i) parts += ".a";
  CHECK_THAT(error_of("[" + parts + "]"), Contains("e.toml:1") && Contains("64 parts"));
  CHECK_THAT(error_of("# it's\n\n" + parts + " = 1"), Contains("e.toml:3") && Contains("64 parts"));
  CHECK_THAT(error_of("x = { " + parts + " = 1 }"), Contains("64 parts"));
  CHECK_THAT(error_of("x = \"\"\"\n'\"\n\"\"\"\n[[" + parts + "]]"), Contains("e.toml:4"));
  CHECK_THAT(error_of(std::string(kSmall) + "x = \"" + parts + "\""), !Contains("64 parts"));
  CHECK_THAT(error_of(std::string(kSmall) + "#" + parts), !Contains("64 parts"));
  CHECK(error_of("\xEF\xBB\xBF" + std::string(kSmall)) == "no error");
}

TEST_CASE("--set overrides by dotted key", "[experiment]") {
  CHECK(read(kSmall, {"seed=7"}).seed == 7);
  CHECK(read(kSmall, {"track=A"}).track == "A");  // a bare word is a string
  CHECK(read(kSmall, {"limits.cell_seconds=60"}).limits.cell_seconds == 60);
  CHECK(passkey(read(kSmall, {"evaluations.passkey.keys=2"})).keys == 2);
  CHECK(passkey(read(kSmall, {"evaluations.0.depths=[0.5]"})).depths == std::vector<double>{0.5});
  CHECK(read(kSmall, {"methods.kivi.options.bits=4"}).methods[1].parts[0].options["bits"] == 4);
  CHECK(read(kSmall, {"methods.\"fp16\".label=x", "baseline=x"}).methods[0].label == "x");
  CHECK(read(kSmall, {"models=[\"a\", \"b\"]"}).models.size() == 2);

  CHECK_THAT(error_of(kSmall, {"evaluations.passky.keys=2"}), Contains("did you mean `passkey`?"));
  CHECK_THAT(error_of(kSmall, {"sed=1"}),
             Contains("--set sed") && Contains("did you mean `seed`?"));
  CHECK_THAT(error_of(kSmall, {"seed"}), Contains("key=value"));
  CHECK_THAT(error_of(kSmall, {"seed.x=1"}), Contains("unknown key") || Contains("seed"));
  CHECK_THAT(error_of(kSmall, {"seed=[1"}), Contains("--set seed"));
  CHECK_THAT(error_of(kSmall, {"name.x=1"}), Contains("not a table"));
  CHECK_THAT(error_of(kSmall, {"a..b=1"}), Contains("not a key"));
}

TEST_CASE(
    "the shipped experiments are valid, and so is every slip of one character in them or it is "
    "a plain mistake",
    "[experiment]") {
  std::mt19937 random(20240607);
  size_t files = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::filesystem::path(PTQ_SOURCE_DIR) / "experiments")) {
    if (entry.path().extension() != ".toml") continue;
    ++files;
    const std::string text = file_text(entry.path());
    INFO(entry.path());
    REQUIRE_NOTHROW(read(text));
    constexpr const char* kCharacters = "\"'[]{}=,.#\n\t 019azAZ_-+\\\x01\x7F\x80\xC3\xEF";
    const std::string characters(kCharacters);
    for (int i = 0; i < 200; ++i) {
      std::string edited = text;
      const size_t at = random() % edited.size();
      const char c = characters[random() % characters.size()];
      switch (random() % 3) {
        case 0: edited[at] = c; break;
        case 1: edited.insert(at, 1, c); break;
        default: edited.erase(at, 1);
      }
      try {
        read(edited);
      } catch (const Error& error) {
        INFO(error.what());
        CHECK(error.code() == ExitCode::usage);
      }
    }
  }
  CHECK(files >= 4);
}

TEST_CASE("of the misspellings of keys at distance 1, nearly all are put right", "[experiment]") {
  std::mt19937 random(1);
  int right = 0, all = 0;
  for (const std::string key : {"baseline", "models", "residual", "context_length", "max_windows",
                                "protocol", "regime", "window"}) {
    const std::vector<std::string> known = {
        "name",           "track",       "seed",     "models", "baseline", "methods", "limits",
        "context_length", "max_windows", "protocol", "regime", "window",   "residual"};
    for (int i = 0; i < 40; ++i) {
      std::string typo = key;
      const size_t at = random() % typo.size();
      if (i % 2 == 0)
        typo.erase(at, 1);
      else
        typo[at] = char('a' + random() % 26);
      ++all;
      right += nearest(typo, known) == key;
    }
  }
  CHECK(right >= all * 95 / 100);
}
