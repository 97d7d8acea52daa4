// Options of a method: what a plugin declares, and the check of what a user wrote against it. A
// method therefore only ever sees complete and valid values.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/core/problems.hpp"
#include "ptq/core/suggest.hpp"

namespace ptq {

enum class OptionType { integer, real, boolean, string };

struct OptionSpec {
  std::string name, help;
  OptionType type = OptionType::integer;
  Json default_value;
  bool has_range = false;
  double min = 0, max = 0;    // inclusive
  std::vector<Json> allowed;  // empty = no list
};

inline const char* option_type_name(OptionType type) {
  switch (type) {
    case OptionType::integer: return "integer";
    case OptionType::real: return "number";
    case OptionType::boolean: return "boolean";
    case OptionType::string: return "string";
  }
  return "?";
}

// "1, 2, 4, 8" or "0 to 128" or "": what values an option takes.
inline std::string option_range_text(const OptionSpec& spec) {
  std::string text;
  for (const auto& value : spec.allowed) text += (text.empty() ? "" : ", ") + value.dump();
  if (text.empty() && spec.has_range) text = number_text(spec.min) + " to " + number_text(spec.max);
  return text;
}

namespace options_detail {

// The value with the option's own type (an integer is a fine number), or an Error.
inline Json checked_option(const OptionSpec& spec, const Json& value, const std::string& where) {
  if (value.is_number() && !std::isfinite(value.get<double>()))
    throw usage_error("option `" + spec.name + "` is not a finite number", where);
  const bool fits = (spec.type == OptionType::integer && value.is_number_integer()) ||
                    (spec.type == OptionType::real && value.is_number()) ||
                    (spec.type == OptionType::boolean && value.is_boolean()) ||
                    (spec.type == OptionType::string && value.is_string());
  if (!fits) {
    throw usage_error("option `" + spec.name + "` is " + value.dump() + ": expected " +
                          option_type_name(spec.type) + ", got " + value_type_name(value),
                      where, "for example " + spec.name + " = " + spec.default_value.dump());
  }
  Json out = value;
  if (spec.type == OptionType::real) out = value.get<double>();
  if (out.is_number()) {
    const double x = out.get<double>();
    if (spec.has_range && (x < spec.min || x > spec.max)) {
      throw usage_error("option `" + spec.name + "` is " + value.dump() + ", outside its range " +
                            option_range_text(spec),
                        where);
    }
  }
  if (!spec.allowed.empty()) {
    bool found = false;
    for (const auto& allowed : spec.allowed) found = found || allowed == out;
    if (!found) {
      throw usage_error("option `" + spec.name + "` is " + value.dump() +
                            ", but it can only be one of " + option_range_text(spec),
                        where);
    }
  }
  return out;
}

}  // namespace options_detail

// What the user gave (an object) completed with the defaults, in the order of the specification.
// `where` is the place of `given` ("file:line key"). Throws one Error that names every unknown
// option (with the nearest known one), wrong type, and value outside its range or list.
inline Json validate_options(const std::vector<OptionSpec>& specs, const Json& given,
                             const std::string& where) {
  if (!given.is_null() && !given.is_object()) {
    throw usage_error("options must be a table, got " + value_type_name(given), where,
                      "for example options = { bits = 4 }");
  }
  std::vector<std::string> names;
  for (const OptionSpec& spec : specs) names.push_back(spec.name);

  Problems problems;
  for (const auto& [name, value] : given.items()) {
    bool known = false;
    for (const OptionSpec& spec : specs) known = known || spec.name == name;
    if (known) continue;
    problems.add(
        usage_error("unknown option `" + name + "`", where,
                    names.empty() ? "this method has no options" : did_you_mean(name, names)));
  }
  Json complete = Json::object();
  for (const OptionSpec& spec : specs) {
    if (!given.is_object() || !given.contains(spec.name)) {
      complete[spec.name] = spec.default_value;
      continue;
    }
    problems.collect([&] {
      complete[spec.name] = options_detail::checked_option(spec, given.at(spec.name), where);
    });
  }
  problems.throw_if_any();
  return complete;
}

}  // namespace ptq
