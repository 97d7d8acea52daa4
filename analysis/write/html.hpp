// A page as HTML, and the pieces of a page that are HTML alone. Tables are there without scripts;
// sorting and searching need one (page/report.js).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "analysis/write/document.hpp"
#include "analysis/write/language.hpp"
#include "ptq/core/own_json.hpp"

namespace ptq::report {

std::string to_html(const Document& document, Language language = Language::en);

std::string html(std::string_view text);  // escaped
// JSON inside a script element: nothing in it ends the element.
std::string script_json(const Json& json);
std::string table_head(const std::vector<std::string>& head);
std::string table_cell(const std::string& text);
// A name: sorted as text, also where it begins with a digit.
std::string name_cell(const std::string& text);

}  // namespace ptq::report
