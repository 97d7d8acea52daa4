// "did you mean" for misspelt names in options, experiment files and configurations.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace ptq {

// Damerau-Levenshtein distance in its restricted form: insert, delete, replace a character, or
// swap two neighbours, each at cost 1.
inline size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before_previous(b.size() + 1), previous(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) previous[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] =
          std::min({previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before_previous[j - 2] + 1);
      }
    }
    std::swap(before_previous, previous);
    std::swap(previous, row);
  }
  return previous[b.size()];
}

// The candidate closest to `word`, or an empty string when none is within a third of its length.
inline std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  size_t best_distance = std::max<size_t>(1, word.size() / 3) + 1;
  std::string best;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

// The hint for an unknown name.
inline std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates) {
  const std::string best = nearest(word, candidates);
  if (!best.empty()) return "did you mean `" + best + "`?";
  std::string hint = "known: ";
  for (size_t i = 0; i < candidates.size(); ++i) hint += (i > 0 ? ", " : "") + candidates[i];
  return hint;
}

}  // namespace ptq
