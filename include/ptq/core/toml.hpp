// TOML as a plain configuration tree: the only place that knows the syntax. toml.cpp is compiled
// once (library ptq_core): toml++ is large and needs flags of its own.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "ptq/core/config_tree.hpp"

namespace ptq {

// The tree of a file of at most 1 MiB; members in the order of the file. A mistake in it is a usage
// error that says file:line:column.
ConfigNode read_toml_file(const std::filesystem::path& path);

// The tree of a text; `name` is what messages call it.
ConfigNode parse_toml(std::string_view text, const std::string& name);

}  // namespace ptq
