#include "analysis/study/audit.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "analysis/study/leaderboard.hpp"
#include "analysis/write/numbers.hpp"
#include "ptq/core/binomial.hpp"

namespace ptq::report {
namespace {

bool is_fp16(const Run& run) { return run.method() == "fp16"; }

// All figures of quality: perplexities and tasks.
Json quality(const Run& run) {
  return {{"ppl", run.at("results/ppl")}, {"lm_eval", run.at("results/lm_eval")}};
}

class Audit {
 public:
  Audit(const Layout& layout, const std::vector<Run>& runs, const Json& later)
      : layout_(layout), runs_(runs), boards_(join(layout, runs)), later_(later) {}

  std::vector<Finding> find() {
    for (const Run& run : runs_) single(run);
    unchanged();
    for (const StudyBoard& board : boards_) {
      headings(board);
      joined(board);
      models(board);
      memory(board);
      caches(board);
    }
    across();
    withdrawn();
    std::stable_sort(findings_.begin(), findings_.end(),
                     [](const Finding& a, const Finding& b) { return a.number < b.number; });
    return merged();
  }

 private:
  // The same sentence about several runs is one finding.
  std::vector<Finding> merged() const {
    std::vector<Finding> out;
    std::vector<int> counts;
    for (const Finding& finding : findings_) {
      const auto same = std::find_if(out.begin(), out.end(), [&](const Finding& other) {
        return other.number == finding.number && other.text == finding.text;
      });
      if (same == out.end()) {
        out.push_back(finding);
        counts.push_back(1);
      } else {
        ++counts[size_t(same - out.begin())];
      }
    }
    for (size_t i = 0; i < out.size(); ++i) {
      if (counts[i] > 1)
        out[i].subject = fmt::format("{} and {} more", out[i].subject, counts[i] - 1);
    }
    return out;
  }

  void add(int number, const std::string& subject, const std::string& text) {
    findings_.push_back({number, subject, text});
  }

  // What one run says about itself.
  void single(const Run& run) {
    const Json &ppl = run.at("results/ppl"), &tasks = run.at("results/lm_eval");
    const size_t sets = ppl.is_object() ? ppl.size() : 0;
    const size_t evaluated = tasks.is_object() && !tasks.contains("error") ? tasks.size() : 0;
    if (sets + evaluated > 0 && run.at("config/eval").is_object() &&
        run.at("config/eval/core_quality").is_null()) {
      add(1, run.id,
          "the page leaves the evaluated sets empty, although perplexities or tasks were measured: "
          "its key `core_quality` is missing from the configuration");
    }
    if (evaluated > 0) {
      size_t entries = 0, subjects = 0;
      for (const auto& [task, metrics] : tasks.items()) {
        if (task.starts_with("_") || !metrics.is_object() || !metrics.contains("acc,none"))
          continue;
        ++entries;
        subjects += task.starts_with("mmlu");
      }
      if (subjects > 1) {
        const TaskAverage each = average_of_tasks(run);
        add(3, run.id,
            fmt::format("the average {:.4f} is over {} entries and counts MMLU {} times (group, "
                        "fields and subjects); one primary metric per task gives {:.4f} over {}",
                        run.average_accuracy().value_or(NAN), entries, subjects, each.mean,
                        each.tasks));
      }
    }
    if (run.at("env/git/is_dirty") == Json(true)) {
      add(4, run.id,
          "uncommitted changes at commit " + run.text("env/git/commit_hash").substr(0, 8) +
              ": the run cannot be reproduced from its commit");
    }
    const std::string planned = run.text("config/env/transformers"),
                      used = environment_value(run, "transformers");
    if (!planned.empty() && !used.empty() && !used.starts_with(planned)) {
      add(12, run.id, "the configuration says transformers " + planned + ", the run used " + used);
    }
    const auto length = run.number(std::string(kPasskey) + "context_length");
    const Json& details = run.at(std::string(kPasskey) + "details");
    if (length && details.is_array() && !details.empty()) {
      double low = HUGE_VAL, high = 0;
      for (const Json& detail : details) {
        const double tokens = detail.value("context_tokens", *length);
        low = std::min(low, tokens);
        high = std::max(high, tokens);
      }
      const auto correct = run.number(std::string(kPasskey) + "total_correct"),
                 total = run.number(std::string(kPasskey) + "total_tests");
      if (high < *length && correct && total) {
        const auto [from, to] = clopper_pearson95(int64_t(*correct), int64_t(*total));
        add(19, run.id,
            fmt::format("passkey context_length {:.0f} was {:.0f} to {:.0f} tokens; {:.0f}/{:.0f} "
                        "means {:.1f} to {:.1f} % (95 %)",
                        *length, low, high, *correct, *total, 100 * from, 100 * to));
      }
    }
    generation(run);
    method(run);
  }

  void generation(const Run& run) {
    const std::vector<double> ppls = generation_ppls(run);
    if (ppls.size() < 2) return;
    double sum = 0, largest = 0, logs = 0;
    for (const double ppl : ppls) {
      sum += ppl;
      largest = std::max(largest, ppl);
      logs += std::log(ppl);
    }
    if (largest > 1.5 * sum / double(ppls.size())) {
      add(20, run.id,
          fmt::format(
              "the mean generation perplexity {:.2f} is carried by one sample ({:.2f}, {:.0f} "
              "% of the sum); over all tokens it is {:.2f}",
              sum / double(ppls.size()), largest, 100 * largest / sum,
              std::exp(logs / double(ppls.size()))));
    }
  }

  void method(const Run& run) {
    const Json& kv = run.at("config/kv");
    if (!kv.is_object()) return;
    if (run.at("config/calibration/required") == Json(false) && kv.contains("num_outliers") &&
        !kv.contains("nuq")) {
      add(21, run.id,
          "`" + run.method() +
              "` here is uncalibrated min/max codes with outliers, not the published method "
              "(non-uniform levels, keys before RoPE, calibration)");
    }
    const auto chunk = run.number("config/kv/chunk_size"), rank = run.number("config/kv/max_rank");
    // 16 r (c + d + 1) / (c d) bits per value reach 16 before r = c for every d.
    if (chunk && rank && *rank >= *chunk) {
      const double d = 128;  // of both models
      add(22, run.id,
          fmt::format("max_rank {:.0f} in chunks of {:.0f} rows: above rank {:.0f} (head size 128) "
                      "the factors are larger than FP16",
                      *rank, *chunk, std::floor(*chunk * d / (*chunk + d + 1))));
    }
  }

  // Runs of a method whose every figure equals a full-precision run of the same model.
  void unchanged() {
    for (const Run& run : runs_) {
      if (is_fp16(run)) continue;
      for (const Run& reference : runs_) {
        if (!is_fp16(reference) || reference.model() != run.model()) continue;
        const Json& tasks = run.at("results/lm_eval");
        const bool no_tasks = !tasks.is_object() || tasks.contains("error");
        const Json mine = no_tasks ? run.at("results/ppl") : quality(run);
        const Json theirs = no_tasks ? reference.at("results/ppl") : quality(reference);
        if (mine != theirs && !(subset_equal(run, reference))) continue;
        const bool weights = run.track() == "A";
        add(weights ? 14 : 2, run.id,
            fmt::format(
                "every figure equals that of FP16 in all digits: {}",
                weights ? "the run fell back to full precision" : "the method was not exercised"));
        break;
      }
    }
  }

  // Equal in every perplexity and task entry that both have, and at least one of each kind.
  static bool subset_equal(const Run& a, const Run& b) {
    size_t shared = 0;
    for (const char* part : {"results/ppl", "results/lm_eval"}) {
      const Json &x = a.at(part), &y = b.at(part);
      if (!x.is_object() || !y.is_object()) continue;
      for (const auto& [key, value] : x.items()) {
        if (key.starts_with("_") || !value.is_object() || !y.contains(key)) continue;
        if (value != y[key]) return false;
        ++shared;
      }
    }
    return shared > 1;
  }

  void headings(const StudyBoard& board) {
    const BoardRow* baseline = board.baseline();
    std::set<std::string> in_table;
    bool wrong = false;
    for (const Layout::Task& task : board.layout->tasks) {
      in_table.insert(task.task);
      if (task.head == task.metric || task.head.empty()) continue;
      std::string values, losses;
      for (const BoardRow& row : board.rows) {
        if (row.empty() || !row.tasks) continue;
        const auto shown = row.tasks->accuracy(task.task, task.metric),
                   meant = row.tasks->accuracy(task.task, task.head);
        if (!shown || !meant) continue;
        wrong = true;
        values += fmt::format("{}{} {:.4f} for {:.4f}", values.empty() ? "" : ", ",
                              layout_.name(row.method), *shown, *meant);
        if (&row == baseline || !baseline || !baseline->tasks) continue;
        const auto base_shown = baseline->tasks->accuracy(task.task, task.metric),
                   base_meant = baseline->tasks->accuracy(task.task, task.head);
        if (!base_shown || !base_meant) continue;
        losses += fmt::format("{}{} {:+.2f} is {:+.2f}", losses.empty() ? "" : ", ",
                              layout_.name(row.method), 100 * (*shown - *base_shown),
                              100 * (*meant - *base_meant));
      }
      if (values.empty()) continue;
      add(task.task == "hellaswag" ? 5 : 6, task.name,
          fmt::format("the column is headed {} and holds {}: {}", task.head, task.metric, values));
      if (!losses.empty()) {
        add(7, task.name, "so its differences are wrong in " + task.head + ": " + losses);
      }
    }
    if (board.layout->track == "A" && baseline && wrong) {
      add(8, board.layout->title, "differences with % are percentage points");
    }
    largest_losses(board);
    omitted(board, in_table);
  }

  void largest_losses(const StudyBoard& board) {
    const BoardRow* baseline = board.baseline();
    if (!baseline || !baseline->tasks || board.layout->tasks.size() < 3) return;
    for (const BoardRow& row : board.rows) {
      if (row.empty() || !row.tasks || &row == baseline) continue;
      std::vector<std::pair<double, std::string>> losses;
      for (const Layout::Task& task : board.layout->tasks) {
        const auto a = row.tasks->accuracy(task.task, task.metric),
                   b = baseline->tasks->accuracy(task.task, task.metric);
        if (a && b) losses.push_back({100 * (*a - *b), task.name});
      }
      std::sort(losses.begin(), losses.end());
      std::string order;
      for (const auto& [loss, name] : losses) {
        order += fmt::format("{}{} {:+.2f}", order.empty() ? "" : ", ", name, loss);
      }
      add(9, layout_.name(row.method), "losses in points, largest first: " + order);
    }
  }

  void omitted(const StudyBoard& board, const std::set<std::string>& in_table) {
    if (in_table.empty()) return;
    std::set<std::string> missing;
    std::string values;
    for (const BoardRow& row : board.rows) {
      if (row.empty() || !row.tasks) continue;
      const Json& tasks = row.tasks->at("results/lm_eval");
      for (const auto& [task, metrics] : tasks.items()) {
        if (task.starts_with("_") || task.starts_with("mmlu_") || in_table.contains(task)) continue;
        if (!metrics.is_object()) continue;
        missing.insert(task);
        for (const auto& [metric, value] : metrics.items()) {
          if (!value.is_number() || metric.find("stderr") != metric.npos) continue;
          values += fmt::format("{}{} {} {:.4f}", values.empty() ? "" : ", ",
                                layout_.name(row.method), metric, value.get<double>());
        }
      }
    }
    if (missing.empty()) return;
    add(11, board.layout->title,
        fmt::format("evaluated and not in the table: {} ({})", fmt::join(missing, ", "), values));
  }

  void joined(const StudyBoard& board) {
    const BoardRow* baseline = board.baseline();
    for (const BoardRow& row : board.rows) {
      const std::vector<const Run*> runs = row.runs();
      if (runs.size() > 1) {
        std::string ids;
        for (const Run* run : runs) ids += (ids.empty() ? "" : ", ") + run->id;
        add(15, board.layout->title + ": " + layout_.name(row.method),
            "the row joins several runs: " + ids);
      }
      if (!baseline || row.empty() || &row == baseline || !row.tasks || !baseline->tasks) continue;
      const auto a = row.tasks->average_accuracy(), b = baseline->tasks->average_accuracy();
      const bool same_ppl = row.ppl->at("results/ppl") == baseline->ppl->at("results/ppl");
      if (a && b && *a != *b && same_ppl) {
        const auto other = row.tasks->number("results/ppl/wikitext2/ppl");
        add(15, board.layout->title + ": " + layout_.name(row.method),
            fmt::format(
                "average {:.4f} against {:.4f} of FP16 beside equal perplexities; the run of "
                "the accuracies has perplexity {:.4f}",
                *a, *b, other.value_or(NAN)));
      }
    }
  }

  // One base model per table: a pre-quantized checkpoint of another model is not a quantization of
  // the baseline.
  void models(const StudyBoard& board) {
    for (const BoardRow& row : board.rows) {
      if (row.empty()) continue;
      const std::string base = row.ppl->text("config/model/model_id");
      const std::string ready = row.ppl->text("config/model/pretrained_quant_models/" + row.method);
      if (board.layout->track == "A" && ready.find("Instruct") != ready.npos &&
          base.find("Instruct") == base.npos) {
        add(10, layout_.name(row.method),
            "the row is " + ready + " and the baseline " + base +
                ": other base weights, its differences are no effect of quantization");
      }
    }
    const BoardRow* baseline = board.baseline();
    if (!baseline) return;
    for (const Layout::Environment& item : layout_.environment) {
      const auto stated = item.stated.find(board.layout->track);
      if (stated == item.stated.end()) continue;
      const std::string used = environment_value(*baseline->ppl, item.path);
      if (used != stated->second) {
        add(12, board.layout->title,
            fmt::format("the document states {} {}, its runs recorded {}", item.name,
                        stated->second, used.empty() ? "none" : used));
      }
    }
  }

  void memory(const StudyBoard& board) {
    const BoardRow* baseline = board.baseline();
    if (!baseline || !baseline->vram || board.layout->track != "A") return;
    const auto base = baseline->vram->number("results/system_metrics/vram_peak_mb");
    for (const BoardRow& row : board.rows) {
      if (!row.vram || !base || &row == baseline) continue;
      const auto peak = row.vram->number("results/system_metrics/vram_peak_mb");
      const auto bits = row.ppl->number("config/weight/w_bits");
      if (peak && bits && *bits < 16 && *peak > *base) {
        add(13, layout_.name(row.method),
            fmt::format("{:.0f}-bit weights with a peak of {:.0f} MiB, FP16 {:.0f}: the peak is of "
                        "the process, not of the weights",
                        *bits, *peak, *base));
      }
    }
  }

  // Cache methods under protocols that never read a cache.
  void caches(const StudyBoard& board) {
    if (board.layout->track != "C") return;
    const BoardRow* baseline = board.baseline();
    size_t same_ppl = 0, same_generation = 0, methods = 0;
    for (const BoardRow& row : board.rows) {
      if (row.empty() || !baseline || &row == baseline) continue;
      ++methods;
      same_ppl += row.ppl->at("results/ppl") == baseline->ppl->at("results/ppl");
      same_generation += row.generation && baseline->generation &&
                         generation_ppls(*row.generation) == generation_ppls(*baseline->generation);
    }
    if (methods == 0) return;
    if (same_ppl > 0) {
      add(17, board.layout->title,
          fmt::format("cache not read: perplexity and tasks are one fresh pass per window or "
                      "question; {} of {} methods equal FP16 in every digit",
                      same_ppl, methods));
    }
    if (same_generation > 0) {
      add(18, board.layout->title,
          fmt::format(
              "generation perplexity is of the book's text in one pass, not token by token; "
              "{} of {} methods equal FP16 in every sample",
              same_generation, methods));
    }
    const BoardRow& row = baseline ? *baseline : board.rows.front();
    const auto usual = row.ppl->number("config/common_hyperparams/max_seq_len"),
               longest = row.ppl->number("config/eval/long_context/max_seq_len");
    if (usual && longest && *usual != *longest && board.layout->ppl.size() > 1) {
      add(24, board.layout->title,
          fmt::format("the perplexity columns have different windows: {:.0f} and {:.0f} tokens",
                      *usual, *longest));
    }
  }

  void across() {
    std::set<std::string> models, tracks;
    const StudyBoard *weights = nullptr, *cache = nullptr;
    for (const StudyBoard& board : boards_) {
      models.insert(board.layout->model);
      if (board.layout->track == "A" && !weights) weights = &board;
      if (board.layout->track == "C" && weights && !cache &&
          board.layout->model == weights->layout->model) {
        cache = &board;
      }
    }
    if (models.size() > 1) {
      add(26, fmt::format("{}", fmt::join(models, ", ")),
          "perplexities per token of different tokenizers stand side by side; they do not compare");
    }
    if (!weights || !cache || !weights->baseline() || !cache->baseline()) return;
    const Run &a = *weights->baseline()->tasks, &c = *cache->baseline()->tasks;
    const auto mean_a = a.average_accuracy(), mean_c = c.average_accuracy();
    const auto peak_a = weights->baseline()->vram->number("results/system_metrics/vram_peak_mb"),
               peak_c = cache->baseline()->vram->number("results/system_metrics/vram_peak_mb");
    if (mean_a && mean_c && peak_a && peak_c && (*mean_a != *mean_c || *peak_a != *peak_c)) {
      add(16, weights->layout->model,
          fmt::format(
              "FP16 has average {:.4f} and {:.0f} MiB in one table, {:.4f} and {:.0f} MiB in "
              "the other: other tasks and windows",
              *mean_a, *peak_a, *mean_c, *peak_c));
    }
  }

  // Later results of the same authors at a setting of the table.
  void withdrawn() {
    if (!later_.is_object()) return;
    for (const StudyBoard& board : boards_) {
      if (board.layout->model != layout_.later) continue;
      for (const BoardRow& row : board.rows) {
        if (!row.passkey || row.method == "fp16") continue;
        const auto length = row.passkey->number(std::string(kPasskey) + "context_length");
        const auto residual = row.passkey->number("config/kv/residual_length");
        const auto shown = row.passkey->number(std::string(kPasskey) + "accuracy");
        for (const auto& [name, setting] : later_.items()) {
          if (!setting.is_object() || !length || setting.value("context", 0.0) != *length) continue;
          if (residual && setting.value("residual", -1.0) != *residual) continue;
          const Json method = setting.value(row.method, Json());
          if (!method.is_object() || !shown) continue;
          const double accuracy = method.value("accuracy", *shown);
          if (accuracy == *shown) continue;
          add(25, board.layout->title + ": " + layout_.name(row.method),
              fmt::format("passkey {:.1f} % was withdrawn: {:.1f} % at {} once the code ran",
                          100 * *shown, 100 * accuracy, name));
        }
      }
    }
  }

  const Layout& layout_;
  const std::vector<Run>& runs_;
  std::vector<StudyBoard> boards_;
  const Json& later_;
  std::vector<Finding> findings_;
};

}  // namespace

std::vector<Finding> audit(const Layout& layout, const std::vector<Run>& runs, const Json& later) {
  return Audit(layout, runs, later).find();
}

Json read_later_results(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "passkey_gradient_results.json";
  std::error_code error;
  if (!std::filesystem::exists(file, error) && !error) return nullptr;
  return read_python_json(file);
}

}  // namespace ptq::report
