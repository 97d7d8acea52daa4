#include "analysis/compare/diff.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "analysis/compare/compare.hpp"
#include "analysis/compare/statistics_table.hpp"

namespace ptq::report {
namespace {

using Key = std::tuple<std::string, std::string, std::string, std::string>;

std::map<Key, const Cell*> by_place(const Results& results) {
  std::map<Key, const Cell*> out;
  for (const Cell& cell : results.cells) {
    out[{cell.experiment, cell.model, cell.method, cell.evaluation}] = &cell;
  }
  return out;
}

struct Pair {
  const Cell *old, *now;  // one may be null
};

// The cells of both, paired; those without a partner last.
std::vector<Pair> pairs_of(const Results& a, const Results& b) {
  auto before = by_place(a), after = by_place(b);
  std::vector<Pair> pairs;
  const auto pair_up = [&](const auto& partner_of) {
    for (auto at = before.begin(); at != before.end();) {
      const auto partner = partner_of(at->first);
      if (partner == after.end()) {
        ++at;
        continue;
      }
      pairs.push_back({at->second, partner->second});
      after.erase(partner);
      at = before.erase(at);
    }
  };
  pair_up([&](const Key& key) { return after.find(key); });
  // The experiment was renamed: the only one left in either that is called so otherwise.
  const auto alike = [](const Key& x, const Key& y) {
    return std::tie(std::get<1>(x), std::get<2>(x), std::get<3>(x)) ==
           std::tie(std::get<1>(y), std::get<2>(y), std::get<3>(y));
  };
  pair_up([&](const Key& key) {
    const auto like = [&](const auto& entry) { return alike(entry.first, key); };
    const bool only = std::count_if(before.begin(), before.end(), like) == 1 &&
                      std::count_if(after.begin(), after.end(), like) == 1;
    return only ? std::find_if(after.begin(), after.end(), like) : after.end();
  });
  for (const auto& [key, cell] : before) pairs.push_back({cell, nullptr});
  for (const auto& [key, cell] : after) pairs.push_back({nullptr, cell});
  return pairs;
}

// Times, memory and speed: they differ between any two runs.
bool varies(const std::string& key) {
  return key == "time" || key == "memory" || key == "seconds" || key.ends_with("_seconds") ||
         key.ends_with("_per_second") || key.ends_with("_per_second_why");
}

// The path of the first figure that differs between two metrics, and both values; nothing if none.
struct FigureChange {
  std::string path, old, now;
};
std::optional<FigureChange> change_in(const Json& a, const Json& b, const std::string& path) {
  if (a.is_object() && b.is_object()) {
    const auto child = [&](const std::string& key) {
      return path.empty() ? key : path + "." + key;
    };
    for (const auto& [key, value] : a.items()) {
      if (varies(key)) continue;
      const auto found = b.find(key);
      if (found == b.end()) return FigureChange{child(key), json_text(value), "not there"};
      if (auto change = change_in(value, *found, child(key))) return change;
    }
    for (const auto& [key, value] : b.items()) {
      if (!varies(key) && !a.contains(key)) {
        return FigureChange{child(key), "not there", json_text(value)};
      }
    }
    return {};
  }
  if (a.is_array() && b.is_array() && a.size() == b.size()) {
    for (size_t i = 0; i < a.size(); ++i) {
      if (auto change = change_in(a[i], b[i], path + "[" + std::to_string(i) + "]")) return change;
    }
    return {};
  }
  if (a == b) return {};
  return FigureChange{path, json_text(a).substr(0, 40), json_text(b).substr(0, 40)};
}

// Nothing where the two are the same result.
std::optional<FigureChange> change_of(const Cell& a, const Cell& b) {
  if (a.status != b.status) return FigureChange{"status", a.status, b.status};
  if (auto change = change_in(a.metrics, b.metrics, "")) return change;
  if (auto change = change_in(a.settings, b.settings, "settings")) return change;
  if (a.seed != b.seed) {
    return FigureChange{"seed", std::to_string(a.seed), std::to_string(b.seed)};
  }
  if (a.parts.size() != b.parts.size()) {
    return FigureChange{"parts", std::to_string(a.parts.size()), std::to_string(b.parts.size())};
  }
  for (size_t p = 0; p < a.parts.size(); ++p) {
    if (a.parts[p].method != b.parts[p].method) {
      return FigureChange{"method", a.parts[p].method, b.parts[p].method};
    }
    if (auto change = change_in(a.parts[p].options, b.parts[p].options, "options")) return change;
  }
  if (a.samples_sha256 != b.samples_sha256 && !a.samples_sha256.empty() &&
      !b.samples_sha256.empty()) {
    return FigureChange{"samples", a.samples_sha256.substr(0, 8), b.samples_sha256.substr(0, 8)};
  }
  if (a.fingerprint != b.fingerprint) {
    return FigureChange{"model", a.fingerprint.substr(0, 16), b.fingerprint.substr(0, 16)};
  }
  return {};
}

std::string name_of(const Cell& cell) {
  return cell.model + " " + cell.method + " " + cell.evaluation;
}

std::string value_text(const Cell& cell) {
  const auto value = cell.figure();
  if (!cell.ok() || !value) return cell.ok() ? "-" : status_text(cell);
  return cell.headline.share ? share_text(*value) : figure_text(*value);
}

// What decides a result and differs between the two: the reader's first question.
std::string causes(const Cell& a, const Cell& b) {
  std::string out;
  const auto add = [&](bool differs, const std::string& what) {
    if (differs) out += (out.empty() ? "" : ", ") + what;
  };
  add(a.experiment != b.experiment, "experiment " + a.experiment + " and " + b.experiment);
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

// The new cell against the old one, by tokens where both have them.
Comparison compare_folders(const Cell& now, const Cell& old) {
  Comparison c;
  std::string problem;
  if (!now.headline.share) {
    c = compare_tokens(losses_of(read_tokens(now.folder, problem)),
                       losses_of(read_tokens(old.folder, problem)));
  }
  if (c.n == 0) {
    c = compare(read_samples(now.folder / "samples.jsonl"),
                read_samples(old.folder / "samples.jsonl"), now.headline.share);
  }
  if (c.n == 0) c.problem = problem;
  judge({&c});
  return c;
}

}  // namespace

Difference diff_results(const Results& a, const Results& b) {
  Difference out;
  Table table;
  table.head = {
      "Cell", "A", "B", "Change on the same samples (95 %)", "p", "Verdict", "Why it may differ"};
  size_t same = 0;
  const auto experiments = [](const Results& results) {
    std::set<std::string> names;
    for (const Cell& cell : results.cells) names.insert(cell.experiment);
    return names.size();
  };
  const bool several = experiments(a) > 1 || experiments(b) > 1;
  const auto title = [&](const Cell& cell) {
    return several ? cell.experiment + ": " + name_of(cell) : name_of(cell);
  };
  for (const auto& [old, now] : pairs_of(a, b)) {
    if (!old || !now) {
      table.rows.push_back({title(old ? *old : *now), old ? value_text(*old) : "not there",
                            now ? value_text(*now) : "not there", "-", "-", "-", "-"});
      continue;
    }
    const std::optional<FigureChange> change = change_of(*old, *now);
    if (!change) {
      ++same;
      continue;
    }
    Comparison c;
    if (old->ok() && now->ok() && !old->folder.empty() && !now->folder.empty()) {
      c = compare_folders(*now, *old);
    }
    std::string why = causes(*old, *now);
    std::string before = value_text(*old), after = value_text(*now);
    if (before == after) {  // the difference is elsewhere
      before += one_line("; " + change->path + " " + change->old);
      after += one_line("; " + change->path + " " + change->now);
    }
    table.rows.push_back({title(*now), before, after, difference_text(c),
                          c.n > 0 ? p_text(c.p_value) : "-", verdict_text(c),
                          why.empty() ? "nothing recorded" : why});
  }
  out.any = !table.rows.empty();
  if (out.any) out.text = to_terminal(table, false, 0) + "\n";
  out.text += fmt::format("{} cells are equal, {} differ\n", same, table.rows.size());
  return out;
}

}  // namespace ptq::report
