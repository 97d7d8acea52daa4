// Pages in the layout of the original study, Chinese as it was printed or in English.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "analysis/study/study.hpp"
#include "analysis/write/language.hpp"

namespace ptq::report {

// The page of one run.
std::string run_page(const Run& run, Language language);

}  // namespace ptq::report
