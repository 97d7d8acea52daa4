// The invariants of a pruning study, checked on what its document prints. Bounds come from
// the rounding of four decimals: every printed mean and deviation may be off by h = 0.00005.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <map>

#include "analysis/pruning/printed.hpp"
#include "analysis/pruning/pruning.hpp"
#include "analysis/write/python_text.hpp"

namespace ptq::report {
namespace {

constexpr double kHalf = 5e-5;  // of the last printed digit
constexpr double kSlack = 1e-9;

using printed::CrossRow, printed::Row;

int64_t size_of(const std::vector<Row>& rows) {
  int64_t sum = 0;
  for (const Row& row : rows) sum += row.count;
  return sum;
}
double grand_mean(const std::vector<Row>& rows) {
  double sum = 0;
  for (const Row& row : rows) sum += row.mean * double(row.count);
  return sum / double(size_of(rows));
}
double between(const std::vector<Row>& rows) {
  const double mean = grand_mean(rows);
  double sum = 0;
  for (const Row& row : rows) sum += double(row.count) * (row.mean - mean) * (row.mean - mean);
  return sum;
}
double total_squares(const std::vector<Row>& rows) {
  double within = 0;
  for (const Row& row : rows) within += double(row.count) * row.std * row.std;
  return within + between(rows);
}
// By how much rounding can change total_squares(): a deviation is off by h, a mean and the grand
// mean by h each.
double rounding_of_squares(const std::vector<Row>& rows) {
  const double mean = grand_mean(rows);
  double sum = 0;
  for (const Row& row : rows)
    sum += double(row.count) * kHalf *
           (2 * row.std + kHalf + 4 * std::abs(row.mean - mean) + 4 * kHalf);
  return sum;
}
const Row* find(const std::vector<Row>& rows, const std::string& key) {
  const auto at =
      std::find_if(rows.begin(), rows.end(), [&](const Row& row) { return row.key == key; });
  return at == rows.end() ? nullptr : &*at;
}
const Row& highest(const std::vector<Row>& rows) {
  return *std::max_element(rows.begin(), rows.end(),
                           [](const Row& a, const Row& b) { return a.mean < b.mean; });
}

class Checker {
 public:
  std::vector<Check> checks;

  void model(const printed::Model& m, const std::vector<CrossRow>& cross,
             const PruningFacts& facts) {
    name_ = m.name;
    sizes_ = facts.task_sizes;
    const std::vector<std::pair<const char*, const std::vector<Row>*>> all = {
        {"methods", &m.methods},
        {"seq_len", &m.seq_len},
        {"num_samples", &m.num_samples},
        {"extreme layers", &m.layers}};
    // The bounds below are for 45 runs; sums grow with their number.
    const double scale = std::max(1.0, double(m.valid) / 45);
    add("counts: valid + invalid = total", m.valid + m.invalid == m.total,
        fmt::format("{} + {} = {}", m.valid, m.invalid, m.total));
    std::vector<std::pair<const char*, const std::vector<Row>*>> groups;
    for (const auto& entry : all) {
      if (!entry.second->empty()) groups.push_back(entry);
    }
    for (const auto& [what, rows] : groups) {
      const int64_t known = rows == &m.seq_len       ? facts.with_seq_len
                            : rows == &m.num_samples ? facts.with_num_samples
                                                     : -1;
      const int64_t runs = known < 0 ? m.valid : known;
      add(fmt::format("1. group sizes of {} add to the valid runs", what), size_of(*rows) == runs,
          fmt::format("{} of {}", size_of(*rows), runs));
    }
    if (m.methods.empty()) return;
    for (const auto& [what, rows] : groups) {
      if (size_of(*rows) != m.valid) continue;  // said above; the sums cannot agree then
      const double difference = std::abs(grand_mean(*rows) - grand_mean(m.methods));
      add(fmt::format("2. grand mean of {} equals that of methods", what),
          difference <= 2 * kHalf + kSlack,
          fmt::format("difference {:.6f}, bound 1e-4", difference));
    }
    for (const auto& [what, rows] : groups) {
      if (rows == &m.layers || rows == &m.methods || size_of(*rows) != m.valid) continue;
      const double difference = std::abs(total_squares(*rows) - total_squares(m.methods));
      const double bound =
          std::max(2.5e-4 * scale, rounding_of_squares(*rows) + rounding_of_squares(m.methods));
      add(fmt::format("3. total sum of squares of {} equals that of methods (population std)",
                      what),
          difference <= bound,
          fmt::format("{:.5f} and {:.5f}, bound {:.1e}", total_squares(*rows),
                      total_squares(m.methods), bound));
    }
    extreme_layers(m, scale);
    for (const Row& row : m.methods) bounds(row);
    best(m, cross);
    tasks(m);
    correlations(m);
    feasible(m);
  }

  void order(const std::vector<CrossRow>& cross) {
    name_ = "all models";
    bool sorted = true;
    for (size_t i = 1; i < cross.size(); ++i) sorted = sorted && cross[i - 1].acc >= cross[i].acc;
    add("10. models are in order of their best ACC", sorted, "");
  }

 private:
  void add(const std::string& name, bool holds, const std::string& detail) {
    checks.push_back(
        {name_, name, detail, holds ? Check::Verdict::holds : Check::Verdict::violated});
  }
  void skip(const std::string& name, const std::string& why) {
    checks.push_back({name_, name, why, Check::Verdict::not_applicable});
  }

  void extreme_layers(const printed::Model& m, double scale) {
    if (m.layers.empty()) return skip("4. correlation with extreme layers", "no such table");
    const double total = total_squares(m.methods);
    double mean_k = 0, n = double(size_of(m.layers)), both = 0, squares = 0;
    for (const Row& row : m.layers) mean_k += double(row.count) * std::atof(row.key.c_str()) / n;
    const double mean = grand_mean(m.layers);
    for (const Row& row : m.layers) {
      const double k = std::atof(row.key.c_str()) - mean_k;
      both += double(row.count) * k * (row.mean - mean);
      squares += double(row.count) * k * k;
    }
    const double r = squares > 0 && total > 0 ? both / std::sqrt(squares * total) : 0;
    add("4. correlation with extreme layers follows from the group means",
        std::abs(r - m.layers_r) <= 6e-4 * scale,
        fmt::format("{:.4f} from the groups, {:.4f} printed", r, m.layers_r));
    for (const auto* rows : {&m.methods, &m.seq_len, &m.num_samples, &m.layers}) {
      if (rows->empty()) continue;
      add("5. squares between groups are at most the total",
          between(*rows) <= total + 2.5e-4 * scale,
          fmt::format("{:.4f} of {:.4f}", between(*rows), total));
    }
    for (const Row& row : m.layers) {
      if (row.count != 1) continue;
      bool inside = false;
      for (const Row& method : m.methods) {
        inside = inside || (row.mean >= method.low - kSlack && row.mean <= method.high + kSlack);
      }
      add("9. a group of one run prints that run's ACC", inside,
          fmt::format("extreme {}: {:.4f}", row.key, row.mean));
    }
  }

  void bounds(const Row& row) {
    const double s = row.std, h = kHalf, up = row.high - row.mean, down = row.mean - row.low;
    add("6. minimum <= mean <= maximum of " + row.key, up >= -2 * h && down >= -2 * h, "");
    add("6. Bhatia-Davis bound of " + row.key,
        s * s <= up * down + 2 * h * (up + down + 2 * s) + 8 * h * h,
        fmt::format("variance {:.6f}, bound {:.6f}", s * s, up * down));
    const double widest = std::max(up, down);
    add("6. Samuelson bound of " + row.key,
        widest <= (s + h) * std::sqrt(double(row.count - 1)) + 2 * h || row.count == 1,
        fmt::format("{:.4f}, bound {:.4f}", widest, s * std::sqrt(double(row.count - 1))));
  }

  void best(const printed::Model& m, const std::vector<CrossRow>& cross) {
    double high = -1;
    for (const Row& row : m.methods) high = std::max(high, row.high);
    add("7. best ACC is the highest of all methods", std::abs(m.best_acc - high) < kSlack,
        fmt::format("{:.4f} and {:.4f}", m.best_acc, high));
    add("7. best ACC is that of the best configuration",
        std::abs(m.best_acc - m.section6_acc) < kSlack && m.best_method == m.section6_method,
        m.best_method + " and " + m.section6_method);
    const Row* row = find(m.methods, m.best_method);
    add("7. the best method's row contains it", row && std::abs(row->high - m.best_acc) < kSlack,
        "");
    const auto in_cross = std::find_if(cross.begin(), cross.end(), [&](const CrossRow& c) {
      return python::length(c.model) == python::length(m.name) &&
             std::equal(c.model.begin(), c.model.end(), m.name.begin(), m.name.end(),
                        [](char a, char b) { return std::toupper(a) == std::toupper(b); });
    });
    if (in_cross != cross.end()) {
      add("7. the row across models agrees",
          std::abs(in_cross->acc - m.best_acc) < kSlack && in_cross->method == m.best_method &&
              in_cross->count == m.valid,
          fmt::format("{} {:.4f}", in_cross->method, in_cross->acc));
    }
    if (!m.seq_len.empty()) {
      add("10. best seq_len is the row with the highest mean",
          std::abs(highest(m.seq_len).mean - m.best_seq_mean) < kSlack &&
              find(m.seq_len, m.best_seq) &&
              std::abs(find(m.seq_len, m.best_seq)->mean - m.best_seq_mean) < kSlack,
          m.best_seq);
    }
    if (!m.num_samples.empty()) {
      add("10. best num_samples is the row with the highest mean",
          std::abs(highest(m.num_samples).mean - m.best_samples_mean) < kSlack &&
              find(m.num_samples, m.best_samples) &&
              std::abs(find(m.num_samples, m.best_samples)->mean - m.best_samples_mean) < kSlack,
          m.best_samples);
    }
  }

  void tasks(const printed::Model& m) {
    if (m.tasks.size() != kPruningTasks.size()) {
      return skip("7. ACC is the mean of its tasks", "not all seven tasks are printed");
    }
    double sum = 0;
    for (size_t t = 0; t < m.tasks.size(); ++t) {
      const double value = m.tasks[t].second, n = double(sizes_[t]);
      sum += value / double(m.tasks.size());
      const double nearest = std::round(value * n) / n;
      add(fmt::format("8. {} is k/{}", m.tasks[t].first, sizes_[t]),
          std::abs(nearest - value) <= kHalf + kSlack, fmt::format("{:.4f}", value));
    }
    add("7. ACC is the mean of its seven tasks",
        std::abs(sum - m.section6_acc) <= 2 * kHalf + kSlack,
        fmt::format("{:.5f} and {:.4f}", sum, m.section6_acc));
  }

  void correlations(const printed::Model& m) {
    std::map<std::string, double> r;
    for (const auto& [name, value] : m.correlations) {
      r[name] = value;
      add("11. |r| <= 1 of " + name, std::isnan(value) || std::abs(value) <= 1, "");
    }
    for (const char* kind : {"mean", "norm"}) {
      const std::string ratio = fmt::format("grad_{}_ratio", kind),
                        range = fmt::format("grad_{}_range", kind);
      if (!r.contains(ratio) || !r.contains(range)) continue;
      add("11. ratio and range of the " + std::string(kind) + " are NaN together",
          std::isnan(r[ratio]) == std::isnan(r[range]), "both contain the infinite maximum");
    }
  }

  // The best configuration lies in its groups: within mean +- s sqrt(n - 1).
  void feasible(const printed::Model& m) {
    const auto check = [&](const std::vector<Row>& rows, const std::string& key, const char* what) {
      const Row* row = find(rows, key);
      if (!row || row->count < 2) return;
      const double reach = (row->std + kHalf) * std::sqrt(double(row->count - 1)) + 2 * kHalf;
      add(fmt::format("12. the best configuration fits its group {} {}", what, key),
          std::abs(m.best_acc - row->mean) <= reach,
          fmt::format("{:.4f} within {:.4f} of {:.4f}", m.best_acc, reach, row->mean));
    };
    check(m.methods, m.section6_method, "method");
    check(m.seq_len, m.section6_seq, "seq_len");
    check(m.num_samples, m.section6_samples, "num_samples");
  }

  std::string name_;
  std::array<int64_t, 7> sizes_ = kPruningTaskSizes;
};

}  // namespace

std::vector<Check> verify_pruning_document(const std::string& text,
                                           const std::vector<PruningFacts>& facts) {
  const printed::Pages pages = printed::read(text);
  Checker checker;
  for (size_t m = 0; m < pages.models.size(); ++m)
    checker.model(pages.models[m], pages.cross, m < facts.size() ? facts[m] : PruningFacts{});
  if (!pages.cross.empty()) checker.order(pages.cross);
  return checker.checks;
}

std::vector<Check> verify_pruning_records(const std::vector<PruningModel>& models) {
  std::vector<Check> checks;
  for (const PruningModel& model : models) {
    size_t wrong_tasks = 0, wrong_means = 0, with_tasks = 0, first = 0;
    std::map<std::string, int> design;
    for (size_t i = 0; i < model.runs.size(); ++i) {
      const PruningRun& run = model.runs[i];
      const auto key = [](const std::optional<double>& v) {
        return v ? fmt::format("{}", *v) : "";
      };
      if (run.acc_mean) ++design[run.method + " " + key(run.seq_len) + " " + key(run.num_samples)];
      double sum = 0;
      bool complete = run.acc_mean.has_value();
      for (size_t t = 0; t < run.tasks.size(); ++t) {
        if (!run.tasks[t]) {
          complete = false;
          continue;
        }
        const double n = double(run.task_sizes[t]), k = *run.tasks[t] * n;
        sum += *run.tasks[t] / double(run.tasks.size());
        if (std::abs(k - std::round(k)) > 1e-6 * n && ++wrong_tasks == 1) first = i;
      }
      if (!complete) continue;
      ++with_tasks;
      wrong_means += std::abs(sum - *run.acc_mean) > 1e-9;
    }
    const auto add = [&](const std::string& name, bool holds, const std::string& detail) {
      checks.push_back(
          {model.name, name, detail, holds ? Check::Verdict::holds : Check::Verdict::violated});
    };
    const auto repeated = std::find_if(design.begin(), design.end(),
                                       [](const auto& cell) { return cell.second > 1; });
    add("1. every cell of the grid appears once", repeated == design.end(),
        repeated == design.end() ? fmt::format("{} cells", design.size()) : repeated->first);
    if (with_tasks == 0) {
      checks.push_back({model.name, "7., 8. tasks of the records", "no record has all seven tasks",
                        Check::Verdict::not_applicable});
      continue;
    }
    add("7. acc_mean is the mean of the seven tasks in every record", wrong_means == 0,
        fmt::format("{} of {} records differ", wrong_means, with_tasks));
    add("8. every task value is k/n in every record", wrong_tasks == 0,
        wrong_tasks ? fmt::format("{} values are not, first in record {}", wrong_tasks, first + 1)
                    : fmt::format("{} records", with_tasks));
  }
  std::vector<PruningFacts> facts;
  for (const PruningModel& model : models) {
    PruningFacts& f = facts.emplace_back();
    f.with_seq_len = f.with_num_samples = 0;
    for (const PruningRun* run : model.valid()) {
      f.with_seq_len += run->seq_len.has_value();
      f.with_num_samples += run->num_samples.has_value();
    }
    if (model.best()) f.task_sizes = model.best()->task_sizes;
  }
  const std::vector<Check> printed =
      verify_pruning_document(pruning_document(models, Language::zh), facts);
  checks.insert(checks.end(), printed.begin(), printed.end());
  return checks;
}

}  // namespace ptq::report
