// --set key=value of the command line.
#pragma once

#include <string>

#include "ptq/core/config_tree.hpp"

namespace ptq {

// Applies "key=value" to the tree. The value is TOML; a bare word is taken as a string.
void apply_setting(ConfigNode& tree, const std::string& setting);

}  // namespace ptq
