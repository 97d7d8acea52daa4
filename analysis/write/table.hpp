// A table of text and its ways to be written: aligned for terminals, Markdown, and the quoting of
// CSV.
#pragma once

#include <utf8proc.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace ptq::report {

// Behind a name or a figure; pages write such rows and cells apart.
constexpr const char* kBaseline = " (baseline)";
constexpr const char* kNotAsked = " (not asked for)";  // the experiment no longer has it
constexpr const char* kFailsMark = " °";               // full precision itself fails there

constexpr std::string_view kFrontMark = "◆ ";  // before a figure on the Pareto front

// A text may have several lines ('\n'): a page shows them below each other, other forms in one.
struct Table {
  std::vector<std::string> head;               // column 0 is on the left, the others on the right
  std::vector<std::vector<std::string>> rows;  // as long as head
};

// Columns that a terminal uses for the text: 2 for most Chinese characters, 0 for accents.
inline size_t width(std::string_view text) {
  size_t columns = 0;
  const auto* at = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  auto left = static_cast<utf8proc_ssize_t>(text.size());
  while (left > 0) {
    utf8proc_int32_t point;
    const utf8proc_ssize_t used = utf8proc_iterate(at, left, &point);
    if (used <= 0) return columns + static_cast<size_t>(left);  // not UTF-8: count bytes
    columns += static_cast<size_t>(utf8proc_charwidth(point));
    at += used;
    left -= used;
  }
  return columns;
}

inline std::string padded(const std::string& text, size_t columns, bool right) {
  const size_t used = width(text);
  const std::string gap(columns > used ? columns - used : 0, ' ');
  return right ? gap + text : text + gap;
}

// Lines of a table for a terminal. Box characters only for people (`box`); a table wider than
// `limit` columns (0 = no limit) is continued below with its first column repeated.
inline std::string to_terminal(const Table& table, bool box, size_t limit) {
  const size_t columns = table.head.size();
  std::vector<size_t> widths(columns);
  for (size_t c = 0; c < columns; ++c) {
    widths[c] = width(table.head[c]);
    for (const auto& row : table.rows) widths[c] = std::max(widths[c], width(row[c]));
  }
  const std::string line = box ? "─" : "-", cross = box ? "─┼─" : "  ", bar = box ? " │ " : "  ";
  std::string out;
  size_t begin = 1;
  do {
    size_t end = begin, total = widths[0];
    while (end < columns && (end == begin || !limit || total + 3 + widths[end] <= limit)) {
      total += 3 + widths[end++];
    }
    const auto write = [&](const std::vector<std::string>& cells) {
      std::string text = padded(cells[0], widths[0], false);
      for (size_t c = begin; c < end; ++c) text += bar + padded(cells[c], widths[c], true);
      out += text.substr(0, text.find_last_not_of(' ') + 1) + "\n";
    };
    if (begin > 1) out += "\n";
    write(table.head);
    for (size_t c = 0; c < end; c = c ? c + 1 : begin) {
      if (c) out += cross;
      for (size_t i = 0; i < widths[c]; ++i) out += line;
    }
    out += "\n";
    for (const auto& row : table.rows) write(row);
    begin = end;
  } while (begin < columns);
  return out;
}

// Makes text of others harmless inside Markdown: a bar would end the cell, the rest would format.
inline std::string markdown_text(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (std::string_view("|*`<>[]\\").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

inline std::string to_markdown(const Table& table) {
  std::string out = "|";
  for (const std::string& head : table.head) out += " " + markdown_text(head) + " |";
  out += "\n|";
  for (size_t c = 0; c < table.head.size(); ++c) out += c ? "---:|" : "---|";
  out += "\n";
  for (const auto& row : table.rows) {
    out += "|";
    for (const std::string& cell : row) out += " " + markdown_text(cell) + " |";
    out += "\n";
  }
  return out;
}

// What a spreadsheet takes for a formula, also behind the apostrophes that guard it: = + - @, tab,
// line ends, and the wide forms of the four signs.
inline bool looks_like_formula(std::string_view text) {
  const size_t at = text.find_first_not_of('\'');
  if (at == text.npos) return false;
  const std::string_view rest = text.substr(at);
  if (std::string_view("=+-@\t\r\n").find(rest[0]) != std::string_view::npos) return true;
  for (const char* wide : {"＝", "＋", "－", "＠"})
    if (rest.starts_with(wide)) return true;
  return false;
}

// The text of a field without the apostrophe that csv_field() put before it.
inline std::string csv_unguarded(const std::string& text) {
  return text.starts_with('\'') && looks_like_formula(text) ? text.substr(1) : text;
}

// Spreadsheets read UTF-8 only behind a byte order mark.
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
inline std::string with_byte_order_mark(const std::string& csv) {
  const bool ascii = std::all_of(csv.begin(), csv.end(),
                                 [](char c) { return static_cast<unsigned char>(c) < 128; });
  return ascii ? csv : std::string(kByteOrderMark) + csv;
}

// A field of RFC 4180 that holds text; an apostrophe keeps a spreadsheet from computing it.
inline std::string csv_field(const std::string& content) {
  const std::string text = (looks_like_formula(content) ? "'" : "") + content;
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) {
    out += c;
    if (c == '"') out += c;
  }
  return out + "\"";
}

}  // namespace ptq::report
