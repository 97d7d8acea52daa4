// What a reader must know before believing a board: failed cells, numbers that say nothing about
// the method, rows that cannot be compared; and one plain sentence per method.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "analysis/board/leaderboard.hpp"
#include "analysis/write/numbers.hpp"

namespace ptq::report {

// What stands in the table instead of a number.
inline std::string status_text(const Cell& cell) {
  if (cell.status != "invalid") return cell.status;
  const bool void_tokens = cell.number({"nonfinite_tokens"}).value_or(0) > 0;
  return void_tokens ? "not finite" : "not exercised";
}

inline std::string reason_of(const Cell& cell) {
  if (!cell.error.empty()) return cell.error;
  if (!cell.warnings.empty()) return fmt::format("{}", fmt::join(cell.warnings, "; "));
  return "the record gives no reason";
}

// Did the run itself already say so?
inline bool warned(const Cell& cell, const std::string& words) {
  return std::any_of(cell.warnings.begin(), cell.warnings.end(), [&](const std::string& warning) {
    return warning.find(words) != std::string::npos;
  });
}

inline bool reads_cache(const Cell& cell) {
  return !cell.metrics.contains("regime") || cell.metrics["regime"] != "independent";
}

// The metrics that describe quality, equal in every printed digit and with no divergence at all.
inline bool identical(const Cell& cell, const Cell& baseline) {
  const auto value = cell.figure(), reference = baseline.figure();
  if (!value || !reference || *value != *reference || cell.headline.share) return false;
  const auto divergence = cell.number({"kl_mean"});
  return divergence && *divergence == 0.0;
}

// How many things were measured: windows, prompts or texts.
inline std::optional<double> samples_of(const Cell& cell) {
  for (const char* key : {"total", "tokens_scored", "windows", "samples"}) {
    if (const auto number = cell.number({key})) return number;
  }
  return {};
}

// Whether full precision answers fewer than 90 % over those entries of a list of the metrics
// (`cells`, `tasks`) that `wanted` says yes to: such figures say nothing about a method. Entries
// without `baseline_fails` are no answer rows.
template <class Wanted>
bool baseline_fails(const Cell& cell, const char* list, Wanted wanted) {
  const auto found = cell.metrics.find(list);
  if (found == cell.metrics.end() || !found->is_array()) return false;
  double right = 0, all = 0;
  for (const Json& entry : *found) {
    if (!entry.is_object() || !entry.contains("baseline_fails") || !wanted(entry)) continue;
    const auto number = [&](const char* key) {
      const Json value = entry.value(key, Json());
      return value.is_number() ? std::optional(value.get<double>()) : std::nullopt;
    };
    const auto total = number("total"), own = number("accuracy"),
               share = entry.contains("accuracy_reference") ? number("accuracy_reference") : own;
    if (!total || !share) continue;
    right += *share * *total;
    all += *total;
  }
  return all > 0 && right < 0.9 * all;
}

// The same of a whole cell.
inline bool baseline_fails(const Cell& cell) {
  const Json fails = cell.metrics.value("baseline_fails", Json());
  return cell.ok() && fails.is_boolean() && fails.get<bool>();
}

// The share of what attention read that was encoded; nothing where it does not apply: without a
// cache part no row is encoded, which is no shortcoming.
inline std::optional<double> exposure_of(const Cell& cell) {
  const auto exposure = cell.number({"exposure"});
  if (!exposure || *exposure > 0) return exposure;
  const bool cache = cell.changes_cache() || warned(cell, "exposure 0");
  return cache ? exposure : std::nullopt;
}

inline std::string exposure_text(const Cell& cell) {
  const auto exposure = exposure_of(cell);
  return exposure ? fmt::format("{:.2f}", *exposure) : "-";
}

// "self_attn.k_proj of 4 layers, lm_head": what a weight method left as it is.
inline std::string plain_layers(const Json& names) {
  std::vector<std::pair<std::string, size_t>> kinds;
  for (const Json& name : names) {
    if (!name.is_string()) continue;
    std::string kind = one_line(name.get<std::string>());
    if (const size_t layers = kind.find("layers."); layers != kind.npos)
      kind = kind.substr(std::min(kind.size(), kind.find('.', layers + 7) + 1));
    const auto known =
        std::find_if(kinds.begin(), kinds.end(), [&](const auto& k) { return k.first == kind; });
    if (known == kinds.end()) {
      kinds.emplace_back(kind, 1);
    } else {
      ++known->second;
    }
  }
  std::string out;
  for (const auto& [kind, count] : kinds)
    out += (out.empty() ? "" : ", ") + kind +
           (count > 1 ? fmt::format(" of {} layers", count) : std::string());
  return out.empty() ? "none" : out;
}

inline void note_cell(const Cell& cell, const Row* baseline, std::vector<std::string>& notes) {
  const std::string who = cell.method + ", " + cell.evaluation + ": ";
  if (!cell.ok()) {
    notes.push_back(who + status_text(cell) + ": " + reason_of(cell));
    return;
  }
  const auto note = [&](const std::string& words, const std::string& rest) {
    if (!warned(cell, words)) notes.push_back(who + words + rest);
  };
  if (!reads_cache(cell)) {
    if (cell.changes_cache()) {
      note("cache not read", ": one fresh pass per window says nothing about a cache method");
    }
  } else if (cell.changes_cache() && cell.number({"exposure"}) == 0.0) {
    note("exposure 0", ": no encoded row was read, so this number says nothing about the method");
  }
  const Cell* reference = baseline ? baseline->cell(cell.evaluation) : nullptr;
  if (!cell.lossless && reference && reference->lossless && identical(cell, *reference)) {
    note("identical to", " " + reference->method + ": method not exercised");
  }
  const auto ratio = cell.number({"cache", "compression_ratio"}).value_or(1);
  if (ratio < 1.0 && !cell.lossless) {
    note("not smaller than FP16", fmt::format(": the cache takes {:.2f}x as much", 1 / ratio));
  }
  if (const auto value = cell.figure(); value && std::isinf(*value)) {
    notes.push_back(who +
                    fmt::format("perplexity too large: the loss is {:.1f} nats per token, whose "
                                "exponential is beyond 1e308",
                                cell.number({"nll"}).value_or(0)));
  }
  const Json weights = cell.metrics.value("weights", Json());
  if (weights.is_object() && weights.value("layers_plain", Json()).is_array()) {
    notes.push_back(who + fmt::format("weights: {} linear layers are encoded; as they are stay "
                                      "embeddings, norms and these linear layers: {}",
                                      weights.value("layers_encoded", Json(0)).dump(),
                                      plain_layers(weights["layers_plain"])));
  }
  // Inputs that the compute mode rounded, of this row and not of the other, are no doing of a
  // method.
  const auto integers = [](const Cell& c) {
    return c.number({"weights", "integer_scalars"}).value_or(0);
  };
  if (reference && cell.environment.value("compute", Json()) == "int8" &&
      integers(cell) != integers(*reference) && !weights.contains("activations")) {
    notes.push_back(who +
                    fmt::format("compute int8: {:.0f} numbers of linear layers met inputs of 8 "
                                "bits, of {} {:.0f}; what that costs is in the difference",
                                integers(cell), reference->method, integers(*reference)));
  }
  for (const std::string& warning : cell.warnings) notes.push_back(who + warning);
}

// With which code and on which machine the rows were computed, in one line each; empty where the
// records do not say. More than one line: not everything is from one run.
inline std::vector<std::string> provenance_of(const Board& board) {
  std::vector<std::pair<std::string, std::vector<std::string>>> groups;
  for (const Row& row : board.rows) {
    for (const Evaluation& evaluation : board.evaluations) {
      const Cell* cell = row.cell(evaluation.name);
      if (!cell || cell->status == "failed") continue;
      std::vector<std::string> parts;
      const auto add = [&](const std::string& before, const std::string& text) {
        if (!text.empty()) parts.push_back(before + one_line(text));
      };
      const auto fact = [&](const char* key) {
        const Json value = cell->environment.value(key, Json());
        return value.is_string() ? value.get<std::string>() : std::string();
      };
      add("ptq ", cell->code.version);
      add("commit ", cell->code.git);
      add("", fact("cpu"));
      add("", fact("gpu"));
      add("", fact("device"));
      if (parts.empty()) continue;
      const std::string text = fmt::format("{}", fmt::join(parts, ", "));
      auto group = std::find_if(groups.begin(), groups.end(),
                                [&](const auto& known) { return known.first == text; });
      if (group == groups.end()) group = groups.insert(groups.end(), {text, {}});
      auto& methods = group->second;
      if (std::find(methods.begin(), methods.end(), row.method) == methods.end())
        methods.push_back(row.method);
    }
  }
  std::vector<std::string> lines;
  for (const auto& [text, methods] : groups)
    lines.push_back("computed with " + text +
                    (groups.size() > 1 ? fmt::format(": {}", fmt::join(methods, ", ")) : ""));
  return lines;
}

// What the experiment no longer asks for.
inline void note_unasked(const Board& board, std::vector<std::string>& notes) {
  for (const Cell* cell : board.outdated)
    notes.push_back(cell->method + ", " + cell->evaluation +
                    ": NOT COMPARABLE: computed with other settings, another version or on another "
                    "device than the experiment asks for now");
  for (const Row& row : board.rows)
    if (!row.asked)
      notes.push_back(row.method +
                      ": not asked for: the experiment no longer has this method or "
                      "model");
  for (const Evaluation& evaluation : board.evaluations)
    if (!evaluation.asked)
      notes.push_back(evaluation.name +
                      ": not asked for: the experiment no longer has this "
                      "evaluation");
  for (const Cell* cell : board.left_out)
    notes.push_back(cell->method + ", " + cell->evaluation +
                    ": left out: it failed once and the experiment no longer asks for it (" +
                    cell->source + ")");
}

// The same sentence about several cells is read once: "kivi, ppl (and 3 more cells): ...".
inline std::vector<std::string> merged_notes(const std::vector<std::string>& notes) {
  struct Note {
    std::string who, what;
    size_t count;
  };
  std::vector<Note> merged;
  for (const std::string& note : notes) {
    const size_t colon = note.find(": ");
    const std::string what = colon == note.npos ? note : note.substr(colon + 2);
    const auto same = std::find_if(merged.begin(), merged.end(),
                                   [&](const Note& other) { return other.what == what; });
    if (same == merged.end()) {
      merged.push_back({colon == note.npos ? "" : note.substr(0, colon), what, 1});
    } else {
      same->count += note.substr(0, colon) != same->who;
    }
  }
  std::vector<std::string> out;
  for (const Note& note : merged) {
    const std::string more = note.count > 1 ? fmt::format(" (and {} more {})", note.count - 1,
                                                          note.count > 2 ? "cells" : "cell")
                                            : std::string();
    out.push_back(note.who.empty() ? note.what : note.who + more + ": " + note.what);
  }
  return out;
}

// Every note about a board, one per cell.
inline std::vector<std::string> all_notes_of(const Board& board) {
  std::vector<std::string> notes;
  for (const Row& row : board.rows) {
    for (const Evaluation& evaluation : board.evaluations) {
      const Cell* cell = row.cell(evaluation.name);
      if (cell) note_cell(*cell, board.baseline(), notes);
    }
  }
  if (!board.baseline()) {
    notes.push_back(board.baseline_name.empty()
                        ? "no full-precision baseline among these records: no differences are shown"
                        : "the experiment's baseline `" + board.baseline_name +
                              "` is not among these records: no differences are shown");
  }
  note_unasked(board, notes);
  if (const size_t sources = provenance_of(board).size(); sources > 1) {
    notes.push_back(fmt::format(
        "NOT COMPARABLE: times, and figures that the code or the device decides: the rows come "
        "from {} versions, commits, machines or devices, listed below the table",
        sources));
  }
  const bool fails = std::any_of(board.rows.begin(), board.rows.end(), [](const Row& row) {
    return std::any_of(row.cells.begin(), row.cells.end(), [](const auto& entry) {
      return entry.second->metrics.contains("cells_baseline_fails") &&
             entry.second->number({"cells_baseline_fails"}).value_or(0) > 0;
    });
  });
  if (fails) {
    notes.push_back(
        "°: full precision itself answers fewer than 90 % there, so the figure says nothing about "
        "a method");
  }
  std::set<std::string> fingerprints;
  for (const Row& row : board.rows) {
    for (const auto& [name, cell] : row.cells) {
      if (!cell->fingerprint.empty()) fingerprints.insert(cell->fingerprint);
    }
  }
  if (fingerprints.size() > 1) {
    notes.push_back(
        fmt::format("NOT COMPARABLE: the rows come from {} different base weights of the "
                    "name {} (fingerprints differ)",
                    fingerprints.size(), board.model));
  }
  const auto differ = [&](const std::string& what, auto get) {
    std::set<std::string> seen;
    for (const Row& row : board.rows) {
      for (const auto& [name, cell] : row.cells) {
        if (const std::string value = get(*cell); cell->ok() && !value.empty()) seen.insert(value);
      }
    }
    if (seen.size() > 1)
      notes.push_back(fmt::format("NOT COMPARABLE: {}: {}", what, fmt::join(seen, ", ")));
  };
  differ("methods were calibrated on different data", [](const Cell& cell) {
    const Json calibration = cell.metrics.value("calibration", Json());
    if (!calibration.is_object()) return std::string();
    std::string text;
    for (const char* key : {"dataset", "text", "text_sha256", "sequences", "length"}) {
      if (!calibration.contains(key)) continue;
      const Json& value = calibration[key];
      text += (text.empty() ? "" : " ") +
              (value.is_string() ? value.get<std::string>().substr(0, 40) : value.dump());
    }
    return text;
  });
  differ("rows were computed in different precision", [](const Cell& cell) {
    const Json compute = cell.environment.value("compute", Json());
    return compute.is_string() ? compute.get<std::string>() : "";
  });
  for (const Evaluation& evaluation : board.evaluations) {
    std::set<double> counts;
    std::set<std::string> settings;
    for (const Row& row : board.rows) {
      const Cell* cell = row.cell(evaluation.name);
      if (!cell || !cell->ok()) continue;
      if (const auto count = samples_of(*cell)) counts.insert(*count);
      settings.insert(cell->settings.dump());
    }
    if (counts.size() > 1) {
      notes.push_back(fmt::format("NOT COMPARABLE: {} has rows with {:.0f} to {:.0f} samples",
                                  evaluation.name, *counts.begin(), *counts.rbegin()));
    } else if (settings.size() > 1) {
      notes.push_back("NOT COMPARABLE: " + evaluation.name + " was run with different settings");
    }
  }
  return notes;
}

inline std::vector<std::string> notes_of(const Board& board) {
  return merged_notes(all_notes_of(board));
}

// How much a note weighs, 0 the most: comparisons that are void, then numbers that say nothing.
// kLightNote: what only explains.
constexpr size_t kLightNote = 10;
inline size_t weight_of(const std::string& note) {
  const char* order[kLightNote] = {
      "NOT CONSISTENT", "CONFLICT",      "NOT COMPARABLE", "cache not read", "exposure 0",
      "identical to",   "not exercised", "failed",         "not smaller",    "damaged"};
  for (size_t i = 0; i < kLightNote; ++i)
    if (note.find(order[i]) != note.npos) return i;
  return kLightNote;
}

// In the order in which a reader must see them.
inline std::vector<std::string> by_weight(std::vector<std::string> notes) {
  std::stable_sort(notes.begin(), notes.end(), [&](const std::string& a, const std::string& b) {
    return weight_of(a) < weight_of(b);
  });
  return notes;
}

// The first figure of this kind that the row has, in the order of the board's evaluations.
inline std::optional<double> first_number(const Board& board, const Row& row,
                                          std::initializer_list<const char*> path) {
  for (const Evaluation& evaluation : board.evaluations) {
    const Cell* cell = row.cell(evaluation.name);
    if (!cell || !cell->ok()) continue;
    if (const auto number = cell->number(path)) return number;
  }
  return {};
}

// "kivi-2bit: PPL +3.1 % (wiki), passkey 19/20, 5.0x smaller cache"; empty without any figure.
inline std::string sentence_of(const Board& board, const Row& row) {
  std::vector<std::string> parts;
  for (const Evaluation& evaluation : board.evaluations) {
    const Cell* cell = row.cell(evaluation.name);
    const auto value = figure_of(cell);
    if (!value) continue;
    const auto base = board.baseline() ? base_figure(board, *cell) : std::nullopt;
    if (cell->headline.share) {
      const auto correct = cell->number({"correct"}), total = cell->number({"total"});
      parts.push_back(
          evaluation.name + " " +
          (correct && total ? fmt::format("{:.0f}/{:.0f}", *correct, *total) : share_text(*value)));
    } else {
      const std::string name = short_name(evaluation);
      const std::string change = base ? change_text(*value, *base) : std::string();
      parts.push_back(short_title(cell->headline) + " " +
                      (change.empty() ? figure_text(*value) : change) +
                      (name.empty() ? "" : " (" + name + ")"));
    }
  }
  if (row.any(&Cell::changes_cache)) {
    if (const auto ratio = first_number(board, row, {"cache", "compression_ratio"})) {
      parts.push_back(*ratio > 1.05   ? fmt::format("{:.1f}x smaller cache", *ratio)
                      : *ratio < 0.95 ? fmt::format("{:.1f}x larger cache", 1 / *ratio)
                                      : "a cache as large as float16");
    }
  }
  if (row.any(&Cell::changes_weights)) {
    if (const auto bits = first_number(board, row, {"weights", "encoded_bits"})) {
      parts.push_back(fmt::format("weights at {:.2f} bits", *bits));
    }
  }
  if (parts.empty()) return {};
  return row.method + ": " + fmt::format("{}", fmt::join(parts, ", "));
}

inline std::vector<std::string> sentences_of(const Board& board) {
  std::vector<std::string> sentences;
  for (const Row& row : board.rows) {
    if (&row == board.baseline() || (row.lossless && !board.baseline())) continue;
    if (std::string sentence = sentence_of(board, row); !sentence.empty()) {
      sentences.push_back(std::move(sentence));
    }
  }
  return sentences;
}

}  // namespace ptq::report
