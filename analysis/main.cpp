// ptq-report: tables, statistics and one report file of a results folder. Reads results, never runs
// a model.
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/commands.hpp"
#include "ptq/core/error.hpp"
#include "ptq/core/last_words.hpp"
#include "ptq/core/output_file.hpp"
#include "ptq/core/safe_text.hpp"

namespace {

constexpr const char* kHelp =
    R"(Tables, statistics, plots and one report file of the results that ptq-host wrote, or of the original
study's result files.

  ptq-report results/trackC                          the leaderboard here, and beside the results
                                                     report.html .md, results.csv .json, plots/
  ptq-report results/trackC --format markdown        only print, in this form, to paste
  ptq-report run results/trackC/CELL/record.json     the page of one run

usage: ptq-report RESULTS [--format terminal|markdown|csv|json] [--out FILE] [--language zh|en]
       ptq-report run FILE.json [--compat] [--language zh|en]
       ptq-report leaderboard DIR [--compat] [--language zh|en] [--layout FILE.toml]
       ptq-report pruning FILE.csv|DIR [--compat] [--language zh|en] [--json FILE]
       ptq-report export --format eee|hf|latex|lm-eval --out PATH [--model NAME] [--method LABEL]
                         [--organization NAME] RESULTS
       ptq-report diff A B
       ptq-report check RESULTS EXPERIMENT.toml
       ptq-report verify FILE|RESULTS

  RESULTS    the folder given to ptq-host with --out
  --format   print only, as terminal, markdown to paste, csv (one
             line per number), json
  --out      write to FILE instead; its name says which form: .html .md .csv .json
  --language en or zh: headings, verdicts and sentences of the pages; --lang is the same
  --compat   the page as the original study printed it, in Chinese (default) or English
  --layout   which run feeds which column, where the study joins runs
  --json     also write the companion file of the pruning document
  export     results as others read them: Every Eval Ever JSON, Hugging Face .eval_results, a LaTeX
             table, lm-eval's JSON; PATH is a folder where there are several models or methods
  diff       what changed between two folders of results, cell by cell
  check      which cells of an experiment are missing, failed or in conflict
  verify     the invariants of results (figures, samples, hashes), of a record.json, of a pruning
             document or of pruning records
  --version  print the version

exit codes: 0 ok, 2 wrong use, 3 `check` found a cell missing, failed, in conflict or with figures
that do not agree, 4 no record found or a file cannot be read or written, 6 `verify` found a
violation or `diff` a difference
)";

int run(const std::vector<std::string>& words) {
  using namespace ptq::report;
  struct Command {
    const char* name;
    int (*run)(const Words&);
  };
  constexpr Command kCommands[] = {
      {"run", run_command},         {"leaderboard", leaderboard_command},
      {"pruning", pruning_command}, {"diff", diff_command},
      {"check", check_command},     {"verify", verify_command},
      {"export", export_command}};
  for (const Command& command : kCommands) {
    if (!words.empty() && words[0] == command.name) {
      return command.run({words.begin() + 1, words.end()});
    }
  }
  return tables_command(words);
}

}  // namespace

int main(int argc, char** argv) {
  ptq::say_last_words();
  const std::vector<std::string> words(argv + 1, argv + argc);
  for (const std::string& word : words) {
    if (word == "--help" || word == "-h")
      return std::fputs(kHelp, stdout), std::fflush(stdout) == 0 ? 0 : 4;
    if (word == "--version")
      return std::puts("ptq-report " PTQ_VERSION), std::fflush(stdout) == 0 ? 0 : 4;
  }
  try {
    const int code = run(words);
    ptq::end_standard_output();
    return code;
  } catch (const ptq::Error& error) {
    std::fprintf(stderr, "error: %s\n", ptq::one_line_each(error.what()).c_str());
    return static_cast<int>(error.code());
  } catch (const std::bad_alloc&) {
    std::fputs("error: out of memory\n", stderr);
    return static_cast<int>(ptq::ExitCode::resources);
  } catch (const std::filesystem::filesystem_error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return static_cast<int>(ptq::ExitCode::environment);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", ptq::one_line_each(error.what()).c_str());
    return static_cast<int>(ptq::ExitCode::internal);
  }
}
