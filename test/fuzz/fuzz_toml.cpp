// Experiment files, and --set KEY=VALUE for short inputs of one line.
#include "host/setting.hpp"
#include "ptq/core/toml.hpp"
#include "test/fuzz/targets.hpp"

namespace ptq::fuzz {
namespace {

void check_tree(const ConfigNode& node) {
  require(is_utf8(node.where), "places are UTF-8");
  for (const ConfigNode& item : node.items) check_tree(item);
  std::set<std::string_view> keys;
  for (const auto& [key, member] : node.members) {
    require(is_utf8(key), "keys are UTF-8");
    require(keys.insert(key).second, "keys are unique");
    check_tree(member);
  }
}

}  // namespace

bool toml(Bytes input) {
  const std::string_view text = text_of_bytes(input);
  bool accepted = accepts([&] {
    const ConfigNode tree = parse_toml(text, "x.toml");
    check_tree(tree);
    require(is_utf8(to_json(tree).dump()), "values are UTF-8");
  });
  if (text.size() <= 128 && text.find('=') != text.npos && text.find('\n') == text.npos) {
    accepted |= accepts([&] {
      ConfigNode tree = parse_toml("a = 1\n[b]\nc = [1, {d = 2}]\n", "x.toml");
      apply_setting(tree, std::string(text));
      check_tree(tree);
    });
  }
  return accepted;
}

}  // namespace ptq::fuzz
