#include "analysis/compare/compare.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>
#include <unordered_map>

namespace ptq::report {
namespace {

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

void compare_answers(const std::vector<int8_t>& mine, const std::vector<int8_t>& theirs,
                     const std::vector<uint32_t>& stratum, Comparison& out) {
  std::map<uint32_t, PairedCounts> strata;
  for (size_t i = 0; i < mine.size(); ++i) {
    if (mine[i] == Samples::kUnknown || theirs[i] == Samples::kUnknown) continue;
    PairedCounts& counts = strata[stratum.empty() ? 0 : stratum[i]];
    ++counts.n;
    counts.gained += mine[i] > theirs[i];
    counts.lost += mine[i] < theirs[i];
  }
  std::vector<PairedCounts> all;
  for (const auto& [key, counts] : strata) {
    all.push_back(counts);
    out.counts.n += counts.n;
    out.counts.gained += counts.gained;
    out.counts.lost += counts.lost;
  }
  out.answers = true;
  out.n = size_t(out.counts.n);
  out.delta = out.counts.delta();
  out.standard_error = out.counts.standard_error();
  out.interval = bootstrap_counts(all);
  out.p = mcnemar(out.counts.gained, out.counts.lost);
  out.p_value = out.p.mid;
}

void compare_losses(const std::vector<double>& differences, Comparison& out) {
  out.n = differences.size();
  if (out.n == 0) return;
  out.delta = mean_of(differences);
  out.standard_error = standard_error_of(differences);
  out.interval = bootstrap_of(out.n).mean(differences);
  out.p_value = paired_t(differences);
}

// Reads the samples of all cells, on all processors.
std::vector<Samples> read_all(const std::vector<const Cell*>& cells) {
  std::vector<Samples> samples(cells.size());
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < cells.size(); i = next++) {
      if (!cells[i]->folder.empty()) samples[i] = read_samples(cells[i]->folder / "samples.jsonl");
    }
  };
  const size_t threads =
      std::min<size_t>(cells.size(), std::max(1u, std::thread::hardware_concurrency()));
  std::vector<std::thread> pool;
  for (size_t t = 1; t < threads; ++t) pool.emplace_back(work);
  work();
  for (std::thread& thread : pool) thread.join();
  return samples;
}

// Cells of one evaluation with a figure, the best first.
std::vector<const Cell*> ordered(const Board& board, const Evaluation& evaluation) {
  std::vector<const Cell*> cells;
  for (const Row& row : board.rows) {
    const Cell* cell = row.cell(evaluation.name);
    if (figure_of(cell)) cells.push_back(cell);
  }
  std::stable_sort(cells.begin(), cells.end(), [&](const Cell* a, const Cell* b) {
    return evaluation.headline.higher ? *a->figure() > *b->figure() : *a->figure() < *b->figure();
  });
  return cells;
}

}  // namespace

std::string verdict_text(const Comparison& c) {
  if (c.n == 0) return "-";
  if (c.answers && c.counts.gained + c.counts.lost == 0) return "identical answers";
  if (!c.interval.known()) return "too few samples";
  if (c.interval.contains(0) || c.p_holm >= 0.05) return "no difference shown";
  return (c.delta > 0) == c.answers ? "better" : "worse";
}

Comparison compare(const Samples& a, const Samples& b, bool answers) {
  Comparison out;
  out.answers = answers;
  const std::vector<size_t> at = partners(a, b);
  std::vector<int8_t> mine, theirs;
  std::vector<uint32_t> stratum;
  std::vector<double> differences;
  size_t paired = 0;
  for (size_t i = 0; i < at.size(); ++i) {
    if (at[i] == size_t(-1)) continue;
    ++paired;
    if (answers && !a.correct.empty() && !b.correct.empty()) {
      mine.push_back(a.correct[i]);
      theirs.push_back(b.correct[at[i]]);
      if (!a.stratum.empty()) stratum.push_back(a.stratum[i]);
    } else if (!answers && !a.nll.empty() && !b.nll.empty()) {
      const double difference = double(a.nll[i]) - double(b.nll[at[i]]);
      if (std::isfinite(difference)) differences.push_back(difference);
    }
  }
  out.unpaired = a.size() + b.size() - 2 * paired;
  answers ? compare_answers(mine, theirs, stratum, out) : compare_losses(differences, out);
  return out;
}

Comparison compare_in_lock_step(const Samples& samples, bool answers) {
  Comparison out;
  out.answers = answers;
  if (answers && !samples.correct.empty() && !samples.correct_reference.empty()) {
    compare_answers(samples.correct, samples.correct_reference, samples.stratum, out);
  } else if (!answers && !samples.nll.empty() && !samples.nll_reference.empty()) {
    std::vector<double> differences;
    for (size_t i = 0; i < samples.nll.size(); ++i) {
      const double difference = double(samples.nll[i]) - double(samples.nll_reference[i]);
      if (std::isfinite(difference)) differences.push_back(difference);
    }
    compare_losses(differences, out);
  }
  out.in_lock_step = true;
  return out;
}

BoardStatistics statistics_of(const Board& board) {
  BoardStatistics statistics;
  std::vector<Comparison*> tested;
  for (const Evaluation& evaluation : board.evaluations) {
    const std::vector<const Cell*> cells = ordered(board, evaluation);
    std::vector<Samples> samples = read_all(cells);
    for (size_t i = 0; i < cells.size(); ++i) {
      if (samples[i].problem.empty()) continue;
      statistics.problems.push_back(cells[i]->model + " " + cells[i]->method + " " +
                                    evaluation.name + ": " + samples[i].problem);
    }
    const Cell* baseline = board.baseline() ? board.baseline()->cell(evaluation.name) : nullptr;
    const auto base = std::find(cells.begin(), cells.end(), baseline);
    for (size_t i = 0; i < cells.size(); ++i) {
      // In lock step with a method ran full precision, which is not what a lossy baseline is.
      const bool against_full =
          !board.baseline() ? board.baseline_name.empty() : board.baseline()->lossless;
      if (cells[i] == baseline || (cells[i]->lossless && against_full)) continue;
      const bool answers = cells[i]->headline.share;
      Comparison comparison;
      if (base != cells.end()) {
        comparison = compare(samples[i], samples[size_t(base - cells.begin())], answers);
      }
      if (comparison.n == 0 && against_full) comparison = compare_in_lock_step(samples[i], answers);
      comparison.problem = samples[i].problem;
      if (comparison.n == 0 && comparison.problem.empty()) continue;
      Comparison& kept = statistics.comparisons[cells[i]] = comparison;
      if (kept.n > 0) tested.push_back(&kept);
    }
    // A row shares the rank of the best of a group unless the interval of their difference excludes
    // 0. Neighbours are not chained: small steps would lead from the best to the worst.
    const std::vector<int> ranks = shared_ranks(cells.size(), [&](size_t better, size_t worse) {
      if (*cells[better]->figure() == *cells[worse]->figure()) return true;
      const Comparison c = compare(samples[worse], samples[better], cells[worse]->headline.share);
      return c.n > 0 && c.interval.known() && c.interval.contains(0);
    });
    for (size_t i = 0; i < cells.size(); ++i) statistics.ranks[cells[i]] = ranks[i];
    statistics.order[evaluation.name] = cells;
  }
  std::vector<double> p;
  for (const Comparison* comparison : tested) p.push_back(comparison->p_value);
  const std::vector<double> corrected = holm(p);
  for (size_t i = 0; i < tested.size(); ++i) tested[i]->p_holm = corrected[i];
  return statistics;
}

}  // namespace ptq::report
