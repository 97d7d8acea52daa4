// The study's runs as cells, so that the report, its plots and its comparisons serve them too.
#include <fmt/format.h>

#include <algorithm>

#include "analysis/study/audit.hpp"
#include "analysis/study/leaderboard.hpp"

namespace ptq::report {
namespace {

constexpr const char* kNotRead =
    "cache not read: one fresh pass per window or question says nothing about a cache method";

class Cells {
 public:
  Cells(const Layout& layout, const StudyBoard& board) : layout_(layout), board_(board) {}

  std::vector<Cell> make() {
    for (const BoardRow& row : board_.rows) {
      if (!row.empty()) add_row(row);
    }
    return std::move(cells_);
  }

 private:
  // What all cells of a run have in common.
  Cell base(const BoardRow& row, const Run& run, const std::string& evaluation,
            const std::string& kind) const {
    Cell cell;
    cell.experiment = "study, track " + board_.layout->track;
    cell.track = board_.layout->track;
    cell.model = board_.layout->model;
    cell.method = row.method;
    cell.lossless = row.method == "fp16";
    cell.evaluation = evaluation;
    cell.kind = kind;
    cell.status = "ok";
    cell.metrics = Json::object();
    cell.settings = Json::object();
    cell.source = run.file;
    cell.id = run.id;
    cell.model_path = run.text("config/model/model_id");
    // A ready-made checkpoint of other base weights.
    const std::string ready = run.text("config/model/pretrained_quant_models/" + row.method);
    cell.fingerprint = ready.empty() ? cell.model_path : ready;
    cell.started = run.text("meta/timestamp");
    cell.code.git = run.text("env/git/commit_hash").substr(0, 12);
    if (run.at("env/git/is_dirty") == Json(true)) {
      cell.warnings.push_back("dirty tree: uncommitted changes at commit " + cell.code.git);
    }
    const Json& warnings = run.at("warnings");
    if (warnings.is_array()) {
      for (const Json& warning : warnings) {
        if (warning.is_string()) cell.warnings.push_back(one_line(warning.get<std::string>()));
      }
    }
    for (const char* key : {"weight", "activation", "kv"}) {
      const Json& options = run.at("config/" + std::string(key));
      if (options.is_object()) cell.parts.push_back({"", "", row.method, key, options});
    }
    cell.encodes_weights = run.at("config/weight").is_object();
    if (const auto seed = run.number("config/common_hyperparams/seed")) cell.seed = uint64_t(*seed);
    cell.environment = {{"command", run.text("meta/cli_args")},
                        {"gpu", environment_value(run, "gpu")},
                        {"torch", environment_value(run, "torch")},
                        {"transformers", environment_value(run, "transformers")}};
    for (const Run* other : row.runs()) {
      if (row.runs().size() > 1) cell.joined.push_back(other->id);
    }
    return cell;
  }

  void add_row(const BoardRow& row) {
    const bool cache = board_.layout->track == "C";
    for (const auto& column : board_.layout->ppl) {
      const std::string path = "results/ppl/" + column.key + "/";
      Cell cell = base(row, *row.ppl, column.head, "perplexity");
      if (const auto ppl = row.ppl->number(path + "ppl")) {
        cell.metrics["ppl"] = *ppl;
        cell.metrics["nll"] = row.ppl->at(path + "nll");
        cell.metrics["windows"] = row.ppl->at(path + "num_windows");
        cell.metrics["protocol"] = "half_overlap";
        cell.metrics["regime"] = "independent";
        if (cache && !cell.lossless) cell.warnings.push_back(kNotRead);
      } else {
        cell.status = "failed";
        cell.error = "no perplexity in the run";
      }
      add(std::move(cell), *row.ppl);
    }
    if (row.tasks) {
      const Json& tasks = row.tasks->at("results/lm_eval");
      for (const auto& [task, metrics] : tasks.items()) {
        if (!metrics.is_object() || task.starts_with("_") || task.starts_with("mmlu_")) continue;
        Cell cell = base(row, *row.tasks, task, "choices");
        for (const auto& [key, value] : metrics.items()) {
          if (value.is_number()) cell.metrics[key] = value;
        }
        cell.metrics["regime"] = "independent";
        if (cache && !cell.lossless) cell.warnings.push_back(kNotRead);
        add(std::move(cell), *row.tasks);
      }
    }
    if (row.passkey) add_passkey(row);
    if (row.generation) add_generation(row);
  }

  void add_passkey(const BoardRow& row) {
    const std::string base_path = "results/kv_stress_test/passkey_retrieval/";
    const Run& run = *row.passkey;
    Cell cell = base(row, run, "passkey", "passkey");
    cell.metrics["accuracy"] = run.at(base_path + "accuracy");
    cell.metrics["correct"] = run.at(base_path + "total_correct");
    cell.metrics["total"] = run.at(base_path + "total_tests");
    cell.metrics["context_length"] = run.at(base_path + "context_length");
    const auto keys = run.number(base_path + "num_keys");
    const Json& depths = run.at(base_path + "depth_accuracy");
    if (keys && depths.is_object()) {
      for (const auto& [depth, share] : depths.items()) {
        cell.depths.push_back(
            {std::stod(depth), std::llround(share.get<double>() * *keys), int64_t(*keys)});
      }
    }
    if (!cell.lossless && board_.layout->track == "C") {
      cell.warnings.push_back(
          "exposure unknown: the study did not record whether its cache was read");
    }
    add(std::move(cell), run);
  }

  void add_generation(const BoardRow& row) {
    const Run& run = *row.generation;
    Cell cell = base(row, run, "generation", "generation");
    const std::vector<double> ppls = generation_ppls(run);
    double logs = 0;
    for (const double ppl : ppls) logs += std::log(ppl);
    cell.metrics["mean_ppl"] = run.at("results/kv_stress_test/generation_ppl/gen_ppl");
    if (!ppls.empty()) cell.metrics["ppl_pooled"] = std::exp(logs / double(ppls.size()));
    cell.metrics["samples"] = ppls.size();
    cell.metrics["sample_ppl"] = ppls;
    if (!cell.lossless && board_.layout->track == "C") cell.warnings.push_back(kNotRead);
    add(std::move(cell), run);
  }

  void add(Cell cell, const Run& run) {
    if (const auto peak = run.number("results/system_metrics/vram_peak_mb")) {
      cell.metrics["vram_peak_mib"] = *peak;
    }
    cell.headline = frozen_headline(cell.kind, cell.evaluation, cell.metrics);
    cell.seconds = 0;
    cells_.push_back(std::move(cell));
  }

  const Layout& layout_;
  const StudyBoard& board_;
  std::vector<Cell> cells_;
};

}  // namespace

void add_study_cells(const std::filesystem::path& folder, Results& results) {
  bool any = false;
  std::error_code error;  // the reader of the records has named it
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    any = any || (entry.path().extension() == ".json" && name.find("__") != name.npos);
  }
  if (!any) return;
  const std::vector<Run> runs = read_study_runs(folder, &results.damaged);
  if (runs.empty()) return;
  const Layout layout = choose_layout(runs, {});
  for (const StudyBoard& board : join(layout, runs)) {
    for (Cell& cell : Cells(layout, board).make()) results.cells.push_back(std::move(cell));
  }
  Json later;
  try {
    later = read_later_results(folder);
  } catch (const Error& problem) {
    results.damaged.push_back({"passkey_gradient_results.json", one_line(problem.what())});
  }
  for (const Finding& finding : audit(layout, runs, later)) {
    results.notes.push_back(finding.line());
  }
}

}  // namespace ptq::report
