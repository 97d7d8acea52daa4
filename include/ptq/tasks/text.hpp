// How a task makes its texts from the fields of a row: paths, filters and templates.
//
//   path      "question.choices[].text": members; [] means of every element; a number is a position
//   template  "Question: {question|strip}\nAnswer:"; {{ and }} are the brackets themselves
//   filters   strip, lstrip, capitalize (Python's str.capitalize), spaces (for underscores),
//             before:X and after:X (the text in front of and behind the first X), hellaswag (the
//             preprocess() of that task in EleutherAI/lm-evaluation-harness)
#pragma once

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/core/suggest.hpp"
#include "ptq/model/unicode.hpp"
#include "ptq/model/unicode_forms.hpp"

namespace ptq::tasks {

// The value of a row at a path; nothing where a part of it is absent or null.
inline std::optional<Json> value_at(const Json& row, std::string_view path) {
  if (path.empty()) return row;
  const size_t dot = path.find('.');
  std::string_view name = path.substr(0, dot);
  const std::string_view rest = dot == path.npos ? "" : path.substr(dot + 1);
  if (row.is_array()) {
    size_t place = 0;
    const auto [end, status] = std::from_chars(name.data(), name.data() + name.size(), place);
    if (status != std::errc() || end != name.data() + name.size() || place >= row.size()) return {};
    return value_at(row[place], rest);
  }
  const bool each = name.ends_with("[]");
  if (each) name.remove_suffix(2);
  if (!row.is_object()) return {};
  const auto found = row.find(std::string(name));
  if (found == row.end() || found->is_null()) return {};
  if (!each) return value_at(*found, rest);
  if (!found->is_array()) return {};
  Json all = Json::array();
  for (const Json& element : *found) {
    std::optional<Json> value = value_at(element, rest);
    if (!value) return {};
    all.push_back(std::move(*value));
  }
  return all;
}

// Strings as they are, everything else as JSON writes it.
inline std::string text_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : json_text(value);
}

namespace text_detail {

inline bool is_python_space(uint32_t c) { return is_space(c) || (c >= 0x1C && c <= 0x1F); }

// Title case of one character. Of those that become several in Unicode's SpecialCasing.txt the
// Latin ones are here; the Armenian and Greek ones keep utf8proc's single character.
inline std::string title_case(uint32_t c) {
  switch (c) {
    case 0xDF: return "Ss";
    case 0x149: return "\xCA\xBCN";
    case 0x1F0: return "J\xCC\x8C";
    case 0xFB00: return "Ff";
    case 0xFB01: return "Fi";
    case 0xFB02: return "Fl";
    case 0xFB03: return "Ffi";
    case 0xFB04: return "Ffl";
    case 0xFB05:
    case 0xFB06: return "St";
    default: break;
  }
  std::string out;
  append_utf8(out, uint32_t(utf8proc_totitle(utf8proc_int32_t(c))));
  return out;
}

// Lower case with Python's rule for sigma: at the end of a word it has another form.
inline std::string lower_text(std::string_view text, bool letter_before) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const uint32_t c = next_code_point(text, i);
    bool letter_behind = false;
    if (i < text.size()) {
      size_t next = i;
      letter_behind = char_classes()[next_code_point(text, next)] == CharClass::letter;
    }
    if (c == 0x3A3 && letter_before && !letter_behind) {
      append_utf8(out, 0x3C2);
    } else {
      append_utf8(out, lower_case(c));
      if (c == 0x130) append_utf8(out, 0x307);
    }
    letter_before = char_classes()[c] == CharClass::letter;
  }
  return out;
}

inline std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (size_t at; (at = text.find(from)) != text.npos;) {
    out.append(text.substr(0, at)).append(to);
    text.remove_prefix(at + from.size());
  }
  return out.append(text);
}

// Without every shortest run from [ to the next ] of the same line.
inline std::string without_brackets(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t open = text.find('[');
    out.append(text.substr(0, open));
    if (open == text.npos) return out;
    text.remove_prefix(open);
    const size_t end = text.find_first_of("]\n");
    if (end != text.npos && text[end] == ']') {
      text.remove_prefix(end + 1);
    } else {
      out += '[';
      text.remove_prefix(1);
    }
  }
  return out;
}

}  // namespace text_detail

// Python's str.lstrip() and str.rstrip(): to Unicode's spaces come four control characters.
inline std::string_view stripped_left(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    const uint32_t c = next_code_point(text, i);
    if (!text_detail::is_python_space(c)) return text.substr(begin);
  }
  return {};
}
inline std::string_view stripped_right(std::string_view text) {
  while (!text.empty()) {
    size_t last = text.size() - 1;
    while ((uint8_t(text[last]) & 0xC0) == 0x80) --last;
    size_t i = last;
    if (!text_detail::is_python_space(next_code_point(text, i))) break;
    text = text.substr(0, last);
  }
  return text;
}
inline std::string stripped_text(std::string_view text) {
  return std::string(stripped_left(stripped_right(text)));
}

// Python's str.capitalize().
inline std::string capitalized(std::string_view text) {
  if (text.empty()) return {};
  size_t i = 0;
  const uint32_t first = next_code_point(text, i);
  const bool letter = char_classes()[first] == CharClass::letter;
  return text_detail::title_case(first) + text_detail::lower_text(text.substr(i), letter);
}

inline std::string hellaswag_text(std::string_view text) {
  using namespace text_detail;
  const std::string titled = replaced(stripped_text(text), " [title]", ". ");
  return replaced(without_brackets(titled), "  ", " ");
}

// A chain of filters.
class Filters {
 public:
  Filters() = default;
  // "strip|before:_"; `where`: for messages. Errors: a filter that there is not.
  Filters(std::string_view chain, const std::string& where) {
    static const std::vector<std::string> names = {"strip",  "lstrip", "capitalize", "spaces",
                                                   "before", "after",  "hellaswag"};
    while (!chain.empty()) {
      const std::string_view one = chain.substr(0, chain.find('|'));
      chain.remove_prefix(std::min(chain.size(), one.size() + 1));
      const size_t colon = one.find(':');
      const std::string name(one.substr(0, colon));
      const std::string argument(colon == one.npos ? "" : one.substr(colon + 1));
      if (std::find(names.begin(), names.end(), name) == names.end())
        throw usage_error("there is no filter `" + name + "`", where, did_you_mean(name, names));
      if (argument.empty() == (name == "before" || name == "after"))
        throw usage_error("the filter `" + name + "` takes " + (argument.empty() ? "a" : "no") +
                              " text behind a colon",
                          where, "{sentence|before:_}");
      steps_.emplace_back(name, argument);
    }
  }

  std::string apply(std::string text) const {
    for (const auto& [name, argument] : steps_) {
      if (name == "strip") text = stripped_text(text);
      if (name == "lstrip") text = std::string(stripped_left(text));
      if (name == "capitalize") text = capitalized(text);
      if (name == "spaces") std::replace(text.begin(), text.end(), '_', ' ');
      if (name == "before") text = text.substr(0, text.find(argument));
      if (name == "after") {
        const size_t at = text.find(argument);
        text = at == text.npos ? "" : text.substr(at + argument.size());
      }
      if (name == "hellaswag") text = hellaswag_text(text);
    }
    return text;
  }

 private:
  std::vector<std::pair<std::string, std::string>> steps_;  // name, argument
};

// A path and what is done with the texts there.
struct Source {
  std::string path;
  Filters filters;

  Source() = default;
  Source(const std::string& written, const std::string& where) : path(written) {
    const size_t bar = written.find('|');
    if (bar == written.npos) return;
    path = written.substr(0, bar);
    filters = Filters(std::string_view(written).substr(bar + 1), where);
  }
  std::optional<std::string> text(const Json& row) const {
    const std::optional<Json> value = value_at(row, path);
    if (!value) return {};
    return filters.apply(text_of(*value));
  }
  // Of a list; nothing where there is none.
  std::optional<std::vector<std::string>> texts(const Json& row) const {
    const std::optional<Json> list = value_at(row, path);
    if (!list || !list->is_array()) return {};
    std::vector<std::string> out;
    for (const Json& value : *list) out.push_back(filters.apply(text_of(value)));
    return out;
  }
};

// A text with fields of the row in it.
class Template {
 public:
  Template() = default;
  // Errors: a bracket without its partner, an unknown filter.
  Template(std::string_view text, const std::string& where) {
    std::string plain;
    while (!text.empty()) {
      const size_t at = text.find_first_of("{}");
      plain.append(text.substr(0, at));
      if (at == text.npos) break;
      text.remove_prefix(at);
      if (text.size() > 1 && text[1] == text[0]) {
        plain += text[0];
        text.remove_prefix(2);
        continue;
      }
      const size_t close = text.find('}');
      if (text[0] == '}' || close == text.npos)
        throw usage_error("a bracket has no partner in the template", where,
                          "{field} is a field of the row, {{ a bracket");
      pieces_.push_back({std::move(plain), Source(std::string(text.substr(1, close - 1)), where)});
      plain.clear();
      text.remove_prefix(close + 1);
    }
    tail_ = std::move(plain);
  }

  bool empty() const { return pieces_.empty() && tail_.empty(); }

  // Nothing where the row lacks a field.
  std::optional<std::string> render(const Json& row) const {
    std::string out;
    for (const auto& [plain, field] : pieces_) {
      const std::optional<std::string> value = field.text(row);
      if (!value) return {};
      out += plain + *value;
    }
    return out + tail_;
  }

 private:
  std::vector<std::pair<std::string, Source>> pieces_;  // text in front of a field, the field
  std::string tail_;
};

}  // namespace ptq::tasks
