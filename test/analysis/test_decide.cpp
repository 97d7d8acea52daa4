// The first screen: what is said to be used, what is said to be open, and the forms it has.
#include <catch2/catch.hpp>
#include <cmath>
#include <stdexcept>
#include <string>

#include "analysis/decide/sentences.hpp"
#include "analysis/decide/table.hpp"
#include "analysis/figures/decision_figures.hpp"
#include "analysis/page/outline.hpp"
#include "analysis/write/html.hpp"
#include "test/analysis/report_folder.hpp"

namespace {

using namespace ptq;
using namespace ptq::test;
using namespace ptq::report;

// Boards with statistics that are written down, not computed.
struct Fixture {
  std::vector<Cell> cells;
  std::vector<Board> boards;
  std::vector<BoardStatistics> statistics;
  std::vector<Decision> decisions;

  void add(const std::string& model, const std::string& method, double bytes, double kl,
           const std::string& evaluation = "wiki") {
    Record record =
        make(method, evaluation, "perplexity", perplexity(10 * std::exp(kl), kl, 0.9, bytes / 96));
    record.model.name = model;
    record.metrics["weights"] = {{"bytes", 1 << 20}};
    record.metrics["cache"]["tokens"] = 2048;
    record.metrics["tokens_per_second"] = method == "fp16" ? 1000 : 500;
    cells.push_back(to_cell(record));
  }
  void add_passkey(const std::string& model, const std::string& method, int right) {
    Record record = make(method, "passkey", "passkey", passkey(right / 2, right - right / 2));
    record.model.name = model;
    cells.push_back(to_cell(record));
  }
  const Cell* cell(const std::string& model, const std::string& method,
                   const std::string& evaluation = "wiki") const {
    for (const Cell& c : cells)
      if (c.model == model && c.method == method && c.evaluation == evaluation) return &c;
    return nullptr;
  }
  BoardStatistics& of(const std::string& model) {
    for (size_t b = 0; b < boards.size(); ++b)
      if (boards[b].model == model) return statistics[b];
    throw std::logic_error("no model " + model);
  }
  void open() {
    boards = make_boards(cells);
    statistics.resize(boards.size());
  }
  const Decision& decide() {
    decisions = decisions_of(boards, statistics);
    return decisions.at(0);
  }
};

Comparison loss(double delta, double half, Verdict verdict) {
  Comparison c;
  c.n = 4000;
  c.by_tokens = true;
  c.delta = delta;
  c.interval = {delta - half, delta + half};
  c.margin = 0.01;
  c.verdict = verdict;
  return c;
}

Fidelity divergence(double kl, double half) {
  Fidelity f;
  f.kl = {kl, {kl - half, kl + half}};
  f.tokens = 4000;
  return f;
}

// fp16 of 1,536 bytes; big, at 1,000 bytes, costs nothing; small and tied cannot be told apart;
// far is small and bad.
Fixture usual(const std::string& model = "tiny") {
  Fixture f;
  f.add(model, "fp16", 1536, 0);
  f.add(model, "big", 1000, 0.0001);
  f.add(model, "small", 300, 0.03);
  f.add(model, "tied", 320, 0.032);
  f.add(model, "far", 350, 2.5);
  f.add_passkey(model, "fp16", 20);
  f.add_passkey(model, "far", 1);
  f.open();
  BoardStatistics& s = f.of(model);
  s.fidelity[f.cell(model, "big")] = divergence(0.0001, 0.00001);
  s.fidelity[f.cell(model, "small")] = divergence(0.03, 0.002);
  s.fidelity[f.cell(model, "tied")] = divergence(0.032, 0.002);
  s.fidelity[f.cell(model, "far")] = divergence(2.5, 0.1);
  s.comparisons[f.cell(model, "big")] = loss(0.0002, 0.0004, Verdict::equivalent);
  s.comparisons[f.cell(model, "small")] = loss(0.0344, 0.01, Verdict::worse);
  s.comparisons[f.cell(model, "tied")] = loss(0.0340, 0.01, Verdict::worse);
  s.comparisons[f.cell(model, "far")] = loss(2.5, 0.1, Verdict::worse);
  Comparison answers;
  answers.answers = true;
  answers.n = 20;
  answers.delta = -0.95;
  answers.interval = {-1, -0.8};
  answers.counts = {20, 0, 19};
  answers.verdict = Verdict::worse;
  s.comparisons[f.cell(model, "far", "passkey")] = answers;
  s.pairs[{f.cell(model, "small"), f.cell(model, "tied")}] = loss(0.0004, 0.002, Verdict::too_few);
  s.pairs[{f.cell(model, "tied"), f.cell(model, "small")}] = loss(-0.0004, 0.002, Verdict::too_few);
  return f;
}

}  // namespace

TEST_CASE("a sentence says what to use, what ties, what is free and who loses answers",
          "[decide]") {
  Fixture f = usual();
  const Standings& standings = f.decide().models[0];
  CHECK(verdict_sentence(standings, Language::en) ==
        "tiny: at ≤ 384 B/token (a quarter of full precision) small does least damage: KL 0.03 "
        "[0.028, 0.032], perplexity +3.5 % [+2.5, +4.5]; not separable from tied. Smallest within "
        "the margin: big (1,000 B/token; " +
            verdict_text(f.statistics[0].comparisons[f.cell("tiny", "big")]) +
            "). Answers are lost by far: passkey 1/20 (fp16 20/20).");
  CHECK(has(verdict_sentence(standings, Language::zh), "small 损伤最小：KL 0.03"));

  // Nothing that small was measured: half of the bytes, then all.
  Fixture g;
  g.add("tiny", "fp16", 1536, 0);
  g.add("tiny", "a", 700, 0.1);
  g.add("tiny", "b", 1000, 0.05);
  g.open();
  CHECK(has(verdict_sentence(g.decide().models[0], Language::en),
            "at ≤ 768 B/token (half of full precision) a does least damage: KL 0.1."));
  g.cells.erase(g.cells.begin() + 1);
  g.statistics.clear();
  g.open();
  CHECK(has(verdict_sentence(g.decide().models[0], Language::en),
            "tiny: b does least damage: KL 0.05."));
}

TEST_CASE("methods share a rank unless intervals or the paired comparison part them", "[decide]") {
  Fixture f = usual();
  const Standings& standings = f.decide().models[0];
  REQUIRE(standings.methods.size() == 4);
  CHECK(standings.methods[0].row->method == "big");
  CHECK(standings.of("big")->rank == 1);
  CHECK(standings.of("small")->rank == 2);
  CHECK(standings.of("tied")->rank == 2);
  CHECK(standings.of("far")->rank == 4);
  // The pair was compared on the same tokens and is apart: so are the ranks.
  f.statistics[0].pairs[{f.cell("tiny", "small"), f.cell("tiny", "tied")}].verdict =
      Verdict::better;
  CHECK(f.decide().models[0].of("tied")->rank == 3);
}

TEST_CASE("the front holds what nothing smaller beats", "[decide]") {
  Fixture f = usual();
  const Standings& standings = f.decide().models[0];
  CHECK(standings.of("small")->front);
  CHECK(standings.of("big")->front);
  CHECK_FALSE(standings.of("tied")->front);
  CHECK_FALSE(standings.of("far")->front);
  CHECK(*standings.full_bytes == 1536);
}

TEST_CASE("what is not decided is said, with what would do", "[decide]") {
  Fixture f = usual();
  CHECK(not_concluded(f.decide(), Language::en).empty());
  Comparison open = loss(0.004, 0.02, Verdict::too_few);
  open.mde = 0.03;
  open.needed = 36000;
  f.statistics[0].comparisons[f.cell("tiny", "tied")] = open;
  const auto lines = not_concluded(f.decide(), Language::en);
  REQUIRE(lines.size() == 1);
  CHECK(lines[0] ==
        "wiki (4,000 tokens): of 4 comparisons with fp16, 1 undecided (tied); a difference below 3 "
        "% is not seen; about 36,000 tokens would decide");
  CHECK(has(not_concluded(f.decide(), Language::zh).at(0), "约需 36,000 个词元"));

  f.statistics[0].fidelity[f.cell("tiny", "far")].ppl_unreliable = true;
  CHECK(has(not_concluded(f.decide(), Language::en).back(),
            "perplexity is unreliable where it falls although KL rises: far, wiki (tiny)"));
}

TEST_CASE("a method that depends on the model is flagged", "[decide]") {
  Fixture f;
  for (const char* model : {"one", "two"}) {
    f.add(model, "fp16", 1536, 0);
    f.add(model, "steady", 400, std::string(model) == "one" ? 0.02 : 0.03);
    f.add(model, "moody", 300, std::string(model) == "one" ? 0.01 : 0.4);
  }
  f.open();
  const Decision& decision = f.decide();
  CHECK(family_ratio(decision, "steady")->ratio == Approx(1.5));
  CHECK(family_ratio(decision, "moody")->ratio == Approx(40));
  CHECK(family_sentence(decision, Language::en) ==
        "Depends on the model, damage of the worst over the best: moody 40x (two against one).");
  const Table table = decision_table(decision, Language::en);
  CHECK(has(table.rows.back()[4] + table.rows[1][4] + table.rows[2][4], "40.0x !"));

  // What is below the noise floor is not told from it.
  f.of("one").fidelity[f.cell("one", "moody")] = divergence(0.0001, 0.00001);
  for (Cell& cell : f.cells)
    if (cell.model == "one" && cell.method == "fp16") cell.metrics["noise_floor"]["kl_mean"] = 0.01;
  CHECK(family_ratio(f.decide(), "moody")->ratio == Approx(40));
  CHECK(has(decision_table(f.decide(), Language::en).rows[1][2], "below floor"));
  CHECK_FALSE(family_ratio(f.decide(), "nobody"));
}

TEST_CASE("the table has intervals, ranks and verdicts, and any row can be the reference",
          "[decide]") {
  Fixture f = usual();
  const Table table = decision_table(f.decide(), Language::en);
  CHECK(table.head == std::vector<std::string>{"Method", "KV B/token", "tiny\nKL, wiki", "Speed",
                                               "Weights +\ncache, MiB"});
  CHECK(table.rows[0] ==
        std::vector<std::string>{"fp16 (baseline)", "1,536", "PPL 10.000", "1,000 tok/s", "4.00"});
  CHECK(table.rows[2] == std::vector<std::string>{
                             "small", "300", "◆ 0.03 [0.028, 0.032] #2\n+3.5 % [+2.5, +4.5] worse",
                             "0.50x", "1.59"});
  const Table other = decision_table(f.decide(), Language::en, "tied");
  CHECK(has(other.rows[2][2], "\n+0.04 % [-0.16, +0.24] too few samples"));
  CHECK(other.rows[3][2] == "0.032 [0.03, 0.034] #2");  // the reference itself
  CHECK(has(decision_table(f.decide(), Language::zh).rows[2][2], "更差"));
}

TEST_CASE("the chart is logarithmic in both and says what it shows", "[decide]") {
  Fixture f = usual();
  f.cells[0].metrics["noise_floor"]["kl_mean"] = 0.001;
  const Decision& decision = f.decide();
  const auto figures = decision_figures(decision, SeriesStyles(f.boards), Language::en);
  REQUIRE(figures.size() == 1);
  CHECK(has(figures[0].script, "set logscale x"));
  CHECK(has(figures[0].script, "set logscale y"));
  CHECK(has(figures[0].script, "noise floor"));
  CHECK(has(figures[0].script, "300 0.03 0.028 0.032"));  // a point with its interval
  CHECK(figures[0].seen ==
        "tiny, damage against bytes. On the Pareto front: big (1,000 B/token, 0.0001 [9e-05, "
        "0.00011]), small (300 B/token, 0.03 [0.028, 0.032]). Most damage: far (2.5 [2.4, 2.6]). "
        "Below the noise floor: big.");
}

TEST_CASE("without divergence the perplexity decides, without both the answers", "[decide]") {
  const ResultsFolder folder;
  const auto add = [&](const char* method, double ppl) {
    Json metrics = perplexity(ppl, 0, 0.9, method[0] == 'f' ? 16 : 3);
    metrics.erase("kl_mean");
    folder.add(make(method, "wiki", "perplexity", metrics));
  };
  add("fp16", 10);
  add("kivi", 11);
  CHECK(
      has(folder.render(Format::terminal),
          "tiny: at ≤ 384 B/token (a quarter of full precision) kivi does least damage: +10.0 %."));
  const ResultsFolder answers;
  answers.add(make("fp16", "passkey", "passkey", passkey(10, 10)));
  answers.add(make("kivi", "passkey", "passkey", passkey(9, 9)));
  CHECK(has(answers.render(Format::terminal),
            "tiny: at ≤ 384 B/token (a quarter of full precision) kivi does least damage: -10.0 "
            "points."));
}

TEST_CASE("the page of the first screen can be read by everybody", "[decide]") {
  Fixture f = usual();
  TablePart part{decision_table(f.decide(), Language::en), "decision-0"};
  part.says = "damage <of> all";
  part.against.emplace_back("tied", decision_table(f.decide(), Language::en, "tied"));
  Document document;
  document.add(Fold{Heading{2, "Folded", "there"}});
  document.add(std::move(part));
  document.add(Picture{"p", "title", "", "<svg></svg>", "what is seen"});
  document.add(FoldEnd{});
  const std::string page = to_html(document);
  CHECK(has(page, "<details><summary><h2 id=\"there\">Folded</h2>"));
  CHECK(has(page, "</details>"));
  CHECK(has(page, "tabindex=\"0\" role=\"region\" aria-label=\"damage &lt;of&gt; all\""));
  CHECK(has(page, "<select data-table=\"decision-0\" data-against=\"[[[&quot;"));
  CHECK(has(page, "&quot;]]]\"><option>tied</option>"));
  CHECK(has(page, "alt=\"what is seen\""));
  CHECK(has(page, "data-v=\"0.03\">◆ 0.03 [0.028, 0.032] #2<br><small>+3.5 % [+2.5, +4.5] worse"));
  // Elsewhere a fold is a heading, and a cell one line.
  const std::string text = to_terminal(document, {});
  CHECK(text.starts_with("Folded\n"));
  CHECK(has(text, "#2; +3.5 % [+2.5, +4.5] worse"));
  CHECK(has(to_markdown(document), "![what is seen](plots/p.svg)\n"));
}
