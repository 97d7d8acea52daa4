#include "records.hpp"

#include "study.hpp"

namespace ptq::report {

namespace fs = std::filesystem;

Results read_results(const fs::path& folder) {
  Results results;
  std::map<std::tuple<std::string, std::string, std::string, std::string>, Cell> cells;
  for (const fs::path& file : record_files(folder)) {
    const std::string source = fs::relative(file, folder).string();
    try {
      Cell cell = read_cell(file);
      cell.source = source;
      if (file.filename() == "record.json") cell.folder = file.parent_path();
      auto& slot = cells[{cell.experiment, cell.model, cell.method, cell.evaluation}];
      if (!slot.ok()) {
        slot = std::move(cell);
      } else if (cell.ok()) {
        slot.warnings.push_back("a second record of this cell was left out: " + source);
      }
    } catch (const std::exception& error) {
      results.damaged.push_back({source, one_line(error.what())});
    }
  }
  for (auto& [key, cell] : cells) results.cells.push_back(std::move(cell));
  add_study_cells(folder, results);
  return results;
}

}  // namespace ptq::report
