// The guards against toml++ 3.3.0: under gcc its internal assertions disappear with NDEBUG and the
// right error follows; under clang NDEBUG would turn them into assumptions, so there they become an
// exception. NUL bytes and bad UTF-8 are refused beforehand.
#ifdef __clang__
#undef NDEBUG
#include <stdexcept>
#define TOML_ASSERT(condition) \
  ((condition) ? void(0) : throw std::runtime_error("the syntax is not valid here"))
#elif !defined(NDEBUG)
#define NDEBUG
#endif
#ifndef TOML_MAX_NESTED_VALUES
#define TOML_MAX_NESTED_VALUES 64
#endif
#include <toml++/toml.h>

#include <algorithm>
#include <fstream>
#include <iterator>

#include "analysis/toml_reader.hpp"
#include "ptq/core/json.hpp"
#include "ptq/core/toml_guard.hpp"

namespace ptq::report {
namespace {

Json convert(const toml::node& node, const std::string& where) {
  if (const toml::table* table = node.as_table()) {
    // toml++ sorts by name; the order of the file is kept here.
    std::vector<std::pair<toml::source_position, std::pair<std::string, Json>>> members;
    for (const auto& [key, value] : *table) {
      members.push_back({key.source().begin, {std::string(key.str()), convert(value, where)}});
    }
    std::stable_sort(members.begin(), members.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    Json out = Json::object();
    for (auto& [position, member] : members) out[member.first] = std::move(member.second);
    return out;
  }
  if (const toml::array* array = node.as_array()) {
    Json out = Json::array();
    for (const toml::node& item : *array) out.push_back(convert(item, where));
    return out;
  }
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* integer = node.as_integer()) return integer->get();
  if (const auto* real = node.as_floating_point()) return real->get();
  if (const auto* boolean = node.as_boolean()) return boolean->get();
  throw usage_error("dates and times have no meaning here",
                    where + ":" + std::to_string(node.source().begin.line),
                    "put the value in quotes if it is a text");
}

}  // namespace

Json read_toml(const std::string& text, const std::string& where) {
  if (text.find('\0') != text.npos || utf8_error_offset(text) != text.npos) {
    throw usage_error("not valid TOML: the file is no UTF-8 text", where);
  }
  if (const auto line = line_of_deep_toml_key(text)) {
    throw usage_error("the key has more than " + std::to_string(kLongestTomlKey) + " parts",
                      where + ":" + std::to_string(*line));
  }
  try {
    return convert(toml::parse(text, where), where);
  } catch (const toml::parse_error& error) {
    const auto at = error.source().begin;
    throw usage_error("not valid TOML: " + std::string(error.description()),
                      where + ":" + std::to_string(at.line) + ":" + std::to_string(at.column));
  } catch (const std::runtime_error& error) {
    if (dynamic_cast<const Error*>(&error)) throw;
    throw usage_error("not valid TOML: " + std::string(error.what()), where);
  }
}

Json read_toml_file(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw environment_error("the file cannot be opened", file);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  if (text.size() > (1u << 20)) throw usage_error("the file is larger than 1 MiB", file);
  return read_toml(text, file);
}

}  // namespace ptq::report
