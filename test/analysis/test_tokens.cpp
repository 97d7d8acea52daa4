// Comparisons and fidelity from the scores of tokens, and the sentence that each deserves.
#include <sys/resource.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <cstdio>
#include <limits>

#include "analysis/compare/compare.hpp"
#include "test/analysis/report_folder.hpp"
#include "test/analysis/token_scores.hpp"

namespace {

using namespace ptq;
using namespace ptq::test;
using report::Comparison;
using stats::Verdict;

// The method of these scores against its reference, a family of its own.
Comparison judged(const TokenFile& file) {
  Comparison c = report::compare_tokens_in_lock_step(report::losses_of(file));
  report::judge({&c});
  return c;
}

// A cell with scores of tokens.
void add_cell(const ResultsFolder& folder, const std::string& method, const std::string& evaluation,
              const TokenFile& file, double ppl, const std::string& model = "tiny") {
  Record record =
      make(method, evaluation, "perplexity", perplexity(ppl, ppl - 10, 0.9, ppl > 10 ? 3 : 16));
  record.model.name = model;
  folder.add(record);
  folder.write(model + "-" + method + "-" + evaluation + "/tokens.bin", token_file_bytes(file));
}

}  // namespace

TEST_CASE("a method gets the sentence that its tokens deserve", "[compare]") {
  CHECK(report::verdict_text(judged(make_tokens(2, 1000, {}, 1, 1))) == "identical");

  const Comparison none = judged(make_tokens(2, 1000, {0, 0.5, 0.1}, 1, 1));
  CHECK(none.verdict == Verdict::too_few);
  CHECK(none.by_tokens);
  CHECK(none.n == 2000);
  CHECK(none.clusters == 2);
  CHECK(none.effective_n > 500);  // neighbours are alike
  CHECK(none.effective_n < 2000);
  CHECK(none.mde > 0.02);
  CHECK(none.mde < 0.06);
  CHECK(none.needed > 2000);
  CHECK(report::verdict_text(none).find("too few samples to tell (about ") == 0);
  CHECK(report::verdict_text(none).find(" tokens would do)") != std::string::npos);

  const Comparison tiny = judged(make_tokens(2, 1000, {2 * none.mde, 0.5, 0.1}, 1, 1));
  CHECK(report::verdict_text(tiny) == "worse");
  CHECK(tiny.interval.contains(2 * none.mde));
  CHECK(report::verdict_text(judged(make_tokens(2, 1000, {-2 * none.mde, 0.5, 0.1}, 1, 1))) ==
        "better");

  CHECK(report::verdict_text(judged(make_tokens(2, 1000, {0, 0.05, 0.01}, 1, 1))) ==
        "equivalent within 1 %");
  CHECK(report::verdict_text(judged(make_tokens(2, 1000, {0.004, 0.01, 0.01}, 1, 1))) ==
        "worse, by less than 1 %");
  // Twelve times the perplexity in two windows.
  CHECK(report::verdict_text(judged(make_tokens(2, 500, {2.5, 2, 3}, 1, 1))) == "worse");
  // Two windows alone, as records without tokens have them, decide nothing.
  report::Samples lines;
  lines.identity = lines.cluster = {1, 2};
  lines.nll = {4.5f, 4.6f};
  lines.nll_reference = {2, 2};
  Comparison two = report::compare_in_lock_step(lines, false);
  report::judge({&two});
  CHECK_FALSE(two.interval.known());
  CHECK(report::verdict_text(two) == "too few samples to tell");
}

TEST_CASE("void tokens are left out on both sides", "[compare]") {
  TokenFile file = make_tokens(2, 400, {0.1, 0.1, 0.1}, 2, 1);
  file.tokens[5].rank_flags |= TokenScore::kNotFinite;
  file.tokens[5].nll = std::numeric_limits<float>::quiet_NaN();
  file.tokens[5].kl = std::numeric_limits<float>::infinity();
  CHECK(judged(file).n == 799);
  CHECK(std::isfinite(judged(file).delta));
  const auto fidelity = report::fidelity_of(file, {});
  REQUIRE(fidelity);
  CHECK(fidelity->tokens == 799);
  CHECK(std::isfinite(fidelity->kl.value));
}

TEST_CASE("methods pair by their runs; a shorter cell pairs with the part it has", "[compare]") {
  const TokenFile a = make_tokens(4, 300, {0.2, 0.1, 0.1}, 3, 1),
                  b = make_tokens(4, 300, {0.1, 0.1, 0.1}, 3, 2);
  TokenFile early = make_tokens(2, 300, {0.1, 0.1, 0.1}, 3, 2);
  const auto losses = [](const TokenFile& file) { return report::losses_of(file); };
  const Comparison whole = report::compare_tokens(losses(a), losses(b));
  CHECK(whole.n == 1200);
  CHECK(whole.unpaired == 0);
  CHECK(whole.delta == Approx(0.1).margin(0.02));
  const Comparison part = report::compare_tokens(losses(a), losses(early));
  CHECK(part.n == 600);
  CHECK(part.unpaired == 600);
  early.runs[1].position = 7;  // another place of the text
  CHECK(report::compare_tokens(losses(a), losses(early)).n == 300);
  const Comparison back = report::reversed(whole);
  CHECK(back.delta == -whole.delta);
  CHECK(back.interval.low == -whole.interval.high);
}

TEST_CASE("fidelity: means, quantiles and buckets with intervals, floor, misleading losses",
          "[compare]") {
  const TokenFile file = make_tokens(4, 1000, {0.05, 0.3, 0.2}, 4, 1);
  const auto f = report::fidelity_of(file, 0.001);
  REQUIRE(f);
  double kl = 0, squares = 0, same = 0, sure = 0;
  for (const TokenScore& token : file.tokens) {
    kl += double(token.kl) / 4000;
    squares += token.delta_p() * token.delta_p() / 4000;
    same += !token.flip() / 4000.0;
    sure += token.confidence_share() >= 0.95;
  }
  CHECK(f->kl.value == Approx(kl).epsilon(1e-5));
  CHECK(f->kl_reverse.value == Approx(1.1 * kl).epsilon(1e-5));
  CHECK(f->rms_delta_p.value == Approx(std::sqrt(squares)).epsilon(1e-6));
  CHECK(f->top1.value == Approx(same));
  CHECK(f->kl_p90.value > f->kl.value);
  CHECK(f->kl_max >= f->kl_p99.value);
  for (const report::Estimate* e : {&f->kl, &f->kl_reverse, &f->kl_median, &f->kl_p90, &f->kl_p99,
                                    &f->ear, &f->rms_delta_p, &f->top1}) {
    CHECK(e->interval.contains(e->value));
  }
  CHECK(f->kl.interval.contains(0.2));  // what was planted
  REQUIRE(f->by_confidence.size() == 5);
  CHECK(f->by_confidence[4].tokens == size_t(sure));
  size_t tokens = 0;
  for (const auto& part : f->by_position) tokens += part.tokens;
  CHECK(f->by_position.back().name == "512 to 1023");
  CHECK(tokens >= 4000 - 4 * 7);  // places 1 to 7 have too few for a row each
  CHECK_FALSE(f->below_floor);
  CHECK(report::fidelity_of(file, 0.3)->below_floor);
  CHECK_FALSE(f->ppl_unreliable);
  // The loss falls although the predictions move away.
  CHECK(report::fidelity_of(make_tokens(4, 1000, {-0.05, 0.3, 0.2}, 4, 1), {})->ppl_unreliable);
  TokenFile alone = make_tokens(1, 100, {}, 4, 1);
  for (TokenScore& token : alone.tokens) {
    token.nll_reference = token.kl = std::numeric_limits<float>::quiet_NaN();
  }
  CHECK_FALSE(report::fidelity_of(alone, {}));
}

TEST_CASE("a board: verdicts by tokens, corrected within an evaluation, and all pairs",
          "[compare]") {
  const ResultsFolder folder;
  for (const char* evaluation : {"wiki", "books"}) {
    const uint64_t seed = evaluation[0];
    TokenFile full = make_tokens(2, 600, {}, seed, 0);
    for (TokenScore& token : full.tokens) {
      token.nll_reference = token.kl = std::numeric_limits<float>::quiet_NaN();
    }
    add_cell(folder, "fp16", evaluation, full, 10);
    add_cell(folder, "copy", evaluation, make_tokens(2, 600, {}, seed, 1), 10.0001);
    add_cell(folder, "bad", evaluation, make_tokens(2, 600, {0.3, 0.3, 0.2}, seed, 2), 13);
    add_cell(folder, "worse", evaluation, make_tokens(2, 600, {0.6, 0.3, 0.4}, seed, 3), 18);
  }
  const report::Results results = report::read_results(folder.path);
  const auto boards = report::make_boards(results.cells, results.asked);
  const report::BoardStatistics statistics = report::statistics_of(boards[0]);
  const auto cell = [&](const std::string& method) {
    for (const report::Row& row : boards[0].rows) {
      if (row.method == method) return row.cell("wiki");
    }
    return static_cast<const report::Cell*>(nullptr);
  };
  CHECK(statistics.problems.empty());
  CHECK(statistics.comparisons.size() == 6);
  CHECK(statistics.of(cell("copy"))->verdict == Verdict::identical);
  const Comparison& bad = *statistics.of(cell("bad"));
  CHECK(bad.verdict == Verdict::worse);
  CHECK(bad.by_tokens);
  CHECK(bad.p_holm <= 3 * bad.p_value + 1e-12);  // a family of three, not of six
  CHECK(statistics.fidelity_of(cell("bad"))->kl.value == Approx(0.2).epsilon(0.2));
  CHECK(statistics.fidelity_of(cell("fp16")) == nullptr);
  REQUIRE(statistics.pair(cell("worse"), cell("bad")));
  CHECK(statistics.pair(cell("worse"), cell("bad"))->verdict == Verdict::worse);
  CHECK(statistics.pair(cell("bad"), cell("worse"))->verdict == Verdict::better);
  CHECK(statistics.pairs.size() == 2 * 6 * 2);
  CHECK(statistics.rank(cell("bad")) == 3);
  CHECK(statistics.rank(cell("worse")) == 4);

  folder.write("tiny-bad-wiki/tokens.bin", "damaged");
  const report::Results again = report::read_results(folder.path);
  const auto damaged = report::statistics_of(report::make_boards(again.cells, again.asked)[0]);
  REQUIRE(damaged.problems.size() == 1);
  CHECK(damaged.problems[0].find("tokens.bin") != std::string::npos);
}

TEST_CASE("a cell that was decided early is held against full precision on its own samples",
          "[compare]") {
  const ResultsFolder folder;
  TokenFile full = make_tokens(6, 200, {}, 8, 0);
  for (TokenScore& token : full.tokens) {
    token.nll_reference = token.kl = std::numeric_limits<float>::quiet_NaN();
  }
  add_cell(folder, "fp16", "wiki", full, 10);
  add_cell(folder, "whole", "wiki", make_tokens(6, 200, {0.3, 0.3, 0.2}, 8, 1), 13);
  // Its two windows are easy ones: 8 is worse than full precision's 5 there, as 16 would be of all.
  Record early = make("early", "wiki", "perplexity", perplexity(8, 0.5, 0.9, 3));
  early.metrics["ppl_reference"] = 5;
  early.metrics["decided"] = {{"used", 2}, {"of", 6}, {"verdict", "worse"}};
  folder.add(early);
  folder.write("tiny-early-wiki/tokens.bin",
               token_file_bytes(make_tokens(2, 200, {0.47, 0.3, 0.2}, 8, 2)));
  const report::Results results = report::read_results(folder.path);
  const auto boards = report::make_boards(results.cells, results.asked);
  REQUIRE(boards[0].rows.size() == 3);
  CHECK(boards[0].rows[2].method == "early");  // not before fp16 and whole
  const report::BoardStatistics statistics = report::statistics_of(boards[0]);
  const report::Cell* cell = boards[0].rows[2].cell("wiki");
  CHECK(statistics.rank(cell) == 3);
  CHECK(statistics.of(cell)->n == 400);
  CHECK(statistics.of(cell)->unpaired == 800);
  const std::string page = folder.render(Format::terminal);
  CHECK(has(page, "8.000 (+60.0 %) after 2/6"));
  CHECK(has(page, "early: PPL +60.0 % (wiki)"));
}

// By hand: ptq-tests "[full]". 180 cells of 100,000 tokens, as a study of three models has them.
TEST_CASE("statistics of 180 cells of 100,000 tokens", "[.][full]") {
  const ResultsFolder folder;
  for (const char* model : {"a", "b", "c"}) {
    for (const char* evaluation : {"v", "w", "x", "y", "z"}) {
      const uint64_t seed = uint64_t(model[0]) * 256 + uint64_t(evaluation[0]);
      for (uint64_t m = 0; m < 12; ++m) {
        const TokenDamage damage = {0.01 * double(m), 0.2, 0.02 * double(m)};
        add_cell(folder, m == 0 ? "fp16" : "m" + std::to_string(m), evaluation,
                 make_tokens(20, 5000, damage, seed, m), 10 + double(m), model);
      }
    }
  }
  const report::Results results = report::read_results(folder.path);
  const auto boards = report::make_boards(results.cells, results.asked);
  const auto processors = [] {  // seconds of all threads
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return double(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * double(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
  };
  const auto start = std::chrono::steady_clock::now();
  const double before = processors();
  size_t comparisons = 0, pairs = 0;
  for (const report::Board& board : boards) {
    const report::BoardStatistics statistics = report::statistics_of(board);
    comparisons += statistics.comparisons.size();
    pairs += statistics.pairs.size() / 2;
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::printf("%zu comparisons, %zu pairs: %.1f s, %.1f s of processors, peak %.0f MiB\n",
              comparisons, pairs, seconds, processors() - before, double(usage.ru_maxrss) / 1024);
  CHECK(comparisons == 165);
  CHECK(usage.ru_maxrss < 1024 * 1024);
}
