// Deciding early: after each window, text or prompt, is the method already shown to be better,
// worse, or as good as full precision within a margin? The interval behind it holds at every look
// at once (stats/confidence_sequence.hpp), so that looking often makes no more errors.
//
//   nll, kl   differences of the losses, or divergences, of tokens; windows or texts are the units,
//             because those to come may differ from those so far. The interval is asymptotic: from
//             five of them on, right as far as their standard error is
//   answers   differences of right answers, a prompt at all its depths being one: betting, which
//             holds for every number of prompts
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ptq/core/own_json.hpp"
#include "ptq/eval/settings.hpp"
#include "ptq/eval/statistics.hpp"
#include "ptq/eval/subject.hpp"
#include "ptq/stats/bootstrap.hpp"
#include "ptq/stats/confidence_sequence.hpp"
#include "ptq/stats/verdict.hpp"

namespace ptq::eval {

class Decider {
 public:
  // planned: samples without a decision. together: samples that count as one (the depths of a
  // prompt). Without a reference there is nothing to be decided against.
  Decider(const DecideSettings& settings, bool with_reference, size_t planned, size_t together = 1)
      : settings_(settings),
        on_(settings.on() && with_reference),
        planned_(planned),
        together_(together),
        bets_(settings.on() ? settings.alpha : 0.05) {}

  // Takes what the outcome has more than at the last call: whole samples and their tokens.
  bool decided(const Outcome& outcome) {
    if (!on_) return false;
    used_ = outcome.samples.size();
    settings_.metric == "answers" ? take_answers(outcome.samples) : take_tokens(outcome.tokens);
    verdict_ = verdict();
    return verdict_ != stats::Verdict::none && used_ < planned_;
  }

  // `decided`: what was found out, with how much of what was planned.
  void write(Json& metrics) const {
    if (!on_) return;
    const bool undecided = verdict_ == stats::Verdict::none;
    Json json = {{"metric", settings_.metric},
                 {"alpha", settings_.alpha},
                 {"margin", settings_.margin},
                 {"verdict", undecided ? "undecided" : stats::verdict_key(verdict_)},
                 {"used", used_},
                 {"of", planned_},
                 {"guarantee", settings_.metric == "answers" ? "exact" : "asymptotic"}};
    const char* why = "too few samples for an interval";
    put_number(json, "low", interval_.low, why);
    put_number(json, "high", interval_.high, why);
    metrics["decided"] = std::move(json);
  }

 private:
  void take_answers(const std::vector<Json>& samples) {
    for (; taken_ + together_ <= samples.size(); taken_ += together_) {
      double difference = 0;
      for (size_t i = taken_; i < taken_ + together_; ++i) {
        difference += double(samples[i].at("correct").get<bool>()) -
                      double(samples[i].at("correct_reference").get<bool>());
      }
      bets_.add(difference / double(together_));
    }
    interval_ = bets_.interval();
  }

  void take_tokens(const TokenFile& file) {
    for (; runs_taken_ < file.runs.size(); ++runs_taken_) {
      double sum = 0, size = 0;
      for (uint32_t i = 0; i < file.runs[runs_taken_].count; ++i, ++taken_) {
        const TokenScore& token = file.tokens[taken_];
        const float value = settings_.metric == "kl" ? token.kl : token.nll - token.nll_reference;
        if (!token.finite() || !std::isfinite(value)) continue;
        sum += double(value);
        size += 1;
      }
      sums_.push_back(sum);
      sizes_.push_back(size);
    }
    const stats::MeanEstimate mean = stats::estimate_ratio(sums_, sizes_);
    interval_ = {};
    if (!mean.known() || !(mean.standard_error > 0)) return;
    // Sharpest at a quarter of the plan: a decision that needs all of it saves nothing.
    const double progress = 4 * double(used_) / double(planned_);
    const double reach = stats::anytime_quantile(progress, settings_.alpha) *
                         stats::t_quantile(0.975, mean.df) / 1.959964 * mean.standard_error;
    // Skewed scores: as far as the fixed-size interval is stretched, and not less than without.
    interval_ = {mean.value - reach * std::max(1.0, mean.below),
                 mean.value + reach * std::max(1.0, mean.above)};
  }

  stats::Verdict verdict() const {
    using stats::Verdict;
    if (!interval_.known()) return Verdict::none;
    const double margin = settings_.margin;
    if (settings_.metric == "kl") {  // never below 0
      if (interval_.low > margin) return Verdict::worse;
      return interval_.high < margin ? Verdict::equivalent : Verdict::none;
    }
    const bool answers = settings_.metric == "answers";
    if (interval_.low > 0) return answers ? Verdict::better : Verdict::worse;
    if (interval_.high < 0) return answers ? Verdict::worse : Verdict::better;
    const bool within = interval_.low > -margin && interval_.high < margin;
    return within ? Verdict::equivalent : Verdict::none;
  }

  DecideSettings settings_;
  bool on_;
  size_t planned_, together_, used_ = 0;
  size_t taken_ = 0, runs_taken_ = 0;  // of the outcome: tokens or samples, runs
  stats::BettingSequence bets_;
  std::vector<double> sums_, sizes_;  // of the windows or texts
  Interval interval_;
  stats::Verdict verdict_ = stats::Verdict::none;
};

// A sentence for the record of an evaluation that ended before its samples did; else empty.
inline std::string decided_note(const Json& metrics) {
  const auto found = metrics.find("decided");
  if (found == metrics.end()) return {};
  const auto used = found->at("used").get<int64_t>(), of = found->at("of").get<int64_t>();
  if (used >= of) return {};
  return "decided early: " + found->at("verdict").get<std::string>() + " after " +
         std::to_string(used) + " of " + std::to_string(of) +
         " samples; its figures are of these alone, and comparisons with other methods of the "
         "samples that both have";
}

}  // namespace ptq::eval
