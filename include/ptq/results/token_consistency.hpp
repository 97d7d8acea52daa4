// Do the scores of the tokens belong to their record, and give its figures?
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "ptq/core/hash.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/results/record.hpp"
#include "ptq/results/token_file.hpp"
#include "ptq/results/violation.hpp"

namespace ptq {
namespace consistency_detail {

// Is a loss of windows the mean over their tokens, and not of their means?
inline bool averages_tokens(const Json& metrics) {
  const auto protocol = metrics.find("protocol");
  return protocol != metrics.end() && (*protocol == "sliding" || *protocol == "rolling_words");
}

// Sums over the tokens of one cluster, or of all.
struct TokenSums {
  int64_t tokens = 0, void_tokens = 0, compared = 0, flips = 0;
  double nll = 0, reference = 0, kl = 0, reverse = 0, overlap = 0, kl_max = 0;

  void add(const TokenScore& token) {
    if (!token.finite()) {
      ++void_tokens;
      return;
    }
    ++tokens;
    nll += double(token.nll);
    if (!token.has_reference()) return;
    ++compared;
    reference += double(token.nll_reference);
    kl += double(token.kl);
    reverse += double(token.kl_reverse);
    overlap += token.overlap_share();
    flips += token.flip();
    kl_max = std::max(kl_max, double(token.kl));
  }
};

inline void compare_with_tokens(const Record& record, const TokenFile& file,
                                std::vector<Violation>& out) {
  const Json& m = record.metrics;
  // rounding: of the scores in the file, which are shorter than those that the figure is made of.
  const auto equal = [&](const char* key, double right, double rounding = 0) {
    const auto value = number_at(m, key);
    if (!value || agree(*value, right) || std::fabs(*value - right) <= rounding) return;
    out.push_back(
        {std::string("metrics.") + key,
         "is " + shown_number(*value) + ", but that of tokens.bin is " + shown_number(right)});
  };
  const bool windows = record.evaluation.kind == "perplexity";
  const bool of_means = windows && !averages_tokens(m);
  const double lines = number_at(m, windows ? "windows" : "samples").value_or(-1);
  TokenSums all;
  // Clusters are lines of the samples; their means, which a perplexity of windows is a mean of.
  double means = 0, reference_means = 0, clusters = 0;
  TokenSums cluster;
  const auto end_cluster = [&] {
    if (cluster.tokens == 0) return;
    means += cluster.nll / double(cluster.tokens);
    reference_means += cluster.reference / double(cluster.tokens);
    ++clusters;
  };
  size_t at = 0;
  for (size_t r = 0; r < file.runs.size(); ++r) {
    const TokenRun& run = file.runs[r];
    if (lines >= 0 && double(run.cluster) >= lines) {
      out.push_back({kTokenFileName, "has a run of line " + std::to_string(run.cluster) +
                                         " (from 0), but there are " + shown_number(lines) +
                                         " samples"});
      return;
    }
    if (r > 0 && run.cluster != file.runs[r - 1].cluster) {
      end_cluster();
      cluster = {};
    }
    for (const size_t end = at + run.count; at < end; ++at) {
      all.add(file.tokens[at]);
      cluster.add(file.tokens[at]);
    }
  }
  end_cluster();
  equal("tokens_scored", double(all.tokens));
  equal("nonfinite_tokens", double(all.void_tokens));
  if (all.tokens == 0) return;
  equal("nll", of_means ? means / clusters : all.nll / double(all.tokens));
  if (all.compared == 0) return;
  const double n = double(all.compared);
  equal("kl_tokens", n);
  equal("nll_reference", of_means ? reference_means / clusters : all.reference / n);
  equal("kl_mean", all.kl / n);
  equal("kl_max", all.kl_max);
  equal("kl_reverse_mean", all.reverse / n);
  equal("ear_mean", all.overlap / n, 0.5 / 65535);
  equal("top1_agreement", 1 - double(all.flips) / n);
}

}  // namespace consistency_detail

// What of a record does not agree with tokens.bin in its folder. Records of evaluations without
// tokens, and of versions before they were kept, have none.
inline std::vector<Violation> token_violations(const Record& record,
                                               const std::filesystem::path& folder) {
  std::vector<Violation> out;
  if (record.status == "failed" || record.tokens_sha256.empty()) return out;
  const std::filesystem::path path = folder / kTokenFileName;
  std::error_code error;
  if (!std::filesystem::exists(path, error) && !error) {
    out.push_back({kTokenFileName, "is missing, but the record has its hash"});
    return out;
  }
  try {
    const MappedFile file(path);
    if (sha256_hex(file.text()) != record.tokens_sha256) {
      out.push_back({kTokenFileName, "is not the file whose hash stands in the record"});
    }
    consistency_detail::compare_with_tokens(record, parse_token_file(file.text(), path.string()),
                                            out);
  } catch (const Error& problem) {
    out.push_back({kTokenFileName, "cannot be read: " + problem.message()});
  }
  return out;
}

}  // namespace ptq
