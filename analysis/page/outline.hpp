// What stands in a report and in which order: the same for the terminal, Markdown and HTML.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "analysis/page/report.hpp"
#include "analysis/write/document.hpp"

namespace ptq::report {

// A screen is narrow: no intervals behind counts, no explanations.
enum class Detail { screen, file };

std::string title_of(const Board& board);
std::string damaged_text(const Damaged& damaged);

// What a reader decides by: a sentence per model, the chart, one table, what is not decided.
Document first_screen(const Report& report, Detail detail);
// How far the predictions of a board's methods are from full precision's, by tokens; empty without
// scores of tokens.
Document fidelity_outline(const Report& report, size_t board);
// More rows to choose a reference from would make the page large without helping anybody to choose.
constexpr size_t kMostChoices = 24;
// Everything about one board, folded away.
Document board_outline(const Report& report, size_t board, Detail detail);
Document pruning_outline(const Report& report);
// What was found wrong in files and what could not be drawn.
Document problems_outline(const Report& report, Detail detail);
// All of these.
Document outline(const Report& report, Detail detail);

}  // namespace ptq::report
