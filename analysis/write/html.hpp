// A page as HTML, and the pieces of a page that are HTML alone. Tables are there without scripts;
// sorting and searching need one (page/report.js).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/write/document.hpp"

namespace ptq::report {

std::string to_html(const Document& document);

std::string html(std::string_view text);  // escaped
std::string html_list(const std::vector<std::string>& lines, size_t most);
std::string html_table(const TablePart& part);
std::string table_head(const std::vector<std::string>& head, bool sortable);
std::string table_cell(const std::string& text);
// A name: sorted as text, also where it begins with a digit.
std::string name_cell(const std::string& text);

}  // namespace ptq::report
