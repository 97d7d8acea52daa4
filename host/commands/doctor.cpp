// ptq-host doctor: what this build and this machine have, for bug reports.
#include <fmt/format.h>

#include "host/arguments.hpp"
#include "host/commands/commands.hpp"
#include "host/machine.hpp"
#include "host/plugin_folders.hpp"
#include "ptq/run/engine_loader.hpp"
#include "ptq/run/plugins.hpp"

namespace ptq {
namespace {

constexpr const char* kDoctorHelp =
    R"(Shows version, build, machine and plugins: the block that belongs into a bug report.

  ptq-host doctor
  ptq-host doctor --json > doctor.json

usage: ptq-host doctor [--json] [--plugins DIR]
)";

}  // namespace

int doctor_command(const std::vector<std::string>& args) {
  if (wants_help(args, kDoctorHelp)) return 0;
  namespace po = boost::program_options;
  Options options;
  auto add = options.add_options();
  add("json", po::bool_switch())("plugins", po::value<std::vector<std::string>>());
  const Arguments arguments = parse_arguments(args, options);

  const Record::Code code = code_facts();
  Json json = {{"version", code.version},
               {"commit", code.git},
               {"abi", fmt::format("{}.{}", PTQ_ABI_MAJOR, PTQ_ABI_MINOR)}};
  json.update(machine_facts());
  const CudaEngine& cuda = CudaEngine::get(code_build());
  Json devices = Json::array();
  for (const CudaDevice& d : cuda.facts().devices)
    devices.push_back(fmt::format("cuda:{} {}, compute capability {}.{}, {:.1f} of {:.1f} GiB free",
                                  devices.size(), d.name, d.major, d.minor,
                                  double(cuda.free_memory(int(devices.size()))) / double(1 << 30),
                                  double(d.memory) / double(1 << 30)));
  json["cuda"] = cuda.usable() ? "used by --device auto" : "not used: " + cuda.why_not();
  json["cuda_engine"] = cuda.file().empty() ? "none" : cuda.file();
  json["cuda_devices"] = devices;
  Json folders = Json::array(), methods = Json::array(), skipped = Json::array();
  const auto places = plugin_folders(list_of(arguments, "plugins"));
  const PluginSet plugins = PluginSet::scan(places);
  for (const auto& place : places) folders.push_back(place.string());
  for (const MethodInfo& method : plugins.methods()) {
    methods.push_back(method.name + " " + method.version + " (" + method.plugin_file + ")");
  }
  for (const SkippedFile& file : plugins.skipped()) {
    skipped.push_back(safe_text(file.path.string()) + ": " + file.reason);
  }
  json["plugin_folders"] = folders;
  json["methods"] = methods;
  json["skipped_plugins"] = skipped;
  if (arguments["json"].as<bool>()) {
    fmt::print("{}\n", json_text(json, 2));
    return 0;
  }
  for (const auto& [key, value] : json.items()) {
    if (!value.is_array()) {
      fmt::print("{:16} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
      continue;
    }
    fmt::print("{:16} {}\n", key, value.empty() ? "none" : "");
    for (const Json& line : value) fmt::print("{:16} {}\n", "", line.get<std::string>());
  }
  return 0;
}

}  // namespace ptq
