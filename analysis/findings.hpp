// What a reader must know before believing a board: failed cells, numbers that say nothing about
// the method, rows that cannot be compared; and one plain sentence per method.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "leaderboard.hpp"
#include "numbers.hpp"

namespace ptq::report {

// What stands in the table instead of a number.
inline std::string status_text(const Cell& cell) {
  return cell.status == "invalid" ? "not exercised" : cell.status;
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
  const auto value = headline(&cell), reference = headline(&baseline);
  if (!value || !reference || *value != *reference) return false;
  const auto divergence = cell.number({"kl_mean"});
  return Evaluation{cell.evaluation, cell.kind}.is_share() ? false
                                                           : divergence && *divergence == 0.0;
}

// How many things were measured: windows, prompts or texts.
inline std::optional<double> samples_of(const Cell& cell) {
  for (const char* key : {"total", "tokens_scored", "windows", "samples"}) {
    if (const auto number = cell.number({key})) return number;
  }
  return {};
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
  if (!cell.lossless && reference && identical(cell, *reference)) {
    note("identical to", " " + reference->method + ": method not exercised");
  }
  const auto ratio = cell.number({"cache", "compression_ratio"}).value_or(1);
  if (ratio < 1.0 && !cell.lossless) {
    note("not smaller than FP16", fmt::format(": the cache takes {:.2f}x as much", 1 / ratio));
  }
  for (const std::string& warning : cell.warnings) notes.push_back(who + warning);
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
    notes.push_back("no full-precision baseline among these records: no differences are shown");
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
    const Cell* reference = board.baseline() ? board.baseline()->cell(evaluation.name) : nullptr;
    const auto value = headline(cell), base = headline(reference);
    if (!value) continue;
    if (evaluation.is_share()) {
      const auto correct = cell->number({"correct"}), total = cell->number({"total"});
      parts.push_back(
          evaluation.name + " " +
          (correct && total ? fmt::format("{:.0f}/{:.0f}", *correct, *total) : share_text(*value)));
    } else {
      const std::string name = short_name(evaluation);
      parts.push_back((cell->kind == "generation" ? "generation PPL " : "PPL ") +
                      (base ? change_text(*value, *base) : perplexity_text(*value)) +
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
    if (row.lossless) continue;
    if (std::string sentence = sentence_of(board, row); !sentence.empty()) {
      sentences.push_back(std::move(sentence));
    }
  }
  return sentences;
}

}  // namespace ptq::report
