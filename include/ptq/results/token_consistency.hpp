// Do the scores of the tokens belong to their record, and give its figures?
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
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

// Sums over the tokens of each row of a list of the metrics that divides the positions of the
// texts.
class TokenParts {
 public:
  TokenParts(const Json& metrics, const char* list) : list_(list) {
    const auto rows = metrics.find(list);
    if (rows == metrics.end() || !rows->is_array()) return;
    for (const Json& row : *rows) {
      const auto length = number_at(row, "length"), first = number_at(row, "first"),
                 last = number_at(row, "last");
      if (length)  // what looks back on at least half of it
        parts_.push_back({&row, std::floor(*length / 2), *length, {}});
      else if (first && last)
        parts_.push_back({&row, *first, *last + 1, {}});
    }
  }
  // position: of the token in its text; offset: in its run.
  void add(const TokenScore& token, int64_t position, int64_t offset) {
    const double at = double(std::string_view(list_) == "quarters" ? offset : position);
    for (Part& part : parts_)
      if (at >= part.begin && at < part.end) part.sums.add(token);
  }
  void compare(std::vector<Violation>& out) const {
    for (size_t i = 0; i < parts_.size(); ++i) {
      const TokenSums& s = parts_[i].sums;
      const auto equal = [&](const char* key, double right) {
        const auto value = number_at(*parts_[i].row, key);
        if (value && !agree(*value, right))
          out.push_back({"metrics." + std::string(list_) + "[" + std::to_string(i) + "]." + key,
                         "is " + shown_number(*value) + ", but that of tokens.bin is " +
                             shown_number(right)});
      };
      equal("tokens", double(s.tokens));
      if (s.tokens > 0) equal("nll", s.nll / double(s.tokens));
      if (s.compared == 0) continue;
      const double n = double(s.compared);
      equal("nll_reference", s.reference / n);
      equal("kl_mean", s.kl / n);
      equal("kl_max", s.kl_max);
      equal("top1_agreement", 1 - double(s.flips) / n);
    }
  }

 private:
  struct Part {
    const Json* row;
    double begin, end;  // positions
    TokenSums sums;
  };
  const char* list_;
  std::vector<Part> parts_;
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
  std::vector<TokenParts> parts;
  if (record.evaluation.kind == "cached-decode" || record.evaluation.kind == "generation")
    for (const char* list : {"lengths", "buckets", "quarters"}) parts.emplace_back(m, list);
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
    for (uint32_t offset = 0; offset < run.count; ++offset, ++at) {
      all.add(file.tokens[at]);
      cluster.add(file.tokens[at]);
      for (TokenParts& part : parts)
        part.add(file.tokens[at], int64_t(run.position) + offset, offset);
    }
  }
  end_cluster();
  for (const TokenParts& part : parts) part.compare(out);
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
