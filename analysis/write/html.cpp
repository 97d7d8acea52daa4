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

// As JavaScript writes numbers.
std::string key_text(double key) { return std::isinf(key) ? "Infinity" : fmt::format("{}", key); }

bool is_bad(const std::string& text) {
  return text == "failed" || text == "not exercised" || text == "invalid" || text == "worse";
}

struct HtmlWriter {
  std::string operator()(const Heading& heading) const {
    return fmt::format("<h{0}{1}>{2}</h{0}>\n", heading.level,
                       heading.anchor.empty() ? "" : " id=\"" + heading.anchor + "\"",
                       html(heading.text));
  }
  std::string operator()(const Paragraph& paragraph) const {
    return std::string(paragraph.small ? "<p class=\"soft\">" : "<p>") + html(paragraph.text) +
           "</p>\n";
  }
  std::string operator()(const Lines& list) const {
    std::string out;
    if (!list.small) {
      out = list.title.empty() ? "" : "<h3>" + html(list.title) + "</h3>\n";
      return out + html_list(list.lines, kMostLines);
    }
    for (const std::string& line : list.lines) out += (*this)(Paragraph{line, true});
    return out;
  }
  std::string operator()(const TablePart& part) const { return html_table(part); }
  std::string operator()(const Picture& picture) const {
    return "<figure><img alt=\"" + html(picture.title.empty() ? picture.name : picture.title) +
           "\" src=\"data:image/svg+xml;base64," + base64(picture.svg) + "\"><figcaption>" +
           html(picture.caption) + "</figcaption></figure>\n";
  }

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

std::string table_head(const std::vector<std::string>& head, bool sortable) {
  std::string out = "<thead><tr>";
  for (const std::string& text : head) {
    out += "<th scope=\"col\">" +
           (text.empty() || !sortable ? html(text) : "<button>" + html(text) + "</button>") +
           "</th>";
  }
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
         (key ? " data-v=\"" + key_text(*key) + "\"" : std::string()) + ">" + html(text) + "</td>";
}

// A name: sorted as text, also where it begins with a digit.
std::string name_cell(const std::string& text) {
  return "<td class=\"left\">" + html(text) + "</td>";
}

std::string html_table(const TablePart& part) {
  const auto& [table, id, filter] = part;
  std::string out;
  if (filter && table.rows.size() > 8) {
    out += fmt::format(
        "<input type=\"search\" data-filter=\"{}\" placeholder=\"filter\" "
        "aria-label=\"filter the table\">\n",
        id);
  }
  out += "<div class=\"scroll" + std::string(table.rows.size() > 25 ? " tall" : "") + "\"><table" +
         (id.empty() ? std::string() : " class=\"sortable\" id=\"" + id + "\"") + ">\n" +
         table_head(table.head, !id.empty()) + "<tbody>\n";
  for (const auto& row : table.rows) {
    out += row[0].ends_with(kBaseline)                                   ? "<tr class=\"baseline\">"
           : row[0].ends_with(kFailsMark) || row[0].ends_with(kNotAsked) ? "<tr class=\"void\">"
                                                                         : "<tr>";
    for (size_t c = 0; c < row.size(); ++c) out += c ? table_cell(row[c]) : name_cell(row[c]);
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

std::string html_list(const std::vector<std::string>& lines, size_t most) {
  if (lines.empty()) return {};
  std::string out = "<ul class=\"lines\">";
  for (size_t i = 0; i < lines.size() && i < most; ++i) out += "<li>" + html(lines[i]) + "</li>";
  if (lines.size() > most) out += fmt::format("<li>and {} more below</li>", lines.size() - most);
  return out + "</ul>\n";
}

std::string to_html(const Document& document) {
  std::string out;
  bool pictures = false;  // neighbours stand in one row
  for (const Document::Part& part : document.parts) {
    const bool picture = std::holds_alternative<Picture>(part);
    if (picture != pictures) out += picture ? "<div class=\"figures\">\n" : "</div>\n";
    pictures = picture;
    out += std::visit(HtmlWriter{}, part);
  }
  return out + (pictures ? "</div>\n" : "");
}

}  // namespace ptq::report
