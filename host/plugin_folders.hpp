// Where installed plugins lie.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "ptq/run/plugins.hpp"

namespace ptq {

// The folder of the running program.
std::filesystem::path program_folder();

// The folders that exist, in the order in which they win: `given` (--plugins), $PTQ_PLUGINS
// (colon separated), ./plugins, and beside the program: plugins/, ../plugins/, its own folder. A
// given folder that does not exist is an error.
std::vector<std::filesystem::path> plugin_folders(const std::vector<std::string>& given);

// "\n    skipped FILE: REASON" for each file of the folders that is no usable plugin.
std::string skipped_text(const PluginSet& plugins);

}  // namespace ptq
