#include "analysis/write/html.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <optional>

namespace ptq::report {
namespace {

std::string base64(std::string_view bytes) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t three = 0;
    const size_t n = std::min<size_t>(3, bytes.size() - i);
    for (size_t k = 0; k < 3; ++k) {
      three = three << 8 | (k < n ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    }
    for (size_t k = 0; k < 4; ++k) out += k <= n ? kDigits[three >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

// The number of a cell's text, to sort by: "2,048" is 2048, "19/20 (95 %)" the share 0.95, "2 min
// 05 s" 125 and "<0.001" smaller than 0.001.
std::optional<double> sort_key(const std::string& text) {
  if (text.starts_with(kFrontMark)) return sort_key(text.substr(kFrontMark.size()));
  double a = 0, b = 0;
  int used = 0;
  if (std::sscanf(text.c_str(), "%lf min %lf s%n", &a, &b, &used) == 2 && used > 0)
    return 60 * a + b;
  if (std::sscanf(text.c_str(), "%lf/%lf", &a, &b) == 2 && b > 0) return a / b;
  if (text.starts_with("> 1e308")) return HUGE_VAL;
  if (text.starts_with("<")) {
    const auto bound = sort_key(text.substr(1));
    return bound ? std::optional(0.99 * *bound) : std::nullopt;
  }
  std::string digits;
  for (const char c : text) {
    if (c == ',' && !digits.empty()) continue;
    if (std::isdigit(static_cast<unsigned char>(c)) || (c == '.' && !digits.empty()) ||
        (digits.empty() && (c == '-' || c == '+')) || (c == 'e' && !digits.empty()) ||
        (!digits.empty() && digits.back() == 'e' && (c == '-' || c == '+'))) {
      digits += c;
    } else {
      break;
    }
  }
  char* end = nullptr;
  const double value = std::strtod(digits.c_str(), &end);
  if (digits.empty() || end == digits.c_str()) return {};
  return value;
}

// Escaped, lines broken where the text breaks; what follows the first line is small.
std::string html_lines(const std::string& text) {
  const size_t end = text.find('\n');
  if (end == text.npos) return html(text);
  std::string rest = html(text.substr(end + 1));
  for (size_t at; (at = rest.find('\n')) != rest.npos;) rest.replace(at, 1, "<br>");
  return html(text.substr(0, end)) + "<br><small>" + rest + "</small>";
}

// As JavaScript writes numbers.
std::string key_text(double key) { return std::isinf(key) ? "Infinity" : fmt::format("{}", key); }

bool is_bad(const std::string& text) {
  return text == "failed" || text == "not exercised" || text == "not finite" || text == "invalid" ||
         text == "worse";
}

std::string html_list(const std::vector<std::string>& lines, size_t most, Language language) {
  if (lines.empty()) return {};
  std::string out = "<ul class=\"lines\">";
  for (size_t i = 0; i < lines.size() && i < most; ++i) out += "<li>" + html(lines[i]) + "</li>";
  if (lines.size() > most)
    out += fmt::format(
        fmt::runtime(in(language, "<li>and {} more below</li>", "<li>另有 {} 条，见下文</li>")),
        lines.size() - most);
  return out + "</ul>\n";
}

constexpr size_t kWideTable = 9;  // more columns are printed smaller

// What a reader can choose to compare the rows with; hidden until a script shows that it can.
std::string choice_of(const TablePart& part, Language language) {
  if (part.against.empty()) return {};
  std::string options;
  Json tables = Json::array();
  for (const auto& [name, table] : part.against) {
    options += "<option>" + html(name) + "</option>";
    tables.push_back(table.rows);
  }
  return "<p class=\"choice\" hidden><label>" +
         std::string(in(language, "Compared with ", "比较对象 ")) + "<select data-table=\"" +
         part.id + "\" data-against=\"" + html(json_text(tables)) + "\">" + options +
         "</select></label></p>\n";
}

std::string html_table(const TablePart& part, const std::string& heading, Language language) {
  const Table& table = part.table;
  std::string out = choice_of(part, language);
  if (part.filter && table.rows.size() > 8) {
    const std::string filter = in(language, "filter", "筛选");
    out += fmt::format(
        "<input type=\"search\" data-filter=\"{}\" placeholder=\"{}\" aria-label=\"{}\">\n",
        part.id, filter, filter + ": " + html(heading));
  }
  out += "<div class=\"scroll" + std::string(table.rows.size() > 25 ? " tall" : "") +
         (table.head.size() > kWideTable ? " wide" : "") +
         "\" tabindex=\"0\" role=\"region\" aria-label=\"" +
         html(part.says.empty() ? heading : part.says) + "\"><table" +
         (part.id.empty() ? std::string() : " class=\"sortable\" id=\"" + part.id + "\"") + ">\n" +
         table_head(table.head) + "<tbody>\n";
  for (size_t r = 0; r < table.rows.size(); ++r) {
    const auto& row = table.rows[r];
    const char* kind = row[0].ends_with(kBaseline)                                   ? "baseline"
                       : row[0].ends_with(kFailsMark) || row[0].ends_with(kNotAsked) ? "void"
                                                                                     : "";
    out += fmt::format("<tr{}{}>", *kind ? fmt::format(" class=\"{}\"", kind) : "",
                       part.against.empty() ? "" : fmt::format(" data-row=\"{}\"", r));
    for (size_t c = 0; c < row.size(); ++c) out += c ? table_cell(row[c]) : name_cell(row[c]);
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

struct HtmlWriter {
  Language language;
  std::string heading = {};  // the last one

  std::string operator()(const Heading& h) {
    heading = h.text;
    return fmt::format("<h{0}{1}>{2}</h{0}>\n", h.level,
                       h.anchor.empty() ? "" : " id=\"" + h.anchor + "\"", html(h.text));
  }
  std::string operator()(const Paragraph& paragraph) const {
    return std::string(paragraph.small ? "<p class=\"soft\">" : "<p>") + html(paragraph.text) +
           "</p>\n";
  }
  std::string operator()(const Lines& list) const {
    if (list.box)
      return "<div class=\"box\"><b>" + html(list.title) + "</b>" +
             html_list(list.lines, list.most, language) + "</div>\n";
    std::string out;
    if (!list.small) {
      out = list.title.empty() ? "" : "<h3>" + html(list.title) + "</h3>\n";
      return out + html_list(list.lines, kMostLines, language);
    }
    for (const std::string& line : list.lines) out += (*this)(Paragraph{line, true});
    return out;
  }
  std::string operator()(const TablePart& part) const {
    return html_table(part, heading, language);
  }
  std::string operator()(const Picture& picture) const {
    const std::string& words = !picture.seen.empty()    ? picture.seen
                               : !picture.title.empty() ? picture.title
                                                        : picture.name;
    return "<figure><img alt=\"" + html(words) + "\" src=\"data:image/svg+xml;base64," +
           base64(picture.svg) + "\">" +
           (picture.caption.empty() ? std::string()
                                    : "<figcaption>" + html(picture.caption) + "</figcaption>") +
           "</figure>\n";
  }
  std::string operator()(const Fold& fold) {
    return "<details><summary>" + (*this)(fold.heading) + "</summary>\n";
  }
  std::string operator()(const FoldEnd&) const { return "</details>\n"; }

  static constexpr size_t kMostLines = 500;
};

}  // namespace

std::string html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
  return out;
}

std::string script_json(const Json& json) {
  std::string out;
  for (const char c : json_text(json)) {
    if (c == '<') {
      out += "\\u003c";
    } else {
      out += c;
    }
  }
  return out;
}

std::string table_head(const std::vector<std::string>& head) {
  std::string out = "<thead><tr>";
  for (const std::string& text : head) out += "<th scope=\"col\">" + html_lines(text) + "</th>";
  return out + "</tr></thead>\n";
}

std::string table_cell(const std::string& text) {
  const auto key = sort_key(text);
  const bool words = !key && text.size() > 1;
  return "<td" +
         (is_bad(text)                 ? std::string(" class=\"left bad\"")
          : text.ends_with(kFailsMark) ? " class=\"void\""
          : words                      ? " class=\"left\""
                                       : "") +
         (key ? " data-v=\"" + key_text(*key) + "\"" : std::string()) + ">" + html_lines(text) +
         "</td>";
}

// A name: sorted as text, also where it begins with a digit.
std::string name_cell(const std::string& text) {
  return "<td class=\"left\">" + html(text) + "</td>";
}

std::string to_html(const Document& document, Language language) {
  HtmlWriter writer{language};
  std::string out;
  bool pictures = false;  // neighbours stand in one row
  for (const Document::Part& part : document.parts) {
    const bool picture = std::holds_alternative<Picture>(part);
    if (picture != pictures) out += picture ? "<div class=\"figures\">\n" : "</div>\n";
    pictures = picture;
    out += std::visit(writer, part);
  }
  return out + (pictures ? "</div>\n" : "");
}

}  // namespace ptq::report
