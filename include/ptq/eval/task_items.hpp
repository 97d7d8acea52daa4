// What the kinds that ask tasks have in common: the task, its items, how long a text may be.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "ptq/core/clock.hpp"
#include "ptq/core/error.hpp"
#include "ptq/eval/subject.hpp"
#include "ptq/model/config.hpp"
#include "ptq/tasks/description.hpp"
#include "ptq/tasks/row_range.hpp"
#include "ptq/tasks/rows.hpp"

namespace ptq::eval {

// kind: "choices" or "answers". Errors: the description cannot be read, or is of the other kind.
template <class TaskSettings>
tasks::TaskDescription read_task_of(const TaskSettings& s, const std::string& kind) {
  tasks::TaskDescription task = tasks::read_task(s.task);
  const std::string right = task.writes() ? "answers" : "choices";
  if (kind != right)
    throw usage_error(
        "the answers of the task `" + task.name + "` are " + (task.writes() ? "written" : "chosen"),
        s.task, "kind = \"" + right + "\"");
  return task;
}

template <class TaskSettings>
std::vector<tasks::Item> read_items(const tasks::TaskDescription& task, const TaskSettings& s) {
  std::string labels;
  if constexpr (requires { s.labels; }) labels = s.labels;
  return tasks::read_items(task, {s.task, s.data, labels, s.fewshot_data}, s.fewshot,
                           tasks::parse_rows(s.rows));
}

// Tokens that the model is fed at most.
template <class TaskSettings>
int64_t max_length(const TaskSettings& s, const ModelConfig& config) {
  return s.max_length > 0 ? std::min(s.max_length, config.max_position_embeddings)
                          : config.max_position_embeddings;
}

inline std::string time_left(double seconds) {
  char text[32];
  if (seconds < 90) {
    std::snprintf(text, sizeof text, "%.0f s left", seconds);
  } else {
    std::snprintf(text, sizeof text, "%.0f min left", seconds / 60);
  }
  return text;
}

// Reports how much of a task is done, in units of its choice, and the time that is left.
class TaskProgress {
 public:
  TaskProgress(const Progress& progress, int64_t units) : progress_(progress), units_(units) {}
  void operator()(int64_t more) {
    done_ += more;
    if (!progress_) return;
    const double share = double(done_) / double(units_);
    progress_(share, time_left(clock_.seconds() * (1 - share) / share));
  }

 private:
  const Progress& progress_;
  int64_t units_, done_ = 0;
  Stopwatch clock_;
};

}  // namespace ptq::eval
