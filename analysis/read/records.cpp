#include "analysis/read/records.hpp"

#include "analysis/read/damage.hpp"

namespace ptq::report {

namespace fs = std::filesystem;

namespace {

// The folder of a cell is called <model>__<method>__<evaluation>__<16 hex digits>.
bool is_cell_folder(const std::string& name) {
  constexpr size_t kDigits = 16;
  return name.size() > kDigits + 2 && name.substr(name.size() - kDigits - 2, 2) == "__" &&
         name.find_first_not_of("0123456789abcdef", name.size() - kDigits) == name.npos;
}

// Every entry of a folder, sorted; what cannot be listed is named.
std::vector<fs::path> entries_of(const fs::path& folder, const std::string& name,
                                 std::vector<Damaged>& damaged) {
  std::error_code error;
  std::vector<fs::path> entries;
  for (fs::directory_iterator at(folder, error); !error && at != fs::directory_iterator();
       at.increment(error)) {
    entries.push_back(at->path());
  }
  if (error) damaged.push_back({name, "the folder cannot be read: " + error.message()});
  std::sort(entries.begin(), entries.end());
  return entries;
}

// Two results of one cell, from folders of two machines or versions that were put together: the
// later one counts. `other` is the one that is left out. One program with one key (`id`) has no
// reason to give two numbers: then one of them is wrong, whichever is later.
std::string second_record(const Cell& kept, const Cell& other) {
  std::string text = "a second record of this cell was left out: " + other.source;
  const auto with = [](const std::string& word, const std::string& value) {
    return value.empty() ? std::string() : " " + word + " " + value;
  };
  text += " (" + (other.started.empty() ? "no time" : other.started) +
          with("by version", other.code.version) + "; shown: " + kept.source + ", " +
          (kept.started.empty() ? "no time" : kept.started) +
          with("by version", kept.code.version) + ")";
  const bool same_key = kept.id == other.id && kept.code.version == other.code.version &&
                        kept.code.git == other.code.git;
  if (!same_key && kept.started != other.started) return text;
  const auto differences = metric_differences(kept.metrics, other.metrics);
  if (differences.empty()) return text;
  const std::string why =
      same_key ? "the same key and program gave other numbers" : "neither is the later one";
  return "CONFLICT: " + why + " (shown and left out: " + one_line(differences.front()) +
         (differences.size() > 1 ? ", and " + std::to_string(differences.size() - 1) + " more"
                                 : "") +
         "): " + text;
}

void add_cell(Cell cell, Cell& slot) {
  if (slot.source.empty() || slot.status == "failed") {
    if (cell.status != "failed" || slot.source.empty()) slot = std::move(cell);
    return;
  }
  if (cell.status == "failed") return;  // of a later try; the result stays
  if (cell.started > slot.started) std::swap(cell, slot);
  slot.warnings.push_back(second_record(slot, cell));
  for (const std::string& warning : cell.warnings) {  // what it had replaced before
    if (warning.find("a second record") != warning.npos) slot.warnings.push_back(warning);
  }
}

}  // namespace

std::vector<fs::path> record_files(const fs::path& folder, std::vector<Damaged>& damaged) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    throw environment_error(
        error && error.value() != ENOENT ? "the folder cannot be read: " + error.message()
                                         : "there is no such folder",
        folder.string(), "name the folder that `ptq-host EXPERIMENT.toml --out DIR` wrote");
  }
  fs::directory_iterator readable(folder, error);
  if (error) {
    throw environment_error("the folder cannot be read: " + error.message(), folder.string());
  }
  std::vector<fs::path> files;
  for (const fs::path& entry : entries_of(folder, folder.string(), damaged)) {
    const std::string name = entry.filename().string();
    if (name.starts_with(".")) continue;  // a cell being computed
    if (name == "failed") {
      for (const fs::path& failed : entries_of(entry, name, damaged)) {
        if (failed.extension() == ".json") files.push_back(failed);
      }
      continue;
    }
    const bool there = fs::is_regular_file(entry / "record.json", error);
    const bool absent = error.value() == ENOENT || error.value() == ENOTDIR;
    if (there) {
      files.push_back(entry / "record.json");
    } else if (error && !absent) {
      damaged.push_back({name, "it cannot be looked into: " + error.message()});
    } else if (is_cell_folder(name)) {
      damaged.push_back({name, "record.json is missing"});
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

Results read_results(const fs::path& folder) {
  Results results;
  std::map<std::tuple<std::string, std::string, std::string, std::string>, Cell> cells;
  for (const fs::path& file : record_files(folder, results.damaged)) {
    const std::string source = file.lexically_relative(folder).string();
    const auto why = damage([&] {
      Cell cell = read_cell(file);
      cell.source = source;
      if (file.filename() == "record.json") cell.folder = file.parent_path();
      Cell& slot = cells[{cell.experiment, cell.model, cell.method, cell.evaluation}];
      add_cell(std::move(cell), slot);
    });
    if (why) results.damaged.push_back({source, *why});
  }
  for (auto& [key, cell] : cells) results.cells.push_back(std::move(cell));
  results.asked = read_asked(folder);
  return results;
}

}  // namespace ptq::report
