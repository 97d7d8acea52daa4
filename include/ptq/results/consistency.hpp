// Do the figures of a record agree with each other and with the samples beside it? A record is a
// text file: it can be edited, cut, or mixed with the samples of another run, and nothing of that
// shows in a table. What is checked holds for every record that ptq-host writes, of any version; a
// figure that is not there is not checked, unless the record says that samples belong to it.
#pragma once

#include <simdjson.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ptq/core/hash.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/results/choice_consistency.hpp"
#include "ptq/results/part_consistency.hpp"
#include "ptq/results/record.hpp"
#include "ptq/results/token_consistency.hpp"
#include "ptq/results/violation.hpp"

namespace ptq {

namespace consistency_detail {

// The figures of one object of the metrics, and of all objects below it.
class Figures {
 public:
  explicit Figures(std::vector<Violation>& out) : out_(out) {}

  void check(const Json& object, const std::string& path) {
    path_ = path;
    object_ = &object;
    check_ranges();
    check_losses();
    check_answers();
    check_bytes();
    check_parts();
    for (const auto& [key, value] : object.items()) {
      const std::string name = child(path, key);
      if (value.is_object()) Figures(out_).check(value, name);
      if (!value.is_array()) continue;
      for (size_t i = 0; i < value.size(); ++i) {
        if (value[i].is_object()) {
          Figures(out_).check(value[i], name + "[" + std::to_string(i) + "]");
        }
      }
    }
  }

 private:
  static std::string child(const std::string& path, const std::string& key) {
    return path.empty() ? key : path + "." + key;
  }
  std::optional<double> get(std::string_view key) const { return number_at(*object_, key); }

  void violated(std::string_view key, double value, const std::string& rest) {
    out_.push_back({child(path_, std::string(key)), "is " + shown_number(value) + ", " + rest});
  }
  // key must be `right`, which is what `how` says.
  void equal(std::string_view key, double right, const std::string& how) {
    const auto value = get(key);
    if (value && !agree(*value, right)) {
      violated(key, *value, "but " + how + " is " + shown_number(right));
    }
  }

  void check_ranges() {
    static constexpr std::string_view kShares[] = {
        "accuracy", "accuracy_reference", "agreement",       "flips",    "top1_agreement",
        "partial",  "partial_reference",  "partial_second",  "ci95_low", "ci95_high",
        "exposure", "exposure_keys",      "exposure_values", "acc,none", "acc_norm,none",
        "acc",      "exact_match,none",   "ear_mean"};
    for (const auto& [key, json] : object_->items()) {
      if (!json.is_number()) continue;
      const std::string_view name = key;
      const double value = json.get<double>();
      const auto begins = [&](std::string_view word) { return name.starts_with(word); };
      if (std::find(std::begin(kShares), std::end(kShares), name) != std::end(kShares)) {
        if (value < -1e-9 || value > 1 + 1e-9) violated(name, value, "outside 0 to 1");
      } else if ((begins("ppl") || begins("mean_ppl")) && name != "ppl_error") {
        if (value < 1 - 1e-6) violated(name, value, "but no perplexity is below 1");
      } else if (begins("nll") || begins("kl_") || begins("answer_nll") ||
                 begins("first_token_nll") || begins("bytes_") || begins("bits_per_byte") ||
                 begins("tokens") || begins("compression_ratio") || begins("effective_bits") ||
                 name == "windows" || name == "samples" || name == "correct" || name == "total" ||
                 name == "ppl_error" || name == "lost" || name == "gained" || name == "bytes" ||
                 name.ends_with("_bytes") || name.ends_with("seconds") ||
                 name.ends_with("_per_second") || name.ends_with("_se")) {
        if (value < -1e-9) violated(name, value, "below 0");
      }
    }
  }

  void check_losses() {
    for (const auto& [loss, ppl] : std::initializer_list<std::pair<const char*, const char*>>{
             {"nll", "ppl"},
             {"nll", "ppl_pooled"},
             {"nll_reference", "ppl_reference"},
             {"nll_reference", "ppl_pooled_reference"}}) {
      if (const auto nll = get(loss); nll && std::isfinite(std::exp(*nll))) {
        equal(ppl, std::exp(*nll), "exp(" + std::string(loss) + ")");
      }
    }
    const auto nll = get("nll"), reference = get("nll_reference");
    if (nll && reference) equal("delta_nll", *nll - *reference, "nll - nll_reference");
    const char* below = nullptr;  // the last that is there
    for (const char* key : {"kl_median", "kl_p90", "kl_p99", "kl_max"}) {
      const auto high = get(key);
      if (!high) continue;
      if (below != nullptr && *get(below) > *high + 1e-9)
        violated(below, *get(below), "above " + std::string(key) + ", " + shown_number(*high));
      below = key;
    }
    const auto mean = get("kl_mean"), most = get("kl_max");
    if (mean && most && *mean > *most * (1 + 1e-6) + 1e-9) {
      violated("kl_mean", *mean, "above kl_max, " + shown_number(*most));
    }
    const auto top1 = get("top1_agreement");
    if (top1 && !get("lost")) equal("flips", 1 - *top1, "1 - top1_agreement");
  }

  void check_answers() {
    const auto correct = get("correct"), total = get("total");
    if (!correct || !total) return;
    if (*correct > *total) {
      return violated("correct", *correct, "of a total of " + shown_number(*total));
    }
    if (*total <= 0) return;
    equal("accuracy", *correct / *total, "correct / total");
    const double share = *correct / *total;
    if (const auto low = get("ci95_low"); low && *low > share + 1e-9) {
      violated("ci95_low", *low, "above the share " + shown_number(share));
    }
    if (const auto high = get("ci95_high"); high && *high < share - 1e-9) {
      violated("ci95_high", *high, "below the share " + shown_number(share));
    }
    const auto lost = get("lost"), gained = get("gained");
    if (!lost || !gained) return;
    if (*gained > *correct) violated("gained", *gained, "more than correct");
    if (*lost > *total - *correct) violated("lost", *lost, "more than total - correct");
    equal("accuracy_reference", (*correct - *gained + *lost) / *total,
          "(correct - gained + lost) / total");
    equal("flips", (*lost + *gained) / *total, "(lost + gained) / total");
  }

  void check_bytes() {
    const auto keys = get("exposure_keys"), values = get("exposure_values");
    if (keys && values) equal("exposure", (*keys + *values) / 2, "the mean of keys and values");
    const auto encoded = get("bytes_encoded");
    if (const auto window = get("bytes_window"), sink = get("bytes_sink");
        encoded && window && sink) {
      equal("bytes_total", *encoded + *window + *sink, "the sum of encoded, window and sink");
    }
    if (const auto dense = get("bytes_dense"); encoded && dense) {
      equal("bytes", *encoded + *dense, "bytes_encoded + bytes_dense");
    }
    if (const auto scalars = get("encoded_scalars"); encoded && scalars && *scalars > 0) {
      equal("encoded_bits", 8 * *encoded / *scalars, "8 x bytes_encoded / encoded_scalars");
    }
    const auto bits = get("effective_bits");
    if (bits && *bits > 0) equal("compression_ratio", 16 / *bits, "16 / effective_bits");
    const auto dense = get("bytes_per_token_fp16"), per_token = get("bytes_per_token");
    if (dense && bits) {
      equal("bytes_per_token", *dense * *bits / 16, "bytes_per_token_fp16 x effective_bits / 16");
    }
    const auto total = get("bytes_total"), tokens = get("tokens");
    if (!total || !tokens || *tokens <= 0 || !per_token) return;
    // The ratio of the means is a mean of the sequences' ratios with their lengths as weights.
    const double low = get("bytes_per_token_min").value_or(*per_token);
    const double high = get("bytes_per_token_max").value_or(*per_token);
    const double ratio = *total / *tokens;
    if ((ratio < low && !agree(ratio, low)) || (ratio > high && !agree(ratio, high))) {
      violated("bytes_per_token", *per_token, "but bytes_total / tokens is " + shown_number(ratio));
    }
    if ((*per_token < low && !agree(*per_token, low)) ||
        (*per_token > high && !agree(*per_token, high))) {
      violated("bytes_per_token", *per_token,
               "outside the sequences' " + shown_number(low) + " to " + shown_number(high));
    }
  }

  // Rows that divide what the object is of: their counts add up to its own, and their losses, with
  // their tokens as weights, give its loss.
  void check_parts() {
    for (const char* name :
         {"depths", "cells", "tasks", "subjects", "lengths", "buckets", "quarters"}) {
      const auto found = object_->find(name);
      if (found == object_->end() || !found->is_array() || found->empty()) continue;
      double correct = 0, total = 0, tokens = 0, loss = 0;
      bool answers = true, losses = std::string_view(name) != "lengths";  // which overlap
      for (const Json& row : *found) {
        const auto c = number_at(row, "correct"), n = number_at(row, "total");
        const auto t = number_at(row, "tokens"), l = number_at(row, "nll");
        answers = answers && c && n;
        losses = losses && t && (l || *t == 0);
        correct += c.value_or(0);
        total += n.value_or(0);
        tokens += t.value_or(0);
        loss += t.value_or(0) * l.value_or(0);
      }
      const std::string rows = "the sum over " + std::string(name);
      if (answers) {
        equal("correct", correct, rows);
        equal("total", total, rows);
      }
      if (losses && tokens > 0) {
        equal("tokens_scored", tokens, rows);
        equal("nll", loss / tokens, "the mean over " + std::string(name));
      }
    }
  }

  std::vector<Violation>& out_;
  const Json* object_ = nullptr;
  std::string path_;
};

// Sums over the lines of samples.jsonl.
struct SampleSums {
  int64_t lines = 0, damaged = 0, first_damaged = 0;
  int64_t losses = 0, references = 0, answers = 0, correct = 0;  // lines that have them
  int64_t reference_answers = 0, correct_reference = 0;
  double loss = 0, reference = 0;          // of the lines' means
  double tokens = 0, weighted_loss = 0;    // with their tokens as weights
  double weighted_reference = 0, ppl = 0;  // ppl: of the lines' perplexities
  double kl_max = 0;
  // Of kSampleMeans: the sum, and the lines (or tokens) that it is of.
  std::array<double, kSampleMeans.size()> sum{}, weight{};
  std::array<int64_t, kSampleMeans.size()> count{};
  // Of multiple choice: the digest of the scores, and lines whose `acc` or `acc_norm` does not
  // follow from theirs.
  std::string scores_sha256;
  int64_t wrong_choices = 0, first_wrong_choice = 0;
};

// parts: get every sample, too.
inline SampleSums sum_samples(std::string_view text, Parts& parts) {
  SampleSums sums;
  Sha256 scores_hash;
  simdjson::dom::parser parser;
  text = without_byte_order_mark(text);
  for (int64_t number = 1; !text.empty(); ++number) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (line.empty()) continue;
    ++sums.lines;
    simdjson::dom::object object;
    if (parser.parse(line.data(), line.size()).get(object) != simdjson::SUCCESS) {
      if (sums.damaged++ == 0) sums.first_damaged = number;
      continue;
    }
    parts.add(object);
    if (const auto scores = numbers_of(object, "loglikelihoods"); !scores.empty()) {
      int64_t row = 0;
      if (object["doc_id"].get(row) == simdjson::SUCCESS)
        scores_hash.update(std::to_string(row) + " " + Json(scores).dump() + "\n");
      if (!choices_follow(object, scores) && sums.wrong_choices++ == 0)
        sums.first_wrong_choice = number;
    }
    double nll = 0, reference = 0, tokens = 1;
    bool value = false;
    const bool has_loss = object["nll"].get(nll) == simdjson::SUCCESS;
    const bool has_reference = object["nll_reference"].get(reference) == simdjson::SUCCESS;
    if (object["targets"].get(tokens) != simdjson::SUCCESS &&
        object["tokens"].get(tokens) != simdjson::SUCCESS) {
      tokens = 1;
    }
    if (has_loss) {
      ++sums.losses;
      sums.loss += nll;
      sums.ppl += std::exp(nll);
      sums.tokens += tokens;
      sums.weighted_loss += tokens * nll;
    }
    if (has_reference) {
      ++sums.references;
      sums.reference += reference;
      sums.weighted_reference += tokens * reference;
    }
    double figure = 0;
    for (size_t i = 0; i < kSampleMeans.size(); ++i) {
      if (object[kSampleMeans[i].key].get(figure) != simdjson::SUCCESS) continue;
      const double weight = kSampleMeans[i].by_tokens ? tokens : 1;
      sums.sum[i] += weight * figure;
      sums.weight[i] += weight;
      ++sums.count[i];
    }
    if (object["kl_max"].get(figure) == simdjson::SUCCESS) {
      sums.kl_max = std::max(sums.kl_max, figure);
    }
    if (object["correct"].get(value) == simdjson::SUCCESS) {
      ++sums.answers;
      sums.correct += value;
    }
    if (object["correct_reference"].get(value) == simdjson::SUCCESS) {
      ++sums.reference_answers;
      sums.correct_reference += value;
    }
  }
  sums.scores_sha256 = scores_hash.hex();
  return sums;
}

// What an evaluation always writes; a figure that could not be computed is null with a reason.
inline std::vector<const char*> needed_figures(const std::string& kind) {
  if (kind == "perplexity") return {"nll", "ppl", "windows", "tokens_scored"};
  if (kind == "cached-decode") return {"nll", "ppl", "samples", "tokens_scored"};
  if (kind == "generation") return {"nll", "ppl_pooled", "mean_ppl", "samples", "tokens_scored"};
  if (kind == "passkey" || kind == "retrieval" || kind == "choices" || kind == "answers")
    return {"correct", "total", "accuracy"};
  return {};
}

// The headline must name a figure of the metrics; one that could not be computed is null.
inline void check_headline(const Record& record, std::vector<Violation>& out) {
  if (!record.headline) return;
  const Json* place = &record.metrics;
  std::string_view rest = record.headline->key;
  while (!rest.empty() && place != nullptr) {
    const std::string key(rest.substr(0, rest.find('.')));
    rest.remove_prefix(std::min(rest.size(), key.size() + 1));
    place = place->is_object() && place->contains(key) ? &(*place)[key] : nullptr;
  }
  if (place != nullptr && (place->is_number() || place->is_null())) return;
  out.push_back({"headline.key", "is `" + record.headline->key + "`, which is no figure"});
}

inline void compare_with_samples(const Record& record, const SampleSums& s,
                                 std::vector<Violation>& out) {
  const Json& m = record.metrics;
  const auto equal = [&](const char* key, double right, const char* how) {
    const auto value = number_at(m, key);
    if (value && !agree(*value, right)) {
      out.push_back({std::string("metrics.") + key,
                     "is " + shown_number(*value) + ", but " + how + " is " + shown_number(right)});
    }
  };
  const bool windows = record.evaluation.kind == "perplexity";
  const bool choices = record.evaluation.kind == "choices";
  const bool answers = choices || record.evaluation.kind == "answers" ||
                       record.evaluation.kind == "passkey" || record.evaluation.kind == "retrieval";
  if (needed_figures(record.evaluation.kind).empty()) return;  // not ours
  const char* count = windows ? "windows" : answers ? "total" : "samples";
  equal(count, double(s.lines), "the number of lines of samples.jsonl");
  if (s.damaged > 0) {
    out.push_back({"samples.jsonl", "has " + std::to_string(s.damaged) +
                                        " damaged lines, the first is line " +
                                        std::to_string(s.first_damaged)});
    return;
  }
  if (choices && m.contains("scores_sha256") && m["scores_sha256"] != s.scores_sha256)
    out.push_back({"metrics.scores_sha256", "is not that of the scores in samples.jsonl"});
  if (s.wrong_choices > 0)
    out.push_back({"samples.jsonl", "says of " + std::to_string(s.wrong_choices) +
                                        " answers what their scores do not, the first is line " +
                                        std::to_string(s.first_wrong_choice)});
  if (s.losses == s.lines && s.lines > 0) {
    const double n = double(s.lines);
    const bool of_means = windows && !averages_tokens(m);
    equal("nll", of_means ? s.loss / n : s.weighted_loss / s.tokens, "that of the samples");
    equal("tokens_scored", s.tokens, "that of the samples");
    if (windows) equal("ppl_tok", std::exp(s.weighted_loss / s.tokens), "that of the samples");
    equal("mean_ppl", s.ppl / n, "that of the samples");
    if (s.references == s.lines) {
      equal("nll_reference", of_means ? s.reference / n : s.weighted_reference / s.tokens,
            "that of the samples");
    }
  }
  for (size_t i = 0; i < kSampleMeans.size(); ++i) {
    const bool all = s.count[i] == s.lines || may_be_missing(kSampleMeans[i].key);
    if (all && s.weight[i] > 0) {
      equal(kSampleMeans[i].key, s.sum[i] / s.weight[i], "the mean of the samples");
    }
    if (i == 0 && all && s.lines > 0) equal("kl_max", s.kl_max, "the largest of the samples");
  }
  if (m.contains("cache") && m["cache"].contains("sequences")) {
    const double sequences = number_at(m["cache"], "sequences").value_or(0);
    if (!agree(sequences, double(s.lines))) {
      out.push_back({"metrics.cache.sequences", "is " + shown_number(sequences) +
                                                    ", but there are " + std::to_string(s.lines) +
                                                    " samples"});
    }
    for (const char* key : {"bytes_per_token", "effective_bits"}) {
      if (const auto right = number_at(m["cache"], key)) equal(key, *right, "that of the cache");
    }
  }
  if (s.answers == s.lines && s.lines > 0) {
    equal("correct", double(s.correct), "the number of right samples");
    if (s.reference_answers == s.lines) {
      equal("accuracy_reference", double(s.correct_reference) / double(s.lines),
            "that of the samples");
    }
  }
}

}  // namespace consistency_detail

// What of a record's own figures cannot be true.
inline std::vector<Violation> figure_violations(const Record& record) {
  std::vector<Violation> out;
  if (record.status == "failed") return out;
  consistency_detail::Figures(out).check(record.metrics, "metrics");
  for (const char* key : {"cache", "weights", "logits", "memory", "time"})
    if (record.metrics.contains(key) && !record.metrics[key].is_object())
      out.push_back({std::string("metrics.") + key, "is no object"});
  consistency_detail::check_headline(record, out);
  if (record.seconds < 0) {
    out.push_back({"seconds", "is " + consistency_detail::shown_number(record.seconds)});
  }
  if (record.samples_sha256.empty()) return out;
  for (const char* key : consistency_detail::needed_figures(record.evaluation.kind)) {
    if (consistency_detail::number_at(record.metrics, key)) continue;
    if (record.metrics.contains(std::string(key) + "_why")) continue;
    out.push_back({std::string("metrics.") + key, "is missing"});
  }
  return out;
}

// What of a record does not agree with samples.jsonl in its folder.
inline std::vector<Violation> sample_violations(const Record& record,
                                                const std::filesystem::path& folder) {
  std::vector<Violation> out;
  if (record.status == "failed") return out;
  const std::filesystem::path file = folder / "samples.jsonl";
  std::error_code error;
  const bool there = std::filesystem::exists(file, error);
  if (!there && !error) {
    if (!record.samples_sha256.empty()) {
      out.push_back({"samples.jsonl", "is missing, but the record has its hash"});
    }
    return out;
  }
  try {
    const MappedFile samples(file);
    if (!record.samples_sha256.empty() && sha256_hex(samples.text()) != record.samples_sha256) {
      out.push_back({"samples.jsonl", "is not the file whose hash stands in the record"});
    }
    consistency_detail::Parts parts(record.metrics);
    const consistency_detail::SampleSums sums =
        consistency_detail::sum_samples(samples.text(), parts);
    consistency_detail::compare_with_samples(record, sums, out);
    if (sums.damaged == 0) parts.compare(out);
  } catch (const Error& problem) {
    out.push_back({"samples.jsonl", "cannot be read: " + problem.message()});
  }
  return out;
}

inline std::vector<Violation> violations(const Record& record,
                                         const std::filesystem::path& folder) {
  std::vector<Violation> out = figure_violations(record);
  for (auto found : {sample_violations(record, folder), token_violations(record, folder)})
    std::move(found.begin(), found.end(), std::back_inserter(out));
  return out;
}

}  // namespace ptq
