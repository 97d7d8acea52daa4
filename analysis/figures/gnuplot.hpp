// Draws figures with gnuplot (package gnuplot-nox), which runs as a program of its own.
#pragma once

#include <string>
#include <vector>

namespace ptq::report {

struct Figure {
  std::string name;       // of its file: letters, digits, dashes, once in a report (name_apart)
  std::string title;      // one line
  std::string caption;    // what to see and how it was computed
  std::string script;     // gnuplot commands, data included
  std::string svg;        // filled in by draw()
  std::string seen = {};  // what is to be seen, from the data, for those who do not see it
};

// A text inside a script: quoted so that gnuplot neither expands nor runs anything in it.
std::string script_text(const std::string& text);

// The series' colour and symbol: Okabe and Ito's colours, told apart in print by symbols and
// dashes. kStyles of them differ.
constexpr size_t kStyles = 64;
std::string series_colour(size_t index);
std::string series_style(size_t index, size_t dash);

// Gives every figure a file name of its own, also where letters differ in case only.
void name_apart(std::vector<Figure>& figures);

// The whole script of a figure, writing to `file`.
std::string whole_script(const Figure& figure, const std::string& file);

// Fills in `svg` of every figure. Returns why there are none, in one line, or an empty text.
std::string draw(std::vector<Figure>& figures);

}  // namespace ptq::report
