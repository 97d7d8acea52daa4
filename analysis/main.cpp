// ptq-report: tables of a results folder. Reads records, never runs a model.
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>

#include "ptq/core/error.hpp"
#include "report.hpp"

namespace {

using namespace ptq;
using report::Format;

constexpr const char* kHelp = R"(Tables of the results that ptq-host wrote.

  ptq-report results
  ptq-report results --format markdown --out result.md

usage: ptq-report RESULTS [--format terminal|markdown|csv|json] [--out FILE]

  RESULTS    the folder given to ptq-host with --out
  --format   terminal (default), markdown to paste, csv (one line per number), json;
             with --out it follows from the name: .md .csv .json
  --out      write to FILE instead of the standard output
  --version  print the version

exit codes: 0 ok, 2 wrong use, 4 no record found or a file cannot be read or written
)";

struct Arguments {
  std::string results, out;
  std::optional<Format> format;
};

Format format_of(std::string_view name) {
  if (name == "terminal") return Format::terminal;
  if (name == "markdown" || name == "md") return Format::markdown;
  if (name == "csv") return Format::csv;
  if (name == "json") return Format::json;
  throw usage_error("there is no format `" + std::string(name) + "`", "--format",
                    "one of terminal, markdown, csv, json");
}

Format format_for_file(const std::string& file) {
  if (file.ends_with(".md")) return Format::markdown;
  if (file.ends_with(".csv")) return Format::csv;
  if (file.ends_with(".json")) return Format::json;
  return Format::terminal;
}

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto value = [&] {
      if (i + 1 == argc) throw usage_error("a value is missing", word, "ptq-report --help");
      return std::string(argv[++i]);
    };
    if (word == "--format") {
      arguments.format = format_of(value());
    } else if (word == "--out") {
      arguments.out = value();
    } else if (word.starts_with("-")) {
      throw usage_error("unknown option `" + word + "`", {}, "ptq-report --help");
    } else if (!arguments.results.empty()) {
      throw usage_error("two results folders are given", word, "one run reads one folder");
    } else {
      arguments.results = word;
    }
  }
  if (arguments.results.empty())
    throw usage_error("no results folder is given", {}, "ptq-report --help");
  return arguments;
}

report::Screen screen() {
  report::Screen screen;
  screen.box = isatty(STDOUT_FILENO);
  winsize size{};
  if (const char* columns = std::getenv("COLUMNS")) {
    screen.columns = std::strtoul(columns, nullptr, 10);
  } else if (screen.box && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0) {
    screen.columns = size.ws_col;
  }
  return screen;
}

void run(const Arguments& arguments) {
  const report::Results results = report::read_results(arguments.results);
  const bool to_file = !arguments.out.empty();
  const Format format =
      arguments.format.value_or(to_file ? format_for_file(arguments.out) : Format::terminal);
  // The pages and JSON list damaged records themselves; CSV has no place for them.
  if (results.cells.empty() || format == Format::csv) {
    for (const report::Damaged& file : results.damaged) {
      std::fprintf(stderr, "warning: %s\n", report::damaged_text(file).c_str());
    }
  }
  if (results.cells.empty()) {
    throw environment_error("no result record found", arguments.results,
                            "records are RESULTS/<cell>/record.json; run an experiment first: "
                            "ptq-host EXPERIMENT.toml --out " +
                                arguments.results);
  }
  const std::string text = report::render(results, format, to_file ? report::Screen{} : screen());
  if (!to_file) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    if (std::fflush(stdout) != 0) throw environment_error("the report cannot be written");
    return;
  }
  std::ofstream file(arguments.out, std::ios::binary);
  file << text << std::flush;
  if (!file) throw environment_error("the report cannot be written", arguments.out);
}

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--help" || word == "-h") return std::fputs(kHelp, stdout), 0;
    if (word == "--version") return std::puts("ptq-report " PTQ_VERSION), 0;
  }
  try {
    run(parse(argc, argv));
    return 0;
  } catch (const ptq::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return static_cast<int>(error.code());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return static_cast<int>(ptq::ExitCode::internal);
  }
}
