// Reads TOML into the plain configuration tree. The only place that knows the syntax.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "ptq/core/config_tree.hpp"

namespace ptq {

// The tree of a file of at most 1 MiB. Errors say file:line:column.
ConfigNode read_toml_file(const std::filesystem::path& path);

// The tree of a text; `name` is what messages call it.
ConfigNode parse_toml(std::string_view text, const std::string& name);

// Applies "key=value" of the command line. The value is TOML; a bare word is taken as a string.
void apply_setting(ConfigNode& tree, const std::string& setting);

}  // namespace ptq
