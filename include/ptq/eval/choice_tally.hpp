// What counts of multiple-choice answers: which choice wins, right answers and their errors, by
// subject and by group of subjects.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/own_json.hpp"
#include "ptq/eval/measured.hpp"
#include "ptq/eval/statistics.hpp"
#include "ptq/model/unicode.hpp"
#include "ptq/tasks/description.hpp"

namespace ptq::eval {

// The three rules of the harness by which a choice wins: the largest log-likelihood, as it is or
// divided by the length of the choice without its delimiter. In the order of metric_words().
inline constexpr size_t kChoiceMetrics = 3;

inline int64_t code_points(const std::string& text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (uint8_t(c) & 0xC0) != 0x80; });
}

// The first of the largest scores, as numpy's argmax. lengths: to divide by; empty: as they are.
inline int64_t best_choice(std::span<const double> log_probs, std::span<const double> lengths) {
  size_t best = 0;
  const auto score = [&](size_t i) {
    return lengths.empty() ? log_probs[i] : log_probs[i] / lengths[i];
  };
  for (size_t i = 1; i < log_probs.size(); ++i)
    if (score(i) > score(best)) best = i;
  return int64_t(best);
}

// Which metrics count an answer as right.
inline std::array<bool, kChoiceMetrics> right_by_metric(std::span<const double> log_probs,
                                                        const tasks::Question& question) {
  std::vector<double> points, bytes;
  for (const std::string& choice : question.choices) {
    points.push_back(double(code_points(choice)));
    bytes.push_back(double(choice.size()));
  }
  return {best_choice(log_probs, {}) == question.gold,
          best_choice(log_probs, points) == question.gold,
          best_choice(log_probs, bytes) == question.gold};
}

// Answers of one subject or of all.
struct ChoiceTally {
  int64_t total = 0;
  std::array<int64_t, kChoiceMetrics> right{}, right_reference{};
  int64_t lost = 0, gained = 0;  // by the primary metric

  void add(const std::array<bool, kChoiceMetrics>& own,
           const std::optional<std::array<bool, kChoiceMetrics>>& reference, size_t primary) {
    ++total;
    for (size_t m = 0; m < kChoiceMetrics; ++m) {
      right[m] += own[m];
      if (reference) right_reference[m] += (*reference)[m];
    }
    if (!reference) return;
    lost += (*reference)[primary] && !own[primary];
    gained += !(*reference)[primary] && own[primary];
  }
  void add(const ChoiceTally& other) {
    total += other.total;
    lost += other.lost;
    gained += other.gained;
    for (size_t m = 0; m < kChoiceMetrics; ++m) {
      right[m] += other.right[m];
      right_reference[m] += other.right_reference[m];
    }
  }
  double share(size_t metric) const { return double(right[metric]) / double(total); }
  // Sample standard deviation over sqrt(n); of zeros and ones sqrt(p (1 - p) / (n - 1)).
  double error(size_t metric) const {
    const double p = share(metric);
    return total > 1 ? std::sqrt(p * (1 - p) / double(total - 1)) : kUnknown;
  }
};

// The standard error of the share of several parts together: the variance within the parts, pooled
// (the harness's pooled_sample_stderr).
inline double pooled_error(std::span<const ChoiceTally> parts, size_t metric) {
  double squares = 0, n = 0;
  for (const ChoiceTally& part : parts) {
    const double size = double(part.total), p = part.share(metric);
    squares += size * p * (1 - p);  // (n - 1) n error^2
    n += size;
  }
  const double freedom = n - double(parts.size());
  return freedom > 0 ? std::sqrt(squares / freedom / n) : kUnknown;
}

// All answers of a task.
class ChoiceTallies {
 public:
  explicit ChoiceTallies(const tasks::TaskDescription& task) : task_(task) {
    primary_ = metric_index(task.primary);
  }

  size_t primary() const { return primary_; }
  int64_t total() const { return all_.total; }
  double accuracy() const { return all_.total > 0 ? all_.share(primary_) : kUnknown; }

  void add(const std::string& subject, const std::array<bool, kChoiceMetrics>& own,
           const std::optional<std::array<bool, kChoiceMetrics>>& reference) {
    all_.add(own, reference, primary_);
    if (subject.empty()) return;
    auto same = std::find(subjects_.begin(), subjects_.end(), subject);
    if (same == subjects_.end()) {
      subjects_.push_back(subject);
      parts_.emplace_back();
      same = std::prev(subjects_.end());
    }
    parts_[size_t(same - subjects_.begin())].add(own, reference, primary_);
  }

  // with_reference: whether there was one.
  void write(Json& m, bool with_reference) const {
    m["primary"] = task_.primary;
    write_tally(m, all_, with_reference, parts_);
    Json& results = m["results"];
    results[task_.name] = harness_entry(task_.name, all_, parts_);
    if (parts_.empty()) return;
    m["subjects"] = Json::array();
    for (size_t i = 0; i < parts_.size(); ++i) {
      Json row = {{"subject", subjects_[i]}};
      write_tally(row, parts_[i], with_reference, {});
      m["subjects"].push_back(std::move(row));
    }
    std::vector<std::string> in_groups;
    for (const tasks::TaskGroup& group : task_.groups) {
      std::vector<ChoiceTally> parts;
      Json leaves = Json::object();
      for (const std::string& subject : group.subjects) {
        const auto found = std::find(subjects_.begin(), subjects_.end(), subject);
        if (found == subjects_.end()) continue;
        parts.push_back(parts_[size_t(found - subjects_.begin())]);
        leaves[task_.name + "_" + subject] = harness_entry("  - " + subject, parts.back(), {});
        in_groups.push_back(subject);
      }
      if (parts.empty()) continue;
      ChoiceTally sum;
      for (const ChoiceTally& part : parts) sum.add(part);
      Json row = {{"group", group.name}, {"members", parts.size()}};
      write_tally(row, sum, with_reference, parts);
      m["groups"].push_back(std::move(row));
      results[task_.name + "_" + group.name] = harness_entry(" - " + group.name, sum, parts);
      results.update(leaves);
    }
    for (size_t i = 0; i < parts_.size(); ++i)
      if (std::find(in_groups.begin(), in_groups.end(), subjects_[i]) == in_groups.end())
        results[task_.name + "_" + subjects_[i]] =
            harness_entry(" - " + subjects_[i], parts_[i], {});
  }

  static size_t metric_index(const std::string& metric) {
    const auto& words = tasks::metric_words();
    return size_t(std::find(words.begin(), words.end(), metric) - words.begin());
  }

 private:
  double error_of(const ChoiceTally& tally, std::span<const ChoiceTally> parts, size_t m) const {
    return parts.empty() ? tally.error(m) : pooled_error(parts, m);
  }

  // One entry of `results` in the harness's files (lm_eval/loggers/evaluation_tracker.py).
  Json harness_entry(const std::string& alias, const ChoiceTally& tally,
                     std::span<const ChoiceTally> parts) const {
    Json entry = {{"alias", alias}};
    for (const std::string& metric : task_.metrics) {
      const size_t m = metric_index(metric);
      const double error = error_of(tally, parts, m);
      entry[metric + ",none"] = tally.share(m);
      entry[metric + "_stderr,none"] = std::isfinite(error) ? Json(error) : Json("N/A");
    }
    return entry;
  }

  // parts: what the tally is the sum of; empty: it is of one piece.
  void write_tally(Json& json, const ChoiceTally& tally, bool with_reference,
                   std::span<const ChoiceTally> parts) const {
    Answers{tally.right[primary_], tally.total}.write(json);
    for (const std::string& metric : task_.metrics) {
      const size_t m = metric_index(metric);
      json[metric] = tally.share(m);
      put_number(json, metric + "_se", error_of(tally, parts, m), "one answer has no spread");
    }
    if (!with_reference) return;
    json["accuracy_reference"] = double(tally.right_reference[primary_]) / double(tally.total);
    json["lost"] = tally.lost;      // right with full precision, wrong with the method
    json["gained"] = tally.gained;  // the other way round
    json["flips"] = double(tally.lost + tally.gained) / double(tally.total);
  }

  const tasks::TaskDescription& task_;
  size_t primary_;
  ChoiceTally all_;
  std::vector<std::string> subjects_;  // in the order in which they came
  std::vector<ChoiceTally> parts_;
};

}  // namespace ptq::eval
