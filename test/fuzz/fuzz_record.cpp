// record.json, and behind a NUL byte samples.jsonl, and behind another tokens.bin: what the host,
// the report and `verify` do with a folder of results that came from somewhere else.
#include "analysis/read/records.hpp"
#include "analysis/read/samples.hpp"
#include "ptq/core/toml.hpp"
#include "ptq/results/record_experiment.hpp"
#include "ptq/results/record_page.hpp"
#include "ptq/results/same_result.hpp"
#include "test/fuzz/targets.hpp"

namespace ptq::fuzz {
namespace {

void check_samples(const std::filesystem::path& file) {
  const report::Samples s = report::read_samples(file);
  const auto fits = [&](const auto& column) { return column.empty() || column.size() == s.size(); };
  require(fits(s.cluster) && fits(s.correct) && fits(s.correct_reference) && fits(s.nll) &&
              fits(s.nll_reference) && fits(s.stratum),
          "columns are equally long");
  report::for_each_sample(
      file, [&](const Json& sample) { require(is_utf8(json_text(sample)), "samples are UTF-8"); });
}

void check_cell(const Record& record) {
  const report::Cell cell = report::to_cell(record);
  require(!cell.figure() || !std::isnan(*cell.figure()), "a figure is a number");
  for (const std::string& text : {cell.experiment, cell.model, cell.method, cell.evaluation,
                                  cell.kind, cell.error, cell.track, cell.id, cell.started})
    require(is_utf8(text) && text.find('\n') == text.npos, "texts are lines of UTF-8");
  for (const report::DepthCount& count : cell.depths)
    require(count.correct >= 0 && count.total >= 0, "counts are counts");
  for (const report::TaskCount& count : cell.tasks)
    require(count.correct >= 0 && count.total >= 0, "counts are counts");
}

}  // namespace

bool record(Bytes input) {
  std::string_view rest = text_of_bytes(input);
  const std::string_view json = next_part(rest), samples = next_part(rest);
  const std::filesystem::path file = scratch_file("samples.jsonl", samples);
  scratch_file("tokens.bin", rest);
  check_samples(file);
  return accepts([&] {
    const Record read = record_from_json(parse_json(json, "record.json"), "record.json");
    const Json written = to_json(read);
    require(is_utf8(json_text(written)), "a record is UTF-8");
    const Record again = record_from_json(parse_json(json_text(written), "again"), "again");
    require(to_json(again) == to_json(read), "it is read as it was written");
    require(result_differences(read, again).empty(), "it has its own numbers");
    require(is_utf8(result_markdown(read)), "its page is UTF-8");
    for (const Violation& violation : violations(read, file.parent_path()))
      require(is_utf8(violation.sentence()), "sentences are UTF-8");
    try {
      accepts([&] { check_cell(read); });
    } catch (const Json::exception&) {  // what to_cell() says of metrics of another form
    }
    accepts([&] { parse_toml(record_experiment(read), "experiment"); });
  });
}

}  // namespace ptq::fuzz
