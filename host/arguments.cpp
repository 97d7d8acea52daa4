#include "host/arguments.hpp"

#include <charconv>
#include <cstdio>

#include "ptq/core/error.hpp"
#include "ptq/core/suggest.hpp"

namespace ptq {
namespace po = boost::program_options;

Arguments parse_arguments(const std::vector<std::string>& words, const Options& options,
                          const std::string& positional, int positional_count) {
  po::positional_options_description places;
  if (!positional.empty()) places.add(positional.c_str(), positional_count);
  Arguments arguments;
  try {
    // Without guessing, so that a new option never changes what an abbreviation means.
    const int style =
        po::command_line_style::default_style & ~po::command_line_style::allow_guessing;
    po::store(po::command_line_parser(words).options(options).positional(places).style(style).run(),
              arguments);
    po::notify(arguments);
  } catch (const po::unknown_option& error) {
    std::vector<std::string> known;
    for (const auto& option : options.options()) known.push_back("--" + option->long_name());
    throw usage_error("unknown option `" + error.get_option_name() + "`", "",
                      did_you_mean(error.get_option_name(), known));
  } catch (const po::too_many_positional_options_error&) {
    throw usage_error("there are more words than the command takes", words.back(),
                      "--help shows how it is used");
  } catch (const po::error& error) {
    throw usage_error(error.what(), "", "--help shows how it is used");
  }
  return arguments;
}

std::string text_of(const Arguments& arguments, const char* name) {
  return arguments.count(name) > 0 ? arguments[name].as<std::string>() : "";
}

std::vector<std::string> list_of(const Arguments& arguments, const char* name) {
  return arguments.count(name) > 0 ? arguments[name].as<std::vector<std::string>>()
                                   : std::vector<std::string>();
}

int64_t integer_of(const Arguments& arguments, const char* name, int64_t otherwise, int64_t low,
                   int64_t high) {
  const std::string text = text_of(arguments, name);
  if (arguments.count(name) == 0) return otherwise;
  int64_t value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc() || end != text.data() + text.size() || value < low || value > high) {
    throw usage_error("`" + text + "` is not an integer from " + std::to_string(low) + " to " +
                          std::to_string(high),
                      std::string("--") + name);
  }
  return value;
}

bool wants_help(const std::vector<std::string>& words, const char* help) {
  for (const std::string& word : words) {
    if (word != "--help" && word != "-h") continue;
    std::fputs(help, stdout);
    return true;
  }
  return false;
}

}  // namespace ptq
