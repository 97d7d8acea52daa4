// A decision as one table: a row per method, a column per model.
#pragma once

#include <string>

#include "analysis/decide/standing.hpp"
#include "analysis/write/language.hpp"
#include "analysis/write/table.hpp"

namespace ptq::report {

// A model's cell has two lines: the damage with its interval, "◆" where the method is on the Pareto
// front; then the paired change against `reference` (empty: the baseline), the shared rank and the
// verdict. Beside them bytes, the ratio of the worst to the best model, speed against the baseline
// and memory.
Table decision_table(const Decision& decision, Language language,
                     const std::string& reference = {});

// How to read it, in one line.
std::string decision_legend(const Decision& decision, Language language);

// What damage is in this decision, with the evaluation: "KL, ppl-4k".
std::string damage_title(const Standings& standings, Language language);

}  // namespace ptq::report
