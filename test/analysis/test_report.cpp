// ptq-report on records made by hand: what a reader gets to see, to the letter.
#include <catch2/catch.hpp>
#include <string>

#include "analysis/board/columns.hpp"
#include "analysis/check.hpp"
#include "analysis/compare/diff.hpp"
#include "ptq/results/record_json.hpp"
#include "test/analysis/report_folder.hpp"

namespace {

using namespace ptq;
using namespace ptq::test;

// A page without its first line, which counts what was found.
std::string rest(const std::string& page) { return page.substr(page.find('\n')); }

// fp16, kivi with everything, kivi-1bit that crashed.
void add_usual(const ResultsFolder& folder) {
  folder.add(make("kivi-2bit", "wiki", "perplexity", perplexity(12.372, 0.031, 0.95, 3.2)));
  folder.add(make("kivi-2bit", "passkey", "passkey", passkey(9, 10)));
  folder.add(make("fp16", "wiki", "perplexity", perplexity(12.0, 0, 0.95, 16)));
  folder.add(make("fp16", "passkey", "passkey", passkey(10, 10)));
  Record crashed = make("kivi-1bit", "wiki", "perplexity", Json::object());
  crashed.status = "failed";
  crashed.error = Record::Failure{1, "the plugin crashed\n(signal 11)", ""};
  folder.add(crashed);
}

}  // namespace

TEST_CASE("the terminal report, whole", "[report]") {
  const ResultsFolder folder;
  add_usual(folder);
  REQUIRE(folder.render(Format::terminal) ==
          R"(4 cells measured, 1 failed; 1 model, 3 methods, 2 evaluations; 2026-01-01

What to use

  tiny: at ≤ 384 B/token (a quarter of full precision) kivi-2bit does least damage: KL 0.031.

Before you believe it:
  kivi-1bit, wiki: failed: the plugin crashed (signal 11)

Method           KV B/token  tiny KL, wiki
---------------  ----------  -------------
fp16 (baseline)       1,536     PPL 12.000
kivi-2bit               307     ◆ 0.031 #1
kivi-1bit                 -         failed

trackC: tiny (0.70 M parameters)

Method                PPL wiki ↓    KL ↓  Top-1 ↑      Passkey ↑   Exposure  KV B/token  KV bits  KV ratio   Time
---------------  ---------------  ------  -------  -------------  ---------  ----------  -------  --------  -----
fp16 (baseline)           12.000  0.0000  100.0 %  20/20 (100 %)  0.62-0.95       1,536    16.00     1.00x  4.0 s
kivi-2bit        12.372 (+3.1 %)  0.0310   91.0 %   19/20 (95 %)  0.62-0.95         307     3.20     5.00x  4.0 s
kivi-1bit                 failed  failed   failed              -          -           -        -         -  2.0 s

Answers by depth of the key, passkey

Method     depth 10 %  depth 50 %  total
---------  ----------  ----------  -----
fp16            10/10       10/10  20/20
kivi-2bit        9/10       10/10  19/20

Answers against bytes, passkey

Method     KV B/token  total  front
---------  ----------  -----  -----
kivi-2bit         307  19/20      *
fp16            1,536  20/20      *

Notes:
  kivi-1bit, wiki: failed: the plugin crashed (signal 11)

In one line each:
  kivi-2bit: PPL +3.1 % (wiki), passkey 19/20, 5.0x smaller cache
)");
}

TEST_CASE("a retrieval suite has a table by depth, and one by task beside the bytes", "[report]") {
  const auto count = [](const char* task, Json depth, int correct) {
    return Json{
        {"task", task}, {"length", 2048}, {"depth", depth}, {"correct", correct}, {"total", 10}};
  };
  const auto retrieval = [&](int first, int second, int hop, double bits) {
    Json m = {{"accuracy", (first + second + hop) / 30.0},
              {"correct", first + second + hop},
              {"total", 30},
              {"cells",
               {count("single", 0.1, first), count("multikey-4", 0.1, second),
                count("hop-2", nullptr, hop)}},
              {"tasks",
               {count("single", nullptr, first), count("multikey-4", nullptr, second),
                count("hop-2", nullptr, hop)}},
              {"cache", cache(bits)}};
    return m;
  };
  ResultsFolder folder;
  folder.add(make("fp16", "retrieval", "retrieval", retrieval(10, 10, 9, 16)));
  folder.add(make("kivi-2bit", "retrieval", "retrieval", retrieval(10, 8, 3, 3)));
  folder.add(make("evicting", "retrieval", "retrieval", retrieval(1, 0, 0, 4)));
  folder.add(make("nothing", "retrieval", "retrieval", retrieval(0, 0, 0, 1)));
  const std::string text = folder.render(Format::terminal);
  CHECK_THAT(text, Catch::Contains("Method     depth 10 %  total\n"
                                   "---------  ----------  -----\n"
                                   "fp16            20/20  20/20\n"
                                   "kivi-2bit       18/20  18/20\n"));
  CHECK_THAT(text,
             Catch::Contains("Method     KV B/token  single  multikey-4  hop-2  total  front\n"
                             "---------  ----------  ------  ----------  -----  -----  -----\n"
                             "nothing            96    0/10        0/10   0/10   0/30\n"
                             "kivi-2bit         288   10/10        8/10   3/10  21/30      *\n"
                             "evicting          384    1/10        0/10   0/10   1/30\n"
                             "fp16            1,536   10/10       10/10   9/10  29/30      *\n"));
}

TEST_CASE("Markdown tables can be pasted and carry intervals", "[report]") {
  const ResultsFolder folder;
  add_usual(folder);
  const std::string page = folder.render(Format::markdown);
  CHECK(has(page, "## trackC: tiny (0.70 M parameters)\n\n| Method | PPL wiki ↓ |"));
  CHECK(has(page, "| kivi-2bit | 9/10 (55-100 %) | 10/10 (69-100 %) | 19/20 (75-100 %) |\n"));
  CHECK(has(page, "- kivi-1bit, wiki: failed: the plugin crashed (signal 11)\n"));
}

TEST_CASE("CSV has one line per number, JSON has everything", "[report]") {
  const ResultsFolder folder;
  add_usual(folder);
  CHECK(has(folder.render(Format::csv),
            "trackC,tiny,kivi-2bit,wiki,perplexity,ok,cache.effective_bits,3.2\n"));
  const Json json = Json::parse(folder.render(Format::json));
  CHECK(json["boards"][0]["rows"][0]["method"] == "fp16");
  CHECK(json["boards"][0]["rows"][1]["evaluations"]["wiki"]["metrics"]["ppl"] == 12.372);
  CHECK(json["boards"][0]["rows"][2]["evaluations"]["wiki"]["status"] == "failed");
  CHECK(report::csv_field("a,\"b\"") == "\"a,\"\"b\"\"\"");
}

TEST_CASE("what must not be believed is said", "[report]") {
  const ResultsFolder folder;
  folder.add(make("fp16", "wiki", "perplexity", perplexity(12.0, 0, 0.95, 16)));

  SECTION("exposure 0 and a result that equals the baseline") {
    folder.add(make("idle", "wiki", "perplexity", perplexity(12.0, 0, 0, 16)));
    const std::string page = folder.render(Format::terminal);
    CHECK(has(page, "idle, wiki: exposure 0: no encoded row was read"));
    CHECK(has(page, "idle, wiki: identical to fp16: method not exercised"));
  }
  SECTION("a regime without a cache") {
    Json metrics = perplexity(13, 0.1, 0, 16);
    metrics["regime"] = "independent";
    folder.add(make("kivi", "wiki", "perplexity", metrics));
    CHECK(has(folder.render(Format::terminal), "kivi, wiki: cache not read"));
  }
  SECTION("a weight method is not blamed for a cache it does not touch") {
    Json metrics = perplexity(13, 0.1, 0, 16);
    metrics["weights"] = {{"bytes", 3 << 20}, {"encoded_bits", 4.25}};
    folder.add(make("rtn", "wiki", "perplexity", metrics));
    const std::string page = folder.render(Format::terminal);
    CHECK_FALSE(has(page, "exposure 0"));
    CHECK(has(page, "rtn: PPL +8.3 % (wiki), weights at 4.25 bits\n"));
  }
  SECTION("another model under the same name") {
    Record other = make("kivi", "wiki", "perplexity", perplexity(13, 0.1, 0.9, 4));
    other.model.fingerprint = "def";
    folder.add(other);
    CHECK(has(folder.render(Format::terminal),
              "NOT COMPARABLE: the rows come from 2 different base weights of the name tiny"));
  }
  SECTION("other sample counts, other settings") {
    Json metrics = perplexity(13, 0.1, 0.9, 4);
    metrics["tokens_scored"] = 100;
    folder.add(make("kivi", "wiki", "perplexity", metrics));
    CHECK(has(folder.render(Format::terminal),
              "NOT COMPARABLE: wiki has rows with 100 to 4096 samples"));
  }
  SECTION("a method that the evaluation refused") {
    Record record = make("kivi", "wiki", "perplexity", perplexity(12.0, 0, 0.9, 3.2));
    record.status = "invalid";
    record.warnings = {"method inactive: no row was encoded"};
    folder.add(record);
    const std::string page = folder.render(Format::terminal);
    CHECK(has(page, "kivi, wiki: not exercised: method inactive: no row was encoded\n"));
    CHECK_FALSE(has(page, "PPL +0.0 %"));
  }
  SECTION("what the run said is not said twice") {
    Record record = make("idle", "wiki", "perplexity", perplexity(12.5, 0.1, 0, 16));
    record.warnings = {"exposure 0: no encoded row was read (9 tokens in the cache)"};
    folder.add(record);
    const std::string page = folder.render(Format::terminal);
    const std::string notes = page.substr(page.find("\nNotes:"));
    CHECK(has(notes, "exposure 0"));
    CHECK(notes.find("exposure 0") == notes.rfind("exposure 0"));
  }
  SECTION("warnings of the records") {
    Record record = make("kivi", "wiki", "perplexity", perplexity(13, 0.1, 0.9, 4));
    record.warnings = {"slow | disk\x1b[31m"};
    folder.add(record);
    const std::string page = folder.render(Format::markdown);
    CHECK(has(page, "- kivi, wiki: slow \\| disk \\[31m\n"));
  }
}

TEST_CASE("without a baseline there are no differences", "[report]") {
  const ResultsFolder folder;
  folder.add(make("kivi", "wiki", "perplexity", perplexity(13, 0.1, 0.9, 3.2)));
  const std::string page = folder.render(Format::terminal);
  CHECK(has(page, "no full-precision baseline"));
  CHECK(has(page, "kivi: PPL 13.000 (wiki), 5.0x smaller cache"));
}

TEST_CASE("rows are ordered by quality, the baseline first", "[report]") {
  const ResultsFolder folder;
  folder.add(make("a", "wiki", "perplexity", perplexity(20, 0.1, 0.9, 3.2)));
  folder.add(make("b", "wiki", "perplexity", perplexity(11, 0.1, 0.9, 3.2)));
  folder.add(make("fp16", "wiki", "perplexity", perplexity(12, 0, 0.95, 16)));
  const auto results = report::read_results(folder.path);
  const auto boards = report::make_boards(results.cells);
  REQUIRE(boards.size() == 1);
  REQUIRE(boards[0].rows.size() == 3);
  CHECK(boards[0].rows[0].method == "fp16");
  CHECK(boards[0].rows[1].method == "b");
  CHECK(boards[0].rows[2].method == "a");
}

TEST_CASE("a damaged record costs itself only", "[report]") {
  const ResultsFolder folder;
  add_usual(folder);
  const std::string intact = folder.render(Format::terminal);
  folder.write("cut/record.json", "{\"schema_version\": 1, \"exper");
  folder.write("future/record.json", "{\"schema_version\": 99}");
  folder.write("array/record.json", "[]");
  folder.write("empty/record.json", "");
  const std::string page = folder.render(Format::terminal);
  CHECK(rest(page).rfind(rest(intact), 0) == 0);
  for (const char* name : {"cut", "future", "array", "empty"}) {
    CHECK(has(page, std::string("  ") + name + "/record.json: left out"));
  }
}

TEST_CASE("what cannot be looked into is named, the rest is read", "[report]") {
  const ResultsFolder folder;
  add_usual(folder);
  const std::string intact = folder.render(Format::terminal);
  fs::create_symlink("loop", folder.path / "loop");
  fs::create_directory(folder.path / "tiny__kivi__wiki__0123456789abcdef");
  folder.write("deep/record.json", std::string(1 << 20, '['));
  const std::string page = folder.render(Format::terminal);
  CHECK(rest(page).rfind(rest(intact), 0) == 0);
  CHECK(has(page, "  loop: left out"));
  CHECK(has(page,
            "tiny__kivi__wiki__0123456789abcdef: left out, this is no readable record: "
            "record.json is missing"));
  CHECK(has(page, "deep/record.json: left out"));
  CHECK_THROWS_AS(report::read_results(folder.path / "loop"), Error);
  CHECK_THROWS_AS(report::read_results(folder.path / "nowhere"), Error);
}

TEST_CASE("of two records of one cell the later counts", "[report]") {
  const ResultsFolder folder;
  const auto add = [&](const std::string& name, double ppl, const std::string& started,
                       const std::string& commit = "new") {
    Record record = make("kivi", "wiki", "perplexity", perplexity(ppl, 0.1, 0.9, 3.2));
    record.started_at = started;
    record.code.git = commit;
    record.metrics["time"]["eval_seconds"] = ppl + double(started.size());
    folder.write(name + "/record.json", json_text(to_json(record)));
  };
  add("a", 99, "2020-01-01T00:00:00Z", "old");
  add("b", 13, "2026-01-01T00:00:00Z");
  add("c", 98, "2021-01-01T00:00:00Z", "older");
  auto results = report::read_results(folder.path);
  REQUIRE(results.cells.size() == 1);
  CHECK(results.cells[0].source == "b/record.json");
  const std::string page = folder.render(Format::terminal);
  CHECK(has(page, "13.000"));
  CHECK(has(page, "left out: a/record.json"));
  CHECK(has(page, "left out: c/record.json"));
  CHECK_FALSE(has(page, "CONFLICT"));
  add("d", 13, "2025-01-01T00:00:00Z");  // computed twice, the same numbers
  CHECK_FALSE(has(folder.render(Format::terminal), "CONFLICT"));
  add("d", 14, "2026-01-01T00:00:00Z", "other");
  CHECK(has(folder.render(Format::terminal), "CONFLICT: neither is the later one"));
  add("d", 14, "2025-01-01T00:00:00Z");
  CHECK(has(folder.render(Format::terminal),
            "CONFLICT: the same key and program gave other numbers (shown and left out: ppl: 13.0 "
            "and 14.0)"));
}

TEST_CASE("a record that contradicts itself is named in the report", "[report]") {
  const ResultsFolder folder;
  add_usual(folder);
  CHECK_FALSE(has(folder.render(Format::terminal), "NOT CONSISTENT"));
  Json metrics = perplexity(2, 0.1, 0.9, 3.2);
  metrics["nll"] = 2.5;
  folder.add(make("kivi", "wiki", "perplexity", metrics));
  CHECK(has(folder.render(Format::terminal),
            "kivi, wiki: NOT CONSISTENT: metrics.ppl is 2, but exp(nll) is 12.18"));

  const ResultsFolder alone;  // and nothing is concluded from it
  alone.add(make("fp16", "wiki", "perplexity", perplexity(12.0, 0, 0.95, 16)));
  alone.add(make("kivi", "wiki", "perplexity", metrics));
  CHECK(has(alone.render(Format::terminal), "kivi, wiki: NOT CONSISTENT"));
  CHECK_FALSE(has(alone.render(Format::terminal), "does least damage"));
}

TEST_CASE("two folders are compared by experiment and by every figure", "[report]") {
  const ResultsFolder folder;
  const auto add = [&](const std::string& side, const std::string& experiment, double ppl,
                       double exposure, double seconds) {
    Record record = make("kivi", "wiki", "perplexity", perplexity(ppl, 0.1, exposure, 3.2));
    record.experiment = experiment;
    record.metrics["seconds"] = seconds;
    folder.write(side + "/" + experiment + "/record.json", json_text(to_json(record)));
  };
  const auto compare = [&] {
    return report::diff_results(report::read_results(folder.path / "a"),
                                report::read_results(folder.path / "b"));
  };
  for (const char* side : {"a", "b"}) {
    add(side, "one", 12, 0.9, side[0]);
    add(side, "two", 13, 0.9, side[0]);
  }
  CHECK_FALSE(compare().any);
  CHECK(has(compare().text, "2 cells are equal, 0 differ"));
  add("b", "one", 1.5, 0.9, 1);
  CHECK(has(compare().text, "one: tiny kivi wiki"));
  CHECK(has(compare().text, "1 cells are equal, 1 differ"));
  add("b", "one", 12, 0.8, 1);  // no headline figure
  CHECK(has(compare().text, "exposure 0.9"));
  CHECK(has(compare().text, "exposure 0.8"));
  // The experiment was renamed and nothing else.
  fs::remove_all(folder.path / "b");
  add("b", "one", 12, 0.9, 1);
  add("b", "three", 13, 0.9, 1);
  CHECK_FALSE(compare().any);
}

TEST_CASE("a folder of several experiments is checked against one of them", "[report]") {
  const ResultsFolder folder;
  const auto add = [&](const std::string& experiment, const std::string& label, int bits) {
    Record record = make(label, "wiki", "perplexity", perplexity(12, 0.1, 0.9, 3.2));
    record.experiment = experiment;
    record.method.parts.push_back({"kivi.so", "00", "kivi", "1", {{"bits", bits}}});
    folder.write(experiment + label + "/record.json", json_text(to_json(record)));
  };
  add("one", "kivi", 2);
  add("two", "kivi", 4);
  const auto check = [&](const std::string& label, const std::string& evaluation, int bits) {
    folder.write("one.toml",
                 "name = \"one\"\nmodels = [\"models/tiny\"]\n[[methods]]\nlabel = \"" + label +
                     "\"\nmethod = \"kivi\"\noptions = { bits = " + std::to_string(bits) +
                     " }\n[[evaluations]]\nkind = \"perplexity\"\nwindow = 2048\nname = \"" +
                     evaluation + "\"\n");
    return report::check_text(
        report::check_cells(folder.path, (folder.path / "one.toml").string()));
  };
  CHECK(has(check("kivi", "wiki", 2), "1 ok, 1 not asked for"));
  CHECK(has(check("kivi", "wiki", 4), "option bits is 2 in the result, 4 in the experiment"));
  // Names that were changed in the experiment after it ran.
  CHECK(has(check("other", "wiki", 2),
            "missing        tiny other wiki: there is a result of these "
            "settings as tiny kivi wiki"));
  CHECK(has(check("kivi", "text", 2),
            "missing        tiny kivi text: there is a result of these "
            "settings as tiny kivi wiki"));
  CHECK(has(check("other", "wiki", 8), "missing        tiny other wiki\n"));
}

TEST_CASE("a cell that failed and was finished later counts as finished", "[report]") {
  const ResultsFolder folder;
  Record failed = make("kivi", "wiki", "perplexity", Json::object());
  failed.status = "failed";
  failed.error = Record::Failure{1, "out of memory", ""};
  folder.add(failed);
  folder.add(make("kivi", "wiki", "perplexity", perplexity(13, 0.1, 0.9, 3.2)));
  const auto results = report::read_results(folder.path);
  REQUIRE(results.cells.size() == 1);
  CHECK(results.cells[0].ok());
}

TEST_CASE("tables know how wide characters are and how wide the screen is", "[report]") {
  CHECK(report::width("方法") == 4);
  CHECK(report::width("e\u0301") == 1);
  const report::Table table{{"m", "first", "second"}, {{"方法", "1", "2"}}};
  CHECK(report::to_terminal(table, true, 0) ==
        "m    │ first │ second\n"
        "─────┼───────┼───────\n"
        "方法 │     1 │      2\n");
  CHECK(report::to_terminal(table, false, 12) ==
        "m     first\n----  -----\n方法      1\n\n"
        "m     second\n----  ------\n方法       2\n");
}

TEST_CASE("a column's title does not repeat itself", "[report]") {
  const auto head = [](const std::string& name, const std::string& kind) {
    return report::head_of({name, kind, report::frozen_headline(kind, name, Json::object())});
  };
  CHECK(head("ppl-disjoint", "perplexity") == "PPL disjoint ↓");
  CHECK(head("ppl-32k", "cached-decode") == "PPL 32k ↓");
  CHECK(head("passkey", "passkey") == "Passkey ↑");
  CHECK(head("passkey-study", "passkey") == "Passkey study ↑");
  CHECK(head("retrieval", "retrieval") == "Retrieval ↑");
  CHECK(head("books", "generation") == "PPL books ↓");
  CHECK(head("hellaswag", "choices") == "hellaswag ↑");
}

TEST_CASE("numbers in tables", "[report]") {
  CHECK(report::thousands_text(131072) == "131,072");
  CHECK(report::thousands_text(999) == "999");
  CHECK(report::change_text(12.372, 12) == "+3.1 %");
  CHECK(report::change_text(7.27, 6.16) == "+18.0 %");
  CHECK(report::divergence_text(1e-6) == "1.0e-06");
  CHECK(report::seconds_text(125) == "2 min 05 s");
}
