// The charts of the first screen: damage against bytes, one for each model, all with the same axes.
#pragma once

#include <string>
#include <vector>

#include "analysis/decide/standing.hpp"
#include "analysis/figures/figures.hpp"
#include "analysis/write/language.hpp"

namespace ptq::report {

// Both axes are logarithmic, so that one method that fails does not flatten the others (lost
// answers are linear). Points are named where they stand; with more than 16 only those of the
// front.
std::vector<Figure> decision_figures(const Decision& decision, const SeriesStyles& styles,
                                     Language language);

}  // namespace ptq::report
