// How much of a text was in the calibration set: methods that have seen the answers look better
// than they are.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_set>
#include <vector>

namespace ptq::calibrate {

// Share of the runs of `n` tokens of the text that stand in one of the sequences too; 13 as in
// GPT-3's study of contamination (arXiv 2005.14165, appendix C). 0 for a shorter text.
inline double overlap(std::span<const std::vector<int32_t>> sequences,
                      std::span<const int32_t> text, size_t n = 13) {
  const auto hash = [n](const int32_t* ids) {
    uint64_t h = 0xCBF29CE484222325u;  // FNV-1a
    for (size_t i = 0; i < n; ++i) h = (h ^ uint64_t(uint32_t(ids[i]))) * 0x100000001B3u;
    return h;
  };
  std::unordered_set<uint64_t> known;
  for (const std::vector<int32_t>& sequence : sequences)
    for (size_t i = 0; i + n <= sequence.size(); ++i) known.insert(hash(sequence.data() + i));
  if (text.size() < n) return 0;
  const size_t runs = text.size() - n + 1;
  size_t found = 0;
  for (size_t i = 0; i < runs; ++i) found += known.count(hash(text.data() + i));
  return double(found) / double(runs);
}

}  // namespace ptq::calibrate
