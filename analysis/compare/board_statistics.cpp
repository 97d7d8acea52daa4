// The statistics of a board, an evaluation at a time.
#include <algorithm>

#include "analysis/compare/compare.hpp"
#include "ptq/core/threads.hpp"

namespace ptq::report {
namespace {

// Pairs are all compared while they have together no more tokens than this: about a second.
constexpr size_t kMostPairedTokens = 100'000'000;

// What comparisons need of one cell; the rest of its tokens is not kept.
struct Read {
  Samples samples;
  TokenLosses losses;
  std::optional<Fidelity> fidelity;
  std::string problem;
};

Read read_cell_samples(const Cell& cell) {
  Read out;
  if (cell.folder.empty()) return out;
  const TokenFile tokens = read_tokens(cell.folder, out.problem);
  out.losses = losses_of(tokens);
  out.fidelity = fidelity_of(tokens, cell.number({"noise_floor", "kl_mean"}));
  // Lines are small where tokens are beside them, and answers have no tokens.
  out.samples = read_samples(cell.folder / "samples.jsonl");
  if (out.problem.empty()) out.problem = out.samples.problem;
  return out;
}

// Cells of one evaluation with a figure, the best first.
std::vector<const Cell*> ordered(const Board& board, const Evaluation& evaluation) {
  std::vector<const Cell*> cells;
  for (const Row& row : board.rows) {
    const Cell* cell = row.cell(evaluation.name);
    if (figure_of(cell)) cells.push_back(cell);
  }
  std::stable_sort(cells.begin(), cells.end(), [&](const Cell* a, const Cell* b) {
    const double first = *comparable_figure(board, a), second = *comparable_figure(board, b);
    return evaluation.headline.higher ? first > second : first < second;
  });
  return cells;
}

// Two cells that read other data under one name of an evaluation have no samples in common.
bool same_data(const Cell& a, const Cell& b) {
  const auto hash = [](const Cell& cell) {
    const auto found = cell.settings.find("data_sha256");
    return found != cell.settings.end() ? *found : Json();
  };
  return !a.settings.is_object() || !b.settings.is_object() || hash(a) == hash(b);
}

// The cells of one evaluation against each other.
class Evaluated {
 public:
  Evaluated(const Board& board, const Evaluation& evaluation, ThreadPool& pool)
      : board_(board), pool_(pool), cells_(ordered(board, evaluation)), read_(cells_.size()) {
    pool_.for_each(int64_t(cells_.size()),
                   [&](int64_t i) { read_[size_t(i)] = read_cell_samples(*cells_[size_t(i)]); });
    const Cell* baseline = board.baseline() ? board.baseline()->cell(evaluation.name) : nullptr;
    base_ = size_t(std::find(cells_.begin(), cells_.end(), baseline) - cells_.begin());
  }

  void add(const std::string& evaluation, BoardStatistics& out) {
    for (size_t i = 0; i < cells_.size(); ++i) {
      if (read_[i].fidelity) out.fidelity[cells_[i]] = std::move(*read_[i].fidelity);
      if (read_[i].problem.empty()) continue;
      out.problems.push_back(cells_[i]->model + " " + cells_[i]->method + " " + evaluation + ": " +
                             read_[i].problem);
    }
    add_pairs(out);
    add_comparisons(out);
    add_ranks(out);
    out.order[evaluation] = cells_;
  }

 private:
  Comparison compare_cells(size_t a, size_t b) const {
    if (!same_data(*cells_[a], *cells_[b])) return {};
    if (!cells_[a]->headline.share) {
      Comparison c = compare_tokens(read_[a].losses, read_[b].losses);
      if (c.n > 0) return c;
    }
    return compare(read_[a].samples, read_[b].samples, cells_[a]->headline.share);
  }
  Comparison in_lock_step(size_t a) const {
    if (!cells_[a]->headline.share) {
      Comparison c = compare_tokens_in_lock_step(read_[a].losses);
      if (c.n > 0) return c;
    }
    return compare_in_lock_step(read_[a].samples, cells_[a]->headline.share);
  }

  void add_pairs(BoardStatistics& out) {
    std::vector<std::pair<size_t, size_t>> pairs;
    size_t tokens = 0;
    for (size_t i = 0; i < cells_.size(); ++i) {
      for (size_t j = 0; j < i; ++j) {
        pairs.push_back({i, j});
        tokens += std::max(read_[i].losses.nll.size(), read_[i].samples.size());
      }
    }
    if (tokens > kMostPairedTokens) return;
    std::vector<Comparison> compared(pairs.size());
    pool_.for_each(int64_t(pairs.size()), [&](int64_t p) {
      compared[size_t(p)] = compare_cells(pairs[size_t(p)].first, pairs[size_t(p)].second);
    });
    for (size_t p = 0; p < pairs.size(); ++p) {
      const auto [i, j] = pairs[p];
      out.pairs[{cells_[j], cells_[i]}] = reversed(compared[p]);
      out.pairs[{cells_[i], cells_[j]}] = std::move(compared[p]);
    }
    // Whichever cell a reader takes as the reference, the others against it are one family.
    for (const Cell* reference : cells_) {
      std::vector<Comparison*> family;
      for (const Cell* cell : cells_) {
        const auto found = out.pairs.find({cell, reference});
        if (found != out.pairs.end() && found->second.n > 0) family.push_back(&found->second);
      }
      judge(family);
    }
  }

  void add_comparisons(BoardStatistics& out) {
    // In lock step with a method ran full precision, which is not what a lossy baseline is.
    const bool against_full =
        !board_.baseline() ? board_.baseline_name.empty() : board_.baseline()->lossless;
    std::vector<Comparison> compared(cells_.size());
    pool_.for_each(int64_t(cells_.size()), [&](int64_t at) {
      const size_t i = size_t(at);
      if (i == base_ || (cells_[i]->lossless && against_full)) return;
      if (base_ < cells_.size()) compared[i] = compare_cells(i, base_);
      if (compared[i].n == 0 && against_full) compared[i] = in_lock_step(i);
      compared[i].problem = read_[i].problem;
    });
    std::vector<Comparison*> family;
    for (size_t i = 0; i < cells_.size(); ++i) {
      if (i == base_ || (cells_[i]->lossless && against_full)) continue;
      if (compared[i].n == 0 && compared[i].problem.empty()) continue;
      Comparison& kept = out.comparisons[cells_[i]] = std::move(compared[i]);
      if (kept.n > 0) family.push_back(&kept);
    }
    judge(family);
  }

  // A row shares the rank of the best of a group unless the interval of their difference excludes
  // 0. Neighbours are not chained: small steps would lead from the best to the worst.
  void add_ranks(BoardStatistics& out) const {
    const std::vector<int> ranks = shared_ranks(cells_.size(), [&](size_t better, size_t worse) {
      if (*cells_[better]->figure() == *cells_[worse]->figure()) return true;
      const Comparison* known = out.pair(cells_[worse], cells_[better]);
      const Comparison c = known ? *known : compare_cells(worse, better);
      return c.n > 0 && (!c.interval.known() || c.interval.contains(0));
    });
    for (size_t i = 0; i < cells_.size(); ++i) out.ranks[cells_[i]] = ranks[i];
  }

  const Board& board_;
  ThreadPool& pool_;
  std::vector<const Cell*> cells_;
  std::vector<Read> read_;
  size_t base_ = 0;  // of the baseline; cells_.size(): it has no result
};

}  // namespace

BoardStatistics statistics_of(const Board& board) {
  BoardStatistics out;
  ThreadPool pool;
  for (const Evaluation& evaluation : board.evaluations) {
    Evaluated(board, evaluation, pool).add(evaluation.name, out);
  }
  return out;
}

}  // namespace ptq::report
