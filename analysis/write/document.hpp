// A page as data: headings, paragraphs, lists, tables and pictures in their order, and its writers
// for a terminal and for Markdown; html.hpp has the one for HTML.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "analysis/write/table.hpp"

namespace ptq::report {

struct Heading {
  int level = 1;  // 1: the title of the page
  std::string text;
  std::string anchor = {};  // what a link inside an HTML page leads to
};

struct Paragraph {
  std::string text;
  bool small = false;  // an explanation: how to read what follows
};

struct Lines {
  std::vector<std::string> lines;
  std::string title = {};
  bool small = false;
  bool box = false;          // set apart from what stands around it
  size_t most = size_t(-1);  // how many a box shows; it says how many more there are
};

struct TablePart {
  Table table;
  std::string id = {};    // once in a page; a table with one can be sorted
  bool filter = false;    // many rows get a field to search in
  std::string says = {};  // what it is, for those who do not see it; default: the heading before it
  // The same rows compared with another one, by its name; a page with scripts lets a reader choose.
  std::vector<std::pair<std::string, Table>> against = {};
};

struct Picture {
  std::string name, title, caption, svg;
  std::string seen = {};  // what is to be seen, in words
};

// What follows, up to its end, is folded away where a page can: open in print. Elsewhere its title
// is a heading.
struct Fold {
  Heading heading;
};
struct FoldEnd {};

struct Document {
  using Part = std::variant<Heading, Paragraph, Lines, TablePart, Picture, Fold, FoldEnd>;
  std::vector<Part> parts;

  // Empty lists and tables and pictures that were not drawn are left out.
  void add(Part part);
  void append(Document other) {
    for (Part& part : other.parts) parts.push_back(std::move(part));
  }
};

// What a terminal looks like: box characters for people, and its width (0 = no limit).
struct Screen {
  bool box = false;
  size_t columns = 0;
};

std::string to_terminal(const Document& document, const Screen& screen);  // without pictures

// Pictures are links to plots/NAME.svg.
std::string to_markdown(const Document& document);

}  // namespace ptq::report
