// The pruning analysis: the study's document to the byte, our grid against an independent script
// (fixtures/report/make_pruning.py), and the invariants, which must notice wrong numbers.
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>

#include "analysis/pruning/pruning.hpp"
#include "analysis/study/study.hpp"
#include "ptq/results/record_json.hpp"
#include "test/support/replaced.hpp"
#include "test/support/temporary_file.hpp"

namespace {

namespace fs = std::filesystem;
using namespace ptq;
using namespace ptq::report;
using ptq::test::replaced;
using ptq::test::text_of;

const fs::path kReports = PTQ_SOURCE_DIR "/test/fixtures/report";
const fs::path kShared = PTQ_SHARED_DIR;

// Reference data is optional: without it the test says so and ends.
bool shared(const fs::path& file) {
  if (fs::exists(kShared / file)) return true;
  WARN("skipped: " << (kShared / file).string() << " is not there");
  return false;
}

std::vector<PruningModel> models_of(const fs::path& path) {
  std::vector<Damaged> damaged;
  std::vector<PruningModel> models = read_pruning(path, damaged);
  CHECK(damaged.empty());
  return models;
}

size_t violations(const std::vector<Check>& checks) {
  size_t count = 0;
  for (const Check& check : checks) count += check.verdict == Check::Verdict::violated;
  return count;
}

}  // namespace

TEST_CASE("a grid of our own gives the document of the independent script", "[pruning]") {
  const auto models = models_of(kReports / "pruning.csv");
  CHECK(pruning_document(models, Language::zh) == text_of(kReports / "pruning.txt"));
  CHECK(models[0].runs[5].seq_len == 64);  // from the folder's name
  const std::string english = pruning_document(models, Language::en);
  CHECK(english.find("ALPHA model analysis") != english.npos);
  // The same lines in the same order, whatever the language.
  const std::string chinese = pruning_document(models, Language::zh);
  CHECK(std::count(english.begin(), english.end(), '\n') ==
        std::count(chinese.begin(), chinese.end(), '\n'));
}

TEST_CASE("the study's whole pruning document, to the byte", "[pruning]") {
  if (!shared("spec/evaluation_d4_fixture_synthetic.csv")) return;
  const auto models = models_of(kShared / "spec/evaluation_d4_fixture_synthetic.csv");
  CHECK(pruning_document(models, Language::zh) ==
        text_of(kShared / "reference/documents/pruning_analysis.txt"));
}

TEST_CASE("the study's real records render their sections to the byte", "[pruning]") {
  const fs::path folder = kShared / "reference/pruning-records";
  if (!shared("reference/pruning-records")) return;
  const auto models = models_of(folder / "records_45x2_llama_mistral.csv");
  CHECK(pruning_document(models, Language::zh) ==
        text_of(folder / "expected_45x2_llama_mistral.txt"));
  CHECK(violations(verify_pruning_records(models)) == 0);

  const Json ours = cross_model_comparison(models);
  const Json theirs =
      parse_python_json(text_of(folder / "upstream_cross_model_comparison.json"), "");
  for (const Json& row : ours) {
    const auto same = std::find_if(theirs.begin(), theirs.end(), [&](const Json& other) {
      return other["model"] == row["model"];
    });
    REQUIRE(same != theirs.end());
    CHECK(row["best_acc"] == (*same)["best_acc"]);
    CHECK(row["best_ppl"] == (*same)["best_ppl"]);
    CHECK(row["best_method"] == (*same)["best_method"]);
    CHECK(row["total_experiments"] == (*same)["total_experiments"]);
    for (const auto& [metric, r] : row["correlations"].items()) {
      CHECK(r.is_null() == (*same)["correlations"][metric].is_null());
      // The records' README: gradients of the runs with seq 256 come from a rerun, which moves the
      // correlations by up to 4.6e-6.
      if (r.is_number()) {
        CHECK(std::abs(r.get<double>() - (*same)["correlations"][metric].get<double>()) < 5e-6);
      }
    }
    CHECK(row["nonfinite"]["grad_norm_ratio"].get<int>() > 0);
  }
}

TEST_CASE("the invariants hold for right documents and notice wrong ones", "[pruning]") {
  const std::string document = text_of(kReports / "pruning.txt");
  CHECK(verify_pruning_document(document).size() > 80);
  CHECK(violations(verify_pruning_document(document)) == 0);
  CHECK(violations(verify_pruning_records(models_of(kReports / "pruning.csv"))) == 0);
  CHECK(violations(verify_pruning_document(
            pruning_document(models_of(kReports / "pruning.csv"), Language::en))) == 0);

  SECTION("a mean that does not fit the other groupings") {
    CHECK(violations(verify_pruning_document(
              replaced(document, "32           0.", "32           1."))) > 0);
  }
  SECTION("counts that do not add up") {
    CHECK(violations(verify_pruning_document(replaced(document, "总实验数: 13", "总实验数: 14"))) >
          0);
  }
  SECTION("sample instead of population deviation") {
    // Every deviation of the method table scaled by sqrt(6/5).
    std::string text = document;
    for (const char* method : {"LAYERWISE       ", "TAYLOR          "}) {
      const size_t at = text.find(method) + 16 + 13;
      const double std = std::stod(text.substr(at, 6)) * std::sqrt(6.0 / 5);
      text.replace(at, 6, std::to_string(std).substr(0, 6));
    }
    CHECK(violations(verify_pruning_document(text)) > 0);
  }
  SECTION("a task value that is no k/n") {
    const size_t at = document.find("OPENBOOKQA     : ") + 17;
    std::string text = document;
    text.replace(at, 6, "0.5011");
    CHECK(violations(verify_pruning_document(text)) > 0);
  }
}

TEST_CASE("the study's own document keeps all invariants", "[pruning]") {
  if (!shared("reference/documents/pruning_analysis.txt")) return;
  const auto checks =
      verify_pruning_document(text_of(kShared / "reference/documents/pruning_analysis.txt"));
  CHECK(checks.size() > 140);
  CHECK(violations(checks) == 0);
}

TEST_CASE("a pruning file as a spreadsheet writes it", "[pruning]") {
  const std::string text = text_of(kReports / "pruning.csv");
  const auto runs = [](const std::string& csv) {
    size_t count = 0;
    for (const PruningModel& model : parse_pruning_csv(csv, "f.csv")) count += model.runs.size();
    return count;
  };
  CHECK(runs("\xEF\xBB\xBF" + text) == runs(text));
  CHECK(runs(text + ",,,,,\r\n\r\n , ,\n") == runs(text));  // rows without any text
}

TEST_CASE("a damaged pruning file is an error with its place", "[pruning]") {
  CHECK_THROWS_WITH(parse_pruning_csv("", "x.csv"), Catch::Contains("the file is empty"));
  CHECK_THROWS_WITH(parse_pruning_csv("model,ppl\na,1\n", "x.csv"),
                    Catch::Contains("the column `pruning_method` is missing"));
  CHECK_THROWS_WITH(
      parse_pruning_csv("pruning_method,acc_mean\ntaylor,0.5\ntaylor,half\n", "x.csv"),
      Catch::Contains("`half` is not a number") &&
          Catch::Contains("x.csv: record 2, column acc_mean"));
  CHECK_THROWS_WITH(parse_pruning_csv("pruning_method,acc_mean\n", "x.csv"),
                    Catch::Contains("no records"));
}

TEST_CASE("our pruning page says what the study's hides", "[pruning]") {
  const std::string page =
      to_markdown(pruning_page(models_of(kReports / "pruning.csv"), Language::en));
  const auto has = [&](const char* part) { return page.find(part) != page.npos; };
  CHECK(has("2 infinite values"));
  CHECK(has("| grad_norm_ratio | +0.4013 |"));  // over the ten finite pairs, as numpy says
  CHECK(has("| 10 | 2 |"));
  CHECK(has("by mean the best method is layerwise"));
  CHECK(has("does not support a best level"));
}

namespace {

// A folder of records: two methods and two lengths, seven tasks of 100 questions and a perplexity
// for each, one task missing of the last.
struct RecordFolder {
  fs::path path = fs::temp_directory_path() / ("ptq-test-pruning-" + std::to_string(::getpid()));
  RecordFolder() {
    fs::remove_all(path);
    int run = 0;
    for (const char* method : {"blockwise", "taylor"})
      for (const int length : {128, 16}) write_run(method, length, run++);
    Record whole = record("fp16", "fp16", Json::object());
    whole.evaluation = {"boolq", "choices", Json::object()};
    whole.metrics = {{"accuracy", .99}, {"total", 100}};
    write(whole);
  }
  ~RecordFolder() { fs::remove_all(path); }

  static Record record(const std::string& label, const std::string& method, const Json& options) {
    Record r;
    r.experiment = "x";
    r.track = "pruning";
    r.model.name = "tiny";
    r.method = {label, false, {{"p.so", "0", method, "1.0.0", options}}};
    return r;
  }
  void write(Record r) {
    r.cell = std::to_string(++cells_);
    const fs::path folder = path / ("tiny__" + r.cell);
    fs::create_directories(folder);
    std::ofstream(folder / "record.json") << to_json(r).dump();
  }
  void write_run(const std::string& method, int length, int run) {
    const Json options = {{"ratio", .2}, {"seq_len", length}, {"num_samples", 128}};
    Record r = record(method + " seq_len=" + std::to_string(length), method, options);
    const Json pruning = {{"extreme_pruning_layers", run},
                          {"grad_mean_ratio", 1.5 + run},
                          {"grad_norm_ratio", nullptr},
                          {"grad_norm_ratio_why", "3 numbers are infinite or not a number"}};
    for (size_t t = 0; t < kPruningTasks.size(); ++t) {
      if (run == 3 && t == 2) continue;
      r.evaluation = {kPruningTasks[t], "choices", Json::object()};
      r.headline = {{"accuracy", "higher", ""}};
      r.metrics = {{"accuracy", .5 + .01 * double(run) + .02 * double(t)},
                   {"total", 100},
                   {"pruning", pruning}};
      write(r);
    }
    r.evaluation = {"ppl", "perplexity", Json::object()};
    r.headline = {{"ppl", "lower", "perplexity"}};
    r.metrics = {{"ppl", 10.0 + run}, {"pruning", pruning}};
    write(r);
  }

 private:
  int cells_ = 0;
};

}  // namespace

TEST_CASE("records of one model and pruning method are one run of the study's pages", "[pruning]") {
  RecordFolder folder;
  const auto models = models_of(folder.path);
  REQUIRE(models.size() == 1);
  CHECK(models[0].name == "tiny");
  REQUIRE(models[0].runs.size() == 4);
  const PruningRun& first = models[0].runs[0];  // the study's order: taylor, then by length
  CHECK(first.method == "taylor");
  CHECK(first.seq_len == 16);
  CHECK(!first.acc_mean);  // a task is missing
  const PruningRun& best = *models[0].best();
  CHECK(best.method == "taylor");
  CHECK(best.seq_len == 128);
  CHECK(*best.acc_mean == Approx(.52 + .06));
  CHECK(*best.ppl == 12);
  CHECK(best.extreme_layers == 2);
  CHECK(best.task_sizes[3] == 100);
  CHECK(*best.gradients[0] == 3.5);
  CHECK(std::isinf(*best.gradients[1]));
  CHECK(!best.gradients[2]);
  CHECK(violations(verify_pruning_records(models)) == 0);
  const std::string document = pruning_document(models, Language::en);
  for (const char* section : {"1. ", "2. ", "3. ", "4. ", "5. ", "6. "})
    CHECK(document.find(section) != document.npos);
}
