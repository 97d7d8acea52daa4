// Tests of what a plugin says about itself: versions, names, options, capabilities.
#include <dlfcn.h>
#include <sys/mman.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "host/check/session.hpp"
#include "host/check/test.hpp"
#include "ptq/core/atomic_file.hpp"
#include "ptq/core/json.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/run/apart.hpp"

namespace ptq::check {
namespace {

const ptq_plugin& entry_of(const Subject& subject) {
  const void* entry = dlsym(const_cast<void*>(load_library(subject)), "ptq_plugin_v1");
  if (!entry) skip("it does not export ptq_plugin_v1");
  return *static_cast<const ptq_plugin*>(entry);
}

// --- Each gives the problem, or nothing ---

std::string magic_problem(const ptq_plugin& plugin) {
  if (std::memcmp(plugin.magic, "PTQPLUG", 8) == 0) return {};
  return "the first eight bytes are not \"PTQPLUG\" and a zero";
}

std::string version_problem(const ptq_plugin& plugin) {
  if (plugin.abi_major == PTQ_ABI_MAJOR) return {};
  return fmt::format(
      "it is built for version {}.{} of plugin.h, this host has {}.{}; build it again",
      plugin.abi_major, plugin.abi_minor, PTQ_ABI_MAJOR, PTQ_ABI_MINOR);
}

std::string method_size_problem(const ptq_method* method, uint32_t index) {
  if (!method) return fmt::format("methods[{}] is NULL", index);
  if (method->struct_size < sizeof(ptq_method)) {
    return fmt::format("methods[{}]: struct_size is {}, version 1.0 has {}", index,
                       method->struct_size, sizeof(ptq_method));
  }
  if (!method->name || !method->version || !method->summary || !method->paper) {
    return fmt::format("methods[{}]: a text is NULL", index);
  }
  if (!method->create || !method->destroy || !method->get) {
    return fmt::format("{}: create, destroy or get is NULL", method->name);
  }
  if (method->n_options > 0 && !method->options) {
    return fmt::format("{}: options is NULL but n_options is {}", method->name, method->n_options);
  }
  for (uint32_t i = 0; i < method->n_options; ++i) {
    const ptq_option* option = method->options[i];
    if (!option) return fmt::format("{}: options[{}] is NULL", method->name, i);
    if (option->struct_size < sizeof(ptq_option)) {
      return fmt::format("{}: options[{}]: struct_size is {}, version 1.0 has {}", method->name, i,
                         option->struct_size, sizeof(ptq_option));
    }
    if (!option->name || !option->default_value || !option->help) {
      return fmt::format("{}: options[{}]: a text is NULL", method->name, i);
    }
  }
  return {};
}

std::string size_problem(const ptq_plugin& plugin) {
  if (plugin.struct_size < sizeof(ptq_plugin)) {
    return fmt::format("ptq_plugin.struct_size is {}, version 1.0 has {}; write sizeof(ptq_plugin)",
                       plugin.struct_size, sizeof(ptq_plugin));
  }
  if (plugin.n_methods == 0 || !plugin.methods) return "it has no methods";
  if (!plugin.name || !plugin.license || !plugin.build) return "name, license or build is NULL";
  for (uint32_t i = 0; i < plugin.n_methods; ++i) {
    if (std::string problem = method_size_problem(plugin.methods[i], i); !problem.empty()) {
      return problem;
    }
  }
  return {};
}

template <std::string (*problem_of)(const ptq_plugin&)>
Result no_problem(const Subject& subject) {
  const std::string problem = problem_of(entry_of(subject));
  return {problem.empty() ? Verdict::pass : Verdict::fail, problem};
}

void must_be_utf8(const char* text) {
  if (const size_t at = utf8_error_offset(text); at != std::string::npos) {
    fail("a text has a byte at {} that is no UTF-8: \"{}\"", at, std::string(text, at));
  }
}

Result names(const Subject& subject) {
  static const std::regex name_form("[a-z][a-z0-9_-]*");
  static const std::regex version_form(
      "(0|[1-9][0-9]*)\\.(0|[1-9][0-9]*)\\.(0|[1-9][0-9]*)(-[0-9A-Za-z.-]+)?(\\+[0-9A-Za-z.-]+)?");
  const ptq_plugin& plugin = load_plugin(subject);
  if (!*plugin.name) fail("the plugin has no name");
  std::set<std::string> seen;
  for (uint32_t i = 0; i < plugin.n_methods; ++i) {
    const ptq_method& method = *plugin.methods[i];
    if (!std::regex_match(method.name, name_form)) {
      fail("the method name \"{}\" is not of the form [a-z][a-z0-9_-]*", method.name);
    }
    if (!seen.insert(method.name).second) fail("two methods have the name {}", method.name);
    if (!std::regex_match(method.version, version_form)) {
      fail("{}: the version \"{}\" is not semantic, such as 1.0.0", method.name, method.version);
    }
    for (const char* text : {method.summary, method.paper}) must_be_utf8(text);
    if (!*method.summary || std::strchr(method.summary, '\n')) {
      fail("{}: the summary is not one line", method.name);
    }
  }
  for (const char* text : {plugin.name, plugin.license, plugin.build}) must_be_utf8(text);
  if (!*plugin.license) {
    return {Verdict::warn,
            "no license is named; others may not use it (SPDX, e.g. \"Apache-2.0\")"};
  }
  return {};
}

// The JSON text of a default or allowed value, checked against the option's type and range.
void check_value(const std::string& who, const ptq_option& option, const char* text) {
  const nlohmann::json value = nlohmann::json::parse(text, nullptr, false);
  if (value.is_discarded())
    fail("{}: {} is no JSON text (a string needs \\\"quotes\\\")", who, text);
  const bool fits = option.type == PTQ_OPTION_INT      ? value.is_number_integer()
                    : option.type == PTQ_OPTION_FLOAT  ? value.is_number()
                    : option.type == PTQ_OPTION_BOOL   ? value.is_boolean()
                    : option.type == PTQ_OPTION_STRING ? value.is_string()
                                                       : false;
  if (!fits) fail("{}: {} does not have the type of the option", who, text);
  if (value.is_number() && (option.min != 0 || option.max != 0)) {
    const double number = value.get<double>();
    if (!(number >= option.min && number <= option.max)) {
      fail("{}: {} is outside its own range {} to {}", who, text, option.min, option.max);
    }
  }
}

Result options(const Subject& subject) {
  static const std::regex form("[a-z][a-z0-9_]*");
  const ptq_plugin& plugin = load_plugin(subject);
  for (uint32_t m = 0; m < plugin.n_methods; ++m) {
    const ptq_method& method = *plugin.methods[m];
    std::set<std::string> seen;
    for (uint32_t i = 0; i < method.n_options; ++i) {
      const ptq_option& option = *method.options[i];
      const std::string who = fmt::format("{}.{}", method.name, option.name);
      if (!std::regex_match(option.name, form)) fail("{}: not of the form [a-z][a-z0-9_]*", who);
      if (!seen.insert(option.name).second) fail("{}: two options have this name", who);
      if (option.type < PTQ_OPTION_INT || option.type > PTQ_OPTION_STRING) {
        fail("{}: the type {} does not exist", who, option.type);
      }
      if (!*option.help || std::strchr(option.help, '\n')) fail("{}: help is not one line", who);
      if (!(option.min <= option.max)) fail("{}: min is above max", who);
      check_value(who + ": the default", option, option.default_value);
      bool default_allowed = !option.allowed;
      for (const char* const* value = option.allowed; value && *value; ++value) {
        check_value(who + ": the allowed value", option, *value);
        default_allowed |=
            nlohmann::json::parse(*value) == nlohmann::json::parse(option.default_value);
      }
      if (!default_allowed) {
        fail("{}: the default {} is not among the allowed values", who, option.default_value);
      }
    }
  }
  return {};
}

Result create_default(const Subject& subject) {
  const ptq_plugin& plugin = load_plugin(subject);
  for (uint32_t i = 0; i < plugin.n_methods; ++i) {
    const ptq_method& method = *plugin.methods[i];
    Session session(method, subject);
    session.must_create();
    session.destroy();
    if (const size_t kept = session.host().kept()) {
      fail("{}: destroy left {} piece(s) of memory from alloc unreleased", method.name, kept);
    }
  }
  return {};
}

// A copy of the file, as a library of its own beside the first one: what they share would be a
// `static` of an inline function, which the linker made one of.
Result twice(const Subject& subject) {
  const ptq_plugin& first = load_plugin(subject);
  const int copy = memfd_create("ptq-check-copy", MFD_CLOEXEC);
  std::ifstream file = open_file(subject.file);
  const std::string bytes(std::istreambuf_iterator<char>(file), {});
  if (copy < 0 || write_all(copy, bytes) != 0) skip("no room for a second copy");
  const Subject other{fmt::format("/proc/self/fd/{}", copy), subject.seed};
  const ptq_plugin& second = load_plugin(other);
  if (&first == &second) skip("the loader takes a copy for the same library");
  if (first.n_methods != second.n_methods) fail("a second copy of it has other methods");
  for (uint32_t i = 0; i < first.n_methods; ++i) {
    Session one(*first.methods[i], subject), two(*second.methods[i], other);
    one.must_create();
    two.must_create();
    one.destroy();
    two.destroy();
  }
  return {};
}

// Loads the plugin, makes every method, and ends the process as a program does, with the exit
// handlers and the destructors of libraries.
ApartEnd end_of_process(const Subject* subject) {
  ApartSettings settings;
  settings.seconds = 10;
  return Apart::run(settings, [&]() -> std::string {
    if (subject) create_default(*subject);
    std::exit(0);
  });
}

Result quiet_end(const Subject& subject) {
  const auto well = [](const ApartEnd& end) {
    return end.how == ApartEnd::How::exited && end.code == 0;
  };
  const ApartEnd end = end_of_process(&subject);
  if (well(end)) return {};
  if (!well(end_of_process(nullptr))) skip("a process without the plugin does not end well either");
  return {end.how == ApartEnd::How::signalled ? Verdict::crash : Verdict::fail,
          "when the process ends, in its destructors or exit handlers, it " + end.reason()};
}

// Creates the method with one option changed; a refusal needs a sentence and is only noted.
void try_option(const ptq_method& method, const Subject& subject, const ptq_option& option,
                const std::string& value, std::string& refused) {
  OptionValues values = default_options(method);
  for (auto& [name, text] : values) {
    if (name == option.name) text = value;
  }
  Session session(method, subject, values);
  const Answer answer = session.create();
  if (answer.status != PTQ_OK) {
    refused =
        fmt::format("{}.{} = {} is refused: {}", method.name, option.name, value, answer.sentence);
  }
}

Result create_limits(const Subject& subject) {
  const ptq_plugin& plugin = load_plugin(subject);
  std::string refused;
  for (uint32_t m = 0; m < plugin.n_methods; ++m) {
    const ptq_method& method = *plugin.methods[m];
    for (uint32_t i = 0; i < method.n_options; ++i) {
      const ptq_option& option = *method.options[i];
      for (const char* const* value = option.allowed; value && *value; ++value) {
        try_option(method, subject, option, *value, refused);
      }
      if (option.type == PTQ_OPTION_BOOL) {
        for (const char* value : {"true", "false"}) {
          try_option(method, subject, option, value, refused);
        }
      }
      const bool whole = option.type == PTQ_OPTION_INT;
      if (option.allowed || (!whole && option.type != PTQ_OPTION_FLOAT)) continue;
      if (option.min == 0 && option.max == 0) continue;
      for (const double limit : {option.min, option.max}) {
        const nlohmann::json value = whole ? nlohmann::json(int64_t(limit)) : nlohmann::json(limit);
        try_option(method, subject, option, value.dump(), refused);
      }
    }
  }
  // Two options may exclude each other at a limit, so a refusal is not wrong as such.
  return {refused.empty() ? Verdict::pass : Verdict::warn, refused};
}

Result capabilities(const Subject& subject) {
  const ptq_plugin& plugin = load_plugin(subject);
  for (uint32_t i = 0; i < plugin.n_methods; ++i) {
    const ptq_method& method = *plugin.methods[i];
    Session session(method, subject);
    session.must_create();
    const struct {
      const char* id;
      uint64_t bit;
      uint32_t size;
    } known[] = {{PTQ_WEIGHTS_1, PTQ_CAN_WEIGHTS, sizeof(ptq_weights)},
                 {PTQ_TRANSFORM_1, PTQ_CAN_TRANSFORM, sizeof(ptq_transform)},
                 {PTQ_ACTIVATIONS_1, PTQ_CAN_ACTIVATIONS, sizeof(ptq_activations)},
                 {PTQ_PRUNE_1, PTQ_CAN_PRUNE, sizeof(ptq_prune)},
                 {PTQ_WEIGHTS_CALIBRATION_1, 0, sizeof(ptq_weights_calibration)},
                 {PTQ_KV_1, PTQ_CAN_KV, sizeof(ptq_kv)},
                 {PTQ_KV_CALIBRATION_1, 0, sizeof(ptq_kv_calibration)}};  // beside ptq.kv/1
    bool any = false;
    for (const auto& capability : known) {
      const auto* size = static_cast<const uint32_t*>(session.get(capability.id));
      any |= size != nullptr && capability.bit != 0;
      if (capability.bit != 0 &&
          (size != nullptr) != ((method.capabilities & capability.bit) != 0)) {
        fail("{}: get(\"{}\") gives {}, but the bit in capabilities says {}", method.name,
             capability.id, size ? "a table" : "NULL", size ? "no" : "yes");
      }
      if (size && *size < capability.size) {
        fail("{}: {}: struct_size is {}, this version has {}", method.name, capability.id, *size,
             capability.size);
      }
      const std::string longer = std::string(capability.id) + "x";
      if (session.get(longer.c_str())) {
        fail("{}: get(\"{}\") gives a table; compare whole ids", method.name, longer);
      }
    }
    for (const char* unknown : {"", "ptq", "ptq.kv", "ptq.kv/2", "org.example.nothing/1"}) {
      if (session.get(unknown)) fail("{}: get(\"{}\") gives a table", method.name, unknown);
    }
    if (!any) fail("{}: offers no capability that this host knows", method.name);
  }
  return {};
}

// A host may lack a service; without any, everything must be refused with a sentence or work.
Result no_services(const Subject& subject) {
  const ptq_plugin& plugin = load_plugin(subject);
  for (uint32_t i = 0; i < plugin.n_methods; ++i) {
    Session session(*plugin.methods[i], subject);
    session.host().has_services = false;
    if (session.create().status == PTQ_OK) session.destroy();
  }
  return {};
}

}  // namespace

const ptq_plugin& load_plugin(const Subject& subject) {
  const ptq_plugin& plugin = entry_of(subject);
  for (const auto problem_of : {magic_problem, version_problem, size_problem}) {
    if (!problem_of(plugin).empty()) skip("its tables cannot be read");
  }
  return plugin;
}

std::vector<Test> description_tests() {
  return {
      {"description-magic", "It begins with the magic bytes.", "load-symbols",
       no_problem<magic_problem>},
      {"description-version", "It is built for this major version of plugin.h.",
       "description-magic", no_problem<version_problem>},
      {"description-sizes", "Every struct is complete and no required pointer is NULL.",
       "description-version", no_problem<size_problem>},
      {"description-names", "Names, versions and summaries have their form; no name twice.",
       "description-sizes", names},
      {"description-options", "Options have a type, help, and a default inside their range.",
       "description-sizes", options},
      {"create-default", "Every method can be made with its defaults, and freed without a rest.",
       "description-options", create_default},
      {"create-twice", "A second copy of the file, under another name, works beside it.",
       "create-default", twice},
      {"create-exit", "A process that has used it ends in good order.", "create-default",
       quiet_end},
      {"create-limits", "Every allowed value and each end of a range is accepted.",
       "create-default", create_limits},
      {"create-no-services", "Without services of the host, create refuses with a sentence.",
       "create-default", no_services},
      {"description-capabilities", "get knows what the capability bits say, and nothing else.",
       "create-default", capabilities},
  };
}

}  // namespace ptq::check
