// Command-line words to values, with Boost.Program_options underneath.
#pragma once

#include <boost/program_options.hpp>
#include <cstdint>
#include <string>
#include <vector>

namespace ptq {

using Options = boost::program_options::options_description;
using Arguments = boost::program_options::variables_map;

// `positional`: the option that words without a name belong to; "" = there are none; with
// `positional_count` -1 any number of them. Unknown options are errors with a suggestion.
Arguments parse_arguments(const std::vector<std::string>& words, const Options& options,
                          const std::string& positional = "", int positional_count = 1);

// The value of a text option, or "".
std::string text_of(const Arguments& arguments, const char* name);
// The values of a repeatable option.
std::vector<std::string> list_of(const Arguments& arguments, const char* name);
// The value of a counting option.
int64_t integer_of(const Arguments& arguments, const char* name, int64_t otherwise, int64_t low,
                   int64_t high);

// Prints the help and returns true when --help is among the words.
bool wants_help(const std::vector<std::string>& words, const char* help);

}  // namespace ptq
