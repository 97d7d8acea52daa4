// ptq-host methods: what is installed, with every option, straight from the plugins.
#include <fmt/format.h>

#include <algorithm>

#include "host/arguments.hpp"
#include "host/commands/commands.hpp"
#include "host/plugin_folders.hpp"
#include "ptq/core/error.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/core/safe_text.hpp"
#include "ptq/run/plugins.hpp"

namespace ptq {
namespace {

constexpr const char* kMethodsHelp =
    R"(Lists the installed methods, or the options of one.

  ptq-host methods
  ptq-host methods kivi

usage: ptq-host methods [NAME] [--json] [--plugins DIR]

  --json         the same as one JSON object
  --plugins DIR  a folder with plugins, repeatable; before $PTQ_PLUGINS, ./plugins and the
                 folders beside the program
)";

std::vector<std::string> capabilities(const MethodInfo& method) {
  std::vector<std::string> names;
  for (const auto& [bit, name] : {std::pair{PTQ_CAN_WEIGHTS, "weights"},
                                  {PTQ_CAN_ACTIVATIONS, "activations"},
                                  {PTQ_CAN_TRANSFORM, "transform"},
                                  {PTQ_CAN_KV, "kv"},
                                  {PTQ_CAN_PRUNE, "prune"}})
    if ((method.capabilities & bit) != 0) names.push_back(name);
  return names;
}
std::string capabilities_text(const MethodInfo& method) {
  std::string text;
  for (const std::string& name : capabilities(method)) text += (text.empty() ? "" : "+") + name;
  return text.empty() ? "-" : text;
}

Json method_json(const MethodInfo& method) {
  Json options = Json::array();
  for (const OptionSpec& option : method.options) {
    Json json = {{"name", option.name},
                 {"type", option_type_name(option.type)},
                 {"default", option.default_value},
                 {"help", option.help}};
    if (option.has_range) json["range"] = {option.min, option.max};
    if (!option.allowed.empty()) json["allowed"] = option.allowed;
    options.push_back(std::move(json));
  }
  return {{"name", method.name},
          {"version", method.version},
          {"summary", method.summary},
          {"paper", method.paper},
          {"plugin", method.plugin_file},
          {"capabilities", capabilities(method)},
          {"lossless", (method.traits & PTQ_LOSSLESS) != 0},
          {"options", options}};
}

void print_method(const MethodInfo& method) {
  fmt::print("{} {}: {}\n", method.name, one_line(method.version), one_line(method.summary));
  if (!method.paper.empty()) fmt::print("paper: {}\n", one_line(method.paper));
  fmt::print("can: {}   plugin: {}\n", capabilities_text(method), method.plugin_file);
  if (method.options.empty()) {
    fmt::print("It has no options.\n");
    return;
  }
  fmt::print("\n  {:20} {:8} {:14} {:20} {}\n", "option", "type", "default", "values", "");
  for (const OptionSpec& option : method.options) {
    fmt::print("  {:20} {:8} {:14} {:20} {}\n", option.name, option_type_name(option.type),
               one_line(option.default_value.dump()), one_line(option_range_text(option)),
               one_line(option.help));
  }
  fmt::print("\nIn an experiment:\n\n  [[methods]]\n  method = \"{}\"\n", method.name);
  fmt::print("  options = {{ {} = {} }}\n", method.options.front().name,
             method.options.front().default_value.dump());
}

void print_table(const std::vector<MethodInfo>& methods) {
  size_t name = 4, version = 7;
  for (const MethodInfo& method : methods) {
    name = std::max(name, method.name.size());
    version = std::max(version, one_line(method.version).size());
  }
  fmt::print("{:{}}  {:{}}  {:10}  {}\n", "name", name, "version", version, "can", "summary");
  for (const MethodInfo& method : methods) {
    fmt::print("{:{}}  {:{}}  {:10}  {}\n", method.name, name, one_line(method.version), version,
               capabilities_text(method), one_line(method.summary));
  }
}

}  // namespace

int methods_command(const std::vector<std::string>& args) {
  if (wants_help(args, kMethodsHelp)) return 0;
  namespace po = boost::program_options;
  Options options;
  auto add = options.add_options();
  add("name", po::value<std::string>())("json", po::bool_switch());
  add("plugins", po::value<std::vector<std::string>>());
  const Arguments arguments = parse_arguments(args, options, "name");

  const auto folders = plugin_folders(list_of(arguments, "plugins"));
  const PluginSet plugins = PluginSet::scan(folders);
  const std::string name = text_of(arguments, "name");
  std::vector<MethodInfo> methods;
  std::vector<std::string> names;
  for (const MethodInfo& method : plugins.methods()) {
    names.push_back(method.name);
    if (name.empty() || method.name == name) methods.push_back(method);
  }
  std::string searched;
  for (const auto& folder : folders) searched += "\n    looked in " + folder.string();
  if (methods.empty() && !name.empty()) {
    throw usage_error("no installed plugin has a method `" + name + "`", "",
                      did_you_mean(name, names) + searched + skipped_text(plugins));
  }
  if (arguments["json"].as<bool>()) {
    Json json = {{"methods", Json::array()}, {"skipped", Json::array()}};
    for (const MethodInfo& method : methods) json["methods"].push_back(method_json(method));
    for (const SkippedFile& file : plugins.skipped()) {
      json["skipped"].push_back({{"file", safe_text(file.path.string())}, {"reason", file.reason}});
    }
    fmt::print("{}\n", json_text(json, 2));
    return methods.empty() ? int(ExitCode::environment) : 0;
  }
  if (!name.empty()) {
    print_method(methods.front());
    return 0;
  }
  if (methods.empty()) {
    throw environment_error("no method is installed", "",
                            "plugins are *.so files" + searched + skipped_text(plugins));
  }
  print_table(methods);
  fmt::print("\nOptions of one: ptq-host methods {}\n", methods.front().name);
  for (const SkippedFile& file : plugins.skipped()) {
    fmt::print(stderr, "skipped {}: {}\n", safe_text(file.path.string()), file.reason);
  }
  return 0;
}

}  // namespace ptq
