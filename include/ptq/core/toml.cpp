// The only file that includes toml++, whose version 3.3.0 fails an internal assertion on ordinary
// typing mistakes such as `bits = [4,}`. Under gcc the assertion disappears with NDEBUG and the
// right error follows. Under clang NDEBUG would turn it into an assumption (undefined behaviour),
// so there it becomes an exception. Three inputs are refused beforehand because 3.3.0 does not
// survive them: NUL bytes, bad UTF-8 and keys of very many parts.
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
#include <sstream>

#include "ptq/core/json.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/core/toml.hpp"
#include "ptq/core/toml_guard.hpp"

namespace ptq {
namespace {

std::string place(const std::string& name, const toml::source_position& position) {
  return name + ":" + std::to_string(position.line) + ":" + std::to_string(position.column);
}

// The line `number` (from 1) of the text.
std::string_view source_line(std::string_view text, size_t number) {
  for (; number > 1 && !text.empty(); --number) {
    text.remove_prefix(
        std::min(text.size(), text.find('\n') == text.npos ? text.size() : text.find('\n') + 1));
  }
  return text.substr(0, text.find('\n'));
}

// Chinese and Japanese input methods leave characters that look like TOML's and are not.
std::string full_width_hint(std::string_view line) {
  static const std::pair<const char*, const char*> kLookalikes[] = {
      {"\uFF1D", "="},  {"\uFF0C", ","}, {"\u3002", "."}, {"\u201C", "\""}, {"\u201D", "\""},
      {"\uFF02", "\""}, {"\u2018", "'"}, {"\u2019", "'"}, {"\uFF3B", "["},  {"\uFF3D", "]"},
      {"\u3010", "["},  {"\u3011", "]"}, {"\uFF5B", "{"}, {"\uFF5D", "}"},  {"\uFF03", "#"},
      {"\u3000", " "},  {"\u00A0", " "}};
  for (const auto& [seen, meant] : kLookalikes) {
    if (line.find(seen) == line.npos) continue;
    return std::string("the line contains the full-width or special character `") + seen +
           "`; write the plain `" + meant + "`";
  }
  return {};
}

Error syntax_error(std::string_view text, const std::string& name, std::string_view description,
                   const toml::source_position& position) {
  const std::string_view line = source_line(text, position.line);
  const std::string number = std::to_string(position.line);
  std::string where = place(name, position);
  if (line.size() <= 200 && position.column >= 1 && position.column <= line.size() + 1) {
    where += "\n    " + number + " | " + std::string(line) + "\n    " +
             std::string(number.size(), ' ') + " | " + std::string(position.column - 1, ' ') + "^";
  }
  return usage_error("not valid TOML: " + std::string(description), where, full_width_hint(line));
}

// "\u0000" would end a path or a name where no one sees it.
void require_no_nul(std::string_view text, const std::string& where) {
  if (text.find('\0') == text.npos) return;
  throw usage_error("a text contains the character NUL (\\u0000)", where, "leave it out");
}

ConfigNode convert(const toml::node& node, const std::string& name, const std::string& where) {
  ConfigNode out;
  out.where = where;
  if (const toml::table* table = node.as_table()) {
    out.kind = ConfigNode::Kind::table;
    // toml++ sorts by name; the order of the file matters to labels and messages.
    std::vector<std::pair<toml::source_position, std::pair<std::string, ConfigNode>>> members;
    for (const auto& [key, value] : *table) {
      const toml::source_position position = key.source().begin;
      require_no_nul(key.str(), place(name, position));
      members.push_back(
          {position, {std::string(key.str()), convert(value, name, place(name, position))}});
    }
    std::stable_sort(members.begin(), members.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    for (auto& [position, member] : members) out.members.push_back(std::move(member));
  } else if (const toml::array* array = node.as_array()) {
    out.kind = ConfigNode::Kind::array;
    for (const toml::node& item : *array) {
      out.items.push_back(convert(item, name, place(name, item.source().begin)));
    }
  } else {
    out.kind = ConfigNode::Kind::scalar;
    if (const auto* text = node.as_string()) {
      require_no_nul(text->get(), where);
      out.scalar = text->get();
    } else if (const auto* integer = node.as_integer()) {
      out.scalar = integer->get();
    } else if (const auto* real = node.as_floating_point()) {
      out.scalar = real->get();
    } else if (const auto* boolean = node.as_boolean()) {
      out.scalar = boolean->get();
    } else {
      throw usage_error("dates and times have no meaning in an experiment", where,
                        "put the value in quotes if it is a text");
    }
  }
  return out;
}

}  // namespace

ConfigNode parse_toml(std::string_view text, const std::string& name) {
  const size_t nul = text.find('\0');
  const size_t bad = std::min(nul, utf8_error_offset(text));
  if (bad != text.npos) {
    const auto line = 1 + std::count(text.begin(), text.begin() + std::ptrdiff_t(bad), '\n');
    throw usage_error(bad == nul ? "the text contains a NUL byte" : "the text is not valid UTF-8",
                      name + ":" + std::to_string(line), "save the file as UTF-8 text");
  }
  if (const auto line = line_of_deep_toml_key(text)) {
    throw usage_error("the key has more than " + std::to_string(kLongestTomlKey) + " parts",
                      name + ":" + std::to_string(*line), "experiments need four at most");
  }
  toml::table table;
  try {
    table = toml::parse(text, name);
  } catch (const toml::parse_error& error) {
    throw syntax_error(text, name, error.description(), error.source().begin);
  } catch (const std::runtime_error& error) {
    throw usage_error(std::string("not valid TOML: ") + error.what(), name);
  }
  return convert(table, name, name + ":1:1");
}

ConfigNode read_toml_file(const std::filesystem::path& path) {
  constexpr uint64_t kLargestFile = uint64_t{1} << 20;
  return parse_toml(read_text_file(path, kLargestFile), path.string());
}

}  // namespace ptq
