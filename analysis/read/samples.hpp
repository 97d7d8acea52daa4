// samples.jsonl of a cell: one JSON object per line for every window, prompt, text or question.
// Read with simdjson into plain columns, because a study has millions of them.
//
// What is understood, all of it optional:
//   correct, correct_reference   whether the method and full precision answered rightly
//   acc, acc_norm                the same as 0 or 1, as multiple-choice tasks write it
//   nll, nll_reference           a loss of the method and of full precision
//   targets, tokens              how many tokens the loss is the mean of
//   subject                      the stratum of a question
//   everything else that tells one sample from another: window, key, depth, sample, id, doc, ...
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "ptq/core/own_json.hpp"

namespace ptq::report {

struct Samples {
  static constexpr int8_t kUnknown = -1;

  std::vector<uint32_t> identity;  // a hash of what the sample is, equal for all methods
  std::vector<uint32_t> cluster;   // the same without the depth: samples of one prompt
  std::vector<int8_t> correct, correct_reference;  // 0, 1 or kUnknown; empty without such a key
  std::vector<float> nll, nll_reference;           // NaN where unknown; empty without such a key
  std::vector<uint32_t> stratum;                   // a hash of `subject`; empty without
  std::string problem;                             // why some lines were left out

  size_t size() const { return identity.size(); }
};

// Reads the whole file; a missing file gives no samples, a damaged line only loses itself.
Samples read_samples(const std::filesystem::path& file);

// visit(sample) for each readable line; for small files.
void for_each_sample(const std::filesystem::path& file,
                     const std::function<void(const Json&)>& visit);

}  // namespace ptq::report
