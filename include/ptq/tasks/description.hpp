// A task as a small TOML file (datasets/tasks): how a row of its data becomes contexts,
// continuations and the right one. A new task needs no code.
//
//   version = "1.0"
//   metrics = ["acc", "acc_norm"]     # what the task is known by; the first of `primary` ranks
//   primary = "acc_norm"
//   [[form]]                          # one for each form the data is passed on in; a row takes the
//   context = "Question: {goal}\nAnswer:"           # first form whose fields it has
//   choices = ["{sol1}", "{sol2}"]    # templates, or the path of a list
//   gold = "{label}"                  # position from 0, or a word of the list `labels`
//
// Instead of `context` a form may have `contexts`, one for each choice, and one `continuation`.
//
// A task whose answers are written freely (kind "answers") has in its forms, instead of choices and
// gold, `answer = "{answer}"`, and besides
//
//   stop = ["Question:"]              # an answer ends in front of the first of them
//   max_new_tokens = 256              # or here
//   ignore = [",", "\\.$"]            # patterns that do not count; ignore_case, ignore_punctuation
//   [[filter]]                        # what of it is compared; the first ranks
//   name = "strict-match"
//   pattern = "#### (\\-?[0-9\\.\\,]+)"
//   take = "first"                    # or "last": of several matches
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/config_tree.hpp"
#include "ptq/core/error.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/core/problems.hpp"
#include "ptq/core/toml.hpp"
#include "ptq/tasks/text.hpp"
#include "ptq/tasks/written_answer.hpp"

namespace ptq::tasks {

// One row as it is asked. Continuations are scored behind contexts; of each there is one for all
// choices or one for each. Where answers are written, the only choice is the right one.
struct Question {
  std::vector<std::string> contexts, continuations;
  std::vector<std::string> choices;  // whose lengths acc_norm and acc_bytes divide by
  int64_t gold = 0;

  const std::string& context(size_t choice) const { return pick(contexts, choice); }
  const std::string& continuation(size_t choice) const { return pick(continuations, choice); }

 private:
  static const std::string& pick(const std::vector<std::string>& list, size_t i) {
    return list.size() == 1 ? list[0] : list[i];
  }
};

// How rows of one form become questions.
struct Form {
  Template context, continuation;
  Filters filters;  // of the whole context
  std::vector<Template> contexts, choices;
  std::optional<Source> choice_list, label_list;
  std::vector<std::string> labels;
  Template gold, answer;

  // Nothing where the row is not of this form. known_gold: from a file beside the rows.
  std::optional<Question> question(const Json& row, std::optional<int64_t> known_gold,
                                   const std::string& where) const {
    Question out;
    if (!answer.empty()) {
      if (!render_all({answer}, row, out.choices) || !render_all({context}, row, out.contexts))
        return {};
      out.continuations = out.choices;
      out.contexts[0] = filters.apply(std::move(out.contexts[0]));
      return out;
    }
    if (choice_list) {
      auto list = choice_list->texts(row);
      if (!list) return {};
      out.choices = std::move(*list);
    }
    if (!render_all(choices, row, out.choices) || !render_all(contexts, row, out.contexts))
      return {};
    if (contexts.empty()) {
      out.continuations = out.choices;
      if (!render_all({context}, row, out.contexts)) return {};
      out.contexts[0] = filters.apply(std::move(out.contexts[0]));
    } else {
      out.choices = out.contexts;
      if (!render_all({continuation}, row, out.continuations)) return {};
    }
    const auto position = known_gold ? known_gold : gold_of(row, where);
    if (!position) return {};
    out.gold = *position;
    if (out.gold < 0 || out.gold >= int64_t(out.choices.size()))
      throw environment_error("the right answer is number " + std::to_string(out.gold) + " of " +
                                  std::to_string(out.choices.size()) + " choices, from 0",
                              where);
    return out;
  }

 private:
  static bool render_all(const std::vector<Template>& templates, const Json& row,
                         std::vector<std::string>& out) {
    for (const Template& one : templates) {
      std::optional<std::string> text = one.render(row);
      if (!text) return false;
      out.push_back(std::move(*text));
    }
    return true;
  }

  std::optional<int64_t> gold_of(const Json& row, const std::string& where) const {
    const std::optional<std::string> word = gold.render(row);
    if (!word) return {};
    std::vector<std::string> list = labels;
    if (label_list) {
      auto found = label_list->texts(row);
      if (!found) return {};
      list = std::move(*found);
    }
    if (!list.empty()) {
      const auto place = std::find(list.begin(), list.end(), *word);
      if (place == list.end())
        throw environment_error("the right answer " + json_text(Json(*word)) +
                                    " is none of the labels " + json_text(Json(list)),
                                where);
      return place - list.begin();
    }
    if (*word == "true" || *word == "false") return *word == "true";
    int64_t value = 0;
    const char* end = word->data() + word->size();
    const auto [stop, status] = std::from_chars(word->data(), end, value);
    if (status != std::errc() || stop != end)
      throw environment_error(
          "the right answer " + json_text(Json(*word)) + " is no position of a choice", where);
    return value;
  }
};

struct TaskGroup {
  std::string name;
  std::vector<std::string> subjects;
};

// What is scored: the plain log-likelihoods, divided by the code points of the choices, by their
// bytes.
inline const std::vector<std::string>& metric_words() {
  static const std::vector<std::string> words = {"acc", "acc_norm", "acc_bytes"};
  return words;
}

struct TaskDescription {
  std::string name;                    // stem of the file
  std::string version = "1.0";         // that of the harness's task
  std::vector<std::string> metrics;    // words of metric_words()
  std::string primary;                 // the one that ranks
  std::string dataset, config, split;  // where the official rows are on the hub
  Template subject;                    // empty: the task is of one piece
  Template header;                     // in front of the examples and the question
  // Examples: the "first", "random" ones, or "random_others" than the row that is asked.
  std::string fewshot_order = "random";
  std::string delimiter = " ", fewshot_delimiter = "\n\n";
  std::vector<TaskGroup> groups;  // of subjects
  std::vector<Form> forms;
  AnswerRules rules;  // of written answers

  bool writes() const { return !forms.front().answer.empty(); }  // answers, instead of choosing

  // The question of a row. Errors: a row of no form, a right answer that there is not.
  Question question(const Json& row, std::optional<int64_t> known_gold,
                    const std::string& where) const {
    for (const Form& form : forms)
      if (auto found = form.question(row, known_gold, where)) return *found;
    std::string fields;
    for (const auto& [key, value] : row.items()) fields += (fields.empty() ? "" : ", ") + key;
    throw environment_error("the row has not the fields of the task `" + name + "`; it has " +
                                (fields.empty() ? "none" : fields),
                            where, "python datasets/export_hf.py " + name + " writes such a file");
  }
};

namespace description_detail {

inline std::vector<std::string> words(TableReader& table, const std::string& key) {
  std::vector<std::pair<std::string, std::string>> read;
  table.strings(key, read);
  std::vector<std::string> out;
  for (const auto& [word, where] : read) out.push_back(word);
  return out;
}

inline Form read_form(const ConfigNode& node, const std::string& path, Problems& problems) {
  TableReader table(node, path, problems);
  Form form;
  const auto text = [&](const char* key, Template& out) {
    std::string written;
    table.string(key, written);
    problems.collect([&] { out = Template(written, node.where + " " + path + "." + key); });
  };
  const auto texts = [&](const char* key, std::vector<Template>& out) {
    for (const std::string& one : words(table, key))
      problems.collect([&] { out.emplace_back(one, node.where + " " + path + "." + key); });
  };
  // A list in the file, or the path of one in the row.
  const auto list_or_path = [&](const char* key, std::optional<Source>& source, const auto& list) {
    const ConfigNode* value = table.node(key);
    if (value == nullptr) return;
    if (value->scalar.is_string()) {
      problems.collect([&] { source.emplace(value->scalar.get<std::string>(), value->where); });
    } else {
      list();
    }
  };
  text("context", form.context);
  text("continuation", form.continuation);
  std::string filters;
  table.string("filters", filters);
  problems.collect([&] { form.filters = Filters(filters, node.where + " " + path + ".filters"); });
  text("gold", form.gold);
  text("answer", form.answer);
  texts("contexts", form.contexts);
  list_or_path("choices", form.choice_list, [&] { texts("choices", form.choices); });
  list_or_path("labels", form.label_list, [&] { form.labels = words(table, "labels"); });
  table.finish();
  const bool one_context = !form.context.empty() && (form.choice_list || !form.choices.empty());
  const bool many = form.contexts.size() > 1 && !form.continuation.empty();
  const bool written = !form.context.empty() && !form.answer.empty();
  if (int(one_context) + int(many) + int(written) != 1 || form.gold.empty() != written)
    problems.add(
        usage_error("a form needs `gold`, and `context` with `choices` or `contexts` with "
                    "`continuation`; or of written answers `context` and `answer`",
                    node.where));
  return form;
}

inline void read_groups(const ConfigNode* node, TableReader& table, TaskDescription& task,
                        Problems& problems) {
  if (node == nullptr) return;
  if (node->kind != ConfigNode::Kind::table)
    return table.wrong_type("groups", *node, "table", "{ stem = [\"anatomy\"] }");
  TableReader inner(*node, "groups", problems);
  for (const auto& [name, member] : node->members)
    task.groups.push_back({name, words(inner, name)});
}

// What belongs to written answers.
inline void read_rules(TableReader& table, AnswerRules& rules, const std::string& file,
                       Problems& problems) {
  rules.stop = words(table, "stop");
  table.integer("max_new_tokens", rules.max_new_tokens, 1, 1 << 20);
  table.boolean("ignore_case", rules.ignore_case);
  table.boolean("ignore_punctuation", rules.ignore_punctuation);
  for (const std::string& pattern : words(table, "ignore"))
    problems.collect([&] { rules.ignore.emplace_back(pattern, file + " ignore"); });
  const ConfigNode* filters = table.node("filter");
  if (filters == nullptr) {
    rules.filters.emplace_back();
    return;
  }
  if (filters->kind != ConfigNode::Kind::array || filters->items.empty())
    problems.add(usage_error("`filter` is one or more [[filter]] tables", filters->where));
  for (size_t i = 0; i < filters->items.size(); ++i) {
    const ConfigNode& node = filters->items[i];
    TableReader inner(node, "filter[" + std::to_string(i) + "]", problems);
    AnswerFilter filter;
    std::string pattern, take = "first";
    inner.string("name", filter.name);
    inner.string("pattern", pattern);
    inner.choice("take", take, {"first", "last"});
    inner.finish();
    filter.last = take == "last";
    if (!pattern.empty())
      problems.collect([&] { filter.pattern.emplace_back(pattern, node.where + " pattern"); });
    rules.filters.push_back(std::move(filter));
  }
}

}  // namespace description_detail

// Reads a description. Errors: all mistakes of the file at once.
inline TaskDescription read_task(const std::filesystem::path& file) {
  using namespace description_detail;
  const ConfigNode tree = read_toml_file(file);
  Problems problems;
  TableReader table(tree, "", problems);
  TaskDescription task;
  task.name = file.stem().string();
  table.string("version", task.version);
  table.string("dataset", task.dataset);
  table.string("config", task.config);
  table.string("split", task.split);
  table.string("delimiter", task.delimiter);
  table.string("fewshot_delimiter", task.fewshot_delimiter);
  table.choice("fewshot_order", task.fewshot_order, {"random", "random_others", "first"});
  std::string subject, header;
  table.string("subject", subject);
  table.string("header", header);
  problems.collect([&] { task.subject = Template(subject, file.string() + " subject"); });
  problems.collect([&] { task.header = Template(header, file.string() + " header"); });
  task.metrics = words(table, "metrics");
  if (task.metrics.empty()) task.metrics = {"acc"};
  task.primary = task.metrics.front();
  table.choice("primary", task.primary, task.metrics);
  for (const std::string& metric : task.metrics) {
    const auto& known = metric_words();
    if (std::find(known.begin(), known.end(), metric) == known.end())
      problems.add(usage_error("there is no metric `" + metric + "`", file.string(),
                               did_you_mean(metric, known)));
  }
  read_groups(table.node("groups"), table, task, problems);
  read_rules(table, task.rules, file.string(), problems);
  const ConfigNode* forms = table.node("form");
  if (forms == nullptr || forms->kind != ConfigNode::Kind::array || forms->items.empty()) {
    problems.add(usage_error("a task needs one or more [[form]] tables", file.string()));
  } else {
    for (size_t i = 0; i < forms->items.size(); ++i)
      task.forms.push_back(read_form(forms->items[i], "form[" + std::to_string(i) + "]", problems));
    for (const Form& form : task.forms)
      if (form.answer.empty() != task.forms[0].answer.empty())
        problems.add(usage_error("one form writes answers, another chooses", file.string()));
  }
  table.finish();
  problems.throw_if_any();
  return task;
}

}  // namespace ptq::tasks
