#include "host/setting.hpp"

#include "ptq/core/json.hpp"
#include "ptq/core/toml.hpp"

namespace ptq {
namespace {

// Every place of the tree becomes `where`: the positions inside a command-line value say little.
void set_place(ConfigNode& node, const std::string& where) {
  node.where = where;
  for (ConfigNode& item : node.items) set_place(item, where);
  for (auto& [name, member] : node.members) set_place(member, where);
}

}  // namespace

void apply_setting(ConfigNode& tree, const std::string& setting) {
  if (utf8_error_offset(setting) != std::string::npos) {
    throw usage_error("the setting is not valid UTF-8", "--set");
  }
  const size_t equals = setting.find('=');
  if (equals == std::string::npos || equals == 0) {
    throw usage_error("`" + setting + "` is not of the form key=value", "--set",
                      "for example --set seed=1 or --set limits.cell_seconds=60");
  }
  const std::string key = setting.substr(0, equals), text = setting.substr(equals + 1);
  const std::string where = "--set " + key;
  ConfigNode value;
  if (text.find('\n') != text.npos) {
    throw usage_error("the value has more than one line", where);
  }
  try {
    const ConfigNode line = parse_toml("value = " + text, where);
    if (line.members.size() != 1) throw usage_error("the value is not one TOML value", where);
    value = line.members.front().second;
  } catch (const Error&) {
    const bool bare = !text.empty() && text.find_first_of("\"'[]{}=,#") == text.npos &&
                      text.find('\0') == text.npos && utf8_error_offset(text) == text.npos;
    if (!bare) throw;
    value.kind = ConfigNode::Kind::scalar;
    value.scalar = text;
  }
  set_place(value, where);
  set_value(tree, key, value);
}

}  // namespace ptq
