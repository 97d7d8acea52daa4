#include "analysis/compare/compare.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "analysis/write/numbers.hpp"
#include "ptq/stats/answers.hpp"
#include "ptq/stats/bootstrap.hpp"
#include "ptq/stats/units.hpp"

namespace ptq::report {
namespace {

constexpr double kNormal95 = 1.959964;  // its two-sided quantile

// Positions in b of the samples of a, or npos. Usually the files are in the same order.
std::vector<size_t> partners(const Samples& a, const Samples& b) {
  constexpr size_t kNone = size_t(-1);
  std::vector<size_t> out(a.size(), kNone);
  if (a.identity == b.identity) {
    for (size_t i = 0; i < out.size(); ++i) out[i] = i;
    return out;
  }
  std::unordered_map<uint32_t, std::vector<size_t>> where;
  for (size_t j = b.size(); j > 0; --j) where[b.identity[j - 1]].push_back(j - 1);
  for (size_t i = 0; i < a.size(); ++i) {
    const auto found = where.find(a.identity[i]);
    if (found == where.end() || found->second.empty()) continue;
    out[i] = found->second.back();  // the first that is left
    found->second.pop_back();
  }
  return out;
}

// Answers to the same questions, one entry each.
struct PairedAnswers {
  std::vector<int8_t> mine, theirs;        // 0, 1 or Samples::kUnknown
  std::vector<uint32_t> stratum, cluster;  // empty without
};

// Sums of the differences of each cluster.
struct Clusters {
  std::vector<int> sums, sizes;
};

// Counts the answers, by stratum and by cluster.
Clusters count_answers(const PairedAnswers& answers, std::map<uint32_t, PairedCounts>& strata,
                       PairedCounts& all) {
  std::map<uint32_t, size_t> places;
  Clusters clusters;
  for (size_t i = 0; i < answers.mine.size(); ++i) {
    const int8_t mine = answers.mine[i], theirs = answers.theirs[i];
    if (mine == Samples::kUnknown || theirs == Samples::kUnknown) continue;
    PairedCounts& counts = strata[answers.stratum.empty() ? 0 : answers.stratum[i]];
    for (PairedCounts* sum : {&counts, &all}) {
      ++sum->n;
      sum->gained += mine > theirs;
      sum->lost += mine < theirs;
    }
    const uint32_t key = answers.cluster.empty() ? uint32_t(i) : answers.cluster[i];
    const size_t place = places.try_emplace(key, clusters.sums.size()).first->second;
    if (place == clusters.sums.size()) {
      clusters.sums.push_back(0);
      clusters.sizes.push_back(0);
    }
    clusters.sums[place] += int(mine) - int(theirs);
    ++clusters.sizes[place];
  }
  return clusters;
}

void compare_answers(const PairedAnswers& answers, Comparison& out) {
  out.answers = true;
  out.margin = stats::kAnswerMargin;
  std::map<uint32_t, PairedCounts> strata;
  const Clusters clusters = count_answers(answers, strata, out.counts);
  out.n = size_t(out.counts.n);
  if (out.n == 0) return;
  const double gained = double(out.counts.gained), lost = double(out.counts.lost);
  const double effect = stats::design_effect(clusters.sums, clusters.sizes, gained, lost);
  const double n = double(out.n) / effect;
  out.clusters = clusters.sums.size();
  out.effective_n = n;
  out.delta = out.counts.delta();
  out.standard_error = out.counts.standard_error() * std::sqrt(effect);
  const auto interval = [&](double z) {
    return stats::tango_interval(n, gained / effect, lost / effect, z);
  };
  out.interval = interval(kNormal95);
  out.p = mcnemar(out.counts.gained, out.counts.lost);
  // Answers of one prompt at several depths are no independent questions.
  const bool alone = out.clusters == out.n;
  out.p_value = alone ? out.p.mid : stats::sign_flip(clusters.sums).mid;
  if (alone && strata.size() > 1) {  // the sizes of the subjects are no accident
    std::vector<PairedCounts> all;
    for (const auto& [key, counts] : strata) all.push_back(counts);
    out.interval = bootstrap_counts(all);
  }
  const auto beyond = [&](double margin) {  // one-sided p of a difference of `margin`
    const double score = stats::tango_score(n, gained / effect, lost / effect, margin);
    return stats::t_upper(margin > 0 ? -score : score, std::numeric_limits<double>::infinity());
  };
  out.p_equivalence = std::max(beyond(out.margin), beyond(-out.margin));
  const double error = (out.interval.high - out.interval.low) / 2 / kNormal95;
  out.mde = (kNormal95 + 0.8416) * error;  // the normal quantiles of 97.5 % and 80 %
  out.needed = stats::samples_needed(double(out.n), out.delta, error, out.margin);
}

// differences: not finite where a side is void; runs: of all of them.
void compare_losses(std::vector<float> differences, std::vector<stats::Run> runs, Comparison& out) {
  out.margin = stats::kLossMargin;
  size_t at = 0, kept = 0;
  for (stats::Run& run : runs) {
    const size_t before = kept;
    for (size_t i = 0; i < run.length; ++i, ++at) {
      if (std::isfinite(differences[at])) differences[kept++] = differences[at];
    }
    run.length = kept - before;
  }
  std::erase_if(runs, [](const stats::Run& run) { return run.length == 0; });
  differences.resize(kept);
  out.n = kept;
  if (kept == 0) return;
  const stats::Units units = stats::cut(differences, runs);
  const stats::MeanEstimate mean = stats::estimate_mean(differences, units);
  out.block = units.block;
  out.clusters = units.clusters;
  out.delta = mean.value;
  out.standard_error = mean.standard_error;
  out.interval = mean.interval(0.95);
  out.p_value = mean.p(0);
  out.p_equivalence = mean.p_equivalence(out.margin);
  out.mde = mean.detectable();
  double squares = 0;
  for (const float d : differences) squares += std::pow(double(d) - mean.value, 2);
  const double error2 = mean.standard_error * mean.standard_error;
  out.effective_n = error2 > 0 ? std::min(double(kept), squares / double(kept) / error2)
                               : double(std::min(kept, units.count()));
  out.needed = stats::samples_needed(double(kept), out.delta, mean.standard_error, out.margin);
}

bool identical(const Comparison& c) {
  return !c.answers && c.n > 0 && c.delta == 0 && c.standard_error == 0;
}

}  // namespace

std::string verdict_text(const Comparison& c) {
  const std::string margin = c.answers ? fmt::format("{:.3g} points", 100 * c.margin)
                                       : fmt::format("{:.2g} %", 100 * (std::exp(c.margin) - 1));
  switch (c.verdict) {
    case Verdict::none: return "-";
    case Verdict::identical: return "identical";
    case Verdict::better:
    case Verdict::worse: {
      const std::string word = c.verdict == Verdict::better ? "better" : "worse";
      return c.within_margin ? word + ", by less than " + margin : word;
    }
    case Verdict::equivalent: return "equivalent within " + margin;
    case Verdict::too_few: break;
  }
  std::string text = "too few samples to tell";
  if (c.answers && c.counts.gained + c.counts.lost == 0) text = "identical answers, but too few";
  if (!(c.needed > double(c.n))) return text;
  // Two digits: it is a forecast.
  const double digits = std::pow(10, std::floor(std::log10(c.needed)) - 1);
  return text + fmt::format(" (about {} {} would do)",
                            thousands_text(std::ceil(c.needed / digits) * digits),
                            c.answers     ? "answers"
                            : c.by_tokens ? "tokens"
                                          : "samples");
}

Comparison compare(const Samples& a, const Samples& b, bool answers) {
  Comparison out;
  out.answers = answers;
  const std::vector<size_t> at = partners(a, b);
  PairedAnswers paired_answers;
  std::vector<float> differences;
  std::vector<stats::Run> runs;
  size_t paired = 0;
  for (size_t i = 0; i < at.size(); ++i) {
    if (at[i] == size_t(-1)) continue;
    ++paired;
    if (answers && !a.correct.empty() && !b.correct.empty()) {
      paired_answers.mine.push_back(a.correct[i]);
      paired_answers.theirs.push_back(b.correct[at[i]]);
      paired_answers.cluster.push_back(a.cluster[i]);
      if (!a.stratum.empty()) paired_answers.stratum.push_back(a.stratum[i]);
    } else if (!answers && !a.nll.empty() && !b.nll.empty()) {
      differences.push_back(a.nll[i] - b.nll[at[i]]);
      runs.push_back({uint32_t(i), 1});
    }
  }
  out.unpaired = a.size() + b.size() - 2 * paired;
  answers ? compare_answers(paired_answers, out)
          : compare_losses(std::move(differences), std::move(runs), out);
  return out;
}

Comparison compare_in_lock_step(const Samples& samples, bool answers) {
  Comparison out;
  out.answers = answers;
  if (answers && !samples.correct.empty() && !samples.correct_reference.empty()) {
    compare_answers({samples.correct, samples.correct_reference, samples.stratum, samples.cluster},
                    out);
  } else if (!answers && !samples.nll.empty() && !samples.nll_reference.empty()) {
    std::vector<float> differences;
    std::vector<stats::Run> runs;
    for (size_t i = 0; i < samples.nll.size(); ++i) {
      differences.push_back(samples.nll[i] - samples.nll_reference[i]);
      runs.push_back({uint32_t(i), 1});
    }
    compare_losses(std::move(differences), std::move(runs), out);
  }
  out.in_lock_step = true;
  return out;
}

Comparison compare_tokens(const TokenLosses& a, const TokenLosses& b) {
  Comparison out;
  out.by_tokens = true;
  // Where the runs of b begin. Usually both have the same ones; a cell that was decided early has
  // only the first of them.
  std::map<std::tuple<uint32_t, uint32_t, uint32_t>, size_t> begins;
  size_t at = 0;
  for (const TokenRun& run : b.runs) {
    begins.emplace(std::tuple(run.cluster, run.position, run.count), at);
    at += run.count;
  }
  std::vector<float> differences;
  std::vector<stats::Run> runs;
  differences.reserve(a.nll.size());
  at = 0;
  for (const TokenRun& run : a.runs) {
    const auto found = begins.find({run.cluster, run.position, run.count});
    if (found != begins.end()) {
      runs.push_back({run.cluster, run.count});
      for (size_t i = 0; i < run.count; ++i) {
        differences.push_back(a.nll[at + i] - b.nll[found->second + i]);
      }
      begins.erase(found);
    }
    at += run.count;
  }
  out.unpaired = a.nll.size() + b.nll.size() - 2 * differences.size();
  compare_losses(std::move(differences), std::move(runs), out);
  return out;
}

Comparison compare_tokens_in_lock_step(const TokenLosses& losses) {
  Comparison out;
  out.by_tokens = out.in_lock_step = true;
  std::vector<float> differences(losses.nll.size());
  for (size_t i = 0; i < differences.size(); ++i) {
    differences[i] = losses.nll[i] - losses.nll_reference[i];
  }
  std::vector<stats::Run> runs;
  for (const TokenRun& run : losses.runs) runs.push_back({run.cluster, run.count});
  compare_losses(std::move(differences), std::move(runs), out);
  return out;
}

Comparison reversed(Comparison c) {
  c.delta = -c.delta;
  c.interval = {-c.interval.high, -c.interval.low};
  std::swap(c.counts.gained, c.counts.lost);
  if (c.verdict == Verdict::better || c.verdict == Verdict::worse) {
    c.verdict = c.verdict == Verdict::better ? Verdict::worse : Verdict::better;
  }
  return c;
}

void judge(const std::vector<Comparison*>& family) {
  std::vector<double> differ, alike;
  for (const Comparison* c : family) {
    differ.push_back(c->p_value);
    alike.push_back(c->p_equivalence);
  }
  differ = holm(differ);
  alike = holm(alike);
  for (size_t i = 0; i < family.size(); ++i) {
    Comparison& c = *family[i];
    c.p_holm = differ[i];
    c.p_equivalence = alike[i];
    c.verdict = c.n == 0 ? Verdict::none
                : identical(c)
                    ? Verdict::identical
                    : stats::verdict_of(c.answers ? -c.delta : c.delta, c.p_holm, c.p_equivalence);
    const bool shown = c.verdict == Verdict::better || c.verdict == Verdict::worse;
    c.within_margin = shown && c.p_equivalence < stats::kAlpha;
    if (c.verdict != Verdict::too_few) c.needed = 0;
  }
}

}  // namespace ptq::report
