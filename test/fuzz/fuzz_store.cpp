// The small files beside the records, after their first letter: claims, errors of cells, unfinished
// scores, documents of a data set, and what an experiment asks for.
#include "analysis/read/asked.hpp"
#include "ptq/data/text.hpp"
#include "ptq/eval/score_book.hpp"
#include "ptq/results/claims.hpp"
#include "ptq/run/cell_error.hpp"
#include "test/fuzz/targets.hpp"

namespace ptq::fuzz {
namespace {

bool claim(std::string_view text) {
  const ClaimOwner owner = parse_claim(text);
  require(is_utf8(owner.host) && is_utf8(owner.boot) && is_utf8(owner.start), "texts are UTF-8");
  require(owner.pid >= 0, "no process has a negative number");
  return owner.pid > 0;
}

bool scores(std::string_view text) {
  return accepts([&] {
    const std::filesystem::path file = scratch_file("scores.jsonl", text);
    const eval::ScoreBook book(file, eval::ScoreBook::Use::extend);
    const uint64_t kept = std::filesystem::file_size(file);
    require(kept <= text.size() && (kept == 0 || text[kept - 1] == '\n'), "whole lines are kept");
    if (book.size() == 0) throw environment_error("nothing to go on with");
  });
}

bool cell_error(std::string_view text) {
  const auto failure = parse_cell_error(text);
  if (!failure) return false;
  require(failure->code >= 0 && failure->code <= 255, "a code is an exit code");
  require(is_utf8(failure->message), "messages are UTF-8");
  return true;
}

bool documents(std::string_view text) {
  return accepts([&] {
    for (const JsonlText& one : read_jsonl_texts(scratch_file("texts.jsonl", text), 5))
      require(is_utf8(one.text) && one.line > 0, "texts are UTF-8");
  });
}

bool asked(std::string_view text) {
  const std::filesystem::path file = scratch_file("experiment.json", text);
  const auto all = report::read_asked(file.parent_path());
  for (const report::Asked& one : all) {
    require(is_utf8(one.name) && is_utf8(one.baseline), "texts are UTF-8");
    for (const std::string& method : one.methods) require(is_utf8(method), "texts are UTF-8");
  }
  return !all.empty();
}

}  // namespace

bool store(Bytes input) {
  const std::string_view text = text_of_bytes(input);
  if (text.empty()) return false;
  switch (text[0]) {
    case 'c': return claim(text.substr(1));
    case 'e': return cell_error(text.substr(1));
    case 'd': return documents(text.substr(1));
    case 's': return scores(text.substr(1));
    default: return asked(text.substr(1));
  }
}

}  // namespace ptq::fuzz
