#include "check.hpp"

#include <fmt/format.h>

#include <fstream>
#include <iterator>
#include <map>
#include <set>

#include "toml_reader.hpp"

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
    }
  }
  return evaluation;
}

Wanted read_wanted(const std::string& file) {
  Json json;
  if (file.ends_with(".json")) {
    std::ifstream in(file, std::ios::binary);
    if (!in) throw environment_error("the file cannot be opened", file);
    json = Json::parse(std::string{std::istreambuf_iterator<char>(in), {}}, nullptr, false);
  } else {
    json = read_toml_file(file);
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
};

using Key = std::tuple<std::string, std::string, std::string>;

std::string conflict_of(const Wanted& wanted, const Wanted::Method& method,
                        const Wanted::Evaluation& evaluation, const Record& record) {
  if (record.experiment != wanted.name) {
    return "belongs to the experiment " + record.experiment;
  }
  if (wanted.seed.is_number() && wanted.seed.get<double>() != double(record.seed)) {
    return fmt::format("seed {} in the result, {} in the experiment", record.seed,
                       wanted.seed.dump());
  }
  if (!evaluation.kind.empty() && evaluation.kind != record.evaluation.kind) {
    return "kind " + record.evaluation.kind + " in the result, " + evaluation.kind +
           " in the experiment";
  }
  for (size_t p = 0; p < method.parts.size() && p < record.method.parts.size(); ++p) {
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

}  // namespace

std::vector<CellCheck> check_cells(const fs::path& results, const std::string& experiment) {
  Wanted wanted = read_wanted(experiment);
  std::map<Key, std::vector<Found>> found;
  std::vector<CellCheck> checks;
  for (const fs::path& file : record_files(results)) {
    const std::string source = fs::relative(file, results).string();
    try {
      std::ifstream in(file, std::ios::binary);
      const std::string text{std::istreambuf_iterator<char>(in), {}};
      Record record = record_from_json(Json::parse(text), source);
      found[{record.model.name, record.method.label, record.evaluation.name}].push_back(
          {std::move(record), source});
    } catch (const std::exception& error) {
      checks.push_back({State::conflict, "", "", "", source + ": " + one_line(error.what())});
    }
  }
  if (wanted.any_method) {
    std::set<std::string> labels;
    for (const auto& [key, records] : found) labels.insert(std::get<1>(key));
    for (const std::string& label : labels) wanted.methods.push_back({label, {}});
  }
  for (const std::string& model : wanted.models) {
    for (const Wanted::Method& method : wanted.methods) {
      for (const Wanted::Evaluation& evaluation : wanted.evaluations) {
        CellCheck check{State::ok, model, method.label, evaluation.name, {}};
        const auto at = found.find({model, method.label, evaluation.name});
        if (at == found.end()) {
          check.state = State::missing;
        } else {
          std::vector<const Found*> done;
          for (const Found& one : at->second) {
            if (one.record.status != "failed") done.push_back(&one);
          }
          if (done.empty()) {
            check.state = State::failed;
            check.detail = one_line(at->second[0].record.error->message);
          } else if (done.size() > 1) {
            check.state = State::conflict;
            check.detail =
                fmt::format("{} results: {}, {}", done.size(), done[0]->source, done[1]->source);
          } else if (check.detail = conflict_of(wanted, method, evaluation, done[0]->record);
                     !check.detail.empty()) {
            check.state = State::conflict;
          } else if (done[0]->record.status == "invalid") {
            check.state = State::invalid;
            check.detail =
                done[0]->record.warnings.empty() ? "" : one_line(done[0]->record.warnings[0]);
          }
          found.erase(at);
        }
        checks.push_back(std::move(check));
      }
    }
  }
  for (const auto& [key, records] : found) {
    checks.push_back({State::extra, std::get<0>(key), std::get<1>(key), std::get<2>(key), {}});
  }
  return checks;
}

std::string check_text(const std::vector<CellCheck>& checks) {
  static const std::map<State, const char*> kWords = {
      {State::ok, "ok"},           {State::missing, "missing"},   {State::failed, "failed"},
      {State::invalid, "invalid"}, {State::conflict, "conflict"}, {State::extra, "not asked for"}};
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
