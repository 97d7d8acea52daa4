// Loading one plugin, and what it says of its methods: in this process, or as text from another.
#pragma once

#include <sys/stat.h>

#include <algorithm>
#include <boost/dll/shared_library.hpp>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/core/safe_text.hpp"
#include "ptq/plugin.h"
#include "ptq/run/options.hpp"
#include "ptq/run/surroundings.hpp"

namespace ptq {

// What a plugin says of one of its methods.
struct MethodInfo {
  std::string name, version, summary, paper;
  std::string plugin_file;  // path of the .so
  uint64_t capabilities = 0, traits = 0;
  std::vector<OptionSpec> options;
  const ptq_method* table = nullptr;  // where the plugin is loaded in this process

  bool can_weights() const { return capabilities & PTQ_CAN_WEIGHTS; }
  bool can_kv() const { return capabilities & PTQ_CAN_KV; }
  bool lossless() const { return traits & PTQ_LOSSLESS; }
};

namespace plugin_detail {

constexpr size_t kLongestDescription = 512;  // bytes of a summary, a help text, ...

// A pipe would wait for ever, a device may do anything when it is opened.
inline void require_regular_file(const std::string& path) {
  struct stat facts {};
  if (path.find('\0') != std::string::npos)
    throw environment_error("has a NUL character in its path");
  if (::stat(path.c_str(), &facts) != 0)
    throw environment_error(std::string("cannot be read: ") + std::strerror(errno));
  if (S_ISREG(facts.st_mode)) return;
  throw environment_error(std::string("is no file but a ") + (S_ISDIR(facts.st_mode)    ? "folder"
                                                              : S_ISFIFO(facts.st_mode) ? "pipe"
                                                              : S_ISSOCK(facts.st_mode)
                                                                  ? "socket"
                                                                  : "device"));
}

inline bool is_name(const std::string& name, bool dash) {
  return !name.empty() && name.size() <= 64 && name[0] >= 'a' && name[0] <= 'z' &&
         std::all_of(name.begin(), name.end(), [&](char c) {
           return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' ||
                  (dash && c == '-');
         });
}

// Without the words that Boost puts around those of the loader.
inline std::string loader_text(std::string text, const std::string& path) {
  const std::string front = "boost::dll::shared_library::load() failed: ";
  if (text.rfind(front, 0) == 0) text.erase(0, front.size());
  if (text.rfind(path + ": ", 0) == 0) text.erase(0, path.size() + 2);
  const size_t tail = text.find(": Bad file descriptor");
  if (tail != std::string::npos) text.erase(tail);
  return text;
}

inline MethodInfo read_method(const ptq_method* table) {
  if (!table) throw environment_error("has a method that is NULL");
  const ptq_method& m = *table;
  if (m.struct_size < offsetof(ptq_method, get) + sizeof m.get || !m.name || !m.create ||
      !m.destroy || !m.get || (m.n_options > 0 && !m.options))
    throw environment_error("describes a method incompletely");
  MethodInfo info;
  info.name = m.name;
  if (!is_name(info.name, /*dash=*/true))
    throw environment_error("has a method with the name \"" + safe_text(info.name, 64) + "\"", {},
                            "names match [a-z][a-z0-9_-]*");
  info.version = safe_text(m.version ? m.version : "", kLongestDescription);
  info.summary = safe_text(m.summary ? m.summary : "", kLongestDescription);
  info.paper = safe_text(m.paper ? m.paper : "", kLongestDescription);
  info.capabilities = m.capabilities;
  info.traits = m.traits;
  info.table = &m;
  for (uint32_t i = 0; i < m.n_options; ++i) {
    if (!m.options[i])
      throw environment_error("method " + info.name + " has an option that is NULL");
    const ptq_option& o = *m.options[i];
    OptionSpec spec;
    spec.name = o.name ? o.name : "";
    if (!is_name(spec.name, /*dash=*/false))
      throw environment_error("method " + info.name + " has an option with the name \"" +
                                  safe_text(spec.name, 64) + "\"",
                              {}, "names match [a-z][a-z0-9_]*");
    spec.help = safe_text(o.help ? o.help : "", kLongestDescription);
    spec.type = o.type == PTQ_OPTION_FLOAT    ? OptionType::real
                : o.type == PTQ_OPTION_BOOL   ? OptionType::boolean
                : o.type == PTQ_OPTION_STRING ? OptionType::string
                                              : OptionType::integer;
    spec.has_range = o.min != 0 || o.max != 0;
    spec.min = o.min;
    spec.max = o.max;
    try {
      spec.default_value = Json::parse(o.default_value ? o.default_value : "");
      for (const char* const* a = o.allowed; a && *a; ++a) spec.allowed.push_back(Json::parse(*a));
    } catch (const nlohmann::json::exception&) {
      throw environment_error("method " + info.name + ", option " + spec.name +
                              ": default or allowed value is not JSON");
    }
    info.options.push_back(std::move(spec));
  }
  try {  // the declared defaults obey the declared types and ranges
    Json defaults = Json::object();
    for (const OptionSpec& o : info.options) defaults[o.name] = o.default_value;
    validate_options(info.options, defaults, "defaults of " + info.name);
  } catch (const Error& e) {
    throw environment_error("method " + info.name + " declares an invalid default: " + e.message());
  }
  return info;
}

}  // namespace plugin_detail

// Loads one file and returns its methods. Throws with the reason when it cannot be used.
inline std::vector<MethodInfo> load_plugin(const std::filesystem::path& file) {
  const std::string path = std::filesystem::absolute(file).string();
  boost::dll::shared_library library;
  plugin_detail::require_regular_file(path);
  const Surroundings before;
  const auto put_back = [&] {
    const std::string changed = before.restore();
    if (!changed.empty())
      std::fprintf(stderr, "warning: %s changes %s while it is loaded; that was put back\n",
                   safe_text(path).c_str(), changed.c_str());
  };
  try {
    library.load(path, boost::dll::load_mode::rtld_now | boost::dll::load_mode::rtld_local);
    put_back();
  } catch (const std::exception& e) {
    put_back();
    throw environment_error(
        "cannot be loaded: " + safe_text(plugin_detail::loader_text(e.what(), path)), {},
        "see which library or symbol is missing with: ldd -r " + safe_text(file.string()));
  }
  if (!library.has("ptq_plugin_v1"))
    throw environment_error("does not export the symbol ptq_plugin_v1", {},
                            "is it a ptq plugin? see docs/abi.md");
  const auto& plugin = library.get<const ptq_plugin>("ptq_plugin_v1");
  // Never unloaded, see above: the list itself is never destroyed.
  static auto& loaded = *new std::vector<boost::dll::shared_library>;
  loaded.push_back(library);
  if (std::memcmp(plugin.magic, "PTQPLUG", 8) != 0)
    throw environment_error("has a wrong magic in ptq_plugin_v1");
  if (plugin.abi_major != PTQ_ABI_MAJOR)
    throw environment_error("was built for ABI " + std::to_string(plugin.abi_major) + "." +
                                std::to_string(plugin.abi_minor) + ", this host has " +
                                std::to_string(PTQ_ABI_MAJOR) + "." + std::to_string(PTQ_ABI_MINOR),
                            {}, "rebuild it against this version of ptq/plugin.h");
  if (plugin.struct_size < offsetof(ptq_plugin, build) || !plugin.methods || !plugin.n_methods)
    throw environment_error("has an incomplete ptq_plugin_v1 (struct_size " +
                            std::to_string(plugin.struct_size) + ", methods " +
                            std::to_string(plugin.n_methods) + ")");
  std::vector<MethodInfo> result;
  for (uint32_t i = 0; i < plugin.n_methods; ++i)
    result.push_back(plugin_detail::read_method(plugin.methods[i]));
  for (MethodInfo& m : result) m.plugin_file = path;
  return result;
}

// The methods of a plugin as text, for another process: everything but `table`.
inline Json describe(const std::vector<MethodInfo>& methods) {
  Json list = Json::array();
  for (const MethodInfo& m : methods) {
    Json options = Json::array();
    for (const OptionSpec& o : m.options) {
      const auto limit = [](double x) {  // JSON has no infinity
        char text[32];
        std::snprintf(text, sizeof text, "%a", x);
        return std::string(text);
      };
      options.push_back({{"name", o.name},
                         {"help", o.help},
                         {"type", int(o.type)},
                         {"default", o.default_value},
                         {"allowed", o.allowed},
                         {"has_range", o.has_range},
                         {"min", limit(o.min)},
                         {"max", limit(o.max)}});
    }
    list.push_back({{"name", m.name},
                    {"version", m.version},
                    {"summary", m.summary},
                    {"paper", m.paper},
                    {"plugin_file", m.plugin_file},
                    {"capabilities", m.capabilities},
                    {"traits", m.traits},
                    {"options", options}});
  }
  return list;
}
inline std::vector<MethodInfo> from_description(const Json& list) {
  std::vector<MethodInfo> methods;
  for (const auto& json : list) {
    MethodInfo m;
    json.at("name").get_to(m.name);
    json.at("version").get_to(m.version);
    json.at("summary").get_to(m.summary);
    json.at("paper").get_to(m.paper);
    json.at("plugin_file").get_to(m.plugin_file);
    json.at("capabilities").get_to(m.capabilities);
    json.at("traits").get_to(m.traits);
    for (const auto& option : json.at("options")) {
      OptionSpec o;
      option.at("name").get_to(o.name);
      option.at("help").get_to(o.help);
      o.type = OptionType(option.at("type").get<int>());
      o.default_value = option.at("default");
      for (const auto& value : option.at("allowed")) o.allowed.push_back(value);
      option.at("has_range").get_to(o.has_range);
      o.min = std::strtod(option.at("min").get<std::string>().c_str(), nullptr);
      o.max = std::strtod(option.at("max").get<std::string>().c_str(), nullptr);
      m.options.push_back(std::move(o));
    }
    methods.push_back(std::move(m));
  }
  return methods;
}

}  // namespace ptq
