// What a reader decides by: how far each method of an experiment moves a model away from full
// precision, against the bytes it takes, on one evaluation of each model.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/compare/compare.hpp"

namespace ptq::report {

// What damage is, the best that the records have: the mean KL divergence from full precision in
// nats, else the change of the loss against the baseline in nats, else the share of answers lost.
enum class Damage { divergence, loss, answers };

// What the methods differ in: bytes of the cache per token, of the weights, or of both together at
// the length of the evaluation.
enum class Bytes { cache, weights, total };

// A method on the evaluation that decides.
struct Standing {
  const Row* row = nullptr;
  const Cell* cell = nullptr;  // nullptr: it has none
  std::optional<double> bytes;
  std::optional<Estimate> damage;
  bool below_floor = false;
  bool front = false;  // no other method is both smaller and less damaged
  int rank = 0;        // by damage; shared with the best that cannot be told apart; 0: none
};

struct Standings {
  const Board* board = nullptr;
  const BoardStatistics* statistics = nullptr;
  const Evaluation* evaluation = nullptr;  // nullptr: nothing was measured
  Damage damage = Damage::divergence;
  Bytes bytes = Bytes::cache;
  std::optional<double> full_bytes;  // of full precision
  std::optional<double> floor;       // of the divergence, where it was measured
  std::vector<Standing> methods;     // least damage first; without the baseline

  const Standing* of(std::string_view method) const;
  // The cell of the baseline, nullptr without one.
  const Cell* baseline() const;
};

// The boards of one experiment.
struct Decision {
  std::string experiment;
  std::vector<Standings> models;
  std::vector<std::string> methods;  // as rows of a table: baseline first, then by damage
};

// Whether the data tell a from b: their damages' intervals are apart, or the paired comparison of
// the two is better or worse.
bool separable(const Standings& standings, const Standing& a, const Standing& b);

// One for each experiment, in the order of the boards.
std::vector<Decision> decisions_of(const std::vector<Board>& boards,
                                   const std::vector<BoardStatistics>& statistics);

std::optional<double> bytes_of(const Cell& cell, Bytes bytes);

// The divergence of full precision from itself with noise, where it was measured: in the cell of
// full precision.
std::optional<double> noise_floor(const Board& board, const std::string& evaluation);
// Whether a divergence is not shown to be above the floor.
bool below(const Estimate& divergence, std::optional<double> floor);

// Bytes of the weights and of the cache of one sequence as long as the evaluation's.
std::optional<double> memory_of(const Cell& cell);

// The damage on the model that suffers most over that on the model that suffers least, a divergence
// below the floor counting as the floor; nothing without two models.
struct FamilyRatio {
  double ratio;
  std::string worst, best;  // models
};
constexpr double kFamilyAlarm = 5;
std::optional<FamilyRatio> family_ratio(const Decision& decision, std::string_view method);

// Tokens per second of a method alone: while decoding where an evaluation has it, else over all
// tokens of one; from the first evaluation in which the baseline has it too.
struct Speed {
  double own = 0;
  std::optional<double> baseline;
  bool decoding = false;
};
std::optional<Speed> speed_of(const Standings& standings, const Row& row);

}  // namespace ptq::report
