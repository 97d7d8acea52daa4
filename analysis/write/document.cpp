#include "analysis/write/document.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace ptq::report {
namespace {

// A list and, of a box, how much of it is left out.
std::vector<std::string> shown(const Lines& list) {
  if (list.lines.size() <= list.most) return list.lines;
  std::vector<std::string> out(list.lines.begin(), list.lines.begin() + std::ptrdiff_t(list.most));
  out.push_back(fmt::format("... {}", list.lines.size() - list.most));
  return out;
}

// Cells of several lines in one.
Table one_line_each(Table table) {
  const auto flatten = [](std::string& text, const char* between) {
    for (size_t at; (at = text.find('\n')) != text.npos;) text.replace(at, 1, between);
  };
  for (std::string& head : table.head) flatten(head, " ");
  for (auto& row : table.rows)
    for (std::string& cell : row) flatten(cell, "; ");
  return table;
}

// Parts stand one empty line apart.
template <class Writer>
std::string written(const Document& document, const Writer& writer) {
  std::string out;
  for (const Document::Part& part : document.parts) {
    const std::string text = std::visit(writer, part);
    if (text.empty()) continue;
    out += (out.empty() ? "" : "\n") + text;
  }
  return out;
}

struct TerminalWriter {
  Screen screen;

  std::string operator()(const Heading& heading) const { return heading.text + "\n"; }
  std::string operator()(const Paragraph& paragraph) const { return paragraph.text + "\n"; }
  std::string operator()(const Lines& list) const {
    std::string out = list.title.empty() ? std::string() : list.title + ":\n";
    for (const std::string& line : shown(list)) out += "  " + line + "\n";
    return out;
  }
  std::string operator()(const TablePart& part) const {
    return to_terminal(one_line_each(part.table), screen.box, screen.columns);
  }
  std::string operator()(const Picture&) const { return {}; }
  std::string operator()(const Fold& fold) const { return (*this)(fold.heading); }
  std::string operator()(const FoldEnd&) const { return {}; }
};

struct MarkdownWriter {
  std::string operator()(const Heading& heading) const {
    return std::string(size_t(heading.level), '#') + " " + markdown_text(heading.text) + "\n";
  }
  std::string operator()(const Paragraph& paragraph) const {
    return markdown_text(paragraph.text) + "\n";
  }
  std::string operator()(const Lines& list) const {
    std::string out = list.title.empty() ? std::string() : markdown_text(list.title) + ":\n\n";
    for (const std::string& line : shown(list)) out += "- " + markdown_text(line) + "\n";
    return out;
  }
  std::string operator()(const TablePart& part) const {
    return to_markdown(one_line_each(part.table));
  }
  std::string operator()(const Picture& picture) const {
    return "![" + markdown_text(picture.seen.empty() ? picture.title : picture.seen) + "](plots/" +
           picture.name + ".svg)\n" +
           (picture.caption.empty() ? "" : "\n" + markdown_text(picture.caption) + "\n");
  }
  std::string operator()(const Fold& fold) const { return (*this)(fold.heading); }
  std::string operator()(const FoldEnd&) const { return {}; }
};

}  // namespace

void Document::add(Part part) {
  const Lines* list = std::get_if<Lines>(&part);
  const TablePart* table = std::get_if<TablePart>(&part);
  const Picture* picture = std::get_if<Picture>(&part);
  const bool nothing = (list && list->lines.empty()) || (table && table->table.rows.empty()) ||
                       (picture && picture->svg.empty());
  if (!nothing) parts.push_back(std::move(part));
}

std::string to_terminal(const Document& document, const Screen& screen) {
  return written(document, TerminalWriter{screen});
}

std::string to_markdown(const Document& document) { return written(document, MarkdownWriter{}); }

}  // namespace ptq::report
