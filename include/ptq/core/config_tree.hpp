// A configuration as a plain tree whose every node knows where it was written, the reader that
// checks it against what the program asks for, and the overrides of the command line. Which syntax
// the tree came from is unknown here (toml.hpp reads TOML).
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/core/problems.hpp"
#include "ptq/core/suggest.hpp"

namespace ptq {

struct ConfigNode {
  enum class Kind { scalar, array, table };
  Kind kind = Kind::table;
  Json scalar;                                              // string, integer, number or boolean
  std::vector<ConfigNode> items;                            // of an array
  std::vector<std::pair<std::string, ConfigNode>> members;  // of a table, in the order written
  std::string where;                                        // "file:line:column" or "--set key"

  const ConfigNode* find(std::string_view key) const {
    for (const auto& [name, node] : members) {
      if (name == key) return &node;
    }
    return nullptr;
  }
  ConfigNode* find(std::string_view key) {
    return const_cast<ConfigNode*>(std::as_const(*this).find(key));
  }
};

inline Json to_json(const ConfigNode& node) {
  if (node.kind == ConfigNode::Kind::scalar) return node.scalar;
  Json out = node.kind == ConfigNode::Kind::array ? Json::array() : Json::object();
  for (const ConfigNode& item : node.items) out.push_back(to_json(item));
  for (const auto& [name, member] : node.members) out[name] = to_json(member);
  return out;
}

inline std::string node_type_name(const ConfigNode& node) {
  if (node.kind == ConfigNode::Kind::array && node.items.empty()) return "an empty array";
  return value_type_name(to_json(node));
}

// Reads the keys of one table. Every call names a key that is allowed, so that finish() knows what
// is left over. Problems are collected, and the default is returned in their place.
class TableReader {
 public:
  // `path`: the table's own key, for messages: "" (the file), "limits", "evaluations[2]".
  TableReader(const ConfigNode& table, std::string path, Problems& problems)
      : table_(table), path_(std::move(path)), problems_(problems) {}

  const ConfigNode* node(const std::string& key) {
    known_.push_back(key);
    return table_.find(key);
  }

  void string(const std::string& key, std::string& value) {
    if (const ConfigNode* n = scalar(key, "string", "\"...\"")) {
      if (n->scalar.is_string()) {
        value = n->scalar.get<std::string>();
      } else {
        wrong_type(key, *n, "string", '"' + n->scalar.dump() + '"');
      }
    }
  }

  void boolean(const std::string& key, bool& value) {
    const ConfigNode* n = scalar(key, "true or false", value ? "true" : "false");
    if (n == nullptr) return;
    if (n->scalar.is_boolean()) {
      value = n->scalar.get<bool>();
    } else {
      wrong_type(key, *n, "true or false", "true");
    }
  }

  void choice(const std::string& key, std::string& value, const std::vector<std::string>& allowed) {
    std::string text = value;
    string(key, text);
    if (std::find(allowed.begin(), allowed.end(), text) != allowed.end()) {
      value = text;
      return;
    }
    std::string list;
    for (const std::string& word : allowed) list += (list.empty() ? "\"" : ", \"") + word + '"';
    const std::string near = nearest(text, allowed);
    problems_.add(usage_error("`" + full(key) + "` is \"" + text + "\", but it can only be " + list,
                              table_.find(key)->where,
                              near.empty() ? "" : "did you mean \"" + near + "\"?"));
  }

  template <class Integer>
  void integer(const std::string& key, Integer& value, int64_t low, int64_t high) {
    const ConfigNode* n = scalar(key, "integer", std::to_string(value));
    if (n == nullptr) return;
    if (!n->scalar.is_number_integer()) {
      wrong_type(key, *n, "integer", as_number_hint(n->scalar, std::to_string(value)));
      return;
    }
    const int64_t x = n->scalar.get<int64_t>();
    if (x < low || x > high) {
      problems_.add(usage_error("`" + full(key) + "` is " + std::to_string(x) +
                                    ", outside its range " + std::to_string(low) + " to " +
                                    std::to_string(high),
                                n->where));
      return;
    }
    value = Integer(x);
  }

  void number(const std::string& key, double& value, double low, double high) {
    const ConfigNode* n = scalar(key, "number", number_text(value));
    if (n == nullptr) return;
    check_number(key, *n, low, high, value);
  }

  void numbers(const std::string& key, std::vector<double>& values, double low, double high) {
    const ConfigNode* n = node(key);
    if (n == nullptr) return;
    if (n->kind != ConfigNode::Kind::array || n->items.empty()) {
      wrong_type(key, *n, "array of numbers", Json(values).dump());
      return;
    }
    std::vector<double> read(n->items.size());
    for (size_t i = 0; i < read.size(); ++i) {
      check_number(key + "[" + std::to_string(i) + "]", n->items[i], low, high, read[i]);
    }
    refuse_repeated(key, *n);
    values = std::move(read);
  }

  void integers(const std::string& key, std::vector<int64_t>& values, int64_t low, int64_t high) {
    const ConfigNode* n = node(key);
    if (n == nullptr) return;
    if (n->kind != ConfigNode::Kind::array || n->items.empty()) {
      wrong_type(key, *n, "array of integers", Json(values).dump());
      return;
    }
    std::vector<int64_t> read;
    for (size_t i = 0; i < n->items.size(); ++i) {
      const ConfigNode& item = n->items[i];
      const std::string place = key + "[" + std::to_string(i) + "]";
      if (!item.scalar.is_number_integer()) {
        wrong_type(place, item, "integer", as_number_hint(item.scalar, "4096"));
        continue;
      }
      const int64_t x = item.scalar.get<int64_t>();
      if (x < low || x > high) {
        problems_.add(usage_error("`" + full(place) + "` is " + std::to_string(x) +
                                      ", outside its range " + std::to_string(low) + " to " +
                                      std::to_string(high),
                                  item.where));
      }
      read.push_back(x);
    }
    refuse_repeated(key, *n);
    values = std::move(read);
  }

  void strings(const std::string& key, std::vector<std::pair<std::string, std::string>>& values) {
    const ConfigNode* n = node(key);
    if (n == nullptr) return;
    if (n->kind != ConfigNode::Kind::array || n->items.empty()) {
      wrong_type(key, *n, "array of strings", "[\"...\"]");
      return;
    }
    for (const ConfigNode& item : n->items) {
      if (item.scalar.is_string()) {
        values.emplace_back(item.scalar.get<std::string>(), item.where);
      } else {
        wrong_type(key, item, "string", "[\"...\"]");
      }
    }
  }

  // Reports every key that no call asked for.
  void finish() {
    for (const auto& [name, member] : table_.members) {
      if (std::find(known_.begin(), known_.end(), name) != known_.end()) continue;
      problems_.add(usage_error("unknown key `" + full(name) + "`", member.where,
                                did_you_mean(name, known_)));
    }
  }

  std::string full(const std::string& key) const { return path_.empty() ? key : path_ + "." + key; }

  void wrong_type(const std::string& key, const ConfigNode& n, const std::string& expected,
                  const std::string& example) {
    problems_.add(
        usage_error("`" + full(key) + "`: expected " + expected + ", got " + node_type_name(n),
                    n.where, "for example " + key.substr(0, key.find('[')) + " = " + example));
  }

 private:
  // A list of conditions: one that stands twice would count its measurements twice.
  void refuse_repeated(const std::string& key, const ConfigNode& n) {
    for (auto item = n.items.begin(); item != n.items.end(); ++item) {
      const auto same = [&](const ConfigNode& other) { return other.scalar == item->scalar; };
      if (std::none_of(n.items.begin(), item, same)) continue;
      problems_.add(usage_error(
          "`" + full(key) + "` has " + item->scalar.dump() + " more than once", item->where));
      return;
    }
  }
  const ConfigNode* scalar(const std::string& key, const std::string& expected,
                           const std::string& example) {
    const ConfigNode* n = node(key);
    if (n == nullptr || n->kind == ConfigNode::Kind::scalar) return n;
    wrong_type(key, *n, expected, example);
    return nullptr;
  }

  void check_number(const std::string& key, const ConfigNode& n, double low, double high,
                    double& value) {
    if (!n.scalar.is_number()) {
      wrong_type(key, n, "number", as_number_hint(n.scalar, number_text(value)));
      return;
    }
    const double x = n.scalar.get<double>();
    if (!(x >= low && x <= high)) {  // also false for NaN
      problems_.add(usage_error("`" + full(key) + "` is outside its range " + number_text(low) +
                                    " to " + number_text(high),
                                n.where));
      return;
    }
    value = x;
  }

  // bits = "4": the number without its quotes is the best example.
  static std::string as_number_hint(const Json& given, const std::string& otherwise) {
    if (!given.is_string()) return otherwise;
    const std::string text = given.get<std::string>();
    const bool number =
        !text.empty() && text.find_first_not_of("0123456789.-") == std::string::npos;
    return number ? text : otherwise;
  }

  const ConfigNode& table_;
  std::string path_;
  Problems& problems_;
  std::vector<std::string> known_;
};

namespace config_detail {

// Splits a.b."c.d" at the dots outside quotes.
inline std::vector<std::string> split_key(const std::string& key) {
  std::vector<std::string> parts(1);
  char quote = 0;
  for (const char c : key) {
    if (quote != 0) {
      if (c == quote) {
        quote = 0;
      } else {
        parts.back() += c;
      }
    } else if (c == '"' || c == '\'') {
      quote = c;
    } else if (c == '.') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

// The items of an array of tables that `word` selects: those called so (`name` or `label`), else
// those of that sort (`task`, else `kind` or `method`), else the one at that position, counted from
// 0.
inline std::vector<ConfigNode*> select_items(ConfigNode& array, const std::string& word,
                                             const std::string& where) {
  std::vector<ConfigNode*> found;
  std::vector<std::string> names;
  for (const auto& keys :
       {std::pair{"name", "label"}, std::pair{"task", "task"}, std::pair{"kind", "method"}}) {
    for (ConfigNode& item : array.items) {
      for (const char* key : {keys.first, keys.second}) {
        const ConfigNode* name = item.find(key);
        if (name == nullptr || !name->scalar.is_string()) continue;
        const std::string text = name->scalar.get<std::string>();
        names.push_back(text);
        if (text == word && (found.empty() || found.back() != &item)) found.push_back(&item);
      }
    }
    if (!found.empty()) return found;
  }
  size_t index = 0;
  const auto [end, status] = std::from_chars(word.data(), word.data() + word.size(), index);
  if (status == std::errc() && end == word.data() + word.size() && index < array.items.size()) {
    return {&array.items[index]};
  }
  throw usage_error("`" + word + "` selects nothing", where, did_you_mean(word, names));
}

inline void set_below(ConfigNode& node, const std::vector<std::string>& path, size_t depth,
                      const ConfigNode& value) {
  if (depth == path.size()) {
    node = value;
    return;
  }
  if (node.kind == ConfigNode::Kind::array) {
    for (ConfigNode* item : select_items(node, path[depth], value.where)) {
      set_below(*item, path, depth + 1, value);
    }
    return;
  }
  if (node.kind == ConfigNode::Kind::scalar) {
    throw usage_error("`" + path[depth - 1] + "` is not a table, nothing in it can be set",
                      value.where);
  }
  ConfigNode* member = node.find(path[depth]);
  if (member == nullptr) {
    node.members.emplace_back(path[depth], ConfigNode{});
    member = &node.members.back().second;
    member->where = value.where;
  }
  set_below(*member, path, depth + 1, value);
}

}  // namespace config_detail

// Puts `value` at a dotted key: limits.cell_seconds, evaluations.passkey.keys. In an array of
// tables the word selects as select_items says. Missing tables are made; whether the key means
// something is found out when the tree is read.
inline void set_value(ConfigNode& tree, const std::string& key, const ConfigNode& value) {
  const std::vector<std::string> path = config_detail::split_key(key);
  constexpr size_t kDeepest = 64;  // each level is a call
  if (path.size() > kDeepest) {
    throw usage_error("the key has more than " + std::to_string(kDeepest) + " levels", value.where);
  }
  for (const std::string& part : path) {
    if (part.empty()) {
      throw usage_error("`" + key + "` is not a key", value.where,
                        "write --set key=value, for example --set seed=1");
    }
  }
  config_detail::set_below(tree, path, 0, value);
}

}  // namespace ptq
