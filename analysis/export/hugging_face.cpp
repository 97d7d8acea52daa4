#include <fmt/format.h>

#include "analysis/export/export.hpp"

namespace ptq::report {
namespace {

// A text as a double-quoted YAML scalar: JSON's escapes are YAML's.
std::string scalar(const std::string& text) { return json_text(Json(text)); }

}  // namespace

std::string hugging_face(const Subject& subject) {
  std::string out =
      "# .eval_results of " + subject.board->model + " with " + subject.row->method +
      ".\n# The datasets are ptq's own evaluations, not ones of the Hub: before an upload, put the "
      "id of\n# a benchmark there or leave the entry out.\n";
  for (const auto& [name, cell] : subject.row->cells) {
    if (!cell->ok()) continue;
    for (const Measure& measure : measures_of(subject, *cell)) {
      std::string notes =
          measure.title + " on " + dataset_of(*cell) + "; " + method_in_words(*cell);
      if (measure.interval.known())
        notes += fmt::format("; 95 % [{:.6g}, {:.6g}], {}", measure.interval.low,
                             measure.interval.high, measure.how);
      notes += "; ptq " + cell->code.version + " record " + cell->id;
      out += fmt::format("- dataset:\n    id: {}\n    task_id: {}\n  value: {}\n",
                         scalar("ptq/" + name), scalar(measure.key), Json(measure.value).dump());
      if (!cell->started.empty()) out += "  date: " + scalar(cell->started) + "\n";
      out += "  notes: " + scalar(notes) + "\n";
    }
  }
  return out;
}

}  // namespace ptq::report
