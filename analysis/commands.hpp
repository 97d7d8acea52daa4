// The commands of ptq-report. Each takes the words after its name and returns an exit code.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "analysis/write/language.hpp"

namespace ptq::report {

using Words = std::vector<std::string>;

int tables_command(const Words& words);       // RESULTS
int run_command(const Words& words);          // run FILE.json
int leaderboard_command(const Words& words);  // leaderboard DIR
int pruning_command(const Words& words);      // pruning FILE.csv|DIR
int diff_command(const Words& words);         // diff A B
int check_command(const Words& words);        // check RESULTS EXPERIMENT
int verify_command(const Words& words);       // verify FILE
int export_command(const Words& words);       // export --format F --out PATH RESULTS

Language language_of(const std::string& word);

// To the standard output, or an error when that is not possible.
void print_text(std::string_view text);

}  // namespace ptq::report
