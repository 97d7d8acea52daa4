#include "analysis/write/document.hpp"

namespace ptq::report {
namespace {

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
    for (const std::string& line : list.lines) out += "  " + line + "\n";
    return out;
  }
  std::string operator()(const TablePart& part) const {
    return to_terminal(part.table, screen.box, screen.columns);
  }
  std::string operator()(const Picture&) const { return {}; }
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
    for (const std::string& line : list.lines) out += "- " + markdown_text(line) + "\n";
    return out;
  }
  std::string operator()(const TablePart& part) const { return to_markdown(part.table); }
  std::string operator()(const Picture& picture) const {
    return "![" + markdown_text(picture.title) + "](plots/" + picture.name + ".svg)\n\n" +
           markdown_text(picture.caption) + "\n";
  }
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
