// The rows of a task's data files, asked: JSON Lines, with the right answers in the rows or in a
// file beside them, and examples of how to answer in front (few-shot).
#pragma once

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/json.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/core/mt19937.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/tasks/description.hpp"
#include "ptq/tasks/row_range.hpp"

namespace ptq::tasks {

// What is asked about one row.
struct Item {
  int64_t row = 0;      // in the data file, from 0
  Json fields;          // of the row
  std::string subject;  // empty: of a task in one piece
  std::string block;    // what stands in front of the question: header and examples
  Question question;
};

// The files of a task; labels: one right answer a line, for data whose rows have none.
struct TaskFiles {
  std::string task, data, labels, fewshot;
};

namespace rows_detail {

// visit(text, number of the line from 0, where) for each line that is not blank.
template <class Visit>
void for_each_line(const std::string& file, const Visit& visit) {
  const MappedFile mapped(file);
  if (is_git_lfs_pointer(mapped.text()))
    throw environment_error("this is a Git LFS pointer, not the file itself", file,
                            "run `git lfs pull` in the folder");
  std::string_view rest = without_byte_order_mark(mapped.text());
  int64_t row = 0;
  for (int64_t line = 1; !rest.empty(); ++line) {
    const std::string_view text = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), text.size() + 1));
    if (text.find_first_not_of(" \t\r") == text.npos) continue;
    visit(text, row++, file + ":" + std::to_string(line));
  }
}

inline std::vector<int64_t> read_labels(const std::string& file) {
  std::vector<int64_t> labels;
  if (file.empty()) return labels;
  for_each_line(file, [&](std::string_view text, int64_t, const std::string& where) {
    while (text.ends_with('\r') || text.ends_with(' ')) text.remove_suffix(1);
    int64_t value = 0;
    const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (status != std::errc() || end != text.data() + text.size())
      throw environment_error("a label is a number from 0 on", where);
    labels.push_back(value);
  });
  return labels;
}

inline Json parse_row(std::string_view text, const std::string& where) {
  Json row = parse_json(text, where);
  if (!row.is_object()) throw environment_error("a line of the data is a JSON object", where);
  return row;
}

// The right answer of a row that a file of labels has; nothing without such a file.
inline std::optional<int64_t> label_at(const std::vector<int64_t>& labels, int64_t row,
                                       const std::string& data) {
  if (labels.empty()) return {};
  if (row >= int64_t(labels.size()))
    throw environment_error(
        "there are only " + std::to_string(labels.size()) + " labels for the rows", data,
        "the file of labels has a line for each row of the data");
  return labels[size_t(row)];
}

// random.sample(range(n), k) of CPython (Lib/random.py): the places of k examples.
inline std::vector<size_t> sample_places(PythonRandom& random, size_t n, size_t k) {
  const auto below = [&](size_t count) { return size_t(random.randint(0, int64_t(count) - 1)); };
  size_t set_size = 21;
  if (k > 5) {
    size_t power = 1;
    while (power < 3 * k) power *= 4;
    set_size += power;
  }
  std::vector<size_t> out;
  if (n <= set_size) {
    std::vector<size_t> pool(n);
    for (size_t i = 0; i < n; ++i) pool[i] = i;
    for (size_t i = 0; i < k; ++i) {
      const size_t j = below(n - i);
      out.push_back(pool[j]);
      pool[j] = pool[n - i - 1];
    }
    return out;
  }
  while (out.size() < k) {
    const size_t j = below(n);
    if (std::find(out.begin(), out.end(), j) == out.end()) out.push_back(j);
  }
  return out;
}

// The examples in front of questions, of the right answers and of one subject.
class Examples {
 public:
  // count: of the examples, drawn from the rows of `file`. labels: of these rows, or empty.
  Examples(const TaskDescription& task, const std::string& file, const std::vector<int64_t>& labels,
           int64_t count)
      : task_(task), count_(size_t(count)), random_(kSeed) {
    if (count == 0) return;
    for_each_line(file, [&](std::string_view text, int64_t number, const std::string& where) {
      const Json row = parse_row(text, where);
      const Question q = task.question(row, label_at(labels, number, file), where);
      const size_t gold = size_t(q.gold);
      const std::string answer = q.contexts.size() == 1 ? q.choices[gold] : q.continuations[0];
      examples_.push_back({subject_of(row),
                           q.context(gold) + task.delimiter + answer + task.fewshot_delimiter,
                           row});
    });
  }

  // Header and examples for a row. The harness draws examples anew for each row, in the order of
  // the rows; where examples and questions are of one split it draws one more and leaves the row
  // itself out. Errors: too few examples.
  std::string block(const Json& row, const std::string& where) {
    std::string out = task_.header.render(row).value_or("");
    if (count_ == 0) return out;
    const std::string subject = subject_of(row);
    std::vector<const Example*> own;
    for (const Example& example : examples_)
      if (example.subject == subject) own.push_back(&example);
    const bool first = task_.fewshot_order == "first";
    const size_t drawn = count_ + (task_.fewshot_order == "random_others");
    if (own.size() < drawn)
      throw usage_error("there are " + std::to_string(own.size()) + " examples" +
                            (subject.empty() ? "" : " of `" + subject + "`") + ", too few for " +
                            std::to_string(count_) + " in front of a question",
                        where, "use a smaller `fewshot`");
    std::vector<const Example*> taken(own.begin(), own.begin() + long(count_));
    if (!first) {
      taken.clear();
      for (const size_t place : sample_places(random_, own.size(), drawn))
        if ((drawn == count_ || own[place]->row != row) && taken.size() < count_)
          taken.push_back(own[place]);
    }
    for (const Example* example : taken) out += example->text;
    return out;
  }

 private:
  static constexpr uint64_t kSeed = 1234;  // of the harness

  struct Example {
    std::string subject, text;
    Json row;
  };

  std::string subject_of(const Json& row) const { return task_.subject.render(row).value_or(""); }

  const TaskDescription& task_;
  size_t count_;
  PythonRandom random_;
  std::vector<Example> examples_;
};

}  // namespace rows_detail

// The items of the rows. Errors: an unreadable file, a row that is not of the task, fewer labels
// than rows, a range without rows.
inline std::vector<Item> read_items(const TaskDescription& task, const TaskFiles& files,
                                    int64_t fewshot, const RowRange& range) {
  using namespace rows_detail;
  const std::vector<int64_t> labels = read_labels(files.labels), none;
  Examples examples(task, files.fewshot, files.fewshot == files.data ? labels : none, fewshot);
  std::vector<Item> items;
  int64_t rows = 0;
  for_each_line(files.data, [&](std::string_view text, int64_t number, const std::string& where) {
    rows = number + 1;
    if (number >= range.end) return;
    const bool drawn = fewshot > 0 && task.fewshot_order != "first";
    if (number < range.begin && !drawn) return;  // drawing goes on from row to row
    Json row = parse_row(text, where);
    std::string block = examples.block(row, where);
    if (number < range.begin) return;
    std::string subject = task.subject.render(row).value_or("");
    tasks::Question question = task.question(row, label_at(labels, number, files.data), where);
    items.push_back(
        {number, std::move(row), std::move(subject), std::move(block), std::move(question)});
  });
  if (items.empty())
    throw usage_error("no row of the data is asked: the file has " + std::to_string(rows),
                      files.data, "rows = \"0:100\"");
  return items;
}

}  // namespace ptq::tasks
