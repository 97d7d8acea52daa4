// Which rows and figures a report shows, against what, and how they are marked.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cctype>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "analysis/compare/compare.hpp"
#include "analysis/compare/statistics_table.hpp"
#include "analysis/figures/figures.hpp"
#include "ptq/core/safe_text.hpp"
#include "test/analysis/report_folder.hpp"

namespace {

using namespace ptq;
using namespace ptq::test;
using report::Format;

// experiment.json of "trackC" with the model tiny and the evaluation wiki.
Json experiment(const std::string& baseline, const Json& methods) {
  return {{"name", "trackC"},
          {"baseline", baseline},
          {"models", {"tiny"}},
          {"methods", methods},
          {"evaluations", {{{"name", "wiki"}, {"kind", "perplexity"}}}}};
}

Json encoded(double ppl, double kl, double bits) { return perplexity(ppl, kl, 0.9, bits); }

}  // namespace

TEST_CASE("tasks have a mean of one number each, and its error", "[report]") {
  const ResultsFolder folder;
  const auto task = [](double acc, double se, double total) {
    return Json{{"correct", acc * total}, {"total", total}, {"accuracy", acc},
                {"primary", "acc"},       {"acc", acc},     {"acc_se", se}};
  };
  folder.add(make("fp16", "piqa", "choices", task(0.75, 0.03, 100)));
  folder.add(make("fp16", "mmlu", "choices", task(0.25, 0.04, 100)));
  folder.add(make("kivi", "piqa", "choices", task(0.5, 0.05, 100)));
  const std::string page = folder.render(Format::terminal);
  CHECK(has(page, "Mean of tasks"));
  CHECK(has(page, "0.5000 ± 0.0250"));
  const ResultsFolder one;
  one.add(make("fp16", "piqa", "choices", task(0.75, 0.03, 100)));
  CHECK_FALSE(has(one.render(Format::terminal), "Mean of tasks"));
}

TEST_CASE("the experiment's baseline is what everything is compared with", "[report]") {
  const ResultsFolder folder;
  const auto loss = [](double shift) {
    std::string lines;
    for (int i = 0; i < 8; ++i)
      lines +=
          json_text(
              {{"window", i}, {"nll", 2.0 + 0.1 * i + shift}, {"nll_reference", 2.0 + 0.1 * i}}) +
          "\n";
    return lines;
  };
  const auto add = [&](const char* method, double ppl, double kl, double bits, double shift) {
    folder.add(make(method, "wiki", "perplexity", encoded(ppl, kl, bits)));
    folder.write("tiny-" + std::string(method) + "-wiki/samples.jsonl", loss(shift));
  };
  add("fp16", 10, 0, 16, 0);
  add("kivi", 12, 0.1, 3, 0.2);
  add("mine", 11, 0.1, 3, 0.1);
  folder.write("experiments/x.json", json_text(experiment("kivi", {"fp16", "kivi", "mine"})));

  const std::string page = folder.render(Format::terminal);
  CHECK(has(page, "kivi (baseline)"));
  CHECK(has(page, "11.000 (-8.3 %)"));
  CHECK(has(page, "10.000 (-16.7 %)"));
  CHECK(has(page, "mine: PPL -8.3 % (wiki)"));
  CHECK_FALSE(has(page, "  kivi: PPL"));

  const report::Results results = report::read_results(folder.path);
  const auto boards = report::make_boards(results.cells, results.asked);
  const report::BoardStatistics statistics = report::statistics_of(boards[0]);
  REQUIRE(boards[0].baseline() == &boards[0].rows[0]);
  CHECK(statistics.of(boards[0].rows[0].cell("wiki")) == nullptr);
  for (const report::Row& row : boards[0].rows) {
    const report::Comparison* c = statistics.of(row.cell("wiki"));
    if (c) CHECK(c->delta == Approx(row.method == "mine" ? -0.1 : -0.2));
  }
  CHECK(statistics.comparisons.size() == 2);
  CHECK(Json::parse(folder.render(Format::json))["boards"][0]["baseline"] == "kivi");

  // Without its cell nothing takes its place, neither in lock step nor as a row.
  fs::remove_all(folder.path / "tiny-kivi-wiki");
  const std::string without = folder.render(Format::terminal);
  CHECK(has(without, "the experiment's baseline `kivi` is not among these records"));
  CHECK_FALSE(has(without, "(baseline)"));
  const report::Results rest = report::read_results(folder.path);
  CHECK(report::statistics_of(report::make_boards(rest.cells, rest.asked)[0]).comparisons.empty());
}

TEST_CASE("a method that calls itself lossless is judged by what was stored", "[report]") {
  const ResultsFolder folder;
  const auto claim = [&](const char* name, Json metrics) {
    Record record = make(name, "wiki", "perplexity", std::move(metrics));
    record.method.lossless = true;
    folder.add(record);
  };
  claim("evil", encoded(9, 0, 1));
  Json weights = encoded(9, 0, 16);
  weights["weights"] = {{"encoded_scalars", 100}, {"encoded_bits", 2.5}};
  claim("evil-weights", weights);
  Json evicts = encoded(9, 0, 4);  // rows that are gone take no bytes
  evicts["cache"]["bytes_encoded"] = 0;
  claim("evil-evicts", evicts);
  Json mixed = encoded(9, 0, 16);  // sixteen bits, but not the rows themselves
  mixed["cache"]["bytes_encoded"] = 100;
  mixed["cache"]["encoded_is_dense"] = false;
  claim("evil-rows", mixed);
  CHECK(has(folder.render(Format::terminal), "no full-precision baseline"));

  mixed["cache"]["encoded_is_dense"] = true;
  claim("real", mixed);
  CHECK(has(folder.render(Format::terminal), "real (baseline)"));
}

TEST_CASE("what the experiment no longer asks for is marked or left out", "[report]") {
  const ResultsFolder folder;
  folder.add(make("fp16", "wiki", "perplexity", encoded(10, 0, 16)));
  folder.add(make("old-label", "wiki", "perplexity", encoded(12, 0.1, 3)));
  folder.add(make("kivi", "wiki", "perplexity", encoded(11, 0.1, 3)));
  folder.add(make("kivi", "passkey", "passkey", passkey(9, 9)));
  Record gone = make("gone", "wiki", "perplexity", Json::object());
  gone.status = "failed";
  gone.error = Record::Failure{1, "crashed", ""};
  folder.add(gone);
  CHECK_FALSE(has(folder.render(Format::terminal), "not asked for"));  // nothing is known

  Json asked = experiment("", {"fp16", "kivi"});
  asked["cells"] = {"fp16-wiki", "kivi-passkey", "another id of kivi"};
  folder.write("experiment.json", json_text(asked));
  const std::string page = "\n" + folder.render(Format::terminal);
  CHECK(has(page, "\nold-label (not asked for)"));
  CHECK(has(page, "Passkey ↑ (not asked for)"));
  CHECK_FALSE(has(page, "\ngone"));
  CHECK(has(page, "gone, wiki: left out: it failed once"));
  CHECK(has(page, "kivi, wiki: NOT COMPARABLE: computed with other settings, another version"));
  CHECK_FALSE(has(page, "fp16, wiki: NOT COMPARABLE"));
}

TEST_CASE("a table says with which code and where it was computed", "[report]") {
  const ResultsFolder folder;
  Record one = make("fp16", "wiki", "perplexity", encoded(10, 0, 16));
  one.code = {"0.1.0", "abc"};
  one.environment = {{"cpu", "Xeon"}, {"device", "cpu (2 threads)"}};
  folder.add(one);
  const std::string alone = folder.render(Format::terminal);
  CHECK(has(alone, "\n  computed with ptq 0.1.0, commit abc, Xeon, cpu (2 threads)\n"));
  CHECK_FALSE(has(alone, "NOT COMPARABLE"));

  Record two = make("kivi", "wiki", "perplexity", encoded(11, 0.1, 3));
  two.code = {"0.1.0", "def"};
  two.environment = one.environment;
  folder.add(two);
  const std::string page = folder.render(Format::terminal);
  CHECK(has(page, "commit abc, Xeon, cpu (2 threads): fp16\n"));
  CHECK(has(page, "commit def, Xeon, cpu (2 threads): kivi\n"));
  CHECK(has(page, "NOT COMPARABLE: times, and figures that the code or the device decides"));
}

TEST_CASE("ranks are shared with the best of a group, not from neighbour to neighbour",
          "[report]") {
  // Each cannot be told from the next, the first can from the third.
  const auto near = [](size_t better, size_t worse) { return worse - better < 2; };
  CHECK(report::shared_ranks(5, near) == std::vector<int>{1, 1, 3, 3, 5});
}

TEST_CASE("a perplexity beyond the numbers is not a missing one", "[report]") {
  const ResultsFolder folder;
  folder.add(make("fp16", "wiki", "perplexity", encoded(12, 0, 16)));
  Json collapsed = encoded(0, 900, 1);
  collapsed["nll"] = 812.3;
  put_number(collapsed, "ppl", std::numeric_limits<double>::infinity(), "too large");
  folder.add(make("kivi", "wiki", "perplexity", collapsed));
  Json huge = encoded(1e300, 700, 1);
  folder.add(make("near", "wiki", "perplexity", huge));
  const std::string page = folder.render(Format::terminal);
  CHECK(has(page, "> 1e308"));
  CHECK(has(page, "kivi, wiki: perplexity too large: the loss is 812.3 nats per token"));
  CHECK(has(page, "1.00e+300 (8.3e+298x)"));
  report::Comparison c;
  c.n = 2;
  c.delta = 900;
  CHECK(report::difference_text(c) == "> +1e308 %");
  c.delta = 600;
  CHECK(report::difference_text(c).size() < 20);
}

TEST_CASE("exposure does not apply without a part that encodes the cache", "[report]") {
  const ResultsFolder folder;
  Json fp16 = perplexity(12, 0, 1, 16);
  folder.add(make("fp16", "wiki", "perplexity", fp16));
  Json weights = perplexity(13, 0.1, 0, 16);
  weights["weights"] = {
      {"encoded_bits", 4.25},
      {"encoded_scalars", 300},
      {"dense_scalars", 100},
      {"layers_encoded", 3},
      {"layers_plain", {"lm_head", "model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"}}};
  folder.add(make("rtn", "wiki", "perplexity", weights));
  const std::string page = folder.render(Format::markdown);
  CHECK_FALSE(has(page, "0.00 |"));
  CHECK(has(page, "| Exposure |"));
  // ... and the table says which layers a weight method leaves.
  CHECK(has(page, "| 75.0 % |"));
  CHECK(has(page, "3 linear layers are encoded"));
  CHECK(has(page, "lm_head, mlp.up_proj of 2 layers"));
}

TEST_CASE("inputs that the compute mode rounded in one row only are said", "[report]") {
  const auto page_of = [](const char* compute, double of_fp16, Json own) {
    const ResultsFolder folder;
    const auto add = [&](const char* method, double loss, Json weights) {
      Json metrics = perplexity(loss, loss == 12 ? 0 : 0.1, 1, 16);
      metrics["weights"] = std::move(weights);
      Record record = make(method, "wiki", "perplexity", metrics);
      record.environment = {{"compute", compute}};
      folder.add(record);
    };
    add("fp16", 12, {{"integer_scalars", of_fp16}});
    add("rtn", 13, std::move(own));
    return folder.render(Format::markdown);
  };
  const std::string said =
      "compute int8: 300 numbers of linear layers met inputs of 8 bits, of fp16 0";
  CHECK(has(page_of("int8", 0, {{"integer_scalars", 300}}), said));
  CHECK_FALSE(has(page_of("int8", 300, {{"integer_scalars", 300}}), "compute int8:"));
  CHECK_FALSE(has(page_of("fp32", 0, {{"integer_scalars", 300}}), "compute int8:"));
  const Json w8a8 = {{"integer_scalars", 300}, {"activations", {{"int8 per token", 3}}}};
  CHECK_FALSE(has(page_of("int8", 0, w8a8), "compute int8:"));
}

TEST_CASE("what full precision fails at is marked", "[report]") {
  const auto row = [](const char* task, int correct, double reference) {
    return Json{{"task", task},
                {"length", 2048},
                {"depth", 0.5},
                {"correct", correct},
                {"total", 10},
                {"accuracy", correct / 10.0},
                {"baseline_fails", reference < 0.9},
                {"accuracy_reference", reference}};
  };
  Json metrics = {{"accuracy", 0.6},
                  {"correct", 12},
                  {"total", 20},
                  {"cells_baseline_fails", 1},
                  {"baseline_fails", true},
                  {"cells", {row("single", 9, 1.0), row("hop-2", 3, 0.5)}},
                  {"tasks", {row("single", 9, 1.0), row("hop-2", 3, 0.5)}},
                  {"cache", cache(3)}};
  const ResultsFolder folder;
  folder.add(make("kivi", "retrieval", "retrieval", metrics));
  metrics["cache"] = cache(4);
  folder.add(make("kivi-4", "retrieval", "retrieval", metrics));
  const std::string page = folder.render(Format::terminal);
  CHECK(has(page, "12/20 (60 %) °"));
  CHECK(has(page, "3/10 °"));
  CHECK_FALSE(has(page, "9/10 °"));
  CHECK(has(page, "°: full precision itself answers fewer than 90 % there"));
}

TEST_CASE("CSV is for spreadsheets too: no formulas, and a mark where it is not ASCII",
          "[report]") {
  using report::csv_field;
  using report::csv_unguarded;
  for (const std::string text : {"=1+1", "+a", "-2+3", "@SUM(A1)", "＝1", "'=x", "''-x"}) {
    INFO(text);
    CHECK(csv_field(text) == "'" + text);
    CHECK(csv_unguarded(csv_field(text)) == text);
  }
  for (const std::string text : {"kivi", "it's", "'quoted'", "1-2", "", "'"}) {
    INFO(text);
    CHECK(csv_field(text) == text);
    CHECK(csv_unguarded(text) == text);
  }
  const ResultsFolder folder;
  folder.add(make("=cmd", "wiki", "perplexity", encoded(12, 0.1, 3)));
  CHECK(has(folder.render(Format::csv), "trackC,tiny,'=cmd,wiki"));
  CHECK(folder.render(Format::csv).starts_with("experiment,"));
  folder.add(make("方法", "wiki", "perplexity", encoded(12, 0.1, 3)));
  CHECK(folder.render(Format::csv)
            .starts_with("\xEF\xBB\xBF"
                         "experiment,"));
}

TEST_CASE("a colour means one method in all figures, and each figure has its own file",
          "[report]") {
  std::vector<report::Cell> cells;
  for (const char* model : {"a", "b"})
    for (const char* method : {"fp16", "kivi", "q4"}) {
      if (std::string(model) == "b" && std::string(method) == "fp16") continue;
      for (const char* evaluation : {"ctx_2", "ctx-2", "CTX-2"}) {
        report::Cell cell;
        cell.model = model;
        cell.method = method;
        cell.lossless = std::string(method) == "fp16";
        cell.evaluation = evaluation;
        cell.kind = "cached-decode";
        cell.status = "ok";
        const double worse = method[0] == 'f' ? 0 : method[0] == 'k' ? 1 : 2;
        cell.metrics = {{"ppl", 5 + worse},
                        {"kl_mean", 0.1 + worse},
                        {"delta_nll", 0.1 * worse},
                        {"cache", {{"bytes_per_token", 2048 - 500 * worse}}},
                        {"lengths",
                         {{{"length", 512}, {"ppl", 5 + worse}, {"ppl_reference", 5}},
                          {{"length", 4096}, {"ppl", 6 + worse}, {"ppl_reference", 6}}}}};
        cell.headline = report::frozen_headline(cell.kind, cell.evaluation, cell.metrics);
        cells.push_back(std::move(cell));
      }
    }
  const std::vector<report::Board> boards = report::make_boards(cells);
  const report::SeriesStyles styles(boards);
  std::vector<report::Figure> all;
  for (const report::Board& board : boards)
    for (report::Figure& figure : report::figures_of(board, "same", styles)) all.push_back(figure);
  report::name_apart(all);
  std::set<std::string> names;
  std::map<std::string, std::set<std::string>> meaning;
  for (const report::Figure& figure : all) {
    std::string lower = figure.name;
    std::transform(lower.begin(), lower.end(), lower.begin(), ::tolower);
    names.insert(lower);
    for (const char* method : {"fp16", "kivi", "q4", "full precision"}) {
      const size_t title = figure.script.find("title '" + std::string(method) + "'");
      if (title == std::string::npos) continue;
      const size_t style = figure.script.rfind("lc rgb", title);
      meaning[method].insert(figure.script.substr(style, figure.script.find(" ps", style) - style));
    }
  }
  CHECK(all.size() > 8);
  CHECK(names.size() == all.size());
  std::set<std::string> used;
  for (const auto& [method, seen] : meaning) {
    INFO(method);
    CHECK(seen.size() == 1);
    used.insert(*seen.begin());
  }
  CHECK(meaning.size() == 4);
  CHECK(used.size() == meaning.size());

  std::vector<report::Figure> named(3);
  named[0].name = "评测一";
  named[1].name = "评测二";
  named[2].name = std::string(400, 'x');
  report::name_apart(named);
  CHECK(named[0].name != named[1].name);
  CHECK(named[2].name.size() < 200);
}

TEST_CASE("the time of a row is the method's own", "[report]") {
  report::Cell cell;
  cell.seconds = 10;
  CHECK(report::own_seconds(cell) == 10);  // records that do not tell them apart
  cell.metrics = {{"seconds", 3.0}, {"reference_seconds", 6.0}};
  CHECK(report::own_seconds(cell) == 3);
}

TEST_CASE("text of others cannot steer a terminal", "[report]") {
  CHECK(one_line("a\x1b[31mb\tc\r\nd") == "a [31mb c d");
  CHECK(one_line("a\xC2\x9B"
                 "31mb") == "a 31mb");  // CSI as one character
  CHECK(one_line("a\xE2\x80\xAE"
                 "b\xE2\x81\xA6"
                 "c") == "abc");  // writing direction
  CHECK(one_line("a\xE2\x80\xA8"
                 "b") == "a b");
  CHECK(one_line("a\xFF"
                 "b\xC3") ==
        "a\xEF\xBF\xBD"
        "b\xEF\xBF\xBD");
  CHECK(one_line("日本語🙂 é") == "日本語🙂 é");
  CHECK(one_line_each("  a\x1b[1m\n    b\x07") == "  a [1m\n    b ");
}
