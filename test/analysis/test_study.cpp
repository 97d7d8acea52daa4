// The study's run files: its pages and leaderboards again from the raw JSON, and what is wrong in
// them.
#include <catch2/catch.hpp>
#include <filesystem>
#include <set>
#include <sstream>

#include "analysis/study/audit.hpp"
#include "analysis/study/leaderboard.hpp"
#include "analysis/study/run_page.hpp"
#include "analysis/write/python_text.hpp"
#include "test/support/temporary_file.hpp"

namespace {

namespace fs = std::filesystem;
using namespace ptq;
using namespace ptq::report;
using ptq::test::text_of;

const fs::path kFixtures = PTQ_SOURCE_DIR "/test/fixtures/report";
const fs::path kRuns = fs::path(PTQ_SHARED_DIR) / "reference/ptq-bench-results";
const fs::path kDocuments = fs::path(PTQ_SHARED_DIR) / "reference/documents";

bool study_is_there() {
  if (fs::exists(kRuns) && fs::exists(kDocuments)) return true;
  WARN("skipped: " << kRuns.string() << " is not there");
  return false;
}

std::vector<Run> runs_of(const fs::path& folder) {
  std::vector<Damaged> damaged;
  std::vector<Run> runs = read_runs(folder, damaged);
  CHECK(damaged.empty());
  return runs;
}

// The rows of all tables, without the rules under their heads.
std::vector<std::string> table_rows(const std::string& text) {
  std::vector<std::string> rows;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("|") && line.find_first_not_of("|:- ") != line.npos) rows.push_back(line);
  }
  return rows;
}

}  // namespace

TEST_CASE("numbers and JSON as Python writes them", "[study]") {
  CHECK(python::repr(0.1) == "0.1");
  CHECK(python::repr(697.0) == "697.0");
  CHECK(python::repr(-0.0) == "-0.0");
  CHECK(python::repr(1e16) == "1e+16");
  CHECK(python::repr(123456789012345680.0) == "1.2345678901234568e+17");
  CHECK(python::repr(9999999999999998.0) == "9999999999999998.0");
  CHECK(python::repr(1e-5) == "1e-05");
  CHECK(python::repr(1.5e-7) == "1.5e-07");
  CHECK(python::repr(0.0001) == "0.0001");
  CHECK(python::repr(HUGE_VAL) == "inf");
  CHECK(python::dumps(Json::parse(R"({"a":[1,2.50,null],"b":"ä\"\n","c":true})")) ==
        "{\"a\": [1, 2.5, null], \"b\": \"ä\\\"\\n\", \"c\": true}");
  CHECK(python::str(Json::parse(R"([null,true,"it's",{"k":1.0}])")) ==
        "[None, True, \"it's\", {'k': 1.0}]");
  CHECK(python::ljust("平均ACC", 8) == "平均ACC   ");
  CHECK(python::thousands(18366.7) == "18,367");
  CHECK(parse_python_json(R"({"a": NaN, "b": [-Infinity, "NaN \" Infinity"]})", "").dump() ==
        R"({"a":null,"b":[null,"NaN \" Infinity"]})");
}

TEST_CASE("every page of the study, to the byte", "[study]") {
  if (!study_is_there()) return;
  int pages = 0;
  for (const auto& entry : fs::directory_iterator(kRuns)) {
    fs::path page = entry.path();
    page.replace_extension(".md");
    if (entry.path().extension() != ".json" || !fs::exists(page)) continue;
    INFO(entry.path().filename().string());
    CHECK(run_page(read_run(entry.path()), Language::zh) == text_of(page));
    ++pages;
  }
  CHECK(pages == 25);
}

TEST_CASE("a page with everything the study's runs lack", "[study]") {
  const Run run = read_run(kFixtures / "run.json");
  CHECK(run_page(run, Language::zh) == text_of(kFixtures / "run.md"));
  const std::string english = run_page(run, Language::en);
  CHECK(english.find("- **Peak VRAM**: 1e-05 MB") != english.npos);
}

TEST_CASE("the study's leaderboards number for number", "[study]") {
  if (!study_is_there()) return;
  const std::vector<Run> runs = runs_of(kRuns);
  const Layout layout = choose_layout(runs, {});
  CHECK(layout.written);
  const std::string page = compat_leaderboard(layout, runs, Language::zh);
  const std::vector<std::string> ours = table_rows(page);
  const std::set<std::string> rows(ours.begin(), ours.end());
  // Three tables of leaderboard_all.md are prose in cells, without a number of a run.
  const std::vector<std::string> prose = {"| 测试 |", "| 方向 |", "| 方法 | 压缩方式 |"};
  for (const auto& [name, expected] :
       {std::pair{"leaderboard_trackA.md", 24}, std::pair{"leaderboard_all.md", 31}}) {
    int found = 0;
    bool skip = false;
    std::istringstream in(text_of(kDocuments / name));
    for (std::string line; std::getline(in, line);) {
      if (!line.starts_with("|")) skip = false;
      for (const std::string& head : prose) skip = skip || line.starts_with(head);
      if (skip || table_rows(line + "\n").empty()) continue;
      INFO(line);
      CHECK(rows.contains(line));
      ++found;
    }
    CHECK(found == expected);
  }
}

TEST_CASE("what is wrong in the study's tables is found from its data", "[study]") {
  if (!study_is_there()) return;
  const std::vector<Run> runs = runs_of(kRuns);
  const Layout layout = choose_layout(runs, {});
  std::set<int> numbers;
  std::string all;
  for (const Finding& finding : audit(layout, runs, read_later_results(kRuns))) {
    numbers.insert(finding.number);
    all += finding.subject + ": " + finding.text + "\n";
  }
  // All kinds of findings of audit.cpp. Missing: 23 (digits of a document) and 27 to 32 (the
  // pruning page's).
  std::set<int> expected;
  for (int number = 1; number <= 26; ++number) {
    if (number != 23) expected.insert(number);
  }
  CHECK(numbers == expected);
  CHECK(all.find("AWQ +1.46 is +0.61, RTN -3.62 is -1.95") != all.npos);
  CHECK(all.find("AWQ +3.67 is +2.90, RTN -1.96 is -2.82") != all.npos);
  CHECK(all.find("counts MMLU 62 times") != all.npos);
  CHECK(all.find("32.5 % at ctx2048_res32") != all.npos);

  const std::string page = to_markdown(study_leaderboard(layout, runs, nullptr, Language::en));
  CHECK(page.find("| FORGE † |") != page.npos);  // joined rows are marked
  CHECK(page.find("| KIVI |") != page.npos);
  CHECK(page.find("0.7228 ± 0.0039 (6)") != page.npos);
  CHECK(page.find("14.37 / 12.22") != page.npos);
}

TEST_CASE("averages of the study", "[study]") {
  if (!study_is_there()) return;
  for (const Run& run : runs_of(kRuns)) {
    const auto stored = run.number("results/lm_eval/_avg_accuracy");
    if (!stored) continue;
    INFO(run.id);
    CHECK(run.average_accuracy() == *stored);
  }
}

TEST_CASE("a layout with a mistake is an error with its place", "[study]") {
  CHECK_THROWS_WITH(parse_layout("[[board]]\ntrak = 'A'\n", "l.toml"),
                    Catch::Contains("unknown key `trak`") && Catch::Contains("track"));
  CHECK_THROWS_WITH(parse_layout("[[board]\n", "l.toml"), Catch::Contains("l.toml:1"));
  CHECK_THROWS_WITH(parse_layout("a = [4,}\n", "l.toml"), Catch::Contains("not valid TOML"));
  Layout layout = parse_layout(
      "[[board]]\ntrack = 'A'\nmodel = 'm'\n[[board.row]]\nlabel = 'x'\nrun = 'nowhere'\n",
      "l.toml");
  CHECK_THROWS_WITH(join(layout, {}), Catch::Contains("a run that is not there: nowhere"));
}
