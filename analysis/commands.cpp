#include "analysis/commands.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <set>

#include "analysis/arguments.hpp"
#include "analysis/check.hpp"
#include "analysis/compare/diff.hpp"
#include "analysis/export/export.hpp"
#include "analysis/page/outline.hpp"
#include "analysis/pruning/pruning.hpp"
#include "analysis/read/damage.hpp"
#include "analysis/study/audit.hpp"
#include "analysis/study/leaderboard.hpp"
#include "analysis/study/run_page.hpp"
#include "ptq/core/output_file.hpp"
#include "ptq/core/safe_text.hpp"

namespace ptq::report {

void print_text(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  end_standard_output();
}

Language language_of(const std::string& word) {
  if (word == "zh") return Language::zh;
  if (word == "en") return Language::en;
  throw usage_error("there is no language `" + word + "`", "--lang", "zh or en");
}

namespace {

// The cells of our records and of the study's run files in a folder.
Results results_of(const std::filesystem::path& folder) {
  Results results = read_results(folder);
  add_study_cells(folder, results);
  return results;
}

// The compatible pages are Chinese unless asked otherwise, ours are English.
Language language(const Arguments& arguments) {
  const std::string otherwise = arguments.value("--lang", arguments.has("--compat") ? "zh" : "en");
  return language_of(arguments.value("--language", otherwise));
}

std::string checks_text(const std::vector<Check>& checks) {
  std::string out;
  size_t violated = 0, held = 0;
  for (const Check& check : checks) {
    const bool bad = check.verdict == Check::Verdict::violated;
    const bool skipped = check.verdict == Check::Verdict::not_applicable;
    violated += bad;
    held += !bad && !skipped;
    out +=
        fmt::format("{}  {}: {}{}\n",
                    bad       ? "VIOLATED"
                    : skipped ? "skipped "
                              : "holds   ",
                    check.model, check.name, check.detail.empty() ? "" : " (" + check.detail + ")");
  }
  return out + fmt::format("{} invariants hold, {} are violated, {} cannot be checked\n", held,
                           violated, checks.size() - held - violated);
}

Format format_of(std::string_view name) {
  if (name == "terminal") return Format::terminal;
  if (name == "markdown" || name == "md") return Format::markdown;
  if (name == "csv") return Format::csv;
  if (name == "json") return Format::json;
  throw usage_error("there is no format `" + std::string(name) + "`", "--format",
                    "one of terminal, markdown, csv, json");
}

// What a file's ending stands for, if it does.
std::optional<Format> format_for_file(const std::string& file) {
  if (file.ends_with(".md")) return Format::markdown;
  if (file.ends_with(".csv")) return Format::csv;
  if (file.ends_with(".json")) return Format::json;
  return {};
}

Format format_of(const Arguments& arguments) {
  const std::string wanted = arguments.value("--format"), out = arguments.value("--out");
  const auto ending = format_for_file(out);
  if (wanted.empty()) return ending.value_or(Format::terminal);
  const Format format = format_of(wanted);
  if ((ending && *ending != format) || out.ends_with(".html"))
    throw usage_error("--format " + wanted + " does not go with this file's ending", out,
                      "leave --format out, or name another file");
  return format;
}

Screen screen() {
  Screen screen;
  screen.box = isatty(STDOUT_FILENO);
  winsize size{};
  if (const char* columns = std::getenv("COLUMNS")) {
    screen.columns = std::strtoul(columns, nullptr, 10);
  } else if (screen.box && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0) {
    screen.columns = size.ws_col;
  }
  return screen;
}

void warn_of(const std::vector<Damaged>& damaged) {
  for (const Damaged& file : damaged) {
    std::fprintf(stderr, "warning: %s\n", damaged_text(file).c_str());
  }
}

// Where the page has no place for them: records that may not be believed, or of which there are
// two.
void warn_of_records(const Results& results) {
  for (const Cell& cell : results.cells) {
    for (const std::string& warning : cell.warnings) {
      if (!concerns_the_record(warning)) continue;
      std::fprintf(stderr, "warning: %s %s %s: %s\n", cell.model.c_str(), cell.method.c_str(),
                   cell.evaluation.c_str(), warning.c_str());
    }
  }
}

// The invariants of our own records: a record.json, or every record of a folder.
std::vector<Check> verify_records(const std::filesystem::path& path) {
  std::vector<Damaged> damaged;
  std::error_code error;
  const bool folder = std::filesystem::is_directory(path, error);
  std::vector<Check> checks;
  const auto add = [&](const std::string& name, const std::string& what, const std::string& detail,
                       Check::Verdict verdict) {
    checks.push_back({name, what, one_line(detail), verdict});
  };
  const auto look = [&](const std::filesystem::path& file) {
    const Record record = read_record(file);
    if (record.status == "failed") return;
    const std::string name =
        one_line(record.model.name + " " + record.method.label + " " + record.evaluation.name);
    std::filesystem::path beside = file.parent_path();
    const std::vector<Violation> found = violations(record, beside);
    for (const Violation& violation : found) {
      add(name, violation.key, violation.text, Check::Verdict::violated);
    }
    if (found.empty()) add(name, "figures and samples agree", "", Check::Verdict::holds);
    if (record.samples_sha256.empty()) {
      add(name, "hash of the samples", "the record has none", Check::Verdict::not_applicable);
    }
  };
  if (folder) {
    for (const std::filesystem::path& file : record_files(path, damaged))
      if (const auto why = damage([&] { look(file); }))
        damaged.push_back({file.lexically_relative(path).string(), *why});
  } else {
    look(path);
  }
  for (const Damaged& file : damaged) {
    add(one_line(file.file), "readable", file.reason, Check::Verdict::violated);
  }
  return checks;
}

}  // namespace

int tables_command(const Words& words) {
  const Arguments arguments =
      parse_arguments(words, {"--format", "--out", "--language", "--lang"}, {}, {"RESULTS"});
  const std::string &folder = arguments.positions[0], out = arguments.value("--out");
  Results results = results_of(folder);
  const Format format = format_of(arguments);
  // The pages and JSON list damaged records themselves; CSV has no place for them.
  if (results.cells.empty() || format == Format::csv) {
    warn_of(results.damaged);
  }
  if (format == Format::csv) warn_of_records(results);
  if (results.cells.empty()) {
    throw environment_error("no result record found", folder,
                            "records are RESULTS/<cell>/record.json; run an experiment first: "
                            "ptq-host EXPERIMENT.toml --out " +
                                folder);
  }
  Report report = make_report(std::move(results), language(arguments));
  if (!arguments.value("--format").empty() || (!out.empty() && !out.ends_with(".html"))) {
    const std::string text = render(report, format, out.empty() ? screen() : Screen{});
    if (out.empty()) {
      print_text(text);
    } else {
      write_output_file(out, text);
    }
    return 0;
  }
  const std::string tables = out.empty() ? render(report, Format::terminal, screen()) : "";
  complete(report, folder);
  if (!report.plot_problem.empty()) std::fprintf(stderr, "%s\n", report.plot_problem.c_str());
  for (const BoardStatistics& statistics : report.statistics) {
    for (const std::string& problem : statistics.problems) {
      std::fprintf(stderr, "warning: %s\n", problem.c_str());
    }
  }
  if (!out.empty()) {
    write_output_file(out, html_page(report));
    return 0;
  }
  // The files first: a reader of the tables may go away in the middle of them.
  std::vector<std::string> files, problems;
  try {
    files = write_report(report, folder, problems);
  } catch (const Error& error) {
    print_text(tables);
    std::fprintf(stderr,
                 "error: no report file written: %s\n  hint: --format terminal only prints\n",
                 error.message().c_str());
    return int(error.code());
  }
  for (const std::string& problem : problems) {
    std::fprintf(stderr, "warning: not written: %s\n", problem.c_str());
  }
  constexpr size_t kPages = 4;
  const bool whole = files.size() == kPages;
  print_text(tables);
  if (files.empty()) return int(ExitCode::environment);
  print_text(fmt::format("\n{}{} (also {})\n", (std::filesystem::path(folder) / "").string(),
                         files[0], fmt::join(files.begin() + 1, files.end(), ", ")));
  return whole ? 0 : int(ExitCode::environment);
}

int run_command(const Words& words) {
  const Arguments arguments =
      parse_arguments(words, {"--lang", "--language"}, {"--compat"}, {"FILE.json"});
  const Run run = read_run(arguments.positions[0]);
  const Language lang = language(arguments);
  std::string page = run_page(run, lang);
  if (!arguments.has("--compat")) {
    const std::string details = to_markdown(run_details(run, lang));
    page += (details.empty() ? "" : "\n") + details;
  }
  print_text(one_line_each(page));
  return 0;
}

int leaderboard_command(const Words& words) {
  const Arguments arguments =
      parse_arguments(words, {"--lang", "--language", "--layout"}, {"--compat"}, {"DIR"});
  const std::filesystem::path folder = arguments.positions[0];
  std::vector<Damaged> damaged;
  const std::vector<Run> runs = read_runs(folder, damaged);
  warn_of(damaged);
  if (runs.empty()) {
    throw environment_error("no results found", folder.string(),
                            "a folder of records of ptq-host, or of the study's run files");
  }
  const Layout layout = choose_layout(runs, arguments.value("--layout"));
  const Language lang = language(arguments);
  print_text(arguments.has("--compat")
                 ? compat_leaderboard(layout, runs, lang)
                 : to_markdown(study_leaderboard(layout, runs, read_later_results(folder), lang)));
  return 0;
}

int diff_command(const Words& words) {
  const Arguments arguments = parse_arguments(words, {}, {}, {"folder A", "folder B"});
  const Results a = results_of(arguments.positions[0]), b = results_of(arguments.positions[1]);
  for (const Results* results : {&a, &b}) {
    warn_of(results->damaged);
    warn_of_records(*results);
  }
  const Difference difference = diff_results(a, b);
  print_text(difference.text);
  return difference.any ? int(ExitCode::disagree) : 0;
}

int check_command(const Words& words) {
  const Arguments arguments =
      parse_arguments(words, {}, {}, {"RESULTS", "EXPERIMENT.toml or experiment.json"});
  const std::vector<CellCheck> checks = check_cells(arguments.positions[0], arguments.positions[1]);
  print_text(check_text(checks));
  for (const CellCheck& check : checks) {
    if (check.state != CellCheck::State::ok && check.state != CellCheck::State::extra) {
      return int(ExitCode::cells_failed);
    }
  }
  return 0;
}

int pruning_command(const Words& words) {
  const Arguments arguments =
      parse_arguments(words, {"--lang", "--language", "--json"}, {"--compat"}, {"FILE.csv or DIR"});
  std::vector<Damaged> damaged;
  const std::vector<PruningModel> models = read_pruning(arguments.positions[0], damaged);
  warn_of(damaged);
  const Language lang = language(arguments);
  print_text(arguments.has("--compat") ? pruning_document(models, lang)
                                       : to_markdown(pruning_page(models, lang)));
  if (const std::string file = arguments.value("--json"); !file.empty()) {
    write_output_file(file, json_text(cross_model_comparison(models), 2) + "\n");
  }
  return 0;
}

// Is it a folder with results of pruned models?
bool holds_pruning(const std::string& folder) {
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error)) return false;
  const std::vector<Cell> cells = read_results(folder).cells;
  return std::any_of(cells.begin(), cells.end(),
                     [](const Cell& cell) { return cell.metrics.contains("pruning"); });
}

int verify_command(const Words& words) {
  const Arguments arguments = parse_arguments(words, {}, {}, {"FILE or RESULTS"});
  const std::string& file = arguments.positions[0];
  std::error_code error;
  std::vector<Check> checks;
  if (std::filesystem::is_directory(file, error) || file.ends_with(".json")) {
    checks = verify_records(file);
    if (holds_pruning(file)) {
      std::vector<Damaged> damaged;  // the records among them are named already
      const std::vector<Check> more = verify_pruning_records(read_pruning(file, damaged));
      checks.insert(checks.end(), more.begin(), more.end());
    }
  } else if (file.ends_with(".csv")) {
    std::vector<Damaged> damaged;
    checks = verify_pruning_records(read_pruning(file, damaged));
  } else {
    checks = verify_pruning_document(read_text_file(file, uint64_t{64} << 20));
  }
  if (checks.empty()) {
    throw environment_error("nothing to verify in it", file,
                            "a folder of results, a record.json, a document of `ptq-report pruning "
                            "--compat`, or a CSV of pruning runs");
  }
  print_text(checks_text(checks));
  for (const Check& check : checks) {
    if (check.verdict == Check::Verdict::violated) return int(ExitCode::disagree);
  }
  return 0;
}

int export_command(const Words& words) {
  const Arguments arguments = parse_arguments(
      words, {"--format", "--out", "--model", "--method", "--organization"}, {}, {"RESULTS"});
  const std::string format = arguments.value("--format"), out = arguments.value("--out"),
                    organization = arguments.value("--organization", "unspecified");
  if (out.empty()) throw usage_error("a value is missing", "--out", "ptq-report --help");
  const Report report = make_report(results_of(arguments.positions[0]));
  warn_of(report.results.damaged);
  if (format == "latex") {
    write_output_file(out, latex(report));
    return 0;
  }
  const auto write = [&](const Subject& subject) {
    if (format == "eee") return every_eval_ever(subject, organization);
    if (format == "hf") return hugging_face(subject);
    if (format == "lm-eval") return lm_eval(subject);
    throw usage_error("there is no form `" + format + "`", "--format", "eee, hf, latex or lm-eval");
  };
  const std::vector<Subject> subjects =
      subjects_of(report, arguments.value("--model"), arguments.value("--method"));
  if (subjects.empty())
    throw environment_error(
        "nothing to export in it", arguments.positions[0],
        "a folder of records, and --model and --method as its tables name them");
  const std::string ending = format == "hf" ? ".yaml" : ".json";
  // The answers lie beside the results that they belong to.
  const auto write_samples = [&](const Subject& subject, const std::filesystem::path& folder) {
    if (format != "lm-eval") return;
    std::vector<std::string> notes;
    for (const auto& [name, text] : lm_eval_samples(subject, notes))
      write_output_file((folder / (name + "_" + subject.file_name() + ".jsonl")).string(), text);
    for (const std::string& note : notes) fmt::print(stderr, "note: {}\n", one_line(note));
  };
  if (subjects.size() == 1 && out.ends_with(ending)) {
    write_output_file(out, write(subjects[0]));
    write_samples(subjects[0], std::filesystem::path(out).parent_path());
    return 0;
  }
  if (out.ends_with(ending))
    throw usage_error(
        fmt::format("one file holds one model with one method, here are {}", subjects.size()),
        "--out", "name a folder, or choose by --model and --method");
  require_writable_folder(out);
  std::set<std::string> names;
  for (const Subject& subject : subjects) {
    std::string name = subject.file_name();
    while (!names.insert(name).second) name += "-2";
    write_output_file((std::filesystem::path(out) / (name + ending)).string(), write(subject));
    write_samples(subject, out);
  }
  print_text(fmt::format("{} files in {}\n", subjects.size(), out));
  return 0;
}

}  // namespace ptq::report
