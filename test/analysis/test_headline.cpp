// What an evaluation is judged by: said by its records, or by the frozen list for older ones.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "analysis/figures/figures.hpp"
#include "test/analysis/report_folder.hpp"

using namespace ptq;
using namespace ptq::test;

namespace {

// A record of a kind that this program has never heard of.
Record translated(const std::string& method, double bleu, double bits) {
  Record record = make(method, "news", "translation", Json::object());
  record.metrics = {{"scores", {{"bleu", bleu}}}, {"cache", cache(bits)}};
  record.headline = {"scores.bleu", "higher", "BLEU"};
  return record;
}

report::Report report_of(const std::vector<Record>& records) {
  const ResultsFolder folder;
  for (const Record& record : records) folder.add(record);
  return report::make_report(report::read_results(folder.path));
}

}  // namespace

TEST_CASE("a new kind of evaluation appears by its headline alone", "[headline]") {
  const report::Report report = report_of(
      {translated("bad", 21, 2), translated("good", 30.5, 3.2), translated("fp16", 31, 16)});
  REQUIRE(report.boards.size() == 1);
  const report::Board& board = report.boards[0];
  // Higher is better: the order of the rows and the arrow.
  REQUIRE(board.rows.size() == 3);
  CHECK(board.rows[0].method == "fp16");
  CHECK(board.rows[1].method == "good");
  CHECK(board.rows[2].method == "bad");
  const std::string page = report::render(report, Format::terminal);
  CHECK(has(page, "BLEU news ↑"));
  CHECK(has(page, "30.500 (-1.6 %)"));
  CHECK(has(page, "good: BLEU -1.6 % (news)"));
  CHECK(has(report::render(report, Format::csv), "translation,ok,scores.bleu,30.5\n"));

  const std::vector<report::Figure> figures =
      report::figures_of(board, "p", report::SeriesStyles(report.boards));
  REQUIRE(figures.size() == 1);
  CHECK(figures[0].name == "p-pareto-cache-news");
  CHECK(has(figures[0].script, "set ylabel 'BLEU'"));
  CHECK(has(figures[0].caption, "high is better"));
}

TEST_CASE("a new kind that counts right answers is written as a share", "[headline]") {
  const auto cell = [](const std::string& method, int correct, double bits) {
    const Json metrics = {
        {"solved", correct / 20.0}, {"correct", correct}, {"total", 20}, {"cache", cache(bits)}};
    Record record = make(method, "sums", "arithmetic", metrics);
    record.headline = {"solved", "higher", "sums solved"};
    return record;
  };
  const report::Report report = report_of({cell("fp16", 20, 16), cell("kivi", 15, 3.2)});
  const std::string page = report::render(report, Format::markdown);
  CHECK(has(page, "Sums ↑"));
  CHECK(has(page, "15/20 (75 %)"));
  CHECK(has(page, "### Answers against bytes, sums"));
  const std::vector<report::Figure> figures =
      report::figures_of(report.boards[0], "p", report::SeriesStyles(report.boards));
  REQUIRE(figures.size() == 2);
  CHECK(has(figures[0].script, "set ylabel 'sums solved (share)'"));
  CHECK(figures[1].name == "p-tasks");
}

TEST_CASE("a cell that failed takes its column from those that did not", "[headline]") {
  Record failed = make("crash", "news", "translation", Json::object());
  failed.status = "failed";
  failed.error = Record::Failure{1, "crashed", ""};
  const report::Report report = report_of({failed, translated("fp16", 31, 16)});
  CHECK(has(report::render(report, Format::terminal), "BLEU news ↑"));
}

TEST_CASE("records of schema 1 are judged as they were", "[headline]") {
  const auto figure = [](const char* kind, const char* name, const Json& metrics) {
    return report::to_cell(make("m", name, kind, metrics)).figure();
  };
  CHECK(figure("perplexity", "wiki", {{"ppl", 5.5}}) == 5.5);
  CHECK(figure("cached-decode", "long", {{"ppl", 6}}) == 6);
  CHECK(figure("generation", "books", {{"ppl_pooled", 7}, {"mean_ppl", 9}}) == 7);
  CHECK(figure("passkey", "passkey", {{"accuracy", 0.5}}) == 0.5);
  CHECK(figure("retrieval", "retrieval", {{"accuracy", 0.25}, {"partial", 0.5}}) == 0.25);
  const Json tasks = {{"acc,none", 0.5}, {"acc_norm,none", 0.75}};
  CHECK(figure("choices", "hellaswag", tasks) == 0.75);
  CHECK(figure("choices", "boolq", tasks) == 0.5);
  // Measured, but beyond a double.
  CHECK(std::isinf(*figure("perplexity", "wiki", {{"ppl", nullptr}, {"nll", 800.0}})));
  CHECK_FALSE(figure("perplexity", "wiki", {{"nll", 2.0}}));
}
