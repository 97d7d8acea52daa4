// Samples and paired comparisons, the command that computes a cell again, and figures.
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "analysis/compare/compare.hpp"
#include "analysis/figures/figures.hpp"
#include "analysis/read/reproduce.hpp"

namespace {

namespace fs = std::filesystem;
using namespace ptq;
using namespace ptq::report;

// A file that is gone afterwards.
struct SampleFile {
  fs::path path = fs::temp_directory_path() /
                  ("ptq-test-samples-" + std::to_string(std::hash<const void*>{}(this)));
  explicit SampleFile(const std::string& text) { std::ofstream(path) << text; }
  ~SampleFile() { fs::remove(path); }
  Samples read() const { return read_samples(path); }
};

}  // namespace

TEST_CASE("samples are paired by what they are, not by their line", "[compare]") {
  const SampleFile a(R"({"key": 1, "depth": 0.1, "correct": true, "answer": "x"}
{"key": 2, "depth": 0.1, "correct": false}
{"key": 3, "depth": 0.1, "correct": false}
{"key": 4, "depth": 0.1, "correct": true}
)");
  const SampleFile b(R"({"key": 3, "depth": 0.1, "correct": true, "seconds": 1}
{"key": 1, "depth": 0.1, "correct": true}
{"key": 2, "depth": 0.1, "correct": true}
{"key": 9, "depth": 0.1, "correct": true}
)");
  const Comparison c = compare(a.read(), b.read(), true);
  CHECK(c.n == 3);
  CHECK(c.unpaired == 2);
  CHECK(c.counts.lost == 2);
  CHECK(c.counts.gained == 0);
  CHECK(c.delta == Approx(-2.0 / 3));
  CHECK(c.p.exact == Approx(0.5));
}

TEST_CASE("a damaged line costs itself only; unknown figures are left out", "[compare]") {
  const SampleFile file(
      "{\"window\": 0, \"nll\": 1.0, \"nll_reference\": 0.5}\n"
      "{\"window\": 1, \"nll\": \n"
      "\n"
      "{\"window\": 2, \"nll\": null, \"nll_reference\": 0.5}\n"
      "{\"window\": 3, \"nll\": 1.25, \"nll_reference\": 0.5}\n");
  const Samples samples = file.read();
  CHECK(samples.size() == 3);
  CHECK(samples.problem == "1 damaged lines in samples.jsonl, the first is line 2");
  const Comparison c = compare_in_lock_step(samples, false);
  CHECK(c.n == 2);
  CHECK(c.delta == Approx(0.625));
  CHECK(read_samples("/nonexistent").size() == 0);
  CHECK(compare(samples, Samples{}, false).n == 0);
}

TEST_CASE("harness samples: acc as numbers, strata by subject", "[compare]") {
  const SampleFile a(R"({"doc_id": 0, "subject": "s", "acc": 1.0, "acc_norm": 0.0}
{"doc_id": 1, "subject": "t", "acc": 0.0, "acc_norm": 0.0}
)");
  const Samples samples = a.read();
  CHECK(samples.correct == std::vector<int8_t>{1, 0});
  REQUIRE(samples.stratum.size() == 2);
  CHECK(samples.stratum[0] != samples.stratum[1]);
}

TEST_CASE("the command that computes a cell again is a small experiment", "[compare]") {
  Cell cell;
  cell.experiment = "e";
  cell.track = "C";
  cell.model_path = "models/tiny";
  cell.method = "kivi \"2\"";
  cell.evaluation = cell.kind = "passkey";
  cell.settings = {{"keys", 5}, {"depths", {0.1, 0.5}}, {"data_sha256", "x"}};
  cell.metrics = Json::object();
  cell.environment = {{"compute", "bf16"}};
  cell.parts.push_back({"kivi.so", "00", "kivi", "1", {{"bits", 2}, {"note", nullptr}}});
  CHECK(reproduce_command(cell) == R"(cat > cell.toml <<'EOF'
name = "e"
track = "C"
seed = 0
models = ["models/tiny"]

[model]
compute = "bf16"

[[methods]]
label = "kivi \"2\""
method = "kivi"
options = { "bits" = 2 }

[[evaluations]]
kind = "passkey"
name = "passkey"
keys = 5
depths = [0.1, 0.5]
EOF
ptq-host cell.toml --out results/again
)");
}

TEST_CASE("figures take what records hold and leave out what they do not", "[compare]") {
  std::vector<Cell> cells(2);
  for (size_t i = 0; i < cells.size(); ++i) {
    Cell& cell = cells[i];
    cell.model = "m";
    cell.method = i ? "it's `id`" : "fp16";
    cell.lossless = i == 0;
    cell.evaluation = "long";
    cell.kind = "cached-decode";
    cell.status = "ok";
    cell.metrics = {
        {"ppl", 5.0 + double(i)},
        {"cache", {{"bytes_per_token", i ? 300 : 2048}}},
        {"lengths", {{{"length", 512}, {"ppl", 5}, {"new", "x"}}, {{"length", 4096}, {"ppl", 6}}}},
        {"cells",
         {{{"length", 512}, {"depth", 0.0}, {"correct", 1}, {"total", 2}},
          {{"length", 512}, {"depth", 1.0}, {"correct", 2}, {"total", 2}},
          {{"length", 512}, {"depth", nullptr}, {"correct", 2}, {"total", 2}}}},
        {"layers",
         {{{"layer", 0}, {"error_keys", 0.1}}, "odd", {{"layer", 1}, {"error_keys", 0.2}}}}};
    cell.headline = frozen_headline(cell.kind, cell.evaluation, cell.metrics);
  }
  const std::vector<Board> boards = make_boards(cells);
  std::string names, scripts;
  for (const Figure& figure : figures_of(boards[0], "p", SeriesStyles(boards))) {
    names += figure.name + " ";
    scripts += figure.script;
  }
  CHECK(names == "p-pareto-cache-long p-length-long p-depth-long p-layers ");
  CHECK(scripts.find("'it''s `id`'") != scripts.npos);  // nothing of it runs
  CHECK(scripts.find("0 0 0.5 1/2 0x000000") != scripts.npos);
  cells[0].metrics = cells[1].metrics = Json::object();
  CHECK(figures_of(make_boards(cells)[0], "p", SeriesStyles(boards)).empty());
}
