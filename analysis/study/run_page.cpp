// The single-run page in the study's layout. Chinese is the original, byte for byte; English has
// the same lines.
#include "analysis/study/run_page.hpp"

#include "analysis/write/python_text.hpp"

namespace ptq::report {
namespace {

struct Words {
  const char *title, *warning, *run, *time, *script, *command, *again, *data, *calibration,
      *samples, *length, *ppl_data, *tasks, *parameters, *method, *track, *ppl, *ppl_head, *results,
      *results_head, *average, *system, *vram, *seconds, *unit, *environment, *when, *host, *dirty,
      *packages;
};

constexpr Words kChineseWords = {"实验结果",
                                 "警告",
                                 "运行信息",
                                 "运行时间",
                                 "脚本",
                                 "完整 CLI 参数",
                                 "重新计算",
                                 "数据集",
                                 "校准数据集",
                                 "校准样本数",
                                 "校准序列长度",
                                 "PPL 评测数据集",
                                 "lm-eval 任务",
                                 "量化参数",
                                 "方法",
                                 "赛道",
                                 "PPL 结果",
                                 "| 数据集 | PPL | NLL |",
                                 "lm-eval 任务结果",
                                 "| 任务 | 指标 | 分数 |",
                                 "平均准确率",
                                 "系统指标",
                                 "VRAM 峰值",
                                 "评测总耗时",
                                 "秒",
                                 "运行环境",
                                 "时间",
                                 "主机",
                                 "(有未提交修改)",
                                 "关键包版本"};
constexpr Words kEnglishWords = {"Result",
                                 "Warning",
                                 "Run",
                                 "Time of the run",
                                 "Script",
                                 "Full command line",
                                 "Compute it again",
                                 "Data sets",
                                 "Calibration data set",
                                 "Calibration samples",
                                 "Calibration sequence length",
                                 "PPL data sets",
                                 "lm-eval tasks",
                                 "Quantization",
                                 "Method",
                                 "Track",
                                 "Perplexity",
                                 "| Data set | PPL | NLL |",
                                 "lm-eval results",
                                 "| Task | Metric | Score |",
                                 "Average accuracy",
                                 "System",
                                 "Peak VRAM",
                                 "Evaluation time",
                                 "s",
                                 "Environment",
                                 "Time",
                                 "Host",
                                 "(uncommitted changes)",
                                 "Package versions"};

const Json kAbsent;

const Json& member(const Json& object, const char* key) {
  if (!object.is_object()) return kAbsent;
  const auto found = object.find(key);
  return found == object.end() ? kAbsent : *found;
}

bool has(const Json& object, const char* key) { return object.is_object() && object.contains(key); }

// dict.get(key, "N/A"): a null that is there prints as None.
std::string or_na(const Json& object, const char* key) {
  return has(object, key) ? python::str(object[key]) : "N/A";
}

// Python's truth: neither absent, null, zero nor empty.
bool truthy(const Json& value) {
  if (value.is_null()) return false;
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number()) return value.get<double>() != 0;
  return !value.empty() && !(value.is_string() && value.get<std::string>().empty());
}

std::string joined(const Json& list) {
  std::string out;
  if (!list.is_array()) return out;
  for (const Json& item : list) out += (out.empty() ? "" : ", ") + python::str(item);
  return out;
}

class RunPage {
 public:
  explicit RunPage(const Words& words) : w_(words) {}

  std::string render(const Run& run) {
    const Json& json = run.json;
    const Json &meta = member(json, "meta"), &config = member(json, "config"),
               &results = member(json, "results");
    line("# " + std::string(w_.title) + ": " + or_na(meta, "model") + " + " +
         or_na(meta, "method") + " (Track " + or_na(meta, "track") + ")");
    line();
    const Json& warnings = member(json, "warnings");
    if (truthy(warnings)) {
      for (const Json& warning : warnings) {
        line("> ⚠️ **" + std::string(w_.warning) + "**: " + python::str(warning));
      }
      line();
    }
    about(meta);
    data(config);
    parameters(meta, config);
    perplexities(member(results, "ppl"));
    tasks(member(results, "lm_eval"));
    system(results);
    environment(member(json, "env"));
    return std::move(out_);
  }

 private:
  void line(const std::string& text = {}) { out_ += text + "\n"; }
  void heading(const char* text) {
    line("## " + std::string(text));
    line();
  }
  void item(const std::string& name, const std::string& value) {
    line("- **" + name + "**: " + value);
  }

  void about(const Json& meta) {
    heading(w_.run);
    item(w_.time, or_na(meta, "timestamp"));
    item(w_.script, "`" + or_na(meta, "script") + "`");
    // A record does not hold the command that was typed; it holds all that makes one.
    if (const Json& again = member(meta, "compute_again"); again.is_string()) {
      line();
      line(std::string(w_.again) + ":");
      line();
      line("```sh");
      out_ += again.get<std::string>();
      line("```");
    } else {
      line("- **" + std::string(w_.command) + "**:");
      line("  ```");
      line("  " + or_na(meta, "cli_args"));
      line("  ```");
    }
    line();
  }

  // The original looks for the evaluated sets under `core_quality`, a key that its own
  // configurations lost, so both lines stay empty there (finding 1 of audit.cpp).
  void data(const Json& config) {
    heading(w_.data);
    const Json& calibration = has(config, "calibration") ? member(config, "calibration")
                                                         : member(config, "default_calibration");
    item(w_.calibration, or_na(calibration, "dataset"));
    item(w_.samples, or_na(calibration, "num_samples"));
    item(w_.length, or_na(calibration, "seq_len"));
    const Json& core =
        member(has(config, "eval") ? member(config, "eval") : member(config, "default_eval"),
               "core_quality");
    item(w_.ppl_data, joined(member(core, "ppl_datasets")));
    item(w_.tasks, joined(member(core, "lm_eval_tasks")));
    line();
  }

  void parameters(const Json& meta, const Json& config) {
    heading(w_.parameters);
    item(w_.method, or_na(meta, "method"));
    item(w_.track, "Track " + or_na(meta, "track"));
    for (const char* key : {"weight", "activation", "kv"}) {
      if (has(config, key)) item(key, python::dumps(config[key]));
    }
    item("Seed", or_na(member(config, "common_hyperparams"), "seed"));
    line();
  }

  void perplexities(const Json& sets) {
    if (!truthy(sets) || !sets.is_object()) return;
    heading(w_.ppl);
    line(w_.ppl_head);
    line("|--------|-----|-----|");
    for (const auto& [name, values] : sets.items()) {
      if (!values.is_object()) continue;
      line("| " + name + " | " + or_na(values, "ppl") + " | " + or_na(values, "nll") + " |");
    }
    line();
  }

  void tasks(const Json& tasks) {
    if (!truthy(tasks) || has(tasks, "error")) return;
    heading(w_.results);
    line(w_.results_head);
    line("|------|------|------|");
    for (const auto& [task, metrics] : tasks.items()) {
      if (task.starts_with("_") || !metrics.is_object()) continue;
      for (const auto& [metric, score] : metrics.items()) {
        line("| " + task + " | " + metric + " | " + python::str(score) + " |");
      }
    }
    const Json& average = member(tasks, "_avg_accuracy");
    if (!average.is_null()) {
      line();
      line("**" + std::string(w_.average) + "**: " + python::str(average));
    }
    line();
  }

  void system(const Json& results) {
    const Json& metrics = member(results, "system_metrics");
    if (!truthy(metrics)) return;
    heading(w_.system);
    if (truthy(member(metrics, "vram_peak_mb"))) {
      item(w_.vram, python::str(metrics["vram_peak_mb"]) + " MB");
    }
    if (truthy(member(results, "eval_time_seconds"))) {
      item(w_.seconds, python::str(results["eval_time_seconds"]) + " " + w_.unit);
    }
    line();
  }

  void environment(const Json& env) {
    heading(w_.environment);
    item(w_.when, or_na(env, "timestamp"));
    item(w_.host, or_na(env, "hostname"));
    item("OS", or_na(env, "os"));
    if (has(env, "python_version")) item("Python", or_na(env, "python_version"));
    const Json& git = member(env, "git");
    if (truthy(member(git, "commit_hash"))) {
      const std::string commit = python::str(git["commit_hash"]).substr(0, 8);
      item("Git", "`" + commit + "` (" + or_na(git, "branch") + ")" +
                      (truthy(member(git, "is_dirty")) ? " ⚠️ " + std::string(w_.dirty) : ""));
    }
    const Json& gpus = member(env, "gpus");
    if (gpus.is_array()) {
      for (const Json& gpu : gpus) {
        item("GPU " + or_na(gpu, "index"),
             or_na(gpu, "name") + " (" + or_na(gpu, "memory_total_mb") + " MB)");
        item("Driver", or_na(gpu, "driver_version"));
      }
    }
    const Json& cuda = member(env, "cuda");
    if (truthy(member(cuda, "cuda_available"))) {
      item("CUDA", or_na(cuda, "cuda_version"));
      item("cuDNN", or_na(cuda, "cudnn_version"));
    }
    const Json& packages = member(env, "packages");
    if (!truthy(packages)) return;
    line();
    line("### " + std::string(w_.packages));
    line();
    for (const auto& [name, version] : packages.items()) {
      if (version == "not installed") continue;
      line("- `" + name + "`: " + python::str(version));
    }
  }

  const Words& w_;
  std::string out_;
};

}  // namespace

std::string run_page(const Run& run, Language language) {
  return RunPage(language == Language::zh ? kChineseWords : kEnglishWords).render(run);
}

}  // namespace ptq::report
