#include "analysis/figures/gnuplot.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <new>
#include <set>

#include "ptq/core/mapped_file.hpp"

extern char** environ;

namespace ptq::report {
namespace {

namespace fs = std::filesystem;

// A folder that is gone afterwards: in $TMPDIR, or in /tmp where that is no folder here.
struct Scratch {
  fs::path path;
  Scratch() {
    const char* wanted = std::getenv("TMPDIR");
    for (const fs::path& parent : {fs::path(wanted ? wanted : "/tmp"), fs::path("/tmp")}) {
      std::string name = (parent / "ptq-plots-XXXXXX").string();
      const char* made = ::mkdtemp(name.data());
      if (!made) continue;
      path = made;
      return;
    }
  }
  ~Scratch() {
    std::error_code ignored;
    try {
      if (!path.empty()) fs::remove_all(path, ignored);
    } catch (const std::bad_alloc&) {  // which the error code does not cover
    }
  }
};

// Runs gnuplot on a file, without the user's or the system's start files; what it says goes to
// `log`. -1: it cannot be started.
int run_gnuplot(const std::string& script, const std::string& log) {
  std::string words[] = {"gnuplot", "-d", script};
  char* argv[] = {words[0].data(), words[1].data(), words[2].data(), nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  pid_t pid = 0;
  const int failed = posix_spawnp(&pid, "gnuplot", &actions, nullptr, argv, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) return -1;
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return -1;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

// Empty where there is no such file.
std::string text_of(const fs::path& file) {
  constexpr uint64_t kLargest = uint64_t{64} << 20;
  try {
    return read_text_file(file, kLargest);
  } catch (const Error&) {
    return {};
  }
}

}  // namespace

std::string script_text(const std::string& text) {
  std::string out = "'";
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 32) {
      out += ' ';
    } else {
      if (c == '\'') out += c;
      out += c;
    }
  }
  return out + "'";
}

std::string series_colour(size_t index) {
  static constexpr std::array<const char*, 8> kColours = {
      "#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F"};
  return fmt::format("lc rgb '{}'", kColours[index % kColours.size()]);
}

std::string series_style(size_t index, size_t dash) {
  static constexpr std::array<int, 8> kSymbols = {7, 5, 9, 13, 11, 4, 6, 8};
  // A colour that comes again has another symbol.
  const size_t symbol = index + 3 * (index / kSymbols.size());
  return fmt::format("{} pt {} ps 0.9 dt {} lw 2", series_colour(index),
                     kSymbols[symbol % kSymbols.size()], dash % 5 + 1);
}

void name_apart(std::vector<Figure>& figures) {
  constexpr size_t kLongest = 180;  // file systems take 255 bytes, the ending and a number included
  std::set<std::string> taken;
  for (Figure& figure : figures) {
    std::string plain, lower;
    for (const char c : figure.name) {
      const bool letter = std::isalnum(static_cast<unsigned char>(c)) || c == '-';
      if (letter || plain.empty() || plain.back() != '-') plain += letter ? c : '-';
    }
    plain.resize(std::min(plain.size(), kLongest));
    for (size_t number = 1;; ++number) {
      figure.name = number == 1 ? plain : plain + "-" + std::to_string(number);
      lower.clear();
      for (const char c : figure.name) lower += char(std::tolower(static_cast<unsigned char>(c)));
      if (taken.insert(lower).second) break;
    }
  }
}

std::string whole_script(const Figure& figure, const std::string& file) {
  return "reset session\n"
         "set terminal svg size 680,500 dynamic font 'DejaVu Sans,Arial,sans-serif,15' background "
         "'white'\n"
         "set termoption noenhanced\nset encoding utf8\n"
         "set output " +
         script_text(file) +
         "\nset border 3 lc rgb '#444444'\nset tics nomirror\n"
         "set grid lc rgb '#DDDDDD' lw 1\nset key bmargin center horizontal samplen 2 spacing 1.1 "
         "height 1 maxcols 4\n"
         "set title " +
         script_text(figure.title) + "\n" + figure.script + "\nset output\n";
}

std::string draw(std::vector<Figure>& figures) {
  if (figures.empty()) return {};
  const Scratch scratch;
  if (scratch.path.empty())
    return "plots left out: no temporary folder can be made in $TMPDIR or /tmp";
  const fs::path script = scratch.path / "all.gp", log = scratch.path / "log";
  {
    std::ofstream out(script, std::ios::binary);
    for (size_t i = 0; i < figures.size(); ++i) {
      out << whole_script(figures[i], (scratch.path / fmt::format("{}.svg", i)).string());
    }
    if (!out.flush()) return "plots left out: the temporary folder cannot be written";
  }
  const int code = run_gnuplot(script.string(), log.string());
  // posix_spawnp may report a missing program only through the child's exit code.
  if (code == -1 || code == 127) {
    return "plots left out: gnuplot is not installed (Debian: apt-get install gnuplot-nox)";
  }
  for (size_t i = 0; i < figures.size(); ++i) {
    figures[i].svg = text_of(scratch.path / fmt::format("{}.svg", i));
    if (figures[i].svg.find("</svg>") == std::string::npos) figures[i].svg.clear();
  }
  if (code == 0) {
    const auto lost = std::find_if(figures.begin(), figures.end(),
                                   [](const Figure& figure) { return figure.svg.empty(); });
    return lost == figures.end() ? ""
                                 : "plot " + lost->name + " left out: its picture is not there";
  }
  // One script with a mistake ends the program: the others are drawn alone.
  std::string problem;
  for (size_t i = 0; i < figures.size(); ++i) {
    const std::string file = (scratch.path / fmt::format("{}.svg", i)).string();
    std::ofstream(script, std::ios::binary) << whole_script(figures[i], file);
    fs::remove(log);
    if (run_gnuplot(script.string(), log.string()) == 0) {
      figures[i].svg = text_of(file);
      continue;
    }
    figures[i].svg.clear();
    const std::string said = text_of(log);
    if (problem.empty()) {
      problem =
          "plot " + figures[i].name + " left out: gnuplot: " + said.substr(0, said.find('\n', 1));
    }
  }
  return problem;
}

}  // namespace ptq::report
