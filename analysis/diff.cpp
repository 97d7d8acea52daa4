#include "diff.hpp"

#include <fmt/format.h>

#include <map>

#include "compare.hpp"
#include "statistics_table.hpp"

namespace ptq::report {
namespace {

using Key = std::tuple<std::string, std::string, std::string>;

std::map<Key, const Cell*> by_place(const Results& results) {
  std::map<Key, const Cell*> out;
  for (const Cell& cell : results.cells) out[{cell.model, cell.method, cell.evaluation}] = &cell;
  return out;
}

std::string name_of(const Cell& cell) {
  return cell.model + " " + cell.method + " " + cell.evaluation;
}

std::string value_text(const Cell& cell) {
  const auto value = headline(&cell);
  if (!cell.ok() || !value) return cell.ok() ? "-" : status_text(cell);
  return Evaluation{cell.evaluation, cell.kind}.is_share() ? share_text(*value)
                                                           : perplexity_text(*value);
}

// What decides a result and differs between the two: the reader's first question.
std::string causes(const Cell& a, const Cell& b) {
  std::string out;
  const auto add = [&](bool differs, const std::string& what) {
    if (differs) out += (out.empty() ? "" : ", ") + what;
  };
  add(a.fingerprint != b.fingerprint, "other model");
  add(a.seed != b.seed, "other seed");
  add(a.settings != b.settings, "other settings");
  bool options = a.parts.size() != b.parts.size(), plugin = false;
  for (size_t p = 0; p < a.parts.size() && p < b.parts.size(); ++p) {
    options = options || a.parts[p].options != b.parts[p].options ||
              a.parts[p].method != b.parts[p].method;
    plugin = plugin || a.parts[p].plugin_sha256 != b.parts[p].plugin_sha256;
  }
  add(options, "other options");
  add(plugin, "other plugin file");
  add(a.code.version != b.code.version || a.code.git != b.code.git,
      "code " + a.code.git + " and " + b.code.git);
  const Json none;
  add(a.environment.value("device", none) != b.environment.value("device", none), "other device");
  return out;
}

}  // namespace

Difference diff_results(const Results& a, const Results& b) {
  const auto before = by_place(a), after = by_place(b);
  Difference out;
  Table table;
  table.head = {"Cell", "A", "B", "Change on the same samples (95 %)", "p", "Why it may differ"};
  size_t same = 0;
  for (const auto& [key, old] : before) {
    const auto found = after.find(key);
    if (found == after.end()) {
      table.rows.push_back({name_of(*old), value_text(*old), "not there", "-", "-", "-"});
      continue;
    }
    const Cell& now = *found->second;
    const auto x = headline(old), y = headline(&now);
    if (old->status == now.status && x == y &&
        old->number({"kl_mean"}) == now.number({"kl_mean"})) {
      ++same;
      continue;
    }
    Comparison c;
    if (old->ok() && now.ok() && !old->folder.empty() && !now.folder.empty()) {
      c = compare(read_samples(now.folder / "samples.jsonl"),
                  read_samples(old->folder / "samples.jsonl"),
                  Evaluation{now.evaluation, now.kind}.is_share());
    }
    const std::string why = causes(*old, now);
    table.rows.push_back({name_of(*old), value_text(*old), value_text(now), difference_text(c),
                          c.n > 0 ? p_text(c.p_value) : "-",
                          why.empty() ? "nothing recorded" : why});
  }
  for (const auto& [key, cell] : after) {
    if (!before.contains(key)) {
      table.rows.push_back({name_of(*cell), "not there", value_text(*cell), "-", "-", "-"});
    }
  }
  out.any = !table.rows.empty();
  if (out.any) out.text = to_terminal(table, false, 0) + "\n";
  out.text += fmt::format("{} cells are equal, {} differ\n", same, table.rows.size());
  return out;
}

}  // namespace ptq::report
