#include "analysis/read/records.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <tuple>

#include "analysis/pruning/pruning.hpp"
#include "analysis/read/damage.hpp"
#include "analysis/read/headline.hpp"
#include "analysis/write/table.hpp"
#include "ptq/core/mapped_file.hpp"

namespace ptq::report {
namespace {

namespace fs = std::filesystem;

// The fields of RFC 4180 text, line by line. Quoted fields may hold commas and line ends. A line
// without any text, such as the ",,," that spreadsheets leave, is none.
std::vector<std::vector<std::string>> csv_lines(std::string_view text) {
  text = without_byte_order_mark(text);
  std::vector<std::vector<std::string>> lines;
  std::vector<std::string> fields(1);
  bool quoted = false, any = false;
  const auto end_line = [&] {
    for (std::string& field : fields) field = csv_unguarded(field);
    if (any) lines.push_back(std::move(fields));
    fields.assign(1, {});
    any = false;
  };
  const size_t begin = text.starts_with(kByteOrderMark) ? kByteOrderMark.size() : 0;
  for (size_t i = begin; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      any = true;
      if (c != '"') {
        fields.back() += c;
      } else if (i + 1 < text.size() && text[i + 1] == '"') {
        fields.back() += text[++i];
      } else {
        quoted = false;
      }
    } else if (c == '"') {
      quoted = true;
    } else if (c == ',') {
      fields.emplace_back();
    } else if (c == '\n') {
      end_line();
    } else if (c != '\r') {
      fields.back() += c;
      any = any || c != ' ';
    }
  }
  end_line();
  return lines;
}

// Empty, "None" and "nan", however it is spelled, are no value; "inf" is one.
std::optional<double> number_of(const std::string& text, const std::string& where) {
  if (text.empty() || text == "None") return {};
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (end == text.c_str() || end != text.c_str() + text.size()) {
    throw environment_error("`" + one_line(text) + "` is not a number", where,
                            "leave the field empty where there is no value");
  }
  if (std::isnan(value)) return {};
  return value;
}

// The value in a folder name such as exp_001_taylor_seq_len16_taylor_num_samples128.
std::optional<double> from_directory(const std::string& directory, const char* key) {
  const size_t at = directory.rfind(key);
  if (at == directory.npos) return {};
  const char* digits = directory.c_str() + at + std::string_view(key).size();
  if (!std::isdigit(static_cast<unsigned char>(*digits))) return {};
  return std::strtod(digits, nullptr);
}

PruningModel& model_of(std::vector<PruningModel>& models, const std::string& name) {
  const auto found = std::find_if(models.begin(), models.end(),
                                  [&](const PruningModel& m) { return m.name == name; });
  if (found != models.end()) return *found;
  models.push_back({name, {}});
  return models.back();
}

// Files of the study carry the model in a name: consolidated_Llama_20/all_methods_results.csv.
std::string model_in_name(const fs::path& file) {
  std::string stem = file.stem().string();
  if (stem == "all_methods_results") stem = file.parent_path().filename().string();
  for (const char* prefix : {"consolidated_", "search_", "raw_", "records_"}) {
    if (stem.starts_with(prefix)) stem = stem.substr(std::string_view(prefix).size());
  }
  return stem.substr(0, stem.find('_'));
}

std::string read_text(const fs::path& file) { return read_text_file(file, uint64_t{256} << 20); }

// The part of a method that prunes: the one that has a ratio.
const Record::Part* pruning_part(const Record& record) {
  for (const Record::Part& part : record.method.parts)
    if (part.options.contains("ratio")) return &part;
  return nullptr;
}

// A number of metrics.pruning. JSON has no infinity: the record keeps a null and the reason.
std::optional<double> pruning_number(const Json& pruning, const std::string& key) {
  const Json value = pruning.value(key, Json());
  if (value.is_number()) return value.get<double>();
  const Json why = pruning.value(key + "_why", Json());
  if (why.is_string() && why.get<std::string>().find("infinit") != std::string::npos)
    return HUGE_VAL;
  return {};
}

PruningRun run_of(const Record& record, const Record::Part& part) {
  PruningRun run;
  run.model = record.model.name;
  for (const Record::Part& one : record.method.parts)
    run.method += (run.method.empty() ? "" : "+") + one.method;
  const auto option = [&](const char* key) -> std::optional<double> {
    const Json value = part.options.value(key, Json());
    if (value.is_number()) return value.get<double>();
    return {};
  };
  run.seq_len = option("seq_len");
  run.num_samples = option("num_samples");
  run.output_dir = record.method.label;
  run.success = "True";
  return run;
}

// What one record adds to its run: a task's accuracy, by which the task ranks, the perplexity, what
// pruning has done.
void add_record(const Record& record, PruningRun& run) {
  if (record.status == "failed") {
    run.success = "False";
    return;
  }
  if (const auto pruning = record.metrics.find("pruning"); pruning != record.metrics.end()) {
    run.extreme_layers = pruning_number(*pruning, "extreme_pruning_layers");
    for (size_t g = 0; g < kGradientMetrics.size(); ++g)
      run.gradients[g] = pruning_number(*pruning, kGradientMetrics[g]);
  }
  const std::optional<double> figure = figure_at(record.metrics, headline_of(record));
  if (record.evaluation.kind == "perplexity" && !run.ppl) run.ppl = figure;
  if (record.evaluation.kind != "choices") return;
  for (size_t t = 0; t < kPruningTasks.size(); ++t) {
    if (record.evaluation.name != kPruningTasks[t]) continue;
    run.tasks[t] = figure;
    run.task_sizes[t] = record.metrics.value("total", kPruningTaskSizes[t]);
  }
}

// The mean of the seven tasks; nothing where one is missing.
std::optional<double> mean_of_tasks(const PruningRun& run) {
  double sum = 0;
  for (const std::optional<double>& task : run.tasks) {
    if (!task) return {};
    sum += *task / double(run.tasks.size());
  }
  return sum;
}

// The order in which the study lists its runs; it decides between equals.
void order_runs(std::vector<PruningRun>& runs) {
  const auto place = [](const PruningRun& run) {
    const std::vector<std::string> known = {"taylor", "layerwise", "blockwise"};
    return std::find(known.begin(), known.end(), run.method) - known.begin();
  };
  std::stable_sort(runs.begin(), runs.end(), [&](const PruningRun& a, const PruningRun& b) {
    return std::make_tuple(place(a), a.method, a.seq_len, a.num_samples) <
           std::make_tuple(place(b), b.method, b.seq_len, b.num_samples);
  });
}

// Runs of records, by model and label of the method.
class RecordRuns {
 public:
  void add(const Record& record) {
    const Record::Part* part = pruning_part(record);
    if (!part) return;
    const auto [at, first] = runs_.try_emplace({record.model.name, record.method.label});
    if (first) at->second = run_of(record, *part);
    add_record(record, at->second);
  }
  void move_to(std::vector<PruningModel>& models) {
    std::map<std::string, std::vector<PruningRun>> by_model;
    for (auto& [key, run] : runs_) {
      run.acc_mean = mean_of_tasks(run);
      by_model[key.first].push_back(std::move(run));
    }
    for (auto& [name, runs] : by_model) {
      order_runs(runs);
      auto& all = model_of(models, name).runs;
      std::move(runs.begin(), runs.end(), std::back_inserter(all));
    }
  }

 private:
  std::map<std::pair<std::string, std::string>, PruningRun> runs_;
};

// The study's order; other models follow by name.
void order_models(std::vector<PruningModel>& models) {
  const auto place = [](const PruningModel& model) {
    const std::vector<std::string> known = {"Llama", "Qwen", "Mistral"};
    return std::find(known.begin(), known.end(), model.name) - known.begin();
  };
  std::stable_sort(models.begin(), models.end(), [&](const PruningModel& a, const PruningModel& b) {
    return std::make_pair(place(a), a.name) < std::make_pair(place(b), b.name);
  });
}

std::vector<PruningModel> parse(const std::string& text, const std::string& where,
                                const std::string& default_model) {
  const auto lines = csv_lines(text);
  if (lines.empty()) throw environment_error("the file is empty", where);
  std::map<std::string, size_t> columns;
  for (size_t c = 0; c < lines[0].size(); ++c) columns[lines[0][c]] = c;
  for (const char* needed : {"pruning_method", "acc_mean"}) {
    if (!columns.contains(needed)) {
      throw environment_error("the column `" + std::string(needed) + "` is missing", where,
                              "the first line names the columns, see docs/report.md");
    }
  }
  std::vector<PruningModel> models;
  for (size_t l = 1; l < lines.size(); ++l) {
    const auto field = [&](const std::string& name) -> std::string {
      const auto found = columns.find(name);
      return found == columns.end() || found->second >= lines[l].size() ? std::string()
                                                                        : lines[l][found->second];
    };
    const auto number = [&](const std::string& name) {
      return number_of(field(name), fmt::format("{}: record {}, column {}", where, l, name));
    };
    PruningRun run;
    run.model = one_line(field("model"));
    if (run.model.empty()) run.model = default_model;
    run.method = one_line(field("pruning_method"));
    run.output_dir = one_line(field("output_dir"));
    run.success = one_line(field("success"));
    run.seq_len = number("taylor_seq_len");
    run.num_samples = number("taylor_num_samples");
    if (!run.seq_len) run.seq_len = from_directory(run.output_dir, "taylor_seq_len");
    if (!run.num_samples) run.num_samples = from_directory(run.output_dir, "taylor_num_samples");
    run.acc_mean = number("acc_mean");
    run.ppl = number("ppl");
    run.extreme_layers = number("extreme_pruning_layers");
    for (size_t t = 0; t < kPruningTasks.size(); ++t) {
      run.tasks[t] = number(std::string("acc_") + kPruningTasks[t]);
    }
    for (size_t g = 0; g < kGradientMetrics.size(); ++g)
      run.gradients[g] = number(kGradientMetrics[g]);
    model_of(models, run.model).runs.push_back(std::move(run));
  }
  if (models.empty()) throw environment_error("the file has no records", where);
  return models;
}

template <class Key>
void add_to(Groups<Key>& groups, const Key& key, double value) {
  for (auto& [name, values] : groups) {
    if (name == key) return values.push_back(value);
  }
  groups.push_back({key, {value}});
}

template <class Get>
Pairs pairs_of(const PruningModel& model, Get get) {
  Pairs pairs;
  for (const PruningRun* run : model.valid()) {
    if (const std::optional<double> x = get(*run)) {
      pairs.x.push_back(*x);
      pairs.y.push_back(*run->acc_mean);
    }
  }
  return pairs;
}

}  // namespace

std::vector<const PruningRun*> PruningModel::valid() const {
  std::vector<const PruningRun*> out;
  for (const PruningRun& run : runs) {
    if (run.acc_mean) out.push_back(&run);
  }
  return out;
}

const PruningRun* PruningModel::best() const {
  const PruningRun* best = nullptr;
  for (const PruningRun* run : valid()) {
    if (!best || *run->acc_mean > *best->acc_mean) best = run;
  }
  return best;
}

namespace {

void find_csv_files(const fs::path& folder, const fs::path& top, std::vector<fs::path>& files,
                    std::vector<Damaged>& damaged) {
  std::error_code error;
  for (fs::directory_iterator at(folder, error); !error && at != fs::directory_iterator();
       at.increment(error)) {
    std::error_code ignored;
    if (at->is_directory(ignored) && !at->is_symlink(ignored)) {
      find_csv_files(at->path(), top, files, damaged);
    } else if (is_pruning_csv(at->path())) {
      files.push_back(at->path());
    }
  }
  if (error) {
    damaged.push_back(
        {folder.lexically_relative(top).string(), "the folder cannot be read: " + error.message()});
  }
}

}  // namespace

bool is_pruning_record(const Record& record) {
  return record.track == "pruning" || record.metrics.contains("pruning");
}

bool is_pruning_csv(const fs::path& file) {
  if (file.extension() != ".csv") return false;
  std::ifstream in = open_file(file);
  std::string head;
  return in && std::getline(in, head) && head.find("pruning_method") != head.npos;
}

std::vector<PruningModel> parse_pruning_csv(const std::string& text, const std::string& where) {
  return parse(text, where, model_in_name(where));
}

std::vector<PruningModel> read_pruning(const fs::path& path, std::vector<Damaged>& damaged) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return parse_pruning_csv(read_text(path), path.string());
  std::vector<PruningModel> models;
  std::vector<fs::path> files;
  find_csv_files(path, path, files, damaged);
  std::sort(files.begin(), files.end());
  const auto costing_itself = [&](const fs::path& file, const auto& read) {
    if (const auto why = damage(read))
      damaged.push_back({file.lexically_relative(path).string(), *why});
  };
  for (const fs::path& file : files) {
    costing_itself(file, [&] {
      for (PruningModel& model : parse_pruning_csv(read_text(file), file.string())) {
        auto& runs = model_of(models, model.name).runs;
        std::move(model.runs.begin(), model.runs.end(), std::back_inserter(runs));
      }
    });
  }
  RecordRuns runs;
  for (const fs::path& file : record_files(path, damaged)) {
    costing_itself(file, [&] {
      const Record record = read_record(file);
      if (is_pruning_record(record)) runs.add(record);
    });
  }
  runs.move_to(models);
  if (models.empty()) {
    std::string reasons;
    for (const Damaged& file : damaged) reasons += "\n      " + file.file + ": " + file.reason;
    if (!reasons.empty()) {
      throw environment_error("none of the pruning records can be read:" + reasons, path.string());
    }
    throw environment_error("no pruning records found", path.string(),
                            "CSV files with a column `pruning_method`, or records of a pruning "
                            "experiment");
  }
  order_models(models);
  return models;
}

Pairs gradient_pairs(const PruningModel& model, size_t metric) {
  return pairs_of(model, [&](const PruningRun& run) { return run.gradients[metric]; });
}
Pairs extreme_pairs(const PruningModel& model) {
  return pairs_of(model, [](const PruningRun& run) { return run.extreme_layers; });
}
Pairs perplexity_pairs(const PruningModel& model) {
  return pairs_of(model, [](const PruningRun& run) { return run.ppl; });
}

double study_correlation(const Pairs& pairs) {
  const size_t n = pairs.size();
  if (n < 2) return 0;
  double mean_x = 0, mean_y = 0;
  for (size_t i = 0; i < n; ++i) {
    mean_x += pairs.x[i];
    mean_y += pairs.y[i];
  }
  mean_x /= double(n);
  mean_y /= double(n);
  double both = 0, x = 0, y = 0;
  for (size_t i = 0; i < n; ++i) {
    both += (pairs.x[i] - mean_x) * (pairs.y[i] - mean_y);
    x += (pairs.x[i] - mean_x) * (pairs.x[i] - mean_x);
    y += (pairs.y[i] - mean_y) * (pairs.y[i] - mean_y);
  }
  const double scale = std::sqrt(x) * std::sqrt(y);
  return scale == 0 ? 0 : both / scale;
}

Groups<std::string> by_method(const PruningModel& model) {
  Groups<std::string> groups;
  for (const PruningRun* run : model.valid()) add_to(groups, run->method, *run->acc_mean);
  return groups;
}

Groups<int64_t> by_axis(const PruningModel& model, PruningAxis axis) {
  Groups<int64_t> groups;
  for (const PruningRun* run : model.valid()) {
    const std::optional<double>& key = axis == PruningAxis::seq_len       ? run->seq_len
                                       : axis == PruningAxis::num_samples ? run->num_samples
                                                                          : run->extreme_layers;
    if (key && std::isfinite(*key)) add_to(groups, int64_t(*key), *run->acc_mean);
  }
  return groups;
}

}  // namespace ptq::report
