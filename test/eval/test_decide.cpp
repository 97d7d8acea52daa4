// Deciding early: no more wrong decisions than alpha, however often one looks.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdio>
#include <random>

#include "ptq/eval/decide.hpp"
#include "ptq/eval/perplexity.hpp"
#include "test/eval/fake_rows.hpp"
#include "test/stats/series.hpp"
#include "test/support/fake_engine.hpp"
#include "test/support/temporary_file.hpp"

namespace {

using namespace ptq;
using namespace ptq::eval;
using namespace ptq::test;

// A made-up evaluation: windows of tokens whose losses differ by `plan`, scaled and shifted.
struct Evaluated {
  std::string verdict = "undecided";
  size_t used = 0;
};

Evaluated evaluate(const DecideSettings& settings, const SeriesPlan& plan, double scale,
                   double truth, std::mt19937_64& random) {
  Outcome outcome;
  Decider decider(settings, true, plan.clusters);
  const Series series = draw_series(plan, random);
  size_t at = 0;
  for (const stats::Run& run : series.runs) {
    outcome.samples.push_back(Json::object());
    outcome.tokens.runs.push_back({run.cluster, 1, uint32_t(run.length)});
    for (size_t i = 0; i < run.length; ++i, ++at) {
      TokenScore token{};
      token.nll_reference = 2;
      token.nll = token.nll_reference +
                  float(truth + scale * (double(series.values[at]) - true_mean(plan)));
      outcome.tokens.tokens.push_back(token);
    }
    if (decider.decided(outcome)) break;
  }
  Json metrics;
  decider.write(metrics);
  return {metrics["decided"]["verdict"], metrics["decided"]["used"]};
}

struct Rates {
  double wrong = 0, decided = 0, used = 0;  // shares of the runs, and of the windows
};

Rates simulate(const SeriesPlan& plan, double truth, double margin, int runs) {
  std::mt19937_64 random(21);
  DecideSettings settings{"nll", 0.05, margin};
  Rates rates;
  for (int r = 0; r < runs; ++r) {
    const Evaluated e = evaluate(settings, plan, 0.1, truth, random);
    const bool right = e.verdict == (truth > 0 ? "worse" : "better");
    const bool within = std::abs(truth) < margin && e.verdict == "equivalent";
    rates.wrong += (e.verdict != "undecided" && !right && !within) / double(runs);
    rates.decided += (e.verdict != "undecided") / double(runs);
    rates.used += double(e.used) / double(plan.clusters) / runs;
  }
  return rates;
}

}  // namespace

TEST_CASE("looking after every window makes no more wrong decisions than alpha", "[eval]") {
  // Nothing is true but "no difference", and the margin cannot be reached: any decision is wrong.
  const SeriesPlan plan = GENERATE(SeriesPlan{"", 0.3, Tails::normal, 20, 50},
                                   SeriesPlan{"", 0.3, Tails::skewed, 20, 50},
                                   SeriesPlan{"texts differ", 0.3, Tails::normal, 20, 50, 0.2});
  CHECK(simulate(plan, 0, 1e-6, 80).wrong <= 0.05);
}

TEST_CASE("a clear difference is decided early, a small one not at all", "[eval]") {
  const SeriesPlan plan = {"", 0.3, Tails::normal, 24, 100};
  const Rates clear = simulate(plan, 0.05, 0.01, 20);
  CHECK(clear.wrong == 0);
  CHECK(clear.decided == Approx(1));
  CHECK(clear.used < 0.34);
  const Rates none = simulate(plan, 0, 0.02, 20);  // equivalent within two hundredths
  CHECK(none.wrong <= 0.1);                        // two of 20, where 5 % may be
  CHECK(none.decided == Approx(1));
  CHECK(none.used < 0.8);
}

TEST_CASE("answers are decided by prompts, all depths of one together", "[eval]") {
  DecideSettings settings{"answers", 0.05, 0.02};
  Decider decider(settings, true, 400, 4);
  Outcome outcome;
  size_t prompts = 0;
  bool done = false;
  while (!done && prompts < 100) {
    for (int depth = 0; depth < 4; ++depth) {
      outcome.samples.push_back({{"correct", prompts % 3 == 0}, {"correct_reference", true}});
    }
    ++prompts;
    done = decider.decided(outcome);
  }
  CHECK(done);
  CHECK(prompts < 30);
  Json metrics;
  decider.write(metrics);
  CHECK(metrics["decided"]["verdict"] == "worse");
  CHECK(metrics["decided"]["used"] == 4 * prompts);
  CHECK(metrics["decided"]["of"] == 400);
  CHECK(metrics["decided"]["guarantee"] == "exact");
  CHECK(metrics["decided"]["high"].get<double>() < 0);
  CHECK(decided_note(metrics).find("decided early: worse after ") == 0);
  metrics["decided"]["used"] = 400;
  CHECK(decided_note(metrics).empty());
}

TEST_CASE("without the setting or a reference nothing is decided or written", "[eval]") {
  Json metrics = Json::object();
  Decider off({}, true, 10), alone({"nll", 0.05, 0.01}, false, 10);
  CHECK_FALSE(off.decided({}));
  CHECK_FALSE(alone.decided({}));
  off.write(metrics);
  alone.write(metrics);
  CHECK(metrics.empty());
}

TEST_CASE("an evaluation ends where it is decided, and its figures are of what it has", "[eval]") {
  const TempFile file(some_text(4000));
  const Tokenizer bytes = test::byte_tokenizer();
  FakeEngine engine(256, 0.8), reference(256);
  FakeKv kv(KvPolicy{1, 4, 2});
  PerplexitySettings settings;
  settings.text = file.path;
  settings.window = 32;
  Subject subject{engine, &kv, &reference, bytes};
  const Outcome whole = perplexity(subject, settings, {});
  settings.decide = {"kl", 0.05, 0.001};
  const Outcome early = perplexity(subject, settings, {});
  const Json& decided = early.metrics["decided"];
  CHECK(decided["verdict"] == "worse");
  CHECK(decided["of"] == 125);
  CHECK(decided["low"] > 0.001);
  const size_t used = decided["used"].get<size_t>();
  CHECK(used >= 5);
  CHECK(used < 20);
  CHECK(early.metrics["windows"] == used);
  CHECK(early.samples.size() == used);
  CHECK(early.tokens.runs.size() == used);
  CHECK(early.metrics["tokens_scored"] == 31 * used);
  CHECK(early.samples.back()["nll"] == whole.samples[used - 1]["nll"]);
  CHECK_FALSE(whole.metrics.contains("decided"));
  // The baseline itself runs to its end.
  Subject baseline{reference, nullptr, nullptr, bytes};
  CHECK(perplexity(baseline, settings, {}).samples.size() == 125);
}

// By hand: ptq-tests "[full]" prints a table.
TEST_CASE("errors of deciding early, full size", "[.][full]") {
  const SeriesPlan plans[] = {{"20 x 200, memory 0.3", 0.3, Tails::normal, 20, 200},
                              {"40 x 500, memory 0.3", 0.3, Tails::normal, 40, 500},
                              {"40 x 500, memory 0.8", 0.8, Tails::normal, 40, 500},
                              {"40 x 500, t3", 0.3, Tails::heavy, 40, 500},
                              {"40 x 500, lognormal", 0.3, Tails::skewed, 40, 500},
                              {"10 x 200, texts alike 0.05", 0.3, Tails::normal, 10, 200, 0.05},
                              {"40 x 200, texts alike 0.05", 0.3, Tails::normal, 40, 200, 0.05},
                              {"141 x 200, texts alike 0.5", 0.3, Tails::normal, 141, 200, 0.5}};
  for (const SeriesPlan& plan : plans) {
    const Rates null = simulate(plan, 0, 1e-6, 600), margin = simulate(plan, -0.01, 0.01, 300);
    std::printf("%-28s no difference: %.1f %% wrong; at the margin: %.1f %% wrong, %.0f %% used\n",
                plan.name, 100 * null.wrong, 100 * margin.wrong, 100 * margin.used);
    std::fflush(stdout);
    CHECK(null.wrong < 0.06);
    CHECK(margin.wrong < 0.06);
  }
}
