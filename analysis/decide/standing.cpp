#include "analysis/decide/standing.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "analysis/board/columns.hpp"

namespace ptq::report {
namespace {

// Whether the cell says nothing about its method: a cache that no token read.
bool is_void(const Cell& cell) { return cell.changes_cache() && !reads_cache(cell); }

// What a cell is held against; nullptr without one.
const Cell* baseline_of(const Board& board, const Cell& cell) {
  return board.baseline() ? board.baseline()->cell(cell.evaluation) : nullptr;
}

// Without samples the figures themselves, which have no interval.
std::optional<Estimate> change_of_figure(const Board& board, const Cell& cell) {
  const auto own = cell.figure(), base = figure_of(baseline_of(board, cell));
  if (!own || !base) return {};
  if (cell.headline.share) return Estimate{*base - *own, {}};
  if (cell.headline.higher || !(*own > 0) || !(*base > 0) || std::isinf(*own)) return {};
  return Estimate{std::log(*own / *base), {}};
}

std::optional<Estimate> damage_of(const Board& board, const BoardStatistics& statistics,
                                  const Cell& cell, Damage damage) {
  const Cell* baseline = baseline_of(board, cell);
  // Nothing is concluded from a record that contradicts itself.
  const bool sound = !cell.contradicted && !(baseline && baseline->contradicted);
  if (!cell.ok() || is_void(cell) || !sound) return {};
  if (damage == Damage::divergence) {
    if (const Fidelity* fidelity = statistics.fidelity_of(&cell)) return fidelity->kl;
    const auto mean = cell.number({"kl_mean"});
    return mean ? std::optional(Estimate{*mean, {}}) : std::nullopt;
  }
  const Comparison* c = statistics.of(&cell);
  if (!c || c->n == 0) return change_of_figure(board, cell);
  if (damage == Damage::loss) return Estimate{c->delta, c->interval};
  return Estimate{-c->delta, {-c->interval.high, -c->interval.low}};
}

// Bytes of the cache of one sequence.
std::optional<double> sequence_bytes(const Cell& cell) {
  const auto per_token = cell.number({"cache", "bytes_per_token"}),
             tokens = cell.number({"cache", "tokens"});
  return per_token && tokens ? std::optional(*per_token * *tokens) : std::nullopt;
}

// What the cells of an evaluation differ in.
Bytes bytes_kind(const Board& board, const Evaluation& evaluation) {
  std::set<double> weights, cache;
  for (const Row& row : board.rows) {
    const Cell* cell = row.cell(evaluation.name);
    if (!cell || !cell->ok()) continue;
    if (const auto bytes = cell->number({"weights", "bytes"})) weights.insert(*bytes);
    if (const auto bytes = cache_bytes(*cell)) cache.insert(*bytes);
  }
  if (weights.size() < 2) return Bytes::cache;
  return cache.size() < 2 ? Bytes::weights : Bytes::total;
}

// The first evaluation that shows damage of this kind for a method, and for as many as any other.
const Evaluation* evaluation_for(const Board& board, const BoardStatistics& statistics,
                                 Damage damage) {
  const Evaluation* best = nullptr;
  std::ptrdiff_t most = 0;
  for (const Evaluation& evaluation : board.evaluations) {
    if (evaluation.headline.share != (damage == Damage::answers) || !evaluation.asked) continue;
    const auto shown = std::count_if(board.rows.begin(), board.rows.end(), [&](const Row& row) {
      const Cell* cell = row.cell(evaluation.name);
      return &row != board.baseline() && cell && damage_of(board, statistics, *cell, damage);
    });
    if (shown <= most) continue;
    best = &evaluation;
    most = shown;
  }
  return best;
}

// The front among those that have both figures: least bytes first, each less damaged than all
// before it.
void mark_front(std::vector<Standing>& methods) {
  std::vector<Standing*> known;
  for (Standing& s : methods)
    if (s.bytes && s.damage && s.row->asked) known.push_back(&s);
  std::stable_sort(known.begin(), known.end(),
                   [](const Standing* a, const Standing* b) { return *a->bytes < *b->bytes; });
  double least = HUGE_VAL;
  for (size_t i = 0; i < known.size(); ++i) {
    const bool beaten = std::any_of(known.begin(), known.end(), [&](const Standing* other) {
      return *other->bytes == *known[i]->bytes && other->damage->value < known[i]->damage->value;
    });
    if (beaten || !(known[i]->damage->value < least)) continue;
    known[i]->front = true;
    least = known[i]->damage->value;
  }
}

Standings standings_of(const Board& board, const BoardStatistics& statistics) {
  Standings out;
  out.board = &board;
  out.statistics = &statistics;
  for (const Damage damage : {Damage::divergence, Damage::loss, Damage::answers}) {
    out.damage = damage;
    out.evaluation = evaluation_for(board, statistics, damage);
    if (out.evaluation) break;
  }
  if (out.evaluation) out.bytes = bytes_kind(board, *out.evaluation);
  if (out.evaluation && out.damage == Damage::divergence)
    out.floor = noise_floor(board, out.evaluation->name);
  for (const Row& row : board.rows) {
    const Cell* cell = out.evaluation ? row.cell(out.evaluation->name) : nullptr;
    if (cell && row.lossless && cell->ok()) out.full_bytes = bytes_of(*cell, out.bytes);
    if (&row == board.baseline()) continue;
    Standing s{&row, cell, {}, {}, false, false, 0};
    if (cell && cell->ok()) {
      s.bytes = bytes_of(*cell, out.bytes);
      s.damage = damage_of(board, statistics, *cell, out.damage);
      s.below_floor = s.damage && below(*s.damage, out.floor);
    }
    out.methods.push_back(s);
  }
  std::stable_sort(out.methods.begin(), out.methods.end(), [](const auto& a, const auto& b) {
    return a.damage && (!b.damage || a.damage->value < b.damage->value);
  });
  mark_front(out.methods);
  const auto measured = std::find_if(out.methods.begin(), out.methods.end(),
                                     [](const Standing& s) { return !s.damage; });
  const auto ranks = shared_ranks(size_t(measured - out.methods.begin()), [&](size_t a, size_t b) {
    return !separable(out, out.methods[a], out.methods[b]);
  });
  for (size_t i = 0; i < ranks.size(); ++i) out.methods[i].rank = ranks[i];
  return out;
}

// The geometric mean over the models that have it (its logarithm), so that one model on which
// everything suffers more does not decide alone.
double mean_damage(const Decision& decision, const std::string& method) {
  double sum = 0, count = 0;
  for (const Standings& standings : decision.models) {
    const Standing* s = standings.of(method);
    if (!s || !s->damage) continue;
    sum += std::log(std::max(s->damage->value, 1e-12));
    ++count;
  }
  return count > 0 ? sum / count : HUGE_VAL;
}

}  // namespace

const Standing* Standings::of(std::string_view method) const {
  const auto found = std::find_if(methods.begin(), methods.end(),
                                  [&](const Standing& s) { return s.row->method == method; });
  return found == methods.end() ? nullptr : &*found;
}

const Cell* Standings::baseline() const {
  return board->baseline() && evaluation ? board->baseline()->cell(evaluation->name) : nullptr;
}

bool separable(const Standings& standings, const Standing& a, const Standing& b) {
  if (!a.damage || !b.damage) return true;
  const Interval &x = a.damage->interval, &y = b.damage->interval;
  if (x.known() && y.known() && (x.high < y.low || y.high < x.low)) return true;
  if (const Comparison* c = standings.statistics->pair(a.cell, b.cell))
    return c->verdict == Verdict::better || c->verdict == Verdict::worse;
  return standings.statistics->rank(a.cell) != standings.statistics->rank(b.cell);
}

std::vector<Decision> decisions_of(const std::vector<Board>& boards,
                                   const std::vector<BoardStatistics>& statistics) {
  std::vector<Decision> out;
  for (size_t b = 0; b < boards.size(); ++b) {
    auto found = std::find_if(out.begin(), out.end(), [&](const Decision& decision) {
      return decision.experiment == boards[b].experiment;
    });
    if (found == out.end()) found = out.insert(out.end(), {boards[b].experiment, {}, {}});
    found->models.push_back(standings_of(boards[b], statistics[b]));
  }
  for (Decision& decision : out) {
    std::vector<std::string> baselines;
    for (const Standings& standings : decision.models)
      for (const Row& row : standings.board->rows) {
        auto& list = &row == standings.board->baseline() ? baselines : decision.methods;
        if (std::find(list.begin(), list.end(), row.method) == list.end())
          list.push_back(row.method);
      }
    std::erase_if(decision.methods, [&](const std::string& method) {
      return std::find(baselines.begin(), baselines.end(), method) != baselines.end();
    });
    std::stable_sort(decision.methods.begin(), decision.methods.end(),
                     [&](const std::string& a, const std::string& b) {
                       return mean_damage(decision, a) < mean_damage(decision, b);
                     });
    decision.methods.insert(decision.methods.begin(), baselines.begin(), baselines.end());
  }
  return out;
}

std::optional<double> noise_floor(const Board& board, const std::string& evaluation) {
  for (const Row& row : board.rows) {
    const Cell* cell = row.cell(evaluation);
    const auto floor = cell && cell->ok() ? cell->number({"noise_floor", "kl_mean"}) : std::nullopt;
    if (floor) return floor;
  }
  return {};
}

bool below(const Estimate& divergence, std::optional<double> floor) {
  if (!floor) return false;
  return (divergence.interval.known() ? divergence.interval.low : divergence.value) <= *floor;
}

std::optional<double> memory_of(const Cell& cell) {
  const auto weights = cell.number({"weights", "bytes"}), cache = sequence_bytes(cell);
  return weights && cache ? std::optional(*weights + *cache) : std::nullopt;
}

std::optional<double> bytes_of(const Cell& cell, Bytes bytes) {
  if (bytes == Bytes::cache) return cache_bytes(cell);
  if (bytes == Bytes::weights) return cell.number({"weights", "bytes"});
  return memory_of(cell);
}

std::optional<FamilyRatio> family_ratio(const Decision& decision, std::string_view method) {
  FamilyRatio out{0, {}, {}};
  double most = 0, least = HUGE_VAL;
  size_t models = 0;
  for (const Standings& standings : decision.models) {
    const Standing* s = standings.of(method);
    if (!s || !s->damage || standings.damage == Damage::answers) continue;
    const double value = std::max(s->damage->value, standings.floor.value_or(0));
    if (!(value > 0)) return {};
    ++models;
    if (value > most) out.worst = standings.board->model;
    if (value < least) out.best = standings.board->model;
    most = std::max(most, value);
    least = std::min(least, value);
  }
  if (models < 2) return {};
  out.ratio = most / least;
  return out;
}

std::optional<Speed> speed_of(const Standings& standings, const Row& row) {
  const Row* baseline = standings.board->baseline();
  for (const char* key : {"decode_tokens_per_second", "tokens_per_second"})
    for (const Evaluation& evaluation : standings.board->evaluations) {
      const auto speed = [&](const Row& r) -> std::optional<double> {
        const Cell* cell = r.cell(evaluation.name);
        const auto value = cell && cell->ok() ? cell->number({key}) : std::nullopt;
        return value && *value > 0 ? value : std::nullopt;
      };
      const auto own = speed(row), base = baseline ? speed(*baseline) : std::nullopt;
      if (!own || (baseline && !base)) continue;
      return Speed{*own, base, std::string_view(key).starts_with("decode")};
    }
  return {};
}

}  // namespace ptq::report
