#include "analysis/check.hpp"

#include <fmt/format.h>

#include <map>
#include <set>

#include "analysis/read/damage.hpp"
#include "ptq/core/toml.hpp"

namespace ptq::report {
namespace {

namespace fs = std::filesystem;
using State = CellCheck::State;

// What an experiment asks for. `given`: settings that the file states; the rest are defaults, which
// only ptq-host knows.
struct Wanted {
  struct Method {
    std::string label;
    std::vector<std::pair<std::string, Json>> parts;  // method, given options
  };
  struct Evaluation {
    std::string name, kind;
    Json given;
  };
  std::string name;
  Json seed;
  std::vector<std::string> models;
  std::vector<Method> methods;  // empty with `any_method`
  bool any_method = false;      // methods = "*": whatever was installed
  std::vector<Evaluation> evaluations;
};

Error mistake(const std::string& what, const std::string& where) {
  return usage_error(what, where,
                     "an experiment file of ptq-host, or the experiment.json beside its results");
}

// The name of a model in results: the last part of its folder or id, without a revision.
std::string model_name(const std::string& text) {
  std::string name = fs::path(text).lexically_normal().filename().string();
  if (name.empty()) name = fs::path(text).lexically_normal().parent_path().filename().string();
  return name.substr(0, name.find('@'));
}

// As ptq-host labels a method without a label: "kivi bits=2 + rtn".
std::string default_label(const Wanted::Method& method) {
  std::string label;
  for (const auto& [name, options] : method.parts) {
    label += (label.empty() ? "" : " + ") + name;
    if (!options.is_object()) continue;
    for (const auto& [key, value] : options.items()) {
      label += " " + key + "=" + (value.is_string() ? value.get<std::string>() : value.dump());
    }
  }
  return label;
}

std::string text_of(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
}

Wanted::Method method_of(const Json& json, const std::string& where) {
  Wanted::Method method;
  if (json.is_string()) return {json.get<std::string>(), {}};  // experiment.json lists labels
  if (!json.is_object()) throw mistake("a method is no table", where);
  const auto add = [&](const Json& part) {
    method.parts.push_back({text_of(part, "method"), part.value("options", Json())});
  };
  const Json parts = json.value("parts", Json());
  if (parts.is_array()) {
    for (const Json& part : parts) {
      if (part.is_object()) add(part);
    }
  } else {
    add(json);
  }
  method.label = text_of(json, "label");
  if (method.label.empty()) method.label = default_label(method);
  return method;
}

Wanted::Evaluation evaluation_of(const Json& json, const std::string& where) {
  if (!json.is_object()) throw mistake("an evaluation is no table", where);
  Wanted::Evaluation evaluation{text_of(json, "name"), text_of(json, "kind"),
                                json.value("settings", Json())};
  if (!evaluation.given.is_object()) {
    evaluation.given = json;
    for (const char* key : {"name", "kind", "settings"}) evaluation.given.erase(key);
  }
  if (evaluation.name.empty()) {
    evaluation.name = evaluation.kind;
    if (evaluation.kind == "perplexity") {
      const std::string protocol = text_of(evaluation.given, "protocol");
      evaluation.name += "-" + (protocol.empty() ? std::string("disjoint") : protocol);
    } else if (const std::string task = text_of(evaluation.given, "task"); !task.empty()) {
      evaluation.name = fs::path(task).stem().string();
    }
  }
  return evaluation;
}

Wanted read_wanted(const std::string& file) {
  Json json;
  if (file.ends_with(".json")) {
    json = parse_json(read_text_file(file, uint64_t{16} << 20), file);
  } else {
    json = to_json(read_toml_file(file));
  }
  const auto list = [&](const char* key) {
    const Json value = json.is_object() ? json.value(key, Json()) : Json();
    if (!value.is_array()) throw mistake("`" + std::string(key) + "` is missing", file);
    return value;
  };
  Wanted wanted;
  for (const Json& model : list("models")) {
    if (!model.is_string()) throw mistake("a model is no text", file);
    wanted.models.push_back(model_name(model.get<std::string>()));
  }
  for (const Json& evaluation : list("evaluations")) {
    wanted.evaluations.push_back(evaluation_of(evaluation, file));
  }
  wanted.name = text_of(json, "name");
  if (wanted.name.empty()) wanted.name = fs::path(file).stem().string();
  wanted.seed = json.value("seed", Json(0));
  const Json methods = json.value("methods", Json());
  if (methods == "*") {
    wanted.any_method = true;
  } else {
    for (const Json& method : list("methods")) wanted.methods.push_back(method_of(method, file));
  }
  return wanted;
}

// The first member of `given` that the record has otherwise.
std::string difference(const Json& given, const Json& has, const std::string& what) {
  if (!given.is_object()) return {};
  for (const auto& [key, value] : given.items()) {
    if (!has.is_object() || !has.contains(key)) continue;
    const Json& other = has[key];
    if (value.is_object() && other.is_object()) {  // a table, of which the rest are defaults, too
      const std::string inside = difference(value, other, what + " " + key + ":");
      if (!inside.empty()) return inside;
      continue;
    }
    const bool equal = value.is_number() && other.is_number()
                           ? value.get<double>() == other.get<double>()
                           : value == other;
    if (!equal) {
      return fmt::format("{} {} is {} in the result, {} in the experiment", what, key,
                         json_text(other), json_text(value));
    }
  }
  return {};
}

struct Found {
  Record record;
  std::string source;
  fs::path folder;  // of the record
};

using CellKey = std::tuple<std::string, std::string, std::string>;

std::string conflict_of(const Wanted& wanted, const Wanted::Method& method,
                        const Wanted::Evaluation& evaluation, const Record& record) {
  if (wanted.seed.is_number() && wanted.seed.get<double>() != double(record.seed)) {
    return fmt::format("seed {} in the result, {} in the experiment", record.seed,
                       wanted.seed.dump());
  }
  if (!evaluation.kind.empty() && evaluation.kind != record.evaluation.kind) {
    return "kind " + record.evaluation.kind + " in the result, " + evaluation.kind +
           " in the experiment";
  }
  if (!method.parts.empty() && method.parts.size() != record.method.parts.size()) {
    return fmt::format("{} parts in the result, {} in the experiment", record.method.parts.size(),
                       method.parts.size());
  }
  for (size_t p = 0; p < method.parts.size(); ++p) {
    const Record::Part& part = record.method.parts[p];
    if (!method.parts[p].first.empty() && method.parts[p].first != part.method) {
      return "method " + part.method + " in the result, " + method.parts[p].first +
             " in the experiment";
    }
    const std::string options = difference(method.parts[p].second, part.options, "option");
    if (!options.empty()) return options;
  }
  return difference(evaluation.given, record.evaluation.settings, "setting");
}

using Records = std::map<CellKey, std::vector<Found>>;

std::string names_of(const Record& record) {
  return record.model.name + " " + record.method.label + " " + record.evaluation.name;
}

// What is said about a cell of which there are results under its names.
void check_found(const Wanted& wanted, const Wanted::Method& method,
                 const Wanted::Evaluation& evaluation, const std::vector<Found>& found,
                 CellCheck& check) {
  std::vector<const Found*> done;
  for (const Found& one : found) {
    if (one.record.status != "failed") done.push_back(&one);
  }
  if (done.empty()) {
    check.state = State::failed;
    check.detail = one_line(found[0].record.error->message);
    return;
  }
  const Record& record = done[0]->record;
  if (done.size() > 1) {
    check.state = State::conflict;
    check.detail = fmt::format("{} results: {}, {}", done.size(), done[0]->source, done[1]->source);
  } else if (check.detail = conflict_of(wanted, method, evaluation, record);
             !check.detail.empty()) {
    check.state = State::conflict;
  } else if (const std::vector<Violation> wrong = violations(record, done[0]->folder);
             !wrong.empty()) {
    check.state = State::inconsistent;
    check.detail = one_line(wrong[0].sentence());
    if (wrong.size() > 1) check.detail += fmt::format(" (and {} more)", wrong.size() - 1);
  } else if (record.status == "invalid") {
    check.state = State::invalid;
    check.detail = record.warnings.empty() ? "" : one_line(record.warnings[0]);
  }
}

// A result of the same settings under other names: a label or an evaluation was renamed, or the
// experiment was.
std::string renamed(const Wanted& wanted, const std::string& model, const Wanted::Method& method,
                    const Wanted::Evaluation& evaluation, const Records& records) {
  if (method.parts.empty() && method.label.empty()) return {};
  for (const auto& [key, found] : records) {
    for (const Found& one : found) {
      const Record& record = one.record;
      if (record.status == "failed" || record.model.name != model) continue;
      const bool same_label = record.method.label == method.label;
      const bool same_name = record.evaluation.name == evaluation.name;
      // Without parts (an experiment.json) only the label says which method it is.
      if (!same_label && (method.parts.empty() || !same_name)) continue;
      if (!conflict_of(wanted, method, evaluation, record).empty()) continue;
      if (!same_name && (evaluation.kind.empty() || evaluation.given.empty())) continue;
      std::string text = "there is a result of these settings as " + names_of(record);
      if (record.experiment != wanted.name) text += " of the experiment " + record.experiment;
      return one_line(text + ", " + one.source);
    }
  }
  return {};
}

}  // namespace

std::vector<CellCheck> check_cells(const fs::path& results, const std::string& experiment) {
  Wanted wanted = read_wanted(experiment);
  Records own, others;  // of this experiment, of others in the same folder
  std::vector<CellCheck> checks;
  std::vector<Damaged> damaged;
  for (const fs::path& file : record_files(results, damaged)) {
    const std::string source = file.lexically_relative(results).string();
    const auto why = damage([&] {
      Record record = read_record(file);
      Records& records = record.experiment == wanted.name ? own : others;
      records[{record.model.name, record.method.label, record.evaluation.name}].push_back(
          {std::move(record), source, file.parent_path()});
    });
    if (why) damaged.push_back({source, *why});
  }
  for (const Damaged& file : damaged) {
    checks.push_back({State::conflict, "", "", "", file.file + ": " + file.reason});
  }
  if (wanted.any_method) {
    std::set<std::string> labels;
    for (const auto& [key, records] : own) labels.insert(std::get<1>(key));
    for (const std::string& label : labels) wanted.methods.push_back({label, {}});
  }
  std::set<CellKey> asked;
  for (const std::string& model : wanted.models) {
    for (const Wanted::Method& method : wanted.methods) {
      for (const Wanted::Evaluation& evaluation : wanted.evaluations) {
        CellCheck check{State::ok, model, method.label, evaluation.name, {}};
        const CellKey key = {model, method.label, evaluation.name};
        asked.insert(key);
        if (const auto at = own.find(key); at != own.end()) {
          check_found(wanted, method, evaluation, at->second, check);
        } else if (const auto other = others.find(key); other != others.end()) {
          check.state = State::conflict;
          check.detail =
              one_line("belongs to the experiment " + other->second[0].record.experiment);
        } else {
          check.state = State::missing;
          check.detail = renamed(wanted, model, method, evaluation, own);
          if (check.detail.empty()) {
            check.detail = renamed(wanted, model, method, evaluation, others);
          }
        }
        checks.push_back(std::move(check));
      }
    }
  }
  for (const auto& [key, records] : own) {
    if (asked.contains(key)) continue;
    checks.push_back({State::extra, std::get<0>(key), std::get<1>(key), std::get<2>(key), {}});
  }
  for (const auto& [key, records] : others) {
    checks.push_back({State::extra, std::get<0>(key), std::get<1>(key), std::get<2>(key),
                      one_line("of the experiment " + records[0].record.experiment)});
  }
  return checks;
}

std::string check_text(const std::vector<CellCheck>& checks) {
  static const std::map<State, const char*> kWords = {{State::ok, "ok"},
                                                      {State::missing, "missing"},
                                                      {State::failed, "failed"},
                                                      {State::invalid, "invalid"},
                                                      {State::inconsistent, "inconsistent"},
                                                      {State::conflict, "conflict"},
                                                      {State::extra, "not asked for"}};
  std::map<State, size_t> counts;
  std::string out;
  for (const CellCheck& check : checks) {
    ++counts[check.state];
    if (check.state == State::ok) continue;
    std::string name = check.model + " " + check.method + " " + check.evaluation;
    if (check.model.empty()) name.clear();
    out += fmt::format("{:<13}  {}{}{}\n", kWords.at(check.state), name,
                       check.detail.empty() || name.empty() ? "" : ": ", check.detail);
  }
  std::string line;
  for (const auto& [state, count] : counts) {
    line += fmt::format("{}{} {}", line.empty() ? "" : ", ", count, kWords.at(state));
  }
  return out + fmt::format("{}\n", line);
}

}  // namespace ptq::report
