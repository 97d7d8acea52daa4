// What a decision says in words.
#pragma once

#include <string>
#include <vector>

#include "analysis/decide/standing.hpp"
#include "analysis/write/language.hpp"

namespace ptq::report {

// One sentence per model: what does least damage in a quarter (else half) of the bytes, what cannot
// be told from it, the smallest method that costs nothing that was seen, and who loses answers.
std::string verdict_sentence(const Standings& standings, Language language);

// Which methods depend on the model by more than kFamilyAlarm; empty without any.
std::string family_sentence(const Decision& decision, Language language);

// What these runs do not decide, and how many tokens or answers would.
std::vector<std::string> not_concluded(const Decision& decision, Language language);

// What the chart of a model shows, for those who do not see it.
std::string chart_in_words(const Standings& standings, Language language);

}  // namespace ptq::report
